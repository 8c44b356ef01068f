"""What a task asks of the node it will run on.

Pure. Read once for all tasks of a service and spec version, because they ask for the same.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from skep.core import constraints
from skep.core.constraints import ENGINE_LABEL, NODE_LABEL, Constraint
from skep.model.errors import InvalidSpec
from skep.model.node import Node
from skep.model.service import (
    Endpoint,
    EndpointSpec,
    GenericResource,
    Platform,
    PortConfig,
    PublishMode,
    Resources,
    ServiceSpec,
    TaskSpec,
)
from skep.model.task import Task

HostPort = tuple[str, int]
"""Protocol and published port."""

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "i386": "386", "i686": "386", "armv7l": "arm"}
"""The kernel's names in Go's: nodes report the first, images the second."""

NO_RESOURCES = Resources()


@dataclass(frozen=True, slots=True)
class Spread:
    """Even out over the values of a label. Attributes: is_engine: an engine label, not a node label."""

    is_engine: bool
    label: str

    def value(self, node: Node) -> str:
        """The node's value; nodes without the label form one group."""
        labels = node.description.engine.labels if self.is_engine else node.spec.labels
        return (labels or {}).get(self.label, "")


@dataclass(frozen=True, slots=True)
class Demand:
    """Everything the filters and the ranking look at, in the form they need.

    Attributes:
        generic: How many of each kind.
        plugins: Type and name of engine plugins.
        is_unreadable: A constraint cannot be read; then no node fits.
        max_replicas: Per node; 0 for no limit.
    """

    service_id: str
    spec_version: int
    cpu_nano: int = 0
    memory_bytes: int = 0
    generic: tuple[tuple[str, int], ...] = ()
    plugins: tuple[tuple[str, str], ...] = ()
    constraints: tuple[Constraint, ...] = ()
    is_unreadable: bool = False
    platforms: tuple[Platform, ...] = ()
    host_ports: tuple[HostPort, ...] = ()
    max_replicas: int = 0
    spread: tuple[Spread, ...] = ()
    home: str = ""

    @property
    def lasting(self) -> "Demand":
        """What it asks of the nodes themselves, without what changes when tasks come and go, and for whom it is."""
        return replace(
            self, service_id="", spec_version=0, cpu_nano=0, memory_bytes=0, generic=(), host_ports=(), max_replicas=0
        )


def demand_of(task: Task) -> Demand:
    """What a task asks for."""
    demand = read_demand(task.spec, task.endpoint, task.service_id, task.spec_version)
    return replace(demand, home=task.home) if task.home else demand


def demand_of_spec(spec: ServiceSpec, service_id: str = "", spec_version: int = 0) -> Demand:
    """What the tasks of a service will ask for, also before there are any."""
    wanted = spec.endpoint_spec or EndpointSpec()
    return read_demand(spec.task_template, Endpoint(spec=wanted, ports=wanted.ports), service_id, spec_version)


def read_demand(spec: TaskSpec, endpoint: Endpoint | None, service_id: str, spec_version: int) -> Demand:
    """Read a task spec with the ports of its endpoint."""
    reserved = reservations(spec)
    placement = spec.placement
    try:
        wanted, is_unreadable = constraints.parse(placement.constraints if placement else None), False
    except InvalidSpec:
        wanted, is_unreadable = [], True
    return Demand(
        service_id=service_id,
        spec_version=spec_version,
        cpu_nano=reserved.nano_cpus,
        memory_bytes=reserved.memory_bytes,
        generic=tuple(_asked_generic(reserved.generic_resources or []).items()),
        plugins=tuple(_plugins(spec)),
        constraints=tuple(wanted),
        is_unreadable=is_unreadable,
        platforms=tuple(map(canonical, (placement.platforms or []) if placement else [])),
        host_ports=tuple(host_ports(endpoint.ports if endpoint else None)),
        max_replicas=placement.max_replicas if placement else 0,
        spread=tuple(_spreads(spec)),
    )


def reservations(spec: TaskSpec) -> Resources:
    return (spec.resources.reservations if spec.resources else None) or NO_RESOURCES


def count_generic(resources: Iterable[GenericResource]) -> dict[str, int]:
    """How many there are of each kind; a named one counts as one."""
    counts: dict[str, int] = {}
    for resource in resources:
        if resource.named_resource_spec is not None:
            kind, number = resource.named_resource_spec.kind, 1
        elif resource.discrete_resource_spec is not None:
            kind, number = resource.discrete_resource_spec.kind, resource.discrete_resource_spec.value
        else:
            continue
        counts[kind] = counts.get(kind, 0) + number
    return counts


def _asked_generic(resources: Iterable[GenericResource]) -> dict[str, int]:
    """As `count_generic`; one asked for by name is none that a node offers: tasks get any of a kind, as in Docker."""
    asked = list(resources)
    named = [each.named_resource_spec for each in asked if each.named_resource_spec is not None]
    counts = count_generic(each for each in asked if each.named_resource_spec is None)
    return counts | {f"{each.kind}={each.value}": 1 for each in named}


def host_ports(ports: list[PortConfig] | None) -> Iterable[HostPort]:
    """Ports taken on the node itself; without a published port the target port is taken."""
    for port in ports or ():
        if port.publish_mode == PublishMode.HOST:
            yield str(port.protocol), port.published_port or port.target_port


def canonical(platform: Platform) -> Platform:
    """A platform in Go's words and lower case."""
    architecture = platform.architecture.lower()
    return Platform(architecture=ARCHITECTURES.get(architecture, architecture), os=platform.os.lower())


def _plugins(spec: TaskSpec) -> Iterable[tuple[str, str]]:
    for mount in (spec.container_spec.mounts or []) if spec.container_spec else []:
        driver = mount.volume_options.driver_config if mount.volume_options else None
        if mount.type == "volume" and driver is not None and driver.name not in ("", "local"):
            yield "Volume", driver.name
    if spec.log_driver is not None and spec.log_driver.name not in ("", "none"):
        yield "Log", spec.log_driver.name


def _spreads(spec: TaskSpec) -> Iterable[Spread]:
    for preference in (spec.placement.preferences or []) if spec.placement else []:
        descriptor = preference.spread.spread_descriptor if preference.spread else ""
        for prefix, is_engine in ((NODE_LABEL, False), (ENGINE_LABEL, True)):
            if descriptor.lower().startswith(prefix) and len(descriptor) > len(prefix):
                yield Spread(is_engine, descriptor[len(prefix) :])
