"""Control operations: what is stored, and every refusal with Docker's words."""

import asyncio
import base64
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from tests.factories import a_node, a_port, a_service, a_state, a_task

from skep.edge.clock import SystemClock, SystemDice
from skep.edge.memory import MemoryStore
from skep.manager.control.cluster import DEFAULTS, Founding, checked_pools, first_objects, merged_spec
from skep.manager.control.container_checks import check_image
from skep.manager.control.control import Surroundings, SwarmControl
from skep.manager.control.find import find_node
from skep.manager.replica import Replica
from skep.model.base import Object
from skep.model.cluster import (
    Authority,
    CAConfig,
    DispatcherConfig,
    EncryptionConfig,
    JoinTokens,
    OrchestrationConfig,
    SwarmSpec,
    TaskDefaults,
)
from skep.model.errors import (
    Conflict,
    Forbidden,
    InUse,
    InvalidSpec,
    NotFound,
    OutOfDate,
    SkepError,
    Unavailable,
    Unsupported,
)
from skep.model.identity import Identity, Newcomer
from skep.model.lifecycle import TaskState
from skep.model.network import IPAM, IPAMConfig, NetworkAttachmentConfig, NetworkSpec
from skep.model.node import Availability, ManagerStatus, Node, NodeSpec, NodeState, Role, TLSInfo
from skep.model.sealed import Sealed
from skep.model.secret import ConfigSpec, SecretSpec
from skep.model.service import (
    ConfigReference,
    ContainerSpec,
    EndpointSpec,
    FailureAction,
    FileTarget,
    Global,
    Healthcheck,
    Limits,
    LogDriver,
    Mount,
    Placement,
    PublishMode,
    Replicated,
    ReplicatedJob,
    ResolutionMode,
    ResourceRequirements,
    RestartPolicy,
    SecretReference,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
    TmpfsOptions,
    UpdateConfig,
)
from skep.model.task import Task
from skep.ports.logs import TaskLogEntry
from skep.ports.runtime import LogEntry, LogOptions
from skep.store.changes import Delete, Put

pytestmark = pytest.mark.anyio

SECOND = 1_000_000_000


class MirrorSealer:
    """Seals by turning round: enough to see that a value was sealed, and for what."""

    def seal(self, plain: bytes, purpose: str) -> Sealed:
        return Sealed(key_id=purpose, nonce=b"", box=plain[::-1])

    def open(self, sealed: Sealed, purpose: str) -> bytes:
        assert sealed.key_id == purpose
        return sealed.box[::-1]


class OneLine:
    """Gives every task one line."""

    async def logs(
        self, tasks: Sequence[Task], options: LogOptions, coming: AsyncIterator[Task] | None = None
    ) -> AsyncIterator[TaskLogEntry]:
        for task in tasks:
            yield TaskLogEntry(task, LogEntry(1, 1, b"hello\n"))


ROOT_PEM = "a root certificate"


@asynccontextmanager
async def a_control(*objects: Object) -> AsyncIterator[SwarmControl]:
    """Operations on a new swarm of one node, with more objects if given."""
    clock, store = SystemClock(), MemoryStore()
    replica = Replica(store, clock)
    await replica.open()
    founding = Founding(
        cluster_id="cluster",
        authority=Authority(certificate_pem=ROOT_PEM, sealed_key=Sealed(key_id="", nonce=b"", box=b"")),
        node_id="manager1",
        hostname="manager1",
        underlay="192.0.2.1",
        control_addr="192.0.2.1:2377",
    )
    await replica.commit(first_objects(founding, JoinTokens(worker="w", manager="m"), "ingress-id"))
    if objects:
        await replica.commit([Put(value) for value in objects])
    control = SwarmControl(replica, Surroundings(clock, SystemDice(), TLSInfo, MirrorSealer(), OneLine()))
    control.replica = replica  # type: ignore[attr-defined] # for tests that play the leader
    try:
        yield control
    finally:
        await replica.close()
        await store.close()


def a_spec(name: str = "web", *, container: dict[str, Any] | None = None, **fields: Any) -> ServiceSpec:
    template = {
        name: fields.pop(name) for name in ("networks", "resources", "placement", "restart_policy") if name in fields
    }
    image = ContainerSpec(**{"image": "alpine", **(container or {})})
    return ServiceSpec(name=name, task_template=TaskSpec(container_spec=image, **template), **fields)


