"""Several managers of one swarm in one process: one store, an election between them, nodes that hold real sessions."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec
from tests.factories import a_cluster, a_node
from tests.identities import CLUSTER_ID, Authorities
from tests.sessions import FakeHandler, QuickClock, SystemDice, until

from skep.agent.identity import NodeIdentity
from skep.agent.session import AgentSession, SessionPorts
from skep.core.dispatch.dispatcher import Dispatcher
from skep.edge.clock import SystemClock
from skep.edge.loopback import MemoryChannel, Switchboard
from skep.edge.memory import MemoryStore
from skep.lib.ids import new_id
from skep.manager.control.writes import Writes
from skep.manager.gate import Gate
from skep.manager.join import Admission
from skep.manager.leader import Leader
from skep.manager.reception import Reception
from skep.manager.registry import NodeRegistry
from skep.manager.reign import Reign
from skep.manager.relay import Relay
from skep.manager.replica import Replica
from skep.manager.sessions import Sessions
from skep.manager.standing import Standing
from skep.model.assignment import AssignedTask, Delta
from skep.model.identity import Credentials, Issued, JoinRequest, RenewRequest
from skep.model.lifecycle import TaskState
from skep.model.node import ManagerStatus, Node, NodeState, Role
from skep.model.session import ManagerAddress, TaskReport
from skep.model.task import TaskStatus
from skep.ports.leadership import Leader as Leadership
from skep.ports.store import StoreUnavailable
from skep.ports.transport import Channel, Unreachable
from skep.store.changes import Batch, Put

LONG_S = 60.0
CLOCK, DICE = SystemClock(), SystemDice()


@dataclass(eq=False)
class FakeTerm:
    lease: str
    revision: int
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait_lost(self) -> None:
        await self.over.wait()

    async def hold(self, length_s: float) -> None: ...

    async def resign(self) -> None:
        self.over.set()


@dataclass
class Election:
    """Who leads: the first to ask while nobody does. The store takes decisions of that one only."""

    store: MemoryStore
    holder: str = ""
    term: FakeTerm | None = None
    n_terms: int = 0
    is_away: bool = False
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def win(self, node_id: str) -> FakeTerm:
        async with self.changed:
            await self.changed.wait_for(lambda: not self.holder)
            self.n_terms += 1
            self.holder = node_id
            self.store.leader_lease = str(self.n_terms)
            self.term = FakeTerm(str(self.n_terms), (await self.store.load())[0])
            return self.term

    async def depose(self) -> None:
        """The leader's lease ends; whoever asks first leads next."""
        async with self.changed:
            if self.term is not None:
                self.term.over.set()
            self.holder, self.store.leader_lease = "", "nobody's"
            self.changed.notify_all()


@dataclass
class FakeCandidate:
    election: Election
    node_id: str

    async def win(self) -> FakeTerm:
        return await self.election.win(self.node_id)

    async def leader(self) -> Leadership | None:
        if self.election.is_away:
            raise StoreUnavailable("too few members answer")
        return Leadership(self.election.holder, self.election.n_terms) if self.election.holder else None

    async def close(self) -> None: ...


@dataclass
class Worker(FakeHandler):
    """A node that brings up every task it is told of. Attributes: begun: the tasks it has started, each time."""

    begun: list[str] = field(default_factory=list)

    async def assign(self, epoch: str, delta: Delta) -> None:
        await super().assign(epoch, delta)
        for item in delta.put:
            if isinstance(item, AssignedTask) and item.task.id not in self.begun:
                self.begun.append(item.task.id)
                status = TaskStatus(state=TaskState.RUNNING, message="started", is_accepting=True)
                self.note(TaskReport(task_id=item.task.id, status=status))


class Manager:
    """One manager's parts, as the daemon puts them together."""

    def __init__(self, council: "Council", node_id: str) -> None:
        self.node_id = node_id
        self.addr = f"{node_id}:2377"
        self.replica = Replica(council.store, CLOCK, is_shared=True)
        self._council = council
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        council, replica = self._council, self.replica
        await replica.open()
        leader = Leader(replica, CLOCK, DICE, own_node_id=self.node_id)

        def new_sessions() -> Sessions:
            epoch = new_id(DICE.bytes)
            dispatcher = Dispatcher(epoch, replica.view, CLOCK.now())
            return Sessions(leader, dispatcher, lambda: replica.view, CLOCK, epoch=epoch)

        async def lead(lease: str) -> None:
            await self.reception.preside(new_sessions(), leader.run(lease))

        credentials = council.authorities.make(self.node_id, Role.MANAGER)
        self.reign = Reign(FakeCandidate(council.election, self.node_id), replica, lead)
        self.standing = Standing(lambda: self.reign.candidate, lambda: replica.view, CLOCK, own_node_id=self.node_id)
        relay = Relay(council.board, lambda: credentials, self.standing.leader_address)
        self.reception = Reception(replica, self.standing, relay, CLOCK)
        self.writes = Writes(replica, CLOCK, DICE)
        registry = NodeRegistry(self.writes)
        admission = Admission.over(lambda: replica.view, lambda: council.authorities.authority, registry, CLOCK)
        council.board.plug(self.addr, Gate(admission, self.reception, self.reception.carry))
        self._tasks = [asyncio.ensure_future(work) for work in (self.reign.run(), self.standing.run())]

    async def die(self) -> None:
        """As if its machine were switched off; what it held of the election ends by itself."""
        await self._council.board.unplug(self.addr)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        await self.replica.close()


