"""Objects for tests, showing only what matters; everything else has a sensible default."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from skep.core.plan import Dirty, Plan
from skep.model.base import Object
from skep.model.cluster import Cluster
from skep.model.lifecycle import TaskState
from skep.model.network import IPAM, Attachment, IPAMConfig, Network, NetworkAttachmentConfig, NetworkSpec
from skep.model.node import Availability, Node, NodeDescription, NodeSpec, NodeState, NodeStatus
from skep.model.service import (
    EndpointSpec,
    Placement,
    PlacementPreference,
    Platform,
    PortConfig,
    Protocol,
    PublishMode,
    Replicated,
    ResolutionMode,
    ResourceRequirements,
    Resources,
    Service,
    ServiceMode,
    ServiceSpec,
    SpreadOver,
    TaskSpec,
)
from skep.model.task import Task, TaskStatus
from skep.store.changes import Batch, Put
from skep.store.state import State

GIB = 1 << 30


def a_cluster(**fields: Any) -> Cluster:
    return Cluster(id="cluster", **fields)


def a_network(
    id: str = "net",
    *,
    subnet: str = "",
    ip_range: str = "",
    gateway: str = "",
    ingress: bool = False,
    vni: int = 0,
    **spec: Any,
) -> Network:
    """An overlay; with `vni` it is allocated already, on `subnet`."""
    config = [IPAMConfig(subnet=subnet, ip_range=ip_range, gateway=gateway)] if subnet else None
    wanted = NetworkSpec(name=spec.pop("name", id), ipam=IPAM(config=config), ingress=ingress, **spec)
    return Network(id=id, spec=wanted, vni=vni, subnets=(config or []) if vni else [])


def a_node(
    id: str = "node",
    *,
    state: NodeState = NodeState.READY,
    availability: Availability = Availability.ACTIVE,
    labels: dict[str, str] | None = None,
    cpus: float = 4,
    memory: int = 8 * GIB,
    addr: str = "",
    generic: Sequence[Any] = (),
    platform: Platform | None = None,
    **fields: Any,
) -> Node:
    return Node(
        id=id,
        spec=NodeSpec(labels=labels or {}, availability=availability),
        description=NodeDescription(
            hostname=fields.pop("hostname", id),
            platform=platform or Platform(architecture="x86_64", os="linux"),
            resources=Resources(
                nano_cpus=int(cpus * 1e9), memory_bytes=memory, generic_resources=list(generic) or None
            ),
        ),
        status=NodeStatus(state=state, addr=addr),
        **fields,
    )


def a_port(
    published: int = 0,
    target: int = 80,
    *,
    protocol: Protocol = Protocol.TCP,
    mode: PublishMode = PublishMode.INGRESS,
) -> PortConfig:
    return PortConfig(published_port=published, target_port=target, protocol=protocol, publish_mode=mode)


def a_template(
    *,
    networks: Iterable[str] = (),
    constraints: Sequence[str] = (),
    spread: Sequence[str] = (),
    cpus: float = 0,
    memory: int = 0,
    generic: Sequence[Any] = (),
    max_replicas: int = 0,
    platforms: Sequence[Platform] = (),
) -> TaskSpec:
    reserved = Resources(nano_cpus=int(cpus * 1e9), memory_bytes=memory, generic_resources=list(generic) or None)
    return TaskSpec(
        networks=[NetworkAttachmentConfig(target=target) for target in networks] or None,
        resources=ResourceRequirements(reservations=reserved) if cpus or memory or generic else None,
        placement=Placement(
            constraints=list(constraints) or None,
            preferences=[PlacementPreference(spread=SpreadOver(spread_descriptor=key)) for key in spread] or None,
            max_replicas=max_replicas,
            platforms=list(platforms) or None,
        ),
    )


def a_service(
    id: str = "web",
    *,
    ports: Sequence[PortConfig] = (),
    replicas: int = 1,
    mode: ResolutionMode = ResolutionMode.VIP,
    template: TaskSpec | None = None,
    labels: dict[str, str] | None = None,
    **parts: Any,
) -> Service:
    spec = ServiceSpec(
        name=parts.pop("name", id),
        labels=labels or {},
        task_template=template or a_template(networks=parts.pop("networks", ())),
        mode=ServiceMode(replicated=Replicated(replicas=replicas)),
        endpoint_spec=EndpointSpec(mode=mode, ports=list(ports) or None),
    )
    return Service(id=id, spec=spec, **parts)


def a_task(
    id: str = "task",
    *,
    service: Service | None = None,
    state: TaskState = TaskState.NEW,
    desired: TaskState = TaskState.RUNNING,
    addresses: dict[str, str] | None = None,
    accepting: bool = False,
    **fields: Any,
) -> Task:
    """A task, of `service` if given; `addresses` maps network ids to addresses with prefix."""
    if service is not None:
        fields.setdefault("spec", service.spec.task_template)
        fields.setdefault("service_name", service.spec.name)
        fields.setdefault("service_labels", service.spec.labels)
        fields.setdefault("endpoint", service.endpoint if state > TaskState.NEW else None)
        fields.setdefault("spec_version", service.spec_version)
    return Task(
        id=id,
        service_id=service.id if service else "",
        spec=fields.pop("spec", a_template()),
        slot=fields.pop("slot", 1),
        desired_state=desired,
        status=TaskStatus(state=state, is_accepting=accepting),
        attachments=[Attachment(network_id=net, address=address) for net, address in (addresses or {}).items()],
        **fields,
    )


def with_status(task: Task, **changes: Any) -> Task:
    return msgspec.structs.replace(task, status=msgspec.structs.replace(task.status, **changes))


def a_state(*objects: Object) -> State:
    state = State()
    state.apply([Put(value) for value in objects], 1)
    return state


def commit(state: State, plan: Plan) -> Batch:
    return state.apply(plan.changes, state.revision + 1)


def put(state: State, *objects: Object) -> Batch:
    return state.apply([Put(value) for value in objects], state.revision + 1)


def dirty_of(*batches: Batch) -> Dirty:
    dirty = Dirty()
    for batch in batches:
        dirty.note(batch)
    return dirty


def all_dirty(state: State) -> Dirty:
    """Everything marked, as after a change of leader."""
    return Dirty(
        services={service.id for service in state.services.values()},
        tasks={task.id for task in state.tasks.values()},
        nodes={node.id for node in state.nodes.values()},
        networks={network.id for network in state.networks.values()},
        is_cluster=True,
    )