async def lead(control: SwarmControl, *changes: Put | Delete) -> None:
    """Write as the leader does, past the control operations."""
    await control.replica.commit(changes)  # type: ignore[attr-defined] # see `a_control`


# --- services -----------------------------------------------------------------------


async def test_a_created_service_has_what_was_left_to_the_swarm() -> None:
    async with a_control() as control:
        network = await control.create_network(NetworkSpec(name="back"))
        service = await control.create_service(a_spec(networks=[NetworkAttachmentConfig(target="back")]))
        assert len(service.id) == 25
        assert service.spec.mode == ServiceMode(replicated=Replicated(replicas=1))
        assert service.spec.task_template.networks == [NetworkAttachmentConfig(target=network.id)]
        assert control.find_service("web") == control.find_service(service.id[:9]) == service
        assert service.spec_version > 0


async def test_a_service_without_a_name_gets_one() -> None:
    async with a_control() as control:
        names = {(await control.create_service(a_spec(""))).spec.name for _ in range(20)}
        assert len(names) == 20
        assert all("_" in name for name in names)


WRONG_SPECS = [
    pytest.param(a_spec("a b"), InvalidSpec, "name must be valid as a DNS name component", id="name"),
    pytest.param(a_spec("-a"), InvalidSpec, "name must be valid as a DNS name component", id="name's start"),
    pytest.param(a_spec("a" * 64), InvalidSpec, "name must be 63 characters or fewer", id="long name"),
    pytest.param(
        a_spec(container={"image": ""}), InvalidSpec, "ContainerSpec: image reference must be provided", id="no image"
    ),
    pytest.param(
        a_spec(container={"image": "Alpine"}), InvalidSpec, '"Alpine" is not a valid repository/tag', id="image"
    ),
    pytest.param(ServiceSpec(name="web"), InvalidSpec, "TaskSpec: missing runtime", id="no container"),
    pytest.param(
        a_spec(mode=ServiceMode(replicated=Replicated(replicas=1), global_=Global())),
        InvalidSpec,
        "must specify only one service mode",
        id="two modes",
    ),
    pytest.param(
        a_spec(mode=ServiceMode(replicated=Replicated(replicas=-1))),
        InvalidSpec,
        "Number of replicas must be non-negative",
        id="negative replicas",
    ),
    pytest.param(
        a_spec(mode=ServiceMode(replicated=Replicated(replicas=2**31))),
        InvalidSpec,
        "Number of replicas must be at most 100000, not 2147483648",
        id="impossible replicas",
    ),
    pytest.param(
        a_spec(mode=ServiceMode(replicated_job=ReplicatedJob(max_concurrent=1, total_completions=100_001))),
        InvalidSpec,
        "Total completed jobs must be at most 100000, not 100001",
        id="impossible job",
    ),
    pytest.param(
        a_spec(mode=ServiceMode(replicated_job=ReplicatedJob()), update_config=UpdateConfig()),
        InvalidSpec,
        "update and rollback configuration is not supported for jobs",
        id="job with update",
    ),
    pytest.param(
        a_spec(resources=ResourceRequirements(limits=Limits(nano_cpus=999))),
        InvalidSpec,
        "invalid cpu value 9.99e-07: Must be at least 0.001",
        id="tiny cpu",
    ),
    pytest.param(
        a_spec(resources=ResourceRequirements(limits=Limits(memory_bytes=1 << 20))),
        InvalidSpec,
        "invalid memory value 1048576: Must be at least 4MiB",
        id="tiny memory",
    ),
    pytest.param(
        a_spec(placement=Placement(constraints=["node.role"])), InvalidSpec, "expected one operator", id="constraint"
    ),
    pytest.param(
        a_spec(restart_policy=RestartPolicy(delay=-1)), InvalidSpec, "restart-delay cannot be negative", id="delay"
    ),
    pytest.param(
        a_spec(update_config=UpdateConfig(max_failure_ratio=1.5)),
        InvalidSpec,
        "update-maxfailureratio cannot be less than 0 or bigger than 1",
        id="ratio",
    ),
    pytest.param(
        a_spec(rollback_config=UpdateConfig(failure_action=FailureAction.ROLLBACK)),
        InvalidSpec,
        "failure action of a rollback",
        id="rollback of a rollback",
    ),
    pytest.param(
        a_spec(endpoint_spec=EndpointSpec(mode=ResolutionMode.DNSRR, ports=[a_port(80)])),
        InvalidSpec,
        "port published with ingress mode can't be used with dnsrr mode",
        id="dnsrr and ingress",
    ),
    pytest.param(
        a_spec(endpoint_spec=EndpointSpec(ports=[a_port(80), a_port(80, 81)])),
        InvalidSpec,
        "EndpointSpec: duplicate published ports provided",
        id="port twice",
    ),
    pytest.param(
        a_spec(container={"mounts": [Mount(target="/a", source="x"), Mount(target="/a/", source="y")]}),
        InvalidSpec,
        "ContainerSpec: duplicate mount point: /a",
        id="mount twice",
    ),
    pytest.param(
        a_spec(container={"mounts": [Mount(target="a", source="x")]}),
        InvalidSpec,
        "must be an absolute path",
        id="path",
    ),
    pytest.param(
        a_spec(container={"mounts": [Mount(type="bind", source="x", target="/a")]}),
        InvalidSpec,
        "invalid bind mount source, must be an absolute path: x",
        id="bind source",
    ),
    pytest.param(
        a_spec(container={"mounts": [Mount(type="bind", source="/x", target="/a", tmpfs_options=TmpfsOptions())]}),
        InvalidSpec,
        "field TmpfsOptions must not be specified",
        id="foreign options",
    ),
    pytest.param(
        a_spec(container={"mounts": [Mount(type="npipe", target="/a")]}),
        Unsupported,
        "mounts of type npipe",
        id="npipe",
    ),
    pytest.param(
        a_spec(container={"healthcheck": Healthcheck(interval=1)}),
        InvalidSpec,
        "Interval in HealthConfig cannot be less than 1ms",
        id="health",
    ),
    pytest.param(a_spec(container={"env": ["=x"]}), InvalidSpec, "invalid environment variable: =x", id="environment"),
    pytest.param(
        a_spec(container={"hostname": "{{.Task.Nonsense}}"}), InvalidSpec, "expanding hostname failed", id="template"
    ),
    pytest.param(
        a_spec(networks=[NetworkAttachmentConfig(target="gone")]), NotFound, "network gone not found", id="network"
    ),
    pytest.param(
        a_spec(networks=[NetworkAttachmentConfig(target="host")]),
        Forbidden,
        "The network host cannot be used with services. Only networks scoped to the swarm can be used, such as those "
        "created with the overlay driver.",
        id="local network",
    ),
    pytest.param(
        a_spec(networks=[NetworkAttachmentConfig(target="ingress")]),
        InvalidSpec,
        "Service cannot be explicitly attached to the ingress network",
        id="ingress network",
    ),
    pytest.param(
        a_spec(container={"secrets": [SecretReference(secret_id="x", secret_name="y", file=FileTarget(name="y"))]}),
        InvalidSpec,
        "secret not found: y",
        id="secret",
    ),
    pytest.param(
        a_spec(container={"configs": [ConfigReference(file=FileTarget(name="y"))]}),
        InvalidSpec,
        "malformed config reference",
        id="config",
    ),
]


