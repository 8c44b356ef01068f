"""Where nodes come in: to this manager's sessions while it leads, else to the leader, else not at once."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import msgspec
import pytest
from tests.factories import a_cluster, a_node
from tests.identities import CLUSTER_ID
from tests.manager.council import FakeCandidate, a_manager
from tests.sessions import SOON_S, FakeDesk, FakeDispatch, until

from skep.core.quorum import NO_LEADER
from skep.edge.clock import SystemClock
from skep.edge.loopback import memory_channels
from skep.edge.memory import MemoryStore
from skep.manager.reception import ELSEWHERE, OVER, Reception
from skep.manager.relay import Relay
from skep.manager.replica import Replica
from skep.manager.sessions import Sessions
from skep.manager.standing import Standing
from skep.model import session as protocol
from skep.model.errors import Unavailable
from skep.model.identity import Identity
from skep.model.node import NodeDescription, Role
from skep.model.session import Hello, ManagerAddress, Refused, Welcome
from skep.ports.leadership import Leader
from skep.ports.store import LeaseLost
from skep.ports.transport import Channel
from skep.store.changes import Put

pytestmark = pytest.mark.anyio
HELLO = Hello(description=NodeDescription(hostname="w1"), underlay="192.0.2.1")
W1 = Identity(node_id="w1", role=Role.WORKER, cluster_id=CLUSTER_ID)


@dataclass
class HastyClock:
    """Time flies: a wait is over at once."""

    ahead: int = 0
    clock: SystemClock = field(default_factory=SystemClock)

    def now(self) -> int:
        return self.clock.now() + self.ahead

    async def sleep(self, length: int) -> None:
        self.ahead += length
        await asyncio.sleep(0.001)


@dataclass
class Ballot(FakeCandidate):
    """What the store says of who leads. Attributes: names: one for each time it is asked, then the last again."""

    names: list[str] = field(default_factory=list)

    async def leader(self) -> Leader | None:
        name = self.names.pop(0) if len(self.names) > 1 else self.names[0]
        return Leader(name, 1) if name else None


class Desk:
    """The reception of manager m1, and the ways in and out."""

    def __init__(self, replica: Replica, clock: HastyClock | SystemClock, *names: str) -> None:
        self.replica = replica
        ballot = Ballot(None, "m1", list(names))  # type: ignore[arg-type]  # it elects nobody
        standing = Standing(lambda: ballot, lambda: replica.view, clock, own_node_id="m1")
        relay = Relay(None, lambda: None, standing.leader_address)  # type: ignore[arg-type]  # nothing is relayed
        self.reception = Reception(replica, standing, relay, clock)
        self.fake = FakeDesk()
        self.serving: list[asyncio.Task[None]] = []

    def come(self) -> Channel:
        ours, theirs = memory_channels()
        self.serving.append(asyncio.ensure_future(self.reception.serve(W1, theirs)))
        return ours

    async def greet(self, hello: Hello = HELLO) -> Channel:
        channel = self.come()
        await channel.send(protocol.encoder.encode(hello))
        return channel

    def lead(self, until_lost: asyncio.Event) -> "asyncio.Task[None]":
        sessions = Sessions(self.fake, FakeDispatch(), lambda: self.replica.view, SystemClock(), epoch="e1")

        async def decide() -> None:
            await until_lost.wait()
            raise LeaseLost("another leads")

        return asyncio.ensure_future(self.reception.preside(sessions, decide()))


@pytest.fixture
async def replica() -> AsyncIterator[Replica]:
    made = Replica(MemoryStore(), SystemClock())
    await made.open()
    cluster = msgspec.structs.replace(a_cluster(), id=CLUSTER_ID)
    await made.commit([Put(cluster), Put(a_node(id="w1")), *(Put(a_manager(f"m{n}")) for n in (1, 2, 3))])
    yield made
    await made.close()


async def answer(channel: Channel) -> protocol.FromManager:
    found: protocol.FromManager = protocol.from_manager.decode(await asyncio.wait_for(channel.receive(), SOON_S))
    return found


async def test_a_node_is_told_of_all_managers_the_leader_first(replica: Replica) -> None:
    desk = Desk(replica, SystemClock(), "m3")
    expected = [ManagerAddress(node_id=name, addr=f"{name}:2377") for name in ("m3", "m1", "m2")]
    assert await answer(await desk.greet()) == Refused(reason=ELSEWHERE, managers=expected)


async def test_a_node_waits_where_nobody_leads_yet_and_is_sent_on_once_another_does(replica: Replica) -> None:
    refused = await answer(await Desk(replica, HastyClock(), "", "", "", "m2").greet())
    assert isinstance(refused, Refused)
    assert refused.managers[0].node_id == "m2"


@pytest.mark.parametrize("leader", ["", "m1", "unknown"])
async def test_a_node_is_not_kept_waiting_for_ever(replica: Replica, leader: str) -> None:
    """Nobody leads; or this manager is about to and does not; or the leader is one this manager knows nothing of."""
    assert await answer(Desk(replica, HastyClock(), leader).come()) == Refused(reason=NO_LEADER)


async def test_a_node_that_waits_is_let_in_as_soon_as_this_manager_leads(replica: Replica) -> None:
    desk = Desk(replica, SystemClock(), "")
    channel = desk.come()
    await channel.send(protocol.encoder.encode(HELLO))
    lost = asyncio.Event()
    presiding = desk.lead(lost)
    welcome = await answer(channel)
    assert isinstance(welcome, Welcome)
    assert desk.fake.registered == [("w1", HELLO)]
    lost.set()
    with pytest.raises(LeaseLost):
        await asyncio.wait_for(presiding, SOON_S)
    while not isinstance(found := await answer(channel), Refused):
        pass  # Its first assignments, and whom to trust.
    assert found == Refused(reason=OVER)
    assert desk.reception.sessions is None


async def test_a_hello_that_is_being_stored_when_the_term_ends_makes_no_session(replica: Replica) -> None:
    desk = Desk(replica, SystemClock(), "m1")
    storing, stored = asyncio.Event(), asyncio.Event()

    async def register(node_id: str, hello: Hello) -> None:
        storing.set()
        await stored.wait()

    desk.fake.register = register  # type: ignore[method-assign]
    lost = asyncio.Event()
    presiding = desk.lead(lost)
    channel = desk.come()
    await channel.send(protocol.encoder.encode(HELLO))
    await asyncio.wait_for(storing.wait(), SOON_S)
    lost.set()
    await asyncio.gather(presiding, return_exceptions=True)
    stored.set()
    assert await answer(channel) == Refused(reason=OVER)


async def test_each_term_has_sessions_of_its_own(replica: Replica) -> None:
    desk = Desk(replica, SystemClock(), "m1")
    for _ in range(2):
        lost = asyncio.Event()
        presiding = desk.lead(lost)
        await until(lambda: desk.reception.sessions is not None)
        n_observers = len(replica.observers)
        lost.set()
        await asyncio.gather(presiding, return_exceptions=True)
        assert len(replica.observers) == n_observers - 1


async def test_where_nobody_leads_a_stream_is_refused_with_the_reason(replica: Replica) -> None:
    desk = Desk(replica, HastyClock(), "")
    with pytest.raises(Unavailable, match="does not have a leader"):
        await desk.reception.open_engine("w1").receive()
