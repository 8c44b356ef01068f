"""Services: what a user wants to run, and what the swarm has given it.

Pure. Source: Docker API 1.51, definitions ServiceSpec, TaskSpec, Service. One module although it is long: it is one
tree in Docker's API too, and declarations only.
"""

import enum

from skep.model.base import Labels, Nanoseconds, Object, Record, Wire, always, present_labels
from skep.model.network import NetworkAttachmentConfig
from skep.model.sealed import Sealed

SECOND = 1_000_000_000


class RestartCondition(enum.StrEnum):
    NONE = "none"
    ON_FAILURE = "on-failure"
    ANY = "any"


class FailureAction(enum.StrEnum):
    PAUSE = "pause"
    CONTINUE = "continue"
    ROLLBACK = "rollback"


class UpdateOrder(enum.StrEnum):
    STOP_FIRST = "stop-first"
    START_FIRST = "start-first"


class PublishMode(enum.StrEnum):
    INGRESS = "ingress"
    HOST = "host"


class Protocol(enum.StrEnum):
    TCP = "tcp"
    UDP = "udp"
    SCTP = "sctp"


class ResolutionMode(enum.StrEnum):
    VIP = "vip"
    DNSRR = "dnsrr"


# --- container ---------------------------------------------------------------


class BindOptions(Wire, frozen=True, kw_only=True):
    propagation: str = ""
    non_recursive: bool = False
    create_mountpoint: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False


class DriverConfig(Wire, frozen=True, kw_only=True):
    name: str = ""
    options: Labels | None = None


class VolumeOptions(Wire, frozen=True, kw_only=True):
    no_copy: bool = False
    labels: Labels | None = None
    driver_config: DriverConfig | None = None
    subpath: str = ""


class TmpfsOptions(Wire, frozen=True, kw_only=True):
    size_bytes: int = 0
    mode: int = 0
    options: list[list[str]] | None = None


class Mount(Wire, frozen=True, kw_only=True):
    """Attributes: type: bind, volume, tmpfs, npipe, cluster or image."""

    type: str = always("volume")
    source: str = ""
    target: str = ""
    read_only: bool = False
    consistency: str = ""
    bind_options: BindOptions | None = None
    volume_options: VolumeOptions | None = None
    tmpfs_options: TmpfsOptions | None = None


class Healthcheck(Wire, frozen=True, kw_only=True):
    """Attributes: test: [] inherits the image's, ["NONE"] turns it off, ["CMD", …] or ["CMD-SHELL", line]."""

    test: list[str] | None = None
    interval: Nanoseconds = 0
    timeout: Nanoseconds = 0
    start_period: Nanoseconds = 0
    start_interval: Nanoseconds = 0
    retries: int = 0


class DNSConfig(Wire, frozen=True, kw_only=True):
    nameservers: list[str] | None = None
    search: list[str] | None = None
    options: list[str] | None = None


class FileTarget(Wire, frozen=True, kw_only=True):
    """Where a secret or config appears. Attributes: mode: permission bits as Go's os.FileMode."""

    name: str = ""
    uid: str = always("0")
    gid: str = always("0")
    mode: int = always(0o444)


class RuntimeTarget(Wire, frozen=True, kw_only=True):
    pass


class SecretReference(Wire, frozen=True, kw_only=True):
    file: FileTarget | None = None
    secret_id: str = ""
    secret_name: str = ""


class ConfigReference(Wire, frozen=True, kw_only=True):
    file: FileTarget | None = None
    runtime: RuntimeTarget | None = None
    config_id: str = ""
    config_name: str = ""


class CredentialSpec(Wire, frozen=True, kw_only=True):
    config: str = ""
    file: str = ""
    registry: str = ""


class SELinuxContext(Wire, frozen=True, kw_only=True):
    disable: bool = False
    user: str = ""
    role: str = ""
    type: str = ""
    level: str = ""


class SeccompOpts(Wire, frozen=True, kw_only=True):
    mode: str = ""
    profile: str = ""


class AppArmorOpts(Wire, frozen=True, kw_only=True):
    mode: str = ""


class Privileges(Wire, frozen=True, kw_only=True):
    credential_spec: CredentialSpec | None = None
    selinux_context: SELinuxContext | None = None
    seccomp: SeccompOpts | None = None
    app_armor: AppArmorOpts | None = None
    no_new_privileges: bool = False