@pytest.mark.parametrize(("spec", "refusal", "words"), WRONG_SPECS)
async def test_a_wrong_spec_is_refused_and_stores_nothing(
    spec: ServiceSpec, refusal: type[SkepError], words: str
) -> None:
    async with a_control() as control:
        revision = control.view.revision
        with pytest.raises(refusal) as caught:
            await control.create_service(spec)
        assert words in str(caught.value)
        assert control.view.revision == revision


async def test_names_and_ports_belong_to_one_service() -> None:
    async with a_control() as control:
        first = await control.create_service(a_spec(endpoint_spec=EndpointSpec(ports=[a_port(8080)])))
        with pytest.raises(Conflict) as caught:
            await control.create_service(a_spec())
        assert str(caught.value) == (
            "rpc error: code = AlreadyExists desc = name conflicts with an existing object: service web already exists"
        )
        with pytest.raises(InvalidSpec, match=rf"port '8080' is already in use by service 'web' \({first.id}\)"):
            await control.create_service(a_spec("other", endpoint_spec=EndpointSpec(ports=[a_port(8080)])))
        host = a_port(9000, mode=PublishMode.HOST)
        await control.create_service(a_spec("host1", endpoint_spec=EndpointSpec(ports=[host])))
        await control.create_service(a_spec("host2", endpoint_spec=EndpointSpec(ports=[host])))


