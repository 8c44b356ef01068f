"""The four ways a service spreads its tasks, and the numbers a spec leaves open.

Pure. Source: Docker API 1.51, ServiceSpec.Mode; swarmkit/api/defaults/service.go for the defaults.
"""

import enum

import msgspec

from skep.lib.durations import MINUTE, SECOND, parse_duration
from skep.model.base import Nanoseconds
from skep.model.service import (
    EndpointSpec,
    Protocol,
    RestartCondition,
    RestartPolicy,
    Service,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)

PARTITION_LABEL = "skep.partition"
VOLUME_LABEL = "skep.volume"
AT_MOST_ONE = "at-most-one"
READY_LABEL = "skep.ready"
READY_LIMIT_LABEL = "skep.update.ready-timeout"
READY_LIMIT: Nanoseconds = 5 * MINUTE
DEFAULT_DELAY: Nanoseconds = 5 * SECOND
DEFAULT_MONITOR: Nanoseconds = 5 * SECOND
DEFAULT_GRACE: Nanoseconds = 10 * SECOND


class Mode(enum.Enum):
    REPLICATED = "replicated"
    GLOBAL = "global"
    REPLICATED_JOB = "replicated job"
    GLOBAL_JOB = "global job"


def mode_of(spec: ServiceSpec) -> Mode:
    """The service's mode; replicated when none is set."""
    if spec.mode.global_ is not None:
        return Mode.GLOBAL
    if spec.mode.replicated_job is not None:
        return Mode.REPLICATED_JOB
    if spec.mode.global_job is not None:
        return Mode.GLOBAL_JOB
    return Mode.REPLICATED


def is_job(mode: Mode) -> bool:
    """Whether its tasks are meant to end."""
    return mode in (Mode.REPLICATED_JOB, Mode.GLOBAL_JOB)


def is_per_node(mode: Mode) -> bool:
    """Whether the node is the slot."""
    return mode in (Mode.GLOBAL, Mode.GLOBAL_JOB)


def replicas(spec: ServiceSpec) -> int:
    """How many slots a replicated service has."""
    wanted = spec.mode.replicated.replicas if spec.mode.replicated else None
    return 1 if wanted is None else wanted


def job_size(spec: ServiceSpec) -> tuple[int, int]:
    """How many tasks of a replicated job are to complete, and how many may run at once.

    Returns:
        Completions and concurrency. No concurrency given means one at a time, 0 means all at once;
        no completions given means as many as run at once.
    Source: Docker API 1.51, ServiceSpec.Mode.ReplicatedJob.
    """
    job = spec.mode.replicated_job
    at_once = 1 if job is None or job.max_concurrent is None else job.max_concurrent
    total = at_once or 1 if job is None or job.total_completions is None else job.total_completions
    return total, at_once or total


def task_template(service: Service) -> TaskSpec:
    """What a new task is made from; older clients name the networks on the service instead."""
    template = service.spec.task_template
    if template.networks or not service.spec.networks:
        return template
    return msgspec.structs.replace(template, networks=service.spec.networks)


def restart_policy(spec: TaskSpec) -> RestartPolicy:
    """The policy with its default: always, after 5 s."""
    return spec.restart_policy or RestartPolicy(condition=RestartCondition.ANY)


def restart_delay(policy: RestartPolicy) -> Nanoseconds:
    """How long a first restart waits."""
    return DEFAULT_DELAY if policy.delay is None else policy.delay


def stop_grace(spec: TaskSpec) -> Nanoseconds:
    """How long a task may take to stop before it is killed."""
    container = spec.container_spec
    if container is None or container.stop_grace_period is None:
        return DEFAULT_GRACE
    return container.stop_grace_period


def monitor_period(config: UpdateConfig) -> Nanoseconds:
    """How long an updated task is watched: longer than the delay between two of them.

    Source: swarmkit/manager/orchestrator/update/updater.go.
    """
    monitor = config.monitor or DEFAULT_MONITOR
    return config.delay + SECOND if config.delay >= monitor else monitor


def ready_limit(service: Service) -> Nanoseconds:
    """How long a new task may take to become ready before an update counts it as failed."""
    text = service.spec.labels.get(READY_LIMIT_LABEL, "")
    try:
        limit = parse_duration(text) if text else READY_LIMIT
    except ValueError:
        return READY_LIMIT
    return limit if limit > 0 else READY_LIMIT


def is_at_most_one(service: Service) -> bool:
    """Whether two tasks of one slot must never run at once, not even across a partition."""
    return service.spec.labels.get(PARTITION_LABEL) == AT_MOST_ONE


def waits_for_accepting(service: Service) -> bool:
    """Whether a running task counts as ready only once it accepts connections."""
    endpoint = service.spec.endpoint_spec or EndpointSpec()
    publishes_tcp = any(port.protocol == Protocol.TCP for port in endpoint.ports or [])
    return publishes_tcp and service.spec.labels.get(READY_LABEL) != "start"


def is_sticky(spec: ServiceSpec) -> bool:
    """Whether each slot's tasks stay where their local volumes are."""
    container = spec.task_template.container_spec
    mounts = (container.mounts or []) if container is not None else []
    has_volume = any(mount.type == "volume" and mount.source for mount in mounts)
    return has_volume and spec.labels.get(VOLUME_LABEL) == "sticky"
