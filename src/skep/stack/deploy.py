"""A service's `deploy:` section.

Pure. Source: Compose specification, deploy.md; docker/cli, cli/compose/convert/service.go.
"""

from collections.abc import Mapping as Map
from typing import Final

import msgspec

from skep.model.service import (
    DiscreteGenericResource,
    FailureAction,
    GenericResource,
    Global,
    GlobalJob,
    Limits,
    NamedGenericResource,
    Placement,
    PlacementPreference,
    Replicated,
    ReplicatedJob,
    ResourceRequirements,
    Resources,
    RestartCondition,
    RestartPolicy,
    ServiceMode,
    SpreadOver,
    UpdateConfig,
    UpdateOrder,
)
from skep.stack import notation, reading
from skep.stack.compose import Deploy
from skep.stack.errors import ComposeError
from skep.stack.nodes import Node
from skep.stack.reading import Reading

DEPLOY: Final = {
    "mode", "replicas", "labels", "endpoint_mode", "resources", "restart_policy", "update_config", "rollback_config",
    "placement",
}  # fmt: skip
OUTSIDE: Final = {"scale", "restart", "mem_limit", "mem_reservation", "cpus", "pids_limit"}
"""Keys beside `deploy:` that say the same for one container."""
UPDATE: Final = {"parallelism", "delay", "failure_action", "monitor", "max_failure_ratio", "order"}
MODES: Final = ("replicated", "global", "replicated-job", "global-job")
RESTARTS: Final = {
    "no": RestartCondition.NONE,
    "false": RestartCondition.NONE,
    "always": RestartCondition.ANY,
    "unless-stopped": RestartCondition.ANY,
    "on-failure": RestartCondition.ON_FAILURE,
}


def read_deploy(seen: Reading, node: Node | None, outside: Map[str, Node]) -> Deploy:
    """Read the section.

    Args:
        node: None if there is none.
        outside: The service's entries of `OUTSIDE`; `deploy:` wins over them.
    """
    entries = seen.known(node, "`deploy`", DEPLOY) if node else {}
    resources = _resources(seen, entries["resources"]) if "resources" in entries else ResourceRequirements()
    return Deploy(
        labels=reading.labels(entries["labels"]) if "labels" in entries else {},
        mode=_mode(entries, outside),
        resources=_completed(resources, outside),
        restart=_restart(seen, entries.get("restart_policy"), outside.get("restart")),
        update=_update(seen, entries["update_config"], "update_config") if "update_config" in entries else None,
        rollback=_update(seen, entries["rollback_config"], "rollback_config") if "rollback_config" in entries else None,
        placement=_placement(seen, entries["placement"]) if "placement" in entries else None,
    )


def _mode(entries: Map[str, Node], outside: Map[str, Node]) -> ServiceMode:
    mode = reading.choice(entries["mode"], MODES) if "mode" in entries else "replicated"
    given = entries.get("replicas") or outside.get("scale")
    replicas = reading.count(given) if given else None
    if given and mode.startswith("global"):
        raise ComposeError(given.place, "a global service has one task per node; leave the number of replicas out")
    match mode:
        case "global":
            return ServiceMode(global_=Global())
        case "global-job":
            return ServiceMode(global_job=GlobalJob())
        case "replicated-job":
            return ServiceMode(replicated_job=ReplicatedJob(max_concurrent=replicas, total_completions=replicas))
        case _:
            return ServiceMode(replicated=Replicated(replicas=1 if replicas is None else replicas))


def _resources(seen: Reading, node: Node) -> ResourceRequirements:
    entries = seen.known(node, "`resources`", {"limits", "reservations"})
    limits = reservations = None
    if "limits" in entries:
        given = seen.known(entries["limits"], "`limits`", {"cpus", "memory", "pids"})
        limits = Limits(
            nano_cpus=reading.number(given["cpus"], notation.read_cpus) if "cpus" in given else 0,
            memory_bytes=reading.size(given["memory"]) if "memory" in given else 0,
            pids=reading.count(given["pids"]) if "pids" in given else 0,
        )
    if "reservations" in entries:
        given = seen.known(
            entries["reservations"], "`reservations`", {"cpus", "memory", "generic_resources", "devices"}
        )
        if "devices" in given:
            seen.note(given["devices"], "ignored: `devices` of reservations; use generic_resources")
        generic = given.get("generic_resources")
        reservations = Resources(
            nano_cpus=reading.number(given["cpus"], notation.read_cpus) if "cpus" in given else 0,
            memory_bytes=reading.size(given["memory"]) if "memory" in given else 0,
            generic_resources=[_generic(seen, item) for item in reading.items(generic)] if generic else None,
        )
    return ResourceRequirements(limits=limits, reservations=reservations)