async def test_of_many_at_once_one_gets_the_name() -> None:
    async with a_control() as control:
        outcomes = await asyncio.gather(*(control.create_service(a_spec()) for _ in range(20)), return_exceptions=True)
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Conflict"] * 19 + ["Service"]


async def test_an_update_keeps_the_spec_before_and_forgets_the_update_before() -> None:
    async with a_control() as control:
        service = await control.create_service(a_spec())
        changed = a_spec(container={"image": "alpine:3"})
        updated = await control.update_service("web", service.version, changed)
        assert updated.spec.task_template.container_spec == ContainerSpec(image="alpine:3")
        assert updated.previous_spec == service.spec
        assert updated.previous_spec_version == service.spec_version < updated.spec_version
        assert updated.update_status is None
        back = await control.update_service("web", updated.version, changed, is_rollback=True)
        assert back.spec == service.spec
        assert back.previous_spec == updated.spec
        assert back.update_status is not None
        assert back.update_status.state == "rollback_started"


async def test_a_version_is_current_until_someone_else_writes_the_spec() -> None:
    async with a_control() as control:
        service = await control.create_service(a_spec())
        await lead(control, Put(msgspec.structs.replace(service, reasons=["allocated"])))
        updated = await control.update_service("web", service.version, a_spec(labels={"by": "user"}))
        with pytest.raises(OutOfDate, match="update out of sequence"):
            await control.update_service("web", service.version, a_spec(labels={"by": "another"}))
        with pytest.raises(OutOfDate):
            await control.update_service("web", updated.version + 1, a_spec())
        assert control.find_service("web").spec.labels == {"by": "user"}
        assert control.find_service("web").reasons == ["allocated"]


async def test_what_was_loaded_is_judged_by_its_own_version() -> None:
    async with a_control(a_service("old")) as control:
        service = control.find_service("old")
        fields = {"name": "old", "container": {"image": "alpine"}}
        for version in (service.version - 1, service.version + 1):
            with pytest.raises(OutOfDate):
                await control.update_service("old", version, a_spec(**fields))
        await control.update_service("old", service.version, a_spec(**fields))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        pytest.param(a_spec("other"), "renaming services is not supported", id="name"),
        pytest.param(a_spec(mode=ServiceMode(global_=Global())), "service mode change is not allowed", id="mode"),
    ],
)
async def test_name_and_mode_stay(spec: ServiceSpec, words: str) -> None:
    async with a_control() as control:
        service = await control.create_service(a_spec())
        with pytest.raises(Unsupported, match=words):
            await control.update_service("web", service.version, spec)


async def test_there_is_no_way_back_from_the_first_spec() -> None:
    async with a_control() as control:
        service = await control.create_service(a_spec())
        with pytest.raises(InUse, match=f"service {service.id} does not have a previous spec"):
            await control.update_service("web", service.version, a_spec(), is_rollback=True)


async def test_a_service_being_removed_is_gone_for_users_and_its_name_and_port_are_free() -> None:
    async with a_control() as control:
        spec = a_spec(endpoint_spec=EndpointSpec(ports=[a_port(8080)]))
        first = await control.create_service(spec)
        await control.remove_service("web")
        with pytest.raises(NotFound, match="service web not found"):
            control.find_service("web")
        with pytest.raises(NotFound):
            await control.remove_service(first.id)
        second = await control.create_service(spec)
        assert control.find_service("web").id == second.id
        assert first.id in control.view.services


@pytest.mark.parametrize(
    ("image", "is_valid"),
    [
        ("alpine", True),
        ("alpine:3.10", True),
        ("library/alpine", True),
        ("localhost:5000/team/app:v1", True),
        ("example.org/a__b/c-d:T_1", True),
        ("alpine@sha256:" + "a" * 64, True),
        ("a" * 64, False),
        ("UPPER", False),
        ("a//b", False),
        ("a:b:c", False),
        ("-a", False),
        ("a@sha256:xyz", False),
        ("a b", False),
    ],
)
async def test_image_references(image: str, is_valid: bool) -> None:
    if is_valid:
        check_image(image)
    else:
        with pytest.raises(InvalidSpec, match="is not a valid repository/tag"):
            check_image(image)


