"""Managers and agents together over mutual TLS on loopback: everything real but the tasks."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import msgspec
import pytest
from tests.factories import a_cluster, a_node, a_service
from tests.sessions import SOON_S, FakeHandler, until

from skep.agent.identity import NodeIdentity, accept_issued, new_key_request
from skep.agent.session import AgentSession, SessionPorts
from skep.core.dispatch.dispatcher import Dispatcher
from skep.core.identity import identity_of_pem
from skep.edge.clock import SystemClock, SystemDice
from skep.edge.control import ControlListener
from skep.edge.control_client import HttpControlPort
from skep.edge.memory import MemoryStore
from skep.lib.ids import new_id
from skep.manager.ca import CertificateAuthority
from skep.manager.control.writes import Writes
from skep.manager.gate import Gate
from skep.manager.join import Admission
from skep.manager.leader import Leader
from skep.manager.logs import TaskLogs
from skep.manager.registry import NodeRegistry
from skep.manager.replica import Replica
from skep.manager.seal import DataKey, Seal
from skep.manager.sessions import Sessions
from skep.model.assignment import AssignedTask, Delta
from skep.model.cluster import CAConfig, JoinTokens, SwarmSpec
from skep.model.errors import InvalidSpec
from skep.model.identity import Credentials, Identity, JoinRequest, JoinToken, new_token
from skep.model.lifecycle import TaskState
from skep.model.node import Availability, Role
from skep.model.session import ManagerAddress, StreamData, StreamRequest, TaskReport
from skep.model.task import Task, TaskStatus
from skep.ports.runtime import LogOptions
from skep.ports.transport import Declined, Unreachable, Untrusted
from skep.store.changes import Delete, Put

pytestmark = pytest.mark.anyio
CLOCK, DICE, CONTROL = SystemClock(), SystemDice(), HttpControlPort()
SEAL = Seal(DataKey.of(bytes(32)))
CLUSTER_ID, MANAGER_ID = "cluster0", "manager0"
SECOND = 1_000_000_000


@dataclass
class Worker(FakeHandler):
    """Reports every task it is given as running, and as shut down once it is to end."""

    async def assign(self, epoch: str, delta: Delta) -> None:
        await super().assign(epoch, delta)
        for item in delta.put:
            if isinstance(item, AssignedTask):
                ends = item.task.desired_state > TaskState.RUNNING
                status = TaskStatus(
                    timestamp=CLOCK.now(),
                    state=TaskState.SHUTDOWN if ends else TaskState.RUNNING,
                    is_accepting=not ends,
                )
                self.note(TaskReport(task_id=item.task.id, status=status))

    def open_stream(self, request: StreamRequest) -> AsyncIterator[StreamData]:
        return self._logs(request.task_id)

    async def _logs(self, task_id: str) -> AsyncIterator[StreamData]:
        yield StreamData(stream=0, payload=f"log of {task_id}\n".encode())


@dataclass
class Node:
    identity: NodeIdentity
    handler: Worker
    session: AgentSession
    running: "asyncio.Task[None]"

    @property
    def id(self) -> str:
        return self.identity.identity.node_id


@dataclass
class Swarm:
    """One manager, started and stopped over one store, and nodes that joined it."""

    store: MemoryStore = field(default_factory=MemoryStore)
    port: int = 0
    nodes: list[Node] = field(default_factory=list)
    tasks: list["asyncio.Task[None]"] = field(default_factory=list)

    async def found(self, certificate_life: int = 0) -> None:
        """Make the cluster object and the manager's own identity."""
        authority = CertificateAuthority.create(CLOCK.now())
        request = new_key_request()
        holder = Identity(node_id=MANAGER_ID, role=Role.MANAGER, cluster_id=CLUSTER_ID)
        self.credentials = accept_issued(request, authority.issue(request.csr, holder, now=CLOCK.now()))
        self.tokens = [str(new_token(authority.root_pem, DICE.bytes)) for _ in Role]
        cluster = msgspec.structs.replace(
            a_cluster(),
            id=CLUSTER_ID,
            spec=SwarmSpec(ca_config=CAConfig(node_cert_expiry=certificate_life)),
            authority=authority.sealed(SEAL),
            join_tokens=JoinTokens(worker=self.tokens[0], manager=self.tokens[1]),
        )
        manager = a_node(id=MANAGER_ID, role=Role.MANAGER, availability=Availability.DRAIN)
        replica = Replica(self.store, CLOCK)
        await replica.open()
        await replica.commit([Put(cluster), Put(manager)])
        await replica.close()

    async def start(self) -> None:
        self.replica = Replica(self.store, CLOCK)
        await self.replica.open()
        cluster = self.replica.view.cluster
        assert cluster is not None
        assert cluster.authority is not None
        authority = CertificateAuthority.open(cluster.authority, SEAL)
        leader = Leader(self.replica, CLOCK, DICE, own_node_id=MANAGER_ID)
        epoch = new_id(DICE.bytes)
        dispatcher = Dispatcher(epoch, self.replica.view, CLOCK.now())
        self.sessions = Sessions(leader, dispatcher, lambda: self.replica.view, CLOCK, epoch=epoch)
        self.replica.observers.append(self.sessions.observe)
        registry = NodeRegistry(Writes(self.replica, CLOCK, DICE))
        admission = Admission.over(lambda: self.replica.view, lambda: authority, registry, CLOCK)
        self.listener = ControlListener(Gate(admission, self.sessions), lambda: self.credentials, CLUSTER_ID)
        self.port = await self.listener.start("127.0.0.1", self.port)
        self.tasks = [asyncio.ensure_future(work) for work in (leader.run(), self.sessions.run())]

    async def stop(self) -> None:
        await self.listener.close()
        await cancelled(self.tasks)
        await self.replica.close()

    @property
    def addr(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def certificate(self, token: str = "") -> Credentials:
        token = token or self.tokens[0]
        root = await CONTROL.root(self.addr)
        JoinToken.parse(token).check_root(root)
        request = new_key_request()
        issued = await CONTROL.join(self.addr, root, JoinRequest(token=token, csr=request.csr))
        return accept_issued(request, issued)

    async def join(self) -> Node:
        identity = NodeIdentity(await self.certificate(), lambda _: None, DICE.fraction)
        handler = Worker()
        managers = [ManagerAddress(node_id=MANAGER_ID, addr=self.addr)]
        session = AgentSession(identity, managers, handler, SessionPorts(CONTROL, CLOCK, DICE))
        node = Node(identity, handler, session, asyncio.ensure_future(session.run()))
        self.nodes.append(node)
        await asyncio.wait_for(session.wait_connected(), SOON_S)
        return node

    def running(self) -> list[Task]:
        return [task for task in self.replica.view.tasks.values() if task.status.state == TaskState.RUNNING]


async def cancelled(tasks: "list[asyncio.Task[None]]") -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError):
            await task


