"""What a service's spec must be, and what is filled in where the user left it to the swarm.

Pure. Source: swarmkit/manager/controlapi/service.go and moby/daemon/cluster/services.go, also for the sentences.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from skep.core import allocate, schedule
from skep.manager.control.checks import check_name
from skep.manager.control.container_checks import check_container
from skep.manager.control.find import find_network
from skep.model.errors import Conflict, Forbidden, InvalidSpec, NotFound, Unsupported
from skep.model.network import NetworkAttachmentConfig
from skep.model.service import (
    Replicated,
    ReplicatedJob,
    RestartPolicy,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from skep.store.state import View

LOCAL_NETWORKS: Final = ("bridge", "host", "none")
MAX_TASKS: Final = 100_000
"""How many tasks one service may ask for. A manager holds every one in memory and in its database, and makes about
3,000 a second: what is beyond is a slip of the keyboard, and would keep a manager from all else for minutes."""


def checked_service(view: View, spec: ServiceSpec, service_id: str = "") -> ServiceSpec:
    """Check a spec in full.

    Args:
        service_id: The service being updated; "" for a new one.
    Returns:
        The spec as it is stored: a mode, and networks by their ids.
    Raises:
        InvalidSpec, NotFound, Conflict, Forbidden, Unsupported.
    """
    check_name(spec.name)
    schedule.check_spec(spec)
    spec = msgspec.structs.replace(
        spec,
        mode=_checked_mode(spec.mode),
        networks=_resolved(view, spec.networks),
        task_template=_checked_task(view, spec.task_template),
    )
    _check_update("update", spec.update_config)
    _check_update("rollback", spec.rollback_config)
    if (spec.mode.replicated_job or spec.mode.global_job) and (spec.update_config or spec.rollback_config):
        raise InvalidSpec("update and rollback configuration is not supported for jobs")
    allocate.check_attachments(view, spec)
    allocate.check_ports(view, spec, service_id)
    if not service_id:
        allocate.check_room(view, spec)
    _check_unique(view, spec, service_id)
    return spec


def check_kept(old: ServiceSpec, new: ServiceSpec) -> None:
    """Refuse what an update may not change.

    Raises:
        Unsupported.
    """
    if new.name != old.name:
        raise Unsupported("renaming services is not supported")
    if _mode_name(new.mode) != _mode_name(old.mode):
        raise Unsupported("service mode change is not allowed")


def _check_unique(view: View, spec: ServiceSpec, service_id: str) -> None:
    for other in view.services.where("name", spec.name):
        if other.id != service_id and not other.removing:
            raise Conflict(
                "rpc error: code = AlreadyExists desc = name conflicts with an existing object: "
                f"service {spec.name} already exists"
            )


# --- mode ----------------------------------------------------------------------


def _modes(mode: ServiceMode) -> dict[str, object]:
    given = {
        "replicated": mode.replicated,
        "global": mode.global_,
        "replicated-job": mode.replicated_job,
        "global-job": mode.global_job,
    }
    return {name: value for name, value in given.items() if value is not None}


def _mode_name(mode: ServiceMode) -> str:
    return next(iter(_modes(mode)), "replicated")


def _checked_mode(mode: ServiceMode) -> ServiceMode:
    if len(_modes(mode)) > 1:
        raise InvalidSpec("must specify only one service mode")
    if mode.global_ or mode.global_job:
        return mode
    if job := mode.replicated_job:
        at_once = 1 if job.max_concurrent is None else job.max_concurrent
        total = at_once if job.total_completions is None else job.total_completions
        if at_once < 0:
            raise InvalidSpec("Maximum concurrent jobs must not be negative")
        if total < 0:
            raise InvalidSpec("Total completed jobs must not be negative")
        _check_amount("Maximum concurrent jobs", at_once)
        _check_amount("Total completed jobs", total)
        return ServiceMode(replicated_job=ReplicatedJob(max_concurrent=at_once, total_completions=total))
    replicas = mode.replicated.replicas if mode.replicated else None
    if replicas is not None and replicas < 0:
        raise InvalidSpec("Number of replicas must be non-negative")
    _check_amount("Number of replicas", replicas or 0)
    return ServiceMode(replicated=Replicated(replicas=1 if replicas is None else replicas))


def _check_amount(name: str, amount: int) -> None:
    if amount > MAX_TASKS:
        raise InvalidSpec(
            f"{name} must be at most {MAX_TASKS}, not {amount}: a manager holds every task of a service; "
            "ask for fewer, or spread them over several services"
        )


# --- task template ---------------------------------------------------------------


def _checked_task(view: View, template: TaskSpec) -> TaskSpec:
    if template.runtime not in ("", "container"):
        raise Unsupported(f"services of runtime {template.runtime} are not possible; use containers")
    if template.container_spec is None:
        raise InvalidSpec("TaskSpec: missing runtime")
    if template.network_attachment_spec is not None:
        raise InvalidSpec("invalid TaskSpec: a service runs containers; attach plain ones with docker network connect")
    _check_restart(template.restart_policy or RestartPolicy())
    check_container(view, template.container_spec)
    return msgspec.structs.replace(template, networks=_resolved(view, template.networks))


def _check_restart(policy: RestartPolicy) -> None:
    if (policy.delay or 0) < 0:
        raise InvalidSpec("TaskSpec: restart-delay cannot be negative")
    if (policy.window or 0) < 0:
        raise InvalidSpec("TaskSpec: restart-window cannot be negative")
    if (policy.max_attempts or 0) < 0:
        raise InvalidSpec("TaskSpec: restart-max-attempts cannot be negative")


def _check_update(name: str, config: UpdateConfig | None) -> None:
    if config is None:
        return
    if config.delay < 0:
        raise InvalidSpec(f"TaskSpec: {name}-delay cannot be negative")
    if config.monitor < 0:
        raise InvalidSpec(f"TaskSpec: {name}-monitor cannot be negative")
    if config.parallelism < 0:
        raise InvalidSpec(f"TaskSpec: {name}-parallelism cannot be negative")
    if not 0 <= config.max_failure_ratio <= 1:
        raise InvalidSpec(f"TaskSpec: {name}-maxfailureratio cannot be less than 0 or bigger than 1")
    if name == "rollback" and config.failure_action == "rollback":
        raise InvalidSpec("TaskSpec: the failure action of a rollback cannot be rollback; use pause or continue")


# --- networks ----------------------------------------------------------------------


def _resolved(
    view: View, attachments: Sequence[NetworkAttachmentConfig] | None
) -> list[NetworkAttachmentConfig] | None:
    """Attachments with network ids in place of names."""
    if attachments is None:
        return None
    resolved = [msgspec.structs.replace(item, target=_network_id(view, item.target)) for item in attachments]
    targets = [item.target for item in resolved]
    if len(set(targets)) < len(targets):
        raise InvalidSpec("a service can be attached to each network only once")
    return resolved


def _network_id(view: View, target: str) -> str:
    try:
        network = find_network(view, target)
    except NotFound:
        if target in LOCAL_NETWORKS:
            raise Forbidden(
                f"The network {target} cannot be used with services. Only networks scoped to the swarm can be used, "
                "such as those created with the overlay driver."
            ) from None
        raise
    if network.spec.ingress:
        raise InvalidSpec(f'Service cannot be explicitly attached to the ingress network "{network.spec.name}"')
    return network.id