async def test_logs_come_from_the_source() -> None:
    async with a_control() as control:
        task = a_task("t1")
        entries = [entry async for entry in control.service_logs([task], LogOptions())]
        assert [entry.task.id for entry in entries] == ["t1"]


# --- finding ---------------------------------------------------------------------------


async def test_the_start_of_an_id_must_be_of_one_object() -> None:
    state = a_state(a_node("abc1", hostname="x"), a_node("abc2", hostname="y"), a_node("abd", hostname="z"))
    assert find_node(state, "abd").id == find_node(state, "z").id == "abd"
    with pytest.raises(InvalidSpec, match=r"node abc is ambiguous \(2 matches found\)"):
        find_node(state, "abc")
    for reference in ("nothing", ""):
        with pytest.raises(NotFound, match="not found"):
            find_node(state, reference)


# --- networks ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "refusal", "words"),
    [
        pytest.param(NetworkSpec(name="a b"), InvalidSpec, "DNS name component", id="name"),
        pytest.param(NetworkSpec(name="bridge"), Forbidden, "not permitted on predefined", id="predefined"),
        pytest.param(NetworkSpec(name="ingress"), Conflict, "network with name ingress already exists", id="taken"),
        pytest.param(NetworkSpec(name="in2", ingress=True), Conflict, "already present", id="second ingress"),
        pytest.param(NetworkSpec(name="v6", enable_ipv6=True), Unsupported, "IPv4 only", id="IPv6"),
        pytest.param(NetworkSpec(name="e", options={"encrypted": ""}), Unsupported, "encrypted", id="encrypted"),
        pytest.param(
            NetworkSpec(name="c", ipam=IPAM(config=[IPAMConfig(subnet="10.0.0.0/33")])),
            InvalidSpec,
            "invalid CIDR block notation",
            id="CIDR",
        ),
        pytest.param(
            NetworkSpec(name="c", ipam=IPAM(config=[IPAMConfig(subnet="192.0.2.0/24")])),
            Conflict,
            "the address of node",
            id="the underlay",
        ),
    ],
)
async def test_a_wrong_network_is_refused(spec: NetworkSpec, refusal: type[SkepError], words: str) -> None:
    async with a_control() as control:
        with pytest.raises(refusal) as caught:
            await control.create_network(spec)
        assert words in str(caught.value)


async def test_overlapping_networks_are_refused_even_at_once() -> None:
    async with a_control() as control:
        specs = [NetworkSpec(name=f"n{n}", ipam=IPAM(config=[IPAMConfig(subnet="172.20.0.0/24")])) for n in range(5)]
        outcomes = await asyncio.gather(*(control.create_network(spec) for spec in specs), return_exceptions=True)
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Conflict"] * 4 + ["Network"]


async def test_a_network_in_use_stays() -> None:
    async with a_control() as control:
        network = await control.create_network(NetworkSpec(name="back"))
        service = await control.create_service(a_spec(networks=[NetworkAttachmentConfig(target="back")]))
        with pytest.raises(InUse, match=f"network {network.id} is in use by service {service.id}"):
            await control.remove_network("back")
        await control.remove_service("web")
        await control.remove_network("back")
        with pytest.raises(NotFound, match="network back not found"):
            control.find_network("back")


async def test_a_network_waits_for_tasks_that_are_being_stopped() -> None:
    async with a_control(a_node("n1"), a_service("gone", removing=True)) as control:
        network = await control.create_network(NetworkSpec(name="back"))
        service = control.view.services.get("gone")
        stopping = a_task(
            "t1",
            service=service,
            state=TaskState.RUNNING,
            desired=TaskState.REMOVE,
            node_id="n1",
            addresses={network.id: "10.0.1.5/24"},
        )
        await lead(control, Put(stopping))
        removing = asyncio.create_task(control.remove_network("back"))
        done, _ = await asyncio.wait({removing}, timeout=0.1)
        assert not done
        task = control.find_task("t1")
        await lead(control, Delete("task", "t1", task.version))
        async with asyncio.timeout(10):
            await removing


