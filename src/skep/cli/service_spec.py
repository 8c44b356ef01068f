"""A service's spec from the command line's options: made anew, or an existing one changed.

Pure: options in, Docker's JSON out. Source: docker/cli, command/service/opts.go.
"""

import shlex
from collections.abc import Callable, Mapping
from typing import Any

import click

from skep.cli import parse
from skep.cli.options import CPU_NANO, DURATION, MEMORY_BYTES, parse_labels

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
    click.option("-l", "--label", multiple=True, help="Service label."),
    click.option("--container-label", multiple=True),
    click.option("--hostname", help="Container's host name; may be a template."),
    click.option("-w", "--workdir"),
    click.option("-u", "--user"),
    click.option("--entrypoint", help="Replaces the image's entry point."),
    click.option("--limit-cpu", type=CPU_NANO),
    click.option("--limit-memory", type=MEMORY_BYTES),
    click.option("--limit-pids", type=int),
    click.option("--reserve-cpu", type=CPU_NANO),
    click.option("--reserve-memory", type=MEMORY_BYTES),
    click.option("--replicas-max-per-node", type=int),
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
    click.option("--no-healthcheck", is_flag=True, default=None),
)

SCALARS: Mapping[str, tuple[str, ...]] = {
    "hostname": ("TaskTemplate", "ContainerSpec", "Hostname"),
    "workdir": ("TaskTemplate", "ContainerSpec", "Dir"),
    "user": ("TaskTemplate", "ContainerSpec", "User"),
    "stop_grace_period": ("TaskTemplate", "ContainerSpec", "StopGracePeriod"),
    "stop_signal": ("TaskTemplate", "ContainerSpec", "StopSignal"),
    "read_only": ("TaskTemplate", "ContainerSpec", "ReadOnly"),
    "init": ("TaskTemplate", "ContainerSpec", "Init"),
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
    "health_start_period": ("TaskTemplate", "ContainerSpec", "Healthcheck", "StartPeriod"),
}


def shared_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that create and update have in common."""
    for option in reversed(SHARED):
        command = option(command)
    return command


def place(spec: Json, path: tuple[str, ...], value: object) -> None:
    """Set a value deep in a spec, making what is missing on the way."""
    for name in path[:-1]:
        if not isinstance(spec.get(name), dict):
            spec[name] = {}
        spec = spec[name]
    spec[path[-1]] = value


def apply_shared(spec: Json, options: Options) -> None:
    """Write every option that was given into the spec.

    Raises:
        parse.BadNotation: `--replicas` on a service that has none.
    """
    for option, path in SCALARS.items():
        if options.get(option) is not None:
            place(spec, path, options[option])
    if options.get("entrypoint") is not None:
        place(spec, ("TaskTemplate", "ContainerSpec", "Command"), shlex.split(options["entrypoint"]))
    if options.get("health_cmd") is not None:
        place(spec, ("TaskTemplate", "ContainerSpec", "Healthcheck", "Test"), ["CMD-SHELL", options["health_cmd"]])
    if options.get("no_healthcheck"):
        place(spec, ("TaskTemplate", "ContainerSpec", "Healthcheck"), {"Test": ["NONE"]})
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


def new_spec(image: str, arguments: tuple[str, ...], options: Options) -> Json:
    """The spec of `service create`.

    Raises:
        parse.BadNotation: Some option cannot be read.
    """
    container: Json = {
        "Image": image,
        "Args": list(arguments) or None,
        "Env": list(options["env"]) or None,
        "Labels": parse_labels(options["container_label"]) or None,
        "Mounts": [parse.parse_mount(text) for text in options["mount"]] or None,
    }
    task: Json = {
        "ContainerSpec": container,
        "Networks": [parse.parse_network(text) for text in options["network"]] or None,
        "Placement": {
            "Constraints": list(options["constraint"]),
            "Preferences": _preferences(options["placement_pref"]),
        },
    }
    ports = [port for text in options["publish"] for port in parse.parse_ports(text)]
    spec: Json = {
        "Name": options["name"] or "",
        "Labels": parse_labels(options["label"]),
        "TaskTemplate": task,
        "Mode": {MODES[options["mode"]]: {"Replicas": 1} if options["mode"] == "replicated" else {}},
        "EndpointSpec": {"Mode": "vip", "Ports": ports},
    }
    apply_shared(spec, options)
    return spec


def _preferences(texts: tuple[str, ...]) -> list[Json]:
    found: list[Json] = []
    for text in texts:
        strategy, _, descriptor = text.partition("=")
        if strategy != "spread" or not descriptor:
            raise parse.BadNotation(f'unsupported placement preference "{text}"; write spread=node.labels.zone')
        found.append({"Spread": {"SpreadDescriptor": descriptor}})
    return found


def changed_spec(spec: Json, options: Options) -> Json:
    """The spec after `service update`'s options.

    Raises:
        parse.BadNotation: Some option cannot be read.
    """
    task = spec["TaskTemplate"]
    container = task["ContainerSpec"]
    if options["image"]:
        container["Image"] = options["image"]
    if options["args"] is not None:
        container["Args"] = shlex.split(options["args"])
    if options["force"]:
        task["ForceUpdate"] = task.get("ForceUpdate", 0) + 1
    container["Env"] = _changed_env(container.get("Env") or [], options["env_add"], options["env_rm"])
    placement = task.setdefault("Placement", {})
    kept = [text for text in placement.get("Constraints") or [] if text not in options["constraint_rm"]]
    placement["Constraints"] = kept + [text for text in options["constraint_add"] if text not in kept]
    labels = {**(spec.get("Labels") or {}), **parse_labels(options["label_add"])}
    spec["Labels"] = {key: value for key, value in labels.items() if key not in options["label_rm"]}
    mounts = [m for m in container.get("Mounts") or [] if m["Target"] not in options["mount_rm"]]
    container["Mounts"] = mounts + [parse.parse_mount(text) for text in options["mount_add"]]
    networks = [n for n in task.get("Networks") or [] if n["Target"] not in options["network_rm"]]
    task["Networks"] = networks + [parse.parse_network(text) for text in options["network_add"]]
    endpoint = spec.setdefault("EndpointSpec", {})
    removed = {port["TargetPort"] for text in options["publish_rm"] for port in parse.parse_ports(text)}
    ports = [port for port in endpoint.get("Ports") or [] if port["TargetPort"] not in removed]
    endpoint["Ports"] = ports + [port for text in options["publish_add"] for port in parse.parse_ports(text)]
    apply_shared(spec, options)
    return spec


def _changed_env(env: list[str], added: tuple[str, ...], removed: tuple[str, ...]) -> list[str]:
    names = {pair.partition("=")[0] for pair in added} | set(removed)
    return [pair for pair in env if pair.partition("=")[0] not in names] + list(added)