@contextlib.asynccontextmanager
async def a_swarm(certificate_life: int = 0) -> AsyncIterator[Swarm]:
    made = Swarm()
    await made.found(certificate_life)
    await made.start()
    try:
        yield made
    finally:
        await cancelled([node.running for node in made.nodes])
        await made.stop()


@pytest.fixture
async def swarm() -> AsyncIterator[Swarm]:
    async with a_swarm() as made:
        yield made


async def test_a_service_runs_on_the_nodes_that_joined(swarm: Swarm) -> None:
    nodes = [await swarm.join(), await swarm.join()]
    await swarm.replica.commit([Put(a_service(id="web", replicas=4))])
    await until(lambda: len(swarm.running()) == 4)
    assert {task.node_id for task in swarm.running()} >= {node.id for node in nodes}
    on_first = {task.id for task in swarm.running() if task.node_id == nodes[0].id}
    await until(lambda: {report.task_id for report in nodes[0].handler.stored} == on_first)


async def test_logs_come_from_wherever_tasks_run(swarm: Swarm) -> None:
    nodes = [await swarm.join(), await swarm.join()]
    await swarm.replica.commit([Put(a_service(id="web", replicas=6))])
    await until(lambda: len(swarm.running()) == 6)
    await cancelled([nodes[1].running])
    await until(lambda: swarm.sessions.connected == {nodes[0].id})
    source = TaskLogs(swarm.sessions.open_stream, CLOCK)
    tasks = swarm.running()
    found = {entry.task.id: entry.entry async for entry in source.logs(tasks, LogOptions())}
    for task in tasks:
        expected = f"log of {task.id}" if task.node_id == nodes[0].id else "is not available"
        assert expected in found[task.id].payload.decode()