async def test_the_ingress_network_stays_while_ports_are_published() -> None:
    async with a_control() as control:
        service = await control.create_service(a_spec(endpoint_spec=EndpointSpec(ports=[a_port(80)])))
        with pytest.raises(InUse, match=f"cannot be removed because service {service.id} depends on it"):
            await control.remove_network("ingress")
        await control.remove_service("web")
        await control.remove_network("ingress")
        await control.create_network(NetworkSpec(name="my-ingress", ingress=True))


# --- nodes -----------------------------------------------------------------------------


async def test_availability_and_labels_are_set_and_nothing_else_changes() -> None:
    async with a_control(a_node("n1", cpus=2)) as control:
        node = control.find_node("n1")
        spec = NodeSpec(availability=Availability.DRAIN, labels={"zone": "north"})
        updated = await control.update_node("n1", node.version, spec)
        assert updated.spec == spec
        assert updated.description == node.description
        with pytest.raises(OutOfDate):
            await control.update_node("n1", node.version, spec)


async def test_the_only_manager_stays_one() -> None:
    async with a_control(a_node("n1")) as control:
        manager = control.find_node("manager1")
        with pytest.raises(InUse, match="attempting to demote the last manager of the swarm"):
            await control.update_node("manager1", manager.version, NodeSpec(role=Role.WORKER))
        with pytest.raises(Unavailable, match="node n1 has none; install it there"):
            await control.update_node("n1", control.find_node("n1").version, NodeSpec(role=Role.MANAGER))
        with pytest.raises(InUse, match="is a cluster manager and is a member of the raft cluster"):
            await control.remove_node("manager1", is_forced=True)


def a_manager(id: str, reachability: str = "reachable") -> Node:
    return msgspec.structs.replace(
        a_node(id, capabilities=["etcd"]),
        spec=NodeSpec(role=Role.MANAGER),
        role=Role.MANAGER,
        manager_status=ManagerStatus(reachability=reachability, addr=f"{id}:2377"),
    )


async def test_nodes_are_promoted_and_demoted() -> None:
    async with a_control(a_manager("m2"), a_manager("m3"), a_node("n1", capabilities=["etcd"])) as control:

        async def update(id: str, role: Role) -> Node:
            return await control.update_node(id, control.find_node(id).version, NodeSpec(role=role))

        promoted = await update("n1", Role.MANAGER)
        assert (promoted.spec.role, promoted.role) == (Role.MANAGER, Role.WORKER)  # Its certificate follows.
        await update("n1", Role.WORKER)
        demoted = await update("m3", Role.WORKER)
        # It keeps its certificate, and its place among the managers, until it was taken out.
        assert demoted.manager_status is not None
        with pytest.raises(InUse, match="It must be demoted to worker before removal"):
            await control.remove_node("m3", is_forced=True)


async def test_a_demotion_that_would_leave_too_few_is_refused() -> None:
    async with a_control(a_manager("m2"), a_manager("m3", "unreachable")) as control:
        with pytest.raises(InUse, match="this would result in a loss of quorum"):
            await control.update_node("m2", control.find_node("m2").version, NodeSpec(role=Role.WORKER))
        await control.update_node("m3", control.find_node("m3").version, NodeSpec(role=Role.WORKER))
        await control.update_node("m2", control.find_node("m2").version, NodeSpec(role=Role.WORKER))
        with pytest.raises(InUse, match="attempting to demote the last manager of the swarm"):
            await control.update_node("manager1", control.find_node("manager1").version, NodeSpec(role=Role.WORKER))


async def test_a_node_is_removed_when_it_is_down_or_by_force() -> None:
    async with a_control(a_node("up"), a_node("down", state=NodeState.DOWN)) as control:
        with pytest.raises(InUse, match="node up is not down and can't be removed"):
            await control.remove_node("up", is_forced=False)
        await control.remove_node("down", is_forced=False)
        await control.remove_node("up", is_forced=True)
        assert set(control.cluster().removed_nodes) == {"up", "down"}
        assert [node.id for node in control.view.nodes.values()] == ["manager1"]
        with pytest.raises(NotFound, match="node up not found"):
            control.find_node("up")


