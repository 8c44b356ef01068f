"""A swarm in memory whose tasks run the moment they are wanted: for tests of what speaks to one.

Names, versions, references and refusals are as strict as the real thing's; only time and machines are missing.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from skep.api.backend import InitRequest, JoinRequest, LocalState, RestoreRequest, TaskLogEntry
from skep.core import cluster_status
from skep.core.cluster_status import ClusterStatus, Papers
from skep.lib.durations import DAY, SECOND
from skep.model.backup import BackupDamaged, check_new_pass_phrase
from skep.model.base import Object
from skep.model.cluster import Cluster, JoinTokens, SwarmSpec, TokenLimit
from skep.model.errors import Conflict, InUse, InvalidSpec, NotFound, NotManager, OutOfDate, Unavailable
from skep.model.lifecycle import TaskState
from skep.model.network import Attachment, IPAMConfig, Network, NetworkSpec
from skep.model.node import (
    Availability,
    EngineDescription,
    ManagerStatus,
    Node,
    NodeDescription,
    NodeSpec,
    NodeState,
    NodeStatus,
    Role,
    TLSInfo,
)
from skep.model.registry import NO_AUTH, AuthSource
from skep.model.service import (
    Endpoint,
    EndpointSpec,
    Platform,
    PublishMode,
    Replicated,
    Resources,
    Service,
    ServiceMode,
    ServiceSpec,
    VirtualIP,
)
from skep.model.session import ManagerAddress
from skep.model.store_status import StoreStatus
from skep.model.task import ContainerStatus, Task, TaskStatus
from skep.ports.runtime import EngineFacts, LogEntry, LogOptions
from skep.store.changes import Batch, Change, Delete, Put
from skep.store.state import State, TableView

NO_SWARM = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm '
    "and try again."
)
WORKER = (
    "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. Please run this "
    "command on a manager node or promote the current node to a manager."
)
ALREADY = 'This node is already part of a swarm. Use "docker swarm leave" to leave this swarm and join another one.'
START = 1_760_000_000 * SECOND
T = TypeVar("T", bound=Object)


class StillClock:
    """A wall clock that moves by a millisecond whenever it is read; sleeping is real but short."""

    def __init__(self, now: int = START) -> None:
        self._now = now

    def now(self) -> int:
        self._now += 1_000_000
        return self._now

    async def sleep(self, length: int) -> None:
        await asyncio.sleep(min(length / SECOND, 0.02))


class FakeControl:
    """Control operations on a state in memory. Implements `skep.api.backend.Control`."""

    def __init__(self, clock: StillClock, hostname: str = "alpha", spec: SwarmSpec | None = None) -> None:
        self.state = State()
        self.clock = clock
        self.logs: list[LogEntry] = []
        self.registry_auth = ""
        self.is_stale = False
        self.n_catches = 0
        self.watched = asyncio.Event()
        self._watchers: set[asyncio.Queue[Batch]] = set()
        self._number = 0
        cluster = Cluster(
            id=self.new_id("cluster"),
            spec=spec or SwarmSpec(name="default"),
            join_tokens=JoinTokens(worker=self._token("w"), manager=self._token("m")),
        )
        ingress = Network(
            id=self.new_id("ingress"),
            spec=NetworkSpec(name="ingress", ingress=True),
            vni=4096,
            subnets=[IPAMConfig(subnet="10.0.0.0/24", gateway="10.0.0.1")],
        )
        self.commit(Put(cluster), Put(ingress))
        self.add_node(hostname, role=Role.MANAGER)

    def _token(self, kind: str) -> str:
        self._number += 1
        return f"SWMTKN-1-{'0' * 50}-{kind}{self._number:024d}"

    def new_id(self, hint: str = "") -> str:
        self._number += 1
        return f"{hint[:8]}{self._number}".ljust(25, "x")

    # --- state -------------------------------------------------------------------

    @property
    def view(self) -> State:
        return self.state

    @property
    def tls_info(self) -> TLSInfo:
        return TLSInfo(
            trust_root="-----BEGIN CERTIFICATE-----\n", cert_issuer_subject="MA==", cert_issuer_public_key="MQ=="
        )

    def commit(self, *changes: Change) -> Batch:
        stamped: list[Change] = []
        now = self.clock.now()
        for change in changes:
            if isinstance(change, Put):
                made = change.value.created_at or now
                stamped.append(Put(msgspec.structs.replace(change.value, created_at=made, updated_at=now)))
            else:
                stamped.append(change)
        batch = self.state.apply(stamped, self.state.revision + 1)
        for queue in self._watchers:
            queue.put_nowait(batch)
        return batch

    async def catch_up(self) -> None:
        self.n_catches += 1

    async def watch(self) -> AsyncIterator[Batch]:
        queue: asyncio.Queue[Batch] = asyncio.Queue()
        self._watchers.add(queue)
        self.watched.set()
        try:
            while True:
                yield await queue.get()
        finally:
            self._watchers.discard(queue)

    def add_node(
        self, hostname: str, *, role: Role = Role.WORKER, state: NodeState = NodeState.READY, spec_name: str = ""
    ) -> Node:
        number = len(self.state.nodes) + 1
        node = Node(
            id=self.new_id(hostname),
            spec=NodeSpec(name=spec_name, role=role),
            role=role,
            description=NodeDescription(
                hostname=hostname,
                platform=Platform(architecture="x86_64", os="linux"),
                resources=Resources(nano_cpus=2 * 10**9, memory_bytes=4 << 30),
                engine=EngineDescription(engine_version="4.3.1", labels={"disk": "ssd"}),
                tls_info=self.tls_info,
            ),
            status=NodeStatus(state=state, addr=f"192.0.2.{number}"),
            manager_status=ManagerStatus(leader=True, addr=f"192.0.2.{number}:2377") if role is Role.MANAGER else None,
        )
        self.commit(Put(node))
        return node

    def _find(self, table: TableView[T], named: Iterable[T], reference: str, kind: str) -> T:
        exact = table.get(reference)
        if exact is not None:
            return exact
        found = list(named) or [each for each in table.values() if each.id.startswith(reference)]
        if len(found) > 1:
            raise InvalidSpec(f"{kind} {reference} is ambiguous ({len(found)} matches found)")
        if not found:
            raise NotFound(f"{kind} {reference} not found")
        return found[0]

    def find_service(self, reference: str) -> Service:
        services = self.state.services
        return self._find(services, services.where("name", reference), reference, "service")

    def find_task(self, reference: str) -> Task:
        return self._find(self.state.tasks, (), reference, "task")

    def find_node(self, reference: str) -> Node:
        return self._find(self.state.nodes, self.state.nodes.where("hostname", reference), reference, "node")

    def find_network(self, reference: str) -> Network:
        networks = self.state.networks
        return self._find(networks, networks.where("name", reference), reference, "network")

    def cluster(self) -> Cluster:
        assert self.state.cluster is not None
        return self.state.cluster

    # --- services -----------------------------------------------------------------

    def _checked(self, spec: ServiceSpec) -> ServiceSpec:
        if not spec.name:
            raise InvalidSpec("name must be provided")
        container = spec.task_template.container_spec
        if container is None or not container.image:
            raise InvalidSpec("ContainerSpec: image reference must be provided")
        attachments = [
            msgspec.structs.replace(each, target=self.find_network(each.target).id)
            for each in spec.task_template.networks or []
        ]
        mode = spec.mode
        if mode == ServiceMode():
            mode = ServiceMode(replicated=Replicated(replicas=1))
        template = msgspec.structs.replace(spec.task_template, networks=attachments or None)
        return msgspec.structs.replace(spec, task_template=template, mode=mode)

    async def create_service(self, spec: ServiceSpec, *, auth: AuthSource = NO_AUTH) -> Service:
        spec = self._checked(spec)
        if self.state.services.where("name", spec.name):
            raise Conflict(f"name conflicts with an existing object: service {spec.name} already exists")
        self.registry_auth = auth.header
        service = Service(id=self.new_id(spec.name), spec=spec, spec_version=1, endpoint=self._endpoint(spec))
        self.commit(Put(service))
        self._reconcile(service)
        return self.find_service(service.id)

    def _endpoint(self, spec: ServiceSpec) -> Endpoint:
        ports = [
            msgspec.structs.replace(port, published_port=port.published_port or 30000 + number)
            for number, port in enumerate(spec.endpoint_spec.ports or [] if spec.endpoint_spec else [])
        ]
        networks = [each.target for each in spec.task_template.networks or []]
        if any(port.publish_mode == PublishMode.INGRESS for port in ports):
            networks.insert(0, self.find_network("ingress").id)
        addresses = [VirtualIP(network_id=each, addr=f"10.0.{number}.2/24") for number, each in enumerate(networks)]
        return Endpoint(spec=spec.endpoint_spec or EndpointSpec(), ports=ports or None, virtual_ips=addresses or None)

    async def update_service(
        self, reference: str, version: int, spec: ServiceSpec, *, auth: AuthSource = NO_AUTH, is_rollback: bool = False
    ) -> Service:
        service = self.find_service(reference)
        if service.version != version:
            raise OutOfDate("update out of sequence")
        if is_rollback:
            if service.previous_spec is None:
                raise InUse(f"service {service.spec.name} does not have a previous spec")
            spec = service.previous_spec
        spec = self._checked(spec)
        changed = msgspec.structs.replace(
            service,
            spec=spec,
            previous_spec=service.spec,
            spec_version=service.spec_version + 1,
            endpoint=self._endpoint(spec),
        )
        self.commit(Put(changed))
        self._reconcile(changed)
        return self.find_service(service.id)

    def _reconcile(self, service: Service) -> None:
        mode = service.spec.mode
        nodes = [node for node in self.state.nodes.values() if node.status.state == NodeState.READY]
        places: list[tuple[int, str]] = [(0, node.id) for node in nodes]
        if mode.replicated is not None:
            places = [(n + 1, nodes[n % len(nodes)].id) for n in range(mode.replicated.replicas or 0)]
        now: list[Task] = []
        for task in self.state.tasks.where("service", service.id):
            if task.desired_state > TaskState.RUNNING:
                continue
            place = (task.slot, task.node_id)
            if place in places and task.spec == service.spec.task_template:
                now.append(task)
            else:
                self._stop(task)
        for slot, node_id in places:
            if not any((task.slot, task.node_id) == (slot, node_id) for task in now):
                self.commit(Put(self._run(service, slot, node_id)))

    def _stop(self, task: Task) -> None:
        status = msgspec.structs.replace(task.status, state=TaskState.SHUTDOWN, timestamp=self.clock.now())
        self.commit(Put(msgspec.structs.replace(task, desired_state=TaskState.SHUTDOWN, status=status)))

    def _run(self, service: Service, slot: int, node_id: str) -> Task:
        addresses = (service.endpoint.virtual_ips if service.endpoint else None) or []
        return Task(
            id=self.new_id("task"),
            spec=service.spec.task_template,
            service_id=service.id,
            service_name=service.spec.name,
            service_labels=service.spec.labels,
            slot=slot,
            node_id=node_id,
            spec_version=service.spec_version,
            endpoint=service.endpoint,
            attachments=[
                Attachment(network_id=each.network_id, address=f"{each.addr.rsplit('.', 1)[0]}.{slot + 10}/24")
                for each in addresses
            ],
            status=TaskStatus(
                timestamp=self.clock.now(),
                state=TaskState.RUNNING,
                message="started",
                container=ContainerStatus(container_id=f"{self._number:064x}", pid=4711),
            ),
        )

    async def remove_service(self, reference: str) -> None:
        service = self.find_service(reference)
        tasks = self.state.tasks.where("service", service.id)
        gone = [Delete("task", task.id, task.version) for task in tasks]
        self.commit(*gone, Delete("service", service.id, service.version))

    # --- the rest -------------------------------------------------------------------

    async def update_node(self, reference: str, version: int, spec: NodeSpec) -> Node:
        node = self.find_node(reference)
        if node.version != version:
            raise OutOfDate("update out of sequence")
        if node.role is Role.MANAGER and spec.role is Role.WORKER:
            raise InUse("attempting to demote the last manager of the swarm")
        self.commit(Put(msgspec.structs.replace(node, spec=spec)))
        return self.find_node(node.id)

    async def remove_node(self, reference: str, *, is_forced: bool) -> None:
        node = self.find_node(reference)
        if node.status.state == NodeState.READY and not is_forced:
            raise InUse(f"node {node.id} is not down and can't be removed")
        self.commit(Delete("node", node.id, node.version))

    async def create_network(self, spec: NetworkSpec) -> Network:
        if self.state.networks.where("name", spec.name):
            raise Conflict(f"network with name {spec.name} already exists")
        number = len(self.state.networks)
        network = Network(
            id=self.new_id(spec.name),
            spec=spec,
            vni=4096 + number,
            subnets=spec.ipam.config or [IPAMConfig(subnet=f"10.0.{number}.0/24", gateway=f"10.0.{number}.1")],
        )
        self.commit(Put(network))
        return self.find_network(network.id)

    async def remove_network(self, reference: str) -> None:
        network = self.find_network(reference)
        users = self.state.services.where("network", network.id)
        if users:
            raise InUse(f"network {network.spec.name} is in use by service {users[0].spec.name}")
        self.commit(Delete("network", network.id, network.version))

    def unlock_key(self) -> str:
        return ""

    async def save_backup(self, pass_phrase: str) -> AsyncIterator[bytes]:
        check_new_pass_phrase(pass_phrase)
        for piece in (b"a ", b"backup ", f"under {pass_phrase}".encode()):
            yield piece

    async def note_backup(self, at: int) -> None:
        self.commit(Put(msgspec.structs.replace(self.cluster(), backed_up_at=at)))

    async def cluster_status(self) -> ClusterStatus:
        papers = Papers(ends_at=START + 90 * DAY, renew_by=START + 72 * DAY, root_ends_at=START + 7_300 * DAY)
        node = next(each for each in self.state.nodes.values() if each.manager_status is not None)
        store = StoreStatus(kind="sqlite", size_bytes=40_960, free_bytes=10 << 30)
        return cluster_status.judge(self.state, store, papers, node.id, self.clock.now())

    async def update_cluster(
        self,
        version: int,
        spec: SwarmSpec,
        *,
        rotate_worker_token: bool = False,
        rotate_manager_token: bool = False,
        rotate_unlock_key: bool = False,
    ) -> Cluster:
        cluster = self.cluster()
        if cluster.version != version:
            raise OutOfDate("update out of sequence")
        tokens = JoinTokens(
            worker=self._token("w") if rotate_worker_token else cluster.join_tokens.worker,
            manager=self._token("m") if rotate_manager_token else cluster.join_tokens.manager,
        )
        self.commit(Put(msgspec.structs.replace(cluster, spec=spec, join_tokens=tokens)))
        return self.cluster()

    async def renew_join_token(self, role: Role, *, expiry: int, uses: int) -> Cluster:
        limit = TokenLimit(ends_at=expiry, uses_left=uses or None)
        cluster = self.cluster()
        tokens = msgspec.structs.replace(cluster.join_tokens, **{role.value: self._token(role.value[0])})
        limits = msgspec.structs.replace(cluster.token_limits, **{role.value: limit})
        self.commit(Put(msgspec.structs.replace(cluster, join_tokens=tokens, token_limits=limits)))
        return self.cluster()

    async def service_logs(
        self, tasks: Sequence[Task], options: LogOptions, is_wanted: Callable[[Task], bool] | None = None
    ) -> AsyncIterator[TaskLogEntry]:
        lines = self.logs if options.tail < 0 else self.logs[len(self.logs) - options.tail :]
        chosen = [entry for entry in lines if (options.stdout, options.stderr)[entry.channel - 1]]
        for task in tasks:
            for entry in chosen:
                yield TaskLogEntry(task, entry)
        if not options.follow:
            return
        async for batch in self.watch():  # Ends with the reader.
            for event in batch.events:
                if isinstance(event.new, Task) and event.old is None and is_wanted is not None and is_wanted(event.new):
                    for entry in chosen:
                        yield TaskLogEntry(event.new, entry)


class FakeNode:
    """A node that makes, joins and leaves swarms at once. Implements `skep.api.backend.LocalNode`."""

    def __init__(self, data_dir: Path, passthrough: Path | None = None) -> None:
        self.hostname = "alpha"
        self.data_dir = data_dir
        self.engine_id = "7TTA:engine"
        self.started_at = START
        self.passthrough = passthrough
        self.clock = StillClock()
        self.local_state = LocalState()
        self.swarm: FakeControl | None = None
        self.attachments = None
        self.asked: InitRequest | JoinRequest | None = None
        self.restored: RestoreRequest | None = None
        self.rejoined: list[str] = []
        self.closed_because = ""

    async def engine_facts(self) -> EngineFacts:
        return EngineFacts("process", "0.1.0", "linux", "amd64", 2 * 10**9, 4 << 30)

    def control(self) -> FakeControl:
        if self.closed_because:
            raise Unavailable(self.closed_because)
        if self.swarm is None:
            raise NotManager(NO_SWARM if self.local_state.state == "inactive" else WORKER)
        return self.swarm

    async def init_swarm(self, request: InitRequest) -> str:
        if self.local_state.state != "inactive":
            raise NotManager(ALREADY)
        self.asked = request
        self.swarm = FakeControl(self.clock, self.hostname, request.spec)
        node = self.swarm.find_node(self.hostname)
        availability = Availability(request.availability)
        self.swarm.commit(
            Put(msgspec.structs.replace(node, spec=msgspec.structs.replace(node.spec, availability=availability)))
        )
        manager = ManagerAddress(node_id=node.id, addr="192.0.2.1:2377")
        self.local_state = LocalState("active", node.id, "192.0.2.1", True, managers=(manager,))
        return node.id

    async def join_swarm(self, request: JoinRequest) -> None:
        if self.local_state.state != "inactive":
            raise NotManager(ALREADY)
        if not request.join_token.startswith("SWMTKN-1-"):
            raise InvalidSpec("invalid join token")
        self.asked = request
        self.local_state = LocalState("active", "joined".ljust(25, "x"), "192.0.2.2", False)

    async def rejoin_swarm(self, addrs: Sequence[str]) -> None:
        if self.local_state.state == "inactive":
            raise NotManager("This node is not part of a swarm")
        self.rejoined = list(addrs)

    async def restore_swarm(self, request: RestoreRequest, content: AsyncIterator[bytes]) -> str:
        if self.local_state.state != "inactive":
            raise NotManager(ALREADY)
        raw = b"".join([piece async for piece in content])
        if not raw.startswith(b"a backup"):
            raise BackupDamaged("this is no backup of Skep's; give the file that `skep backup save` wrote")
        self.restored = request
        return await self.init_swarm(InitRequest())

    async def unlock_swarm(self, unlock_key: str) -> None:
        if self.local_state.state == "inactive":
            raise NotManager("This node is not part of a swarm")
        raise Conflict("swarm is not locked")

    async def leave_swarm(self, *, is_forced: bool) -> None:
        if self.local_state.state == "inactive":
            raise NotManager("This node is not part of a swarm")
        if self.local_state.has_control and not is_forced:
            raise NotManager(
                "You are attempting to leave the swarm on a node that is participating as a manager. Removing the "
                "last manager erases all current state of the swarm. Use `--force` to ignore this message. "
            )
        self.local_state, self.swarm = LocalState(), None