async def test_a_manager_that_restarts_finds_its_agents_and_what_they_observed_meanwhile(swarm: Swarm) -> None:
    node = await swarm.join()
    await swarm.replica.commit([Put(a_service(id="web", replicas=2))])
    await until(lambda: [task for task in swarm.running() if task.node_id == node.id])
    task = next(task for task in swarm.running() if task.node_id == node.id)
    await swarm.stop()
    await until(lambda: not node.session.is_connected)
    accepting = TaskStatus(timestamp=CLOCK.now(), state=TaskState.RUNNING, message="seen while away", is_accepting=True)
    node.handler.note(TaskReport(task_id=task.id, status=accepting))
    await swarm.start()
    await asyncio.wait_for(node.session.wait_connected(), SOON_S)

    def stored() -> str:
        found = swarm.replica.view.tasks.get(task.id)
        return found.status.message if found else ""

    await until(lambda: stored() == "seen while away")
    assert not [report for report in node.handler.stored if report.status.state > TaskState.RUNNING]


async def test_a_removed_node_is_out_within_two_seconds(swarm: Swarm) -> None:
    node = await swarm.join()
    view = swarm.replica.view
    stored, cluster = view.nodes.get(node.id), view.cluster
    assert stored is not None
    assert cluster is not None
    removed = msgspec.structs.replace(cluster, removed_nodes={node.id: CLOCK.now() + 3600 * SECOND})
    await swarm.replica.commit([Put(removed), Delete("node", node.id, stored.version)])
    await until(lambda: node.handler.removal, within_s=2)
    assert swarm.sessions.connected == frozenset()
    await asyncio.wait_for(asyncio.wait([node.running]), SOON_S)
    channel = await CONTROL.dial(swarm.addr, node.identity.credentials)
    assert b"removed" in await channel.receive()
    await channel.close()


@pytest.mark.parametrize("life_s", [3])
async def test_short_lived_certificates_are_renewed_without_losing_the_session(life_s: int) -> None:
    async with a_swarm(life_s * SECOND) as swarm:
        node = await swarm.join()
        first = node.identity.identity.serial
        serials = {first}

        def renewed() -> bool:
            serials.add(node.identity.identity.serial)
            return len(serials) == 3

        await until(renewed, within_s=3 * life_s)
        assert CLOCK.now() < identity_of_pem(node.identity.credentials.certificate).expires_at
        assert node.handler.hellos == 1
        assert node.session.is_connected


async def test_a_wrong_token_and_a_wrong_root_are_told_apart(swarm: Swarm) -> None:
    good = JoinToken.parse(swarm.tokens[0])
    with pytest.raises(Declined, match="A valid join token is necessary to join this cluster"):
        await swarm.certificate(str(JoinToken(digest=good.digest, secret="0" * 25)))
    with pytest.raises(InvalidSpec, match=r"remote CA does not match fingerprint\. Expected: [0-9a-f]{64}"):
        await swarm.certificate(str(JoinToken(digest="1" * 50, secret=good.secret)))
    assert len(swarm.replica.view.nodes) == 1


async def test_a_manager_of_another_swarm_serves_no_node_of_this_one(swarm: Swarm) -> None:
    credentials = await swarm.certificate()
    async with a_swarm() as other:
        with pytest.raises((Untrusted, Unreachable)):
            await CONTROL.dial(other.addr, credentials)