async def test_newcomers_are_admitted_once_and_their_certificates_noted() -> None:
    async with a_control() as control:
        identity = Identity(node_id="new", role=Role.WORKER, cluster_id="cluster", serial="1")
        newcomer = Newcomer(identity=identity, availability=Availability.PAUSE, address="192.0.2.7")
        await control.registry.admit(newcomer)
        revision = control.view.revision
        await control.registry.admit(newcomer)
        assert control.view.revision == revision
        node = control.find_node("new")
        assert (node.spec.availability, node.status.state, node.status.addr) == (
            Availability.PAUSE,
            NodeState.UNKNOWN,
            "192.0.2.7",
        )
        await control.registry.certify(msgspec.structs.replace(identity, serial="2"))
        assert control.find_node("new").certificate_serial == "2"
        second = Newcomer(identity=Identity(node_id="m2", role=Role.MANAGER, cluster_id="cluster"))
        with pytest.raises(Forbidden, match="the machine that is to join has none; install it there"):
            await control.registry.admit(second)
        with pytest.raises(NotFound):
            control.find_node("m2")
        await control.registry.admit(msgspec.structs.replace(second, has_etcd=True))
        assert control.find_node("m2").spec.role is Role.MANAGER


# --- the cluster -----------------------------------------------------------------------


async def test_an_update_changes_what_it_says_only() -> None:
    async with a_control() as control:
        before = control.cluster()
        assert before.spec == DEFAULTS
        spec = SwarmSpec(orchestration=OrchestrationConfig(task_history_retention_limit=7))
        after = await control.update_cluster(before.version, spec)
        assert after.spec.orchestration.task_history_retention_limit == 7
        assert after.spec.dispatcher == before.spec.dispatcher
        assert after.spec.name == "default"
        assert after.join_tokens == before.join_tokens


async def test_tokens_rotate_one_by_one() -> None:
    async with a_control() as control:
        first = control.cluster()
        second = await control.update_cluster(first.version, SwarmSpec(), rotate_worker_token=True)
        assert second.join_tokens.worker.startswith("SWMTKN-1-")
        assert second.join_tokens.manager == first.join_tokens.manager
        third = await control.update_cluster(second.version, SwarmSpec(), rotate_manager_token=True)
        assert third.join_tokens.worker == second.join_tokens.worker
        assert third.join_tokens.manager.startswith("SWMTKN-1-")


async def test_managers_are_locked_under_a_key_that_rotates_and_goes() -> None:
    locked = SwarmSpec(encryption_config=EncryptionConfig(auto_lock_managers=True))
    async with a_control() as control:
        assert control.unlock_key() == ""
        cluster = await control.update_cluster(control.cluster().version, locked)
        first = control.unlock_key()
        assert first.startswith("SWMKEY-1-")
        cluster = await control.update_cluster(cluster.version, locked)
        assert control.unlock_key() == first
        cluster = await control.update_cluster(cluster.version, locked, rotate_unlock_key=True)
        assert control.unlock_key() not in (first, "")
        await control.update_cluster(cluster.version, SwarmSpec())
        assert control.unlock_key() == ""


@pytest.mark.parametrize(
    ("spec", "refusal", "words"),
    [
        pytest.param(SwarmSpec(name="mine"), InvalidSpec, "modification of cluster name", id="name"),
        pytest.param(
            SwarmSpec(ca_config=CAConfig(node_cert_expiry=60 * SECOND)),
            InvalidSpec,
            "minimum certificate expiry time is: 1h0m0s",
            id="certificates",
        ),
        pytest.param(
            SwarmSpec(dispatcher=DispatcherConfig(heartbeat_period=-1)), InvalidSpec, "negative duration", id="beat"
        ),
        pytest.param(
            SwarmSpec(task_defaults=TaskDefaults(log_driver=LogDriver(name="syslog"))),
            Unsupported,
            "syslog as the log driver of all tasks is not possible",
            id="log driver",
        ),
    ],
)
async def test_wrong_settings_are_refused(spec: SwarmSpec, refusal: type[SkepError], words: str) -> None:
    with pytest.raises(refusal, match=words):
        merged_spec(DEFAULTS, spec)


@pytest.mark.parametrize(
    ("pools", "size", "words"),
    [
        (("10.0.0.0",), 33, "subnet size 33 is not possible"),
        (("10.0.0.1/8",), 0, "has host bits set"),
        (("fd00::/64",), 0, "invalid default address pool"),
        (("10.0.0.0/8", "10.1.0.0/16"), 0, "overlaps with another one"),
        (("10.0.0.0/26",), 24, "must be equal to or greater than"),
    ],
)
async def test_wrong_address_pools_are_refused(pools: tuple[str, ...], size: int, words: str) -> None:
    with pytest.raises(InvalidSpec, match=words):
        checked_pools(pools, size)