class Ulimit(Wire, frozen=True, kw_only=True):
    name: str = ""
    soft: int = 0
    hard: int = 0


class ContainerSpec(Wire, frozen=True, kw_only=True):
    """What runs in a task. `command` is the entry point, `args` its arguments, as in Docker's API."""

    image: str = always("")
    labels: Labels | None = None
    command: list[str] | None = None
    args: list[str] | None = None
    hostname: str = ""
    env: list[str] | None = None
    dir: str = ""
    user: str = ""
    groups: list[str] | None = None
    privileges: Privileges | None = None
    init: bool | None = None
    stop_signal: str = ""
    tty: bool = False
    open_stdin: bool = False
    read_only: bool = False
    mounts: list[Mount] | None = None
    stop_grace_period: Nanoseconds | None = None
    healthcheck: Healthcheck | None = None
    hosts: list[str] | None = None
    dns_config: DNSConfig | None = None
    secrets: list[SecretReference] | None = None
    configs: list[ConfigReference] | None = None
    isolation: str = ""
    sysctls: Labels | None = None
    capability_add: list[str] | None = None
    capability_drop: list[str] | None = None
    ulimits: list[Ulimit] | None = None
    oom_score_adj: int = 0


# --- task template -----------------------------------------------------------


class NamedGenericResource(Wire, frozen=True, kw_only=True):
    kind: str = ""
    value: str = ""


class DiscreteGenericResource(Wire, frozen=True, kw_only=True):
    kind: str = ""
    value: int = 0


class GenericResource(Wire, frozen=True, kw_only=True):
    """Exactly one of the two is set."""

    named_resource_spec: NamedGenericResource | None = None
    discrete_resource_spec: DiscreteGenericResource | None = None


class Limits(Wire, frozen=True, kw_only=True):
    nano_cpus: int = 0
    memory_bytes: int = 0
    pids: int = 0


class Resources(Wire, frozen=True, kw_only=True):
    """Also what a node offers."""

    nano_cpus: int = 0
    memory_bytes: int = 0
    generic_resources: list[GenericResource] | None = None


class ResourceRequirements(Wire, frozen=True, kw_only=True):
    limits: Limits | None = None
    reservations: Resources | None = None


class RestartPolicy(Wire, frozen=True, kw_only=True):
    """Attributes: max_attempts: 0 is unlimited; window: 0 counts every restart."""

    condition: RestartCondition = always(RestartCondition.ANY)
    delay: Nanoseconds | None = None
    max_attempts: int | None = None
    window: Nanoseconds | None = None


class SpreadOver(Wire, frozen=True, kw_only=True):
    spread_descriptor: str = ""


class PlacementPreference(Wire, frozen=True, kw_only=True):
    spread: SpreadOver | None = None


class Platform(Wire, frozen=True, kw_only=True):
    architecture: str = ""
    os: str = ""


class Placement(Wire, frozen=True, kw_only=True):
    constraints: list[str] | None = None
    preferences: list[PlacementPreference] | None = None
    max_replicas: int = 0
    platforms: list[Platform] | None = None


class LogDriver(Wire, frozen=True, kw_only=True):
    name: str = ""
    options: Labels | None = None


class NetworkAttachmentSpec(Wire, frozen=True, kw_only=True):
    """A task that is no more than a plain container's place on a network.

    Attributes: address: the one it asks for, without prefix; empty for any.
    """

    container_id: str = ""
    address: str = ""


class TaskSpec(Wire, frozen=True, kw_only=True):
    container_spec: ContainerSpec | None = None
    network_attachment_spec: NetworkAttachmentSpec | None = None
    resources: ResourceRequirements | None = None
    restart_policy: RestartPolicy | None = None
    placement: Placement | None = None
    networks: list[NetworkAttachmentConfig] | None = None
    log_driver: LogDriver | None = None
    force_update: int = always(0)
    runtime: str = ""


# --- service -----------------------------------------------------------------


class Replicated(Wire, frozen=True, kw_only=True):
    replicas: int | None = None


class Global(Wire, frozen=True, kw_only=True):
    pass


class ReplicatedJob(Wire, frozen=True, kw_only=True):
    max_concurrent: int | None = None
    total_completions: int | None = None


class GlobalJob(Wire, frozen=True, kw_only=True):
    pass