def _generic(seen: Reading, node: Node) -> GenericResource:
    entries = seen.known(node, "a generic resource", {"discrete_resource_spec", "named_resource_spec"})
    if len(entries) != 1:
        raise ComposeError(node.place, "a generic resource has one discrete_resource_spec or one named_resource_spec")
    name, inner = next(iter(entries.items()))
    fields = seen.known(inner, f"`{name}`", {"kind", "value"})
    if set(fields) != {"kind", "value"}:
        raise ComposeError(inner.place, f"`{name}` has a kind and a value")
    kind = reading.text(fields["kind"])
    if name == "discrete_resource_spec":
        value = reading.count(fields["value"])
        return GenericResource(discrete_resource_spec=DiscreteGenericResource(kind=kind, value=value))
    named = NamedGenericResource(kind=kind, value=reading.text(fields["value"]))
    return GenericResource(named_resource_spec=named)


def _completed(found: ResourceRequirements, outside: Map[str, Node]) -> ResourceRequirements | None:
    """Limits with what stands beside `deploy:` where it says nothing."""
    limits, reservations = found.limits or Limits(), found.reservations or Resources()
    if "mem_limit" in outside and not limits.memory_bytes:
        limits = msgspec.structs.replace(limits, memory_bytes=reading.size(outside["mem_limit"]))
    if "cpus" in outside and not limits.nano_cpus:
        limits = msgspec.structs.replace(limits, nano_cpus=reading.number(outside["cpus"], notation.read_cpus))
    if "pids_limit" in outside and not limits.pids:
        limits = msgspec.structs.replace(limits, pids=max(reading.integer(outside["pids_limit"]), 0))
    if "mem_reservation" in outside and not reservations.memory_bytes:
        size = reading.size(outside["mem_reservation"])
        reservations = msgspec.structs.replace(reservations, memory_bytes=size)
    has_limits, has_reservations = limits != Limits(), reservations != Resources()
    if not has_limits and not has_reservations:
        return None
    return ResourceRequirements(
        limits=limits if has_limits else None, reservations=reservations if has_reservations else None
    )


def _restart(seen: Reading, node: Node | None, outside: Node | None) -> RestartPolicy | None:
    if node is None:
        return _short_restart(outside) if outside else None
    entries = seen.known(node, "`restart_policy`", {"condition", "delay", "max_attempts", "window"})
    condition = reading.choice(entries["condition"], list(RestartCondition)) if "condition" in entries else "any"
    return RestartPolicy(
        condition=RestartCondition(condition),
        delay=reading.duration(entries["delay"]) if "delay" in entries else None,
        max_attempts=reading.count(entries["max_attempts"]) if "max_attempts" in entries else None,
        window=reading.duration(entries["window"]) if "window" in entries else None,
    )


def _short_restart(node: Node) -> RestartPolicy:
    name, _, attempts = reading.text(node).partition(":")
    if name not in RESTARTS or (attempts and not (attempts.isdecimal() and len(attempts) < 10)):
        raise ComposeError(node.place, "`restart` is one of no, always, unless-stopped, on-failure, on-failure:NUMBER")
    return RestartPolicy(condition=RESTARTS[name], max_attempts=int(attempts) if attempts else None)


def _update(seen: Reading, node: Node, key: str) -> UpdateConfig:
    entries = seen.known(node, f"`{key}`", UPDATE)
    values: dict[str, object] = {}
    if "parallelism" in entries:
        values["parallelism"] = reading.count(entries["parallelism"])
    for name in ("delay", "monitor"):
        if name in entries:
            values[name] = reading.duration(entries[name])
    if "failure_action" in entries:
        values["failure_action"] = FailureAction(reading.choice(entries["failure_action"], list(FailureAction)))
    if "max_failure_ratio" in entries:
        values["max_failure_ratio"] = reading.ratio(entries["max_failure_ratio"])
    if "order" in entries:
        values["order"] = UpdateOrder(reading.choice(entries["order"], list(UpdateOrder)))
    return msgspec.structs.replace(UpdateConfig(), **values)


def _placement(seen: Reading, node: Node) -> Placement:
    entries = seen.known(node, "`placement`", {"constraints", "preferences", "max_replicas_per_node"})
    preferences: list[PlacementPreference] = []
    for item in reading.items(entries["preferences"]) if "preferences" in entries else ():
        spread = seen.known(item, "a placement preference", {"spread"})
        if "spread" not in spread:
            raise ComposeError(item.place, "a placement preference is written spread: node.labels.NAME")
        over = SpreadOver(spread_descriptor=reading.text(spread["spread"]))
        preferences.append(PlacementPreference(spread=over))
    most = entries.get("max_replicas_per_node")
    return Placement(
        constraints=reading.texts(entries["constraints"]) if "constraints" in entries else None,
        preferences=preferences or None,
        max_replicas=reading.count(most) if most else 0,
    )