# --- secrets and configs ------------------------------------------------------------------


def b64(text: bytes) -> str:
    return base64.b64encode(text).decode()


async def test_a_secret_is_sealed_and_never_kept_as_sent() -> None:
    async with a_control() as control:
        secret = await control.create_secret(SecretSpec(name="key", data=b64(b"abc")))
        stored = control.find_secret("key")
        assert stored.spec.data == ""
        assert stored.sealed == Sealed(key_id=f"secret/{secret.id}", nonce=b"", box=b"cba")
        with pytest.raises(Conflict, match="secret key already exists"):
            await control.create_secret(SecretSpec(name="key", data=b64(b"abc")))


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("", b64(b"x"), "name must be provided"),
        ("a/b", b64(b"x"), "invalid name"),
        ("a" * 65, b64(b"x"), "invalid name"),
        ("key", "", "data must be larger than 0"),
        ("key", b64(bytes(512_001)), "data must be larger than 0 and less than 512000 bytes"),
        ("key", "no base64!", "not base64"),
    ],
)
async def test_wrong_secrets_are_refused(name: str, data: str, words: str) -> None:
    async with a_control() as control:
        with pytest.raises(InvalidSpec, match=words):
            await control.create_secret(SecretSpec(name=name, data=data))


async def test_only_labels_of_secrets_and_configs_change() -> None:
    async with a_control() as control:
        await control.create_secret(SecretSpec(name="key", data=b64(b"abc")))
        secret = control.find_secret("key")
        changed = await control.update_secret("key", secret.version, SecretSpec(name="key", labels={"a": "b"}))
        assert changed.spec.labels == {"a": "b"}
        assert changed.sealed == secret.sealed
        same_value = SecretSpec(name="key", labels={"c": "d"}, data=b64(b"abc"))
        again = await control.update_secret("key", changed.version, same_value)
        assert (again.spec.labels, again.spec.data) == ({"c": "d"}, "")
        unchanged = await control.update_secret("key", again.version, same_value)
        assert unchanged.version == again.version
        with pytest.raises(InvalidSpec, match="only updates to Labels are allowed"):
            await control.update_secret("key", again.version, SecretSpec(name="key", data=b64(b"new")))
        await control.create_config(ConfigSpec(name="conf", data=b64(b"abc")))
        config = control.find_config("conf")
        assert config.data == b"abc"
        same = ConfigSpec(name="conf", labels={"a": "b"}, data=b64(b"abc"))
        assert (await control.update_config("conf", config.version, same)).spec.labels == {"a": "b"}


async def test_secrets_and_configs_in_use_stay() -> None:
    async with a_control() as control:
        secret = await control.create_secret(SecretSpec(name="key", data=b64(b"abc")))
        config = await control.create_config(ConfigSpec(name="conf", data=b64(b"abc")))
        container = {
            "secrets": [SecretReference(secret_id=secret.id, secret_name="key", file=FileTarget(name="key"))],
            "configs": [ConfigReference(config_id=config.id, config_name="conf", file=FileTarget(name="/etc/conf"))],
        }
        await control.create_service(a_spec("one", container=container))
        await control.create_service(a_spec("two", container=container))
        with pytest.raises(InUse, match="secret 'key' is in use by the following services: one, two"):
            await control.remove_secret("key")
        await control.remove_service("two")
        with pytest.raises(InUse, match="config 'conf' is in use by the following service: one"):
            await control.remove_config("conf")
        await control.remove_service("one")
        await control.remove_secret("key")
        await control.remove_config("conf")
        with pytest.raises(NotFound, match="secret key not found"):
            control.find_secret("key")


async def test_two_files_at_one_place_are_refused() -> None:
    async with a_control() as control:
        one = await control.create_secret(SecretSpec(name="one", data=b64(b"1")))
        two = await control.create_secret(SecretSpec(name="two", data=b64(b"2")))
        references = [
            SecretReference(secret_id=secret.id, secret_name=secret.spec.name, file=FileTarget(name="same"))
            for secret in (one, two)
        ]
        with pytest.raises(InvalidSpec, match="'one' and 'two' have a conflicting target: 'same'"):
            await control.create_service(a_spec(container={"secrets": references}))