@dataclass
class Reach:
    """The managers as a worker reaches them: not the ones it is cut off from. Implements `ports.transport.ControlPort`.

    Attributes:
        dialled: Each manager that answered, in order.
    """

    board: Switchboard
    cut_off: set[str] = field(default_factory=set)
    dialled: list[str] = field(default_factory=list)
    channels: list[tuple[str, Channel]] = field(default_factory=list)

    async def sever(self, *addrs: str) -> None:
        """Cut the way to some managers, and whatever goes over it."""
        self.cut_off.update(addrs)
        for addr, channel in self.channels:
            if addr in addrs and isinstance(channel, MemoryChannel):
                await channel.cut()

    async def root(self, addr: str) -> str:
        return await self.board.root(self._on_the_way(addr))

    async def join(self, addr: str, root_pem: str, request: JoinRequest) -> Issued:
        return await self.board.join(self._on_the_way(addr), root_pem, request)

    async def renew(self, addr: str, credentials: Credentials, request: RenewRequest) -> Issued:
        return await self.board.renew(self._on_the_way(addr), credentials, request)

    async def dial(self, addr: str, credentials: Credentials) -> Channel:
        channel = await self.board.dial(self._on_the_way(addr), credentials)
        self.dialled.append(addr)
        self.channels.append((addr, channel))
        return channel

    def _on_the_way(self, addr: str) -> str:
        if addr in self.cut_off:
            raise Unreachable(f"{addr} did not answer in time", is_silent=True)
        return addr


@dataclass
class Council:
    """A swarm with managers m1 to m3 and workers w1 to w4."""

    store: MemoryStore = field(default_factory=MemoryStore)
    board: Switchboard = field(default_factory=Switchboard)
    authorities: Authorities = field(default_factory=Authorities)
    managers: dict[str, Manager] = field(default_factory=dict)
    workers: dict[str, Worker] = field(default_factory=dict)
    sessions: dict[str, AgentSession] = field(default_factory=dict)
    reach: dict[str, Reach] = field(default_factory=dict)
    identities: dict[str, NodeIdentity] = field(default_factory=dict)
    clocks: dict[str, QuickClock] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.election = Election(self.store)

    @property
    def leader(self) -> Manager:
        return self.managers[self.election.holder]

    @property
    def others(self) -> list[Manager]:
        return [manager for manager in self.managers.values() if manager.node_id != self.election.holder]

    async def wait_led(self) -> None:
        """Wait until someone leads and every worker holds a session with that one."""
        await until(
            lambda: (
                self.election.holder in self.managers
                and all(session.manager_addr == self.leader.addr for session in self.sessions.values())
            ),
            LONG_S,
        )

    def watch(self, batch: Batch) -> None:
        """An observer that complains of workers that are given up."""
        for event in batch.events:
            node = event.new
            if not isinstance(node, Node) or not node.id.startswith("w"):
                continue
            if not node.balanced or node.status.state != NodeState.READY:
                self.complaints.append(f"{node.id} is {node.status.state}, in balancing: {node.balanced}")


def a_manager(node_id: str) -> Node:
    node = a_node(id=node_id, role=Role.MANAGER, availability="drain")
    spec = msgspec.structs.replace(node.spec, role=Role.MANAGER)
    return msgspec.structs.replace(node, spec=spec, manager_status=ManagerStatus(addr=f"{node_id}:2377"))


@asynccontextmanager
async def convened(n_workers: int = 4, longest_s: float = 10) -> AsyncIterator[Council]:
    """A council of three, with workers in session with whoever leads.

    Args:
        longest_s: No pause of a worker's is longer.
    """
    council = Council()
    names: Sequence[str] = ("m1", "m2", "m3")
    replica = Replica(council.store, CLOCK)
    await replica.open()
    cluster = msgspec.structs.replace(a_cluster(), id=CLUSTER_ID)
    workers = [a_node(id=f"w{n}") for n in range(1, n_workers + 1)]
    await replica.commit([Put(cluster), *(Put(a_manager(name)) for name in names), *map(Put, workers)])
    await replica.close()
    running: list[asyncio.Task[None]] = []
    try:
        for name in names:
            council.managers[name] = manager = Manager(council, name)
            await manager.start()
        known = [ManagerAddress(node_id=name, addr=f"{name}:2377") for name in names]
        for node in workers:
            worker = council.workers[node.id] = Worker()
            reach = council.reach[node.id] = Reach(council.board)
            identity = council.identities[node.id] = council.authorities.node(node.id)
            clock = council.clocks[node.id] = QuickClock(longest_s)
            session = AgentSession(identity, known, worker, SessionPorts(reach, clock, DICE))
            council.sessions[node.id] = session
            running.append(asyncio.ensure_future(session.run()))
        await council.wait_led()
        yield council
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for manager in council.managers.values():
            await manager.die()
