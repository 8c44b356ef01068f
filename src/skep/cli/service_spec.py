"""A service's spec from the command line's options: made anew, or an existing one changed.

Pure: options in, Docker's JSON out. Source: docker/cli, command/service/opts.go.
"""

from collections.abc import Callable, Mapping
from typing import Any

import click

from skep.cli import parse, service_lists
from skep.cli.options import CPU_NANO, DURATION, MEMORY_BYTES
from skep.cli.service_lists import Lookup, place

Json = dict[str, Any]
Options = Mapping[str, Any]

MODES = {
    "replicated": "Replicated",
    "global": "Global",
    "replicated-job": "ReplicatedJob",
    "global-job": "GlobalJob",
}

SHARED = (
    click.option("--replicas", type=int, help="Number of tasks."),
    click.option("--hostname", help="Container's host name; may be a template."),
    click.option("-w", "--workdir", help="Working directory."),
    click.option("-u", "--user", help="name or uid, with :group if need be."),
    click.option("--entrypoint", help="Replaces the image's entry point."),
    click.option("--limit-cpu", type=CPU_NANO, help="CPUs at most, such as 0.5."),
    click.option("--limit-memory", type=MEMORY_BYTES, help="Memory at most, such as 512m."),
    click.option("--limit-pids", type=int, help="Processes at most."),
    click.option("--reserve-cpu", type=CPU_NANO, help="CPUs its node has to have free."),
    click.option("--reserve-memory", type=MEMORY_BYTES, help="Memory its node has to have free."),
    click.option("--replicas-max-per-node", type=int, help="Tasks at most on one node."),
    click.option("--restart-condition", type=click.Choice(["none", "on-failure", "any"])),
    click.option("--restart-delay", type=DURATION),
    click.option("--restart-max-attempts", type=int),
    click.option("--restart-window", type=DURATION),
    click.option("--stop-grace-period", type=DURATION),
    click.option("--stop-signal"),
    click.option("--read-only", is_flag=True, default=None),
    click.option("--init", is_flag=True, default=None),
    click.option("-t", "--tty", is_flag=True, default=None),
    click.option("--endpoint-mode", type=click.Choice(["vip", "dnsrr"])),
    click.option("--update-parallelism", type=int),
    click.option("--update-delay", type=DURATION),
    click.option("--update-monitor", type=DURATION),
    click.option("--update-order", type=click.Choice(["stop-first", "start-first"])),
    click.option("--update-failure-action", type=click.Choice(["pause", "continue", "rollback"])),
    click.option("--update-max-failure-ratio", type=float),
    click.option("--rollback-parallelism", type=int),
    click.option("--rollback-delay", type=DURATION),
    click.option("--rollback-monitor", type=DURATION),
    click.option("--rollback-order", type=click.Choice(["stop-first", "start-first"])),
    click.option("--rollback-failure-action", type=click.Choice(["pause", "continue"])),
    click.option("--rollback-max-failure-ratio", type=float),
    click.option("--max-concurrent", type=int, help="Of a replicated job: how many tasks at once."),
    click.option("--health-cmd"),
    click.option("--health-interval", type=DURATION),
    click.option("--health-timeout", type=DURATION),
    click.option("--health-retries", type=int),
    click.option("--health-start-period", type=DURATION),
    click.option("--health-start-interval", type=DURATION),
    click.option("--no-healthcheck", is_flag=True, default=None, help="Ignore the image's health check."),
    click.option("--cap-add", multiple=True, help="Linux capability, such as NET_ADMIN."),
    click.option("--cap-drop", multiple=True, help="Linux capability, or ALL."),
    click.option("--isolation", help="Of containers on Windows; kept, and without effect on Linux."),
    click.option("--oom-score-adj", type=click.IntRange(-1000, 1000), help="Who is killed first when memory is short."),
    click.option("--log-driver", help="The engine's log driver for the tasks."),
    click.option("--log-opt", multiple=True, help="Option of that driver, key=value."),
    click.option("--no-resolve-image", is_flag=True, help="Leave the tag as it is; ask no registry for its digest."),
    click.option("--with-registry-auth", is_flag=True, help="Give the nodes what docker login left for the registry."),
)