class ServiceMode(Wire, frozen=True, kw_only=True):
    """Exactly one is set; none means one replica."""

    replicated: Replicated | None = None
    global_: Global | None = None
    replicated_job: ReplicatedJob | None = None
    global_job: GlobalJob | None = None


class UpdateConfig(Wire, frozen=True, kw_only=True):
    parallelism: int = always(1)
    delay: Nanoseconds = 0
    failure_action: FailureAction = always(FailureAction.PAUSE)
    monitor: Nanoseconds = always(5 * SECOND)
    max_failure_ratio: float = always(0.0)
    order: UpdateOrder = always(UpdateOrder.STOP_FIRST)


class PortConfig(Wire, frozen=True, kw_only=True):
    """Attributes: published_port: 0 asks for one of 30000-32767 (ingress) or the target port (host)."""

    name: str = ""
    protocol: Protocol = always(Protocol.TCP)
    target_port: int = always(0)
    published_port: int = 0
    publish_mode: PublishMode = always(PublishMode.INGRESS)


class EndpointSpec(Wire, frozen=True, kw_only=True):
    mode: ResolutionMode = always(ResolutionMode.VIP)
    ports: list[PortConfig] | None = None


class ServiceSpec(Wire, frozen=True, kw_only=True):
    name: str = ""
    labels: Labels = present_labels()
    task_template: TaskSpec = always(TaskSpec())
    mode: ServiceMode = always(ServiceMode())
    update_config: UpdateConfig | None = None
    rollback_config: UpdateConfig | None = None
    networks: list[NetworkAttachmentConfig] | None = None
    endpoint_spec: EndpointSpec | None = None


class VirtualIP(Wire, frozen=True, kw_only=True):
    """Attributes: addr: address with prefix length, as Docker writes it (10.0.1.2/24)."""

    network_id: str = ""
    addr: str = ""


class Endpoint(Wire, frozen=True, kw_only=True):
    """What was allocated: published ports with no zero left, one virtual IP per network."""

    spec: EndpointSpec = EndpointSpec()
    ports: list[PortConfig] | None = None
    virtual_ips: list[VirtualIP] | None = None


class UpdateStatus(Record, frozen=True, kw_only=True):
    """How far an update is.

    Attributes:
        state: updating, paused, completed or rollback_started, rollback_paused, rollback_completed.
    """

    state: str = ""
    started_at: Nanoseconds = 0
    completed_at: Nanoseconds = 0
    message: str = ""


class JobStatus(Record, frozen=True, kw_only=True):
    """How often a job was started. Attributes: spec_version: the service's that the iteration belongs to."""

    iteration: int = 0
    last_execution: Nanoseconds = 0
    spec_version: int | None = None


class Rollout(Record, frozen=True, kw_only=True):
    """The bookkeeping of a rolling update.

    Attributes:
        version: The `spec_version` it brings.
        n_slots: How many slots had to change when it began; failures are counted against it.
        failed: Slots (numbers as text, or node ids) whose new task failed, and when.
    """

    version: int
    started_at: Nanoseconds
    n_slots: int = 0
    failed: dict[str, Nanoseconds] = {}


class Service(Object, frozen=True, kw_only=True):
    """A service as stored.

    Attributes:
        spec_version: Grows with every write of `spec`; tasks carry the one they were made from.
        reasons: Why it cannot be allocated or placed as a whole; shown to users.
        removing: Its tasks are being stopped; the object goes with the last of them.
        rollout: The newest rolling update, also after its end; only the orchestrator writes it.
        registry_auth: X-Registry-Auth for the nodes that pull its image, sealed under `registry_auth_purpose`;
            previous_registry_auth: that of `previous_spec`.
    """

    spec: ServiceSpec
    previous_spec: ServiceSpec | None = None
    spec_version: int = 0
    previous_spec_version: int = 0
    endpoint: Endpoint | None = None
    update_status: UpdateStatus | None = None
    job_status: JobStatus | None = None
    reasons: list[str] = []
    removing: bool = False
    rollout: Rollout | None = None
    registry_auth: Sealed | None = None
    previous_registry_auth: Sealed | None = None


def registry_auth_purpose(service_id: str) -> str:
    """What a service's registry credentials are sealed for."""
    return f"service/{service_id}/registry-auth"