SCALARS: Mapping[str, tuple[str, ...]] = {
    "hostname": ("TaskTemplate", "ContainerSpec", "Hostname"),
    "workdir": ("TaskTemplate", "ContainerSpec", "Dir"),
    "user": ("TaskTemplate", "ContainerSpec", "User"),
    "stop_grace_period": ("TaskTemplate", "ContainerSpec", "StopGracePeriod"),
    "stop_signal": ("TaskTemplate", "ContainerSpec", "StopSignal"),
    "read_only": ("TaskTemplate", "ContainerSpec", "ReadOnly"),
    "init": ("TaskTemplate", "ContainerSpec", "Init"),
    "isolation": ("TaskTemplate", "ContainerSpec", "Isolation"),
    "oom_score_adj": ("TaskTemplate", "ContainerSpec", "OomScoreAdj"),
    "log_driver": ("TaskTemplate", "LogDriver", "Name"),
    "tty": ("TaskTemplate", "ContainerSpec", "TTY"),
    "limit_cpu": ("TaskTemplate", "Resources", "Limits", "NanoCPUs"),
    "limit_memory": ("TaskTemplate", "Resources", "Limits", "MemoryBytes"),
    "limit_pids": ("TaskTemplate", "Resources", "Limits", "Pids"),
    "reserve_cpu": ("TaskTemplate", "Resources", "Reservations", "NanoCPUs"),
    "reserve_memory": ("TaskTemplate", "Resources", "Reservations", "MemoryBytes"),
    "replicas_max_per_node": ("TaskTemplate", "Placement", "MaxReplicas"),
    "restart_condition": ("TaskTemplate", "RestartPolicy", "Condition"),
    "restart_delay": ("TaskTemplate", "RestartPolicy", "Delay"),
    "restart_max_attempts": ("TaskTemplate", "RestartPolicy", "MaxAttempts"),
    "restart_window": ("TaskTemplate", "RestartPolicy", "Window"),
    "endpoint_mode": ("EndpointSpec", "Mode"),
    "update_parallelism": ("UpdateConfig", "Parallelism"),
    "update_delay": ("UpdateConfig", "Delay"),
    "update_monitor": ("UpdateConfig", "Monitor"),
    "update_order": ("UpdateConfig", "Order"),
    "update_failure_action": ("UpdateConfig", "FailureAction"),
    "update_max_failure_ratio": ("UpdateConfig", "MaxFailureRatio"),
    "rollback_parallelism": ("RollbackConfig", "Parallelism"),
    "rollback_delay": ("RollbackConfig", "Delay"),
    "rollback_monitor": ("RollbackConfig", "Monitor"),
    "rollback_order": ("RollbackConfig", "Order"),
    "rollback_failure_action": ("RollbackConfig", "FailureAction"),
    "rollback_max_failure_ratio": ("RollbackConfig", "MaxFailureRatio"),
    "health_interval": ("TaskTemplate", "ContainerSpec", "Healthcheck", "Interval"),
    "health_timeout": ("TaskTemplate", "ContainerSpec", "Healthcheck", "Timeout"),
    "health_retries": ("TaskTemplate", "ContainerSpec", "Healthcheck", "Retries"),
    "health_start_interval": ("TaskTemplate", "ContainerSpec", "Healthcheck", "StartInterval"),
    "health_start_period": ("TaskTemplate", "ContainerSpec", "Healthcheck", "StartPeriod"),
}


def shared_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that create and update have in common."""
    for option in reversed(SHARED):
        command = option(command)
    return command


def split_words(text: str) -> list[str]:
    """Split as a shell does.

    Raises:
        parse.BadNotation: A quote is not closed.
    """
    import shlex  # Imported late: completion needs none of it.

    try:
        return shlex.split(text)
    except ValueError as error:
        raise parse.BadNotation(f"invalid command {text!r}: {error}; close its quotes") from error


def apply_shared(spec: Json, options: Options) -> None:
    """Write every option that was given into the spec.

    Raises:
        parse.BadNotation: `--replicas` on a service that has none.
    """
    for option, path in SCALARS.items():
        if options.get(option) is not None:
            place(spec, path, options[option])
    if options.get("entrypoint") is not None:
        place(spec, ("TaskTemplate", "ContainerSpec", "Command"), split_words(options["entrypoint"]))
    if options.get("health_cmd") is not None:
        place(spec, ("TaskTemplate", "ContainerSpec", "Healthcheck", "Test"), ["CMD-SHELL", options["health_cmd"]])
    if options.get("no_healthcheck"):
        place(spec, ("TaskTemplate", "ContainerSpec", "Healthcheck"), {"Test": ["NONE"]})
    if options.get("log_opt"):
        place(spec, ("TaskTemplate", "LogDriver", "Options"), parse.pairs(options["log_opt"]))
    service_lists.apply_capabilities(spec, options.get("cap_add") or (), options.get("cap_drop") or ())
    apply_size(spec["Mode"], options.get("replicas"), options.get("max_concurrent"))


def apply_size(mode: Json, replicas: int | None, max_concurrent: int | None) -> None:
    """A replicated job's replicas are how often it is to complete; as many run at once as is not said otherwise."""
    job = mode.get("ReplicatedJob")
    if replicas is not None and "Replicated" not in mode and job is None:
        raise parse.BadNotation("replicas can only be used with replicated or replicated-job mode")
    if max_concurrent is not None and job is None:
        raise parse.BadNotation("max-concurrent can only be used with replicated-job mode")
    if job is not None:
        total = job.get("TotalCompletions", 1) if replicas is None else replicas
        at_once = job.get("MaxConcurrent", total) if max_concurrent is None else max_concurrent
        mode["ReplicatedJob"] = {"TotalCompletions": total, "MaxConcurrent": at_once}
    elif replicas is not None:
        mode["Replicated"] = {"Replicas": replicas}


def new_spec(image: str, arguments: tuple[str, ...], options: Options, lookup: Lookup) -> Json:
    """The spec of `service create`.

    Raises:
        parse.BadNotation: Some option cannot be read.
    """
    spec: Json = {
        "Name": options["name"] or "",
        "Labels": {},
        "TaskTemplate": {"ContainerSpec": {"Image": image, "Args": list(arguments) or None}, "Placement": {}},
        "Mode": {MODES[options["mode"]]: {"Replicas": 1} if options["mode"] == "replicated" else {}},
        "EndpointSpec": {"Mode": "vip", "Ports": []},
    }
    service_lists.apply(spec, options, lookup)
    apply_shared(spec, options)
    return spec


def changed_spec(spec: Json, options: Options, lookup: Lookup) -> Json:
    """The spec after `service update`'s options.

    Raises:
        parse.BadNotation: Some option cannot be read.
    """
    task = spec["TaskTemplate"]
    container = task["ContainerSpec"]
    if options["image"]:
        container["Image"] = options["image"]
    if options["args"] is not None:
        container["Args"] = split_words(options["args"])
    if options["force"]:
        task["ForceUpdate"] = task.get("ForceUpdate", 0) + 1
    service_lists.apply(spec, options, lookup)
    apply_shared(spec, options)
    return spec
