"""The manager's sessions, spoken to as an agent would speak, well or badly."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import msgspec
import pytest
from tests.factories import a_cluster, a_node, a_task
from tests.sessions import SOON_S, FakeDesk, FakeDispatch, QuickClock, until

from skep.edge.loopback import MemoryChannel, memory_channels
from skep.manager import sessions as sessions_module
from skep.manager.sessions import Sessions
from skep.model import session as protocol
from skep.model.assignment import Delta
from skep.model.errors import NoQuorum, Unavailable
from skep.model.identity import Identity
from skep.model.lifecycle import TaskState
from skep.model.node import ManagerStatus, NodeDescription, Role
from skep.model.session import (
    Applied,
    Assignments,
    FromAgent,
    FromManager,
    Heartbeat,
    Hello,
    LogRequest,
    Managers,
    Refused,
    Report,
    ReportStored,
    StreamCredit,
    StreamData,
    StreamEnd,
    StreamOpen,
    TaskReport,
    Welcome,
)
from skep.model.task import TaskStatus
from skep.ports.transport import ChannelClosed
from skep.store.changes import Batch, Put
from skep.store.state import State

pytestmark = pytest.mark.anyio
RUNNING = TaskStatus(state=TaskState.RUNNING)


@dataclass
class Rig:
    """A manager with two nodes and one task on each, and agents to be played by the test."""

    state: State = field(default_factory=State)
    desk: FakeDesk = field(default_factory=FakeDesk)
    dispatch: FakeDispatch = field(default_factory=FakeDispatch)
    clock: QuickClock = field(default_factory=QuickClock)
    agents: list["Agent"] = field(default_factory=list)

    def __post_init__(self) -> None:
        nodes = [a_node(id="n1"), a_node(id="n2")]
        tasks = [a_task(id="t1", node_id="n1"), a_task(id="t2", node_id="n2")]
        self.state.apply([Put(a_cluster()), *map(Put, nodes), *map(Put, tasks)], 1)
        self.sessions = Sessions(self.desk, self.dispatch, lambda: self.state, self.clock, epoch="e1")

    def agent(self, node_id: str = "n1") -> "Agent":
        ours, theirs = memory_channels()
        identity = Identity(node_id=node_id, role=Role.WORKER, cluster_id="cluster")
        agent = Agent(ours, asyncio.ensure_future(self.sessions.serve(identity, theirs)))
        self.agents.append(agent)
        return agent

    async def connected(self, node_id: str = "n1") -> "Agent":
        agent = self.agent(node_id)
        await agent.send(hello())
        assert isinstance(await agent.next(), Welcome)
        assert isinstance(await agent.next(), Assignments)
        return agent

    def commit(self, *puts: Put) -> None:
        self.sessions.observe(self.state.apply(puts, self.state.revision + 1))


@dataclass
class Agent:
    channel: MemoryChannel
    serving: "asyncio.Task[None]"

    async def send(self, message: FromAgent) -> None:
        await self.channel.send(protocol.encoder.encode(message))

    async def next(self) -> FromManager:
        raw = await asyncio.wait_for(self.channel.receive(), SOON_S)
        message: FromManager = protocol.from_manager.decode(raw)
        return message

    async def ended(self) -> None:
        """The session is over, and holding it raised nothing."""
        await asyncio.wait_for(self.serving, SOON_S)
        with contextlib.suppress(ChannelClosed):
            while True:
                await asyncio.wait_for(self.channel.receive(), SOON_S)


def hello(**fields: object) -> Hello:
    known = Hello(description=NodeDescription(hostname="host"), underlay="192.0.2.1")
    return msgspec.structs.replace(known, **fields)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    running = asyncio.ensure_future(made.sessions.run())
    yield made
    running.cancel()
    for agent in made.agents:
        await agent.channel.close()
    await asyncio.wait_for(asyncio.gather(*(agent.serving for agent in made.agents)), SOON_S)
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def test_hello_is_stored_then_welcomed_then_assigned(rig: Rig) -> None:
    rig.commit(Put(msgspec.structs.replace(a_node(id="m1"), manager_status=ManagerStatus(addr="192.0.2.9:2377"))))
    agent = rig.agent()
    said = hello(epoch="e0", assignment_version=7)
    await agent.send(said)
    welcome = await agent.next()
    assert isinstance(welcome, Welcome)
    assert (welcome.epoch, welcome.heartbeat_period) == ("e1", rig.desk.heartbeat_period)
    assert [manager.addr for manager in welcome.managers] == ["192.0.2.9:2377"]
    assert rig.desk.registered == [("n1", said)]
    assert await agent.next() == Assignments(delta=Delta(base=0, version=1))
    assert rig.dispatch.attached == {"n1": ("e0", 7)}
    assert rig.sessions.connected == {"n1"}


async def test_what_the_dispatcher_yields_is_pushed_to_whom_it_is_for(rig: Rig) -> None:
    one, other = await rig.connected("n1"), await rig.connected("n2")
    rig.dispatch.pending = {"n2": Delta(base=1, version=2), "elsewhere": Delta(base=1, version=2)}
    rig.sessions.observe(Batch(2, []))
    assert await other.next() == Assignments(delta=Delta(base=1, version=2))
    await one.send(Report(number=1, tasks=[]))
    assert await one.next() == ReportStored(number=1)  # And nothing before it.


async def test_a_limit_of_the_dispatchers_passes_without_any_message(rig: Rig) -> None:
    agent = await rig.connected()
    rig.dispatch.pending = {"n1": Delta(base=1, version=2)}
    rig.dispatch.wake_at = rig.clock.now() + 20_000_000
    await agent.send(Applied(version=1))  # Whatever uses the dispatcher may bring a limit nearer.
    assert await agent.next() == Assignments(delta=Delta(base=1, version=2))


async def test_a_report_is_confirmed_once_it_is_stored(rig: Rig) -> None:
    agent = await rig.connected()
    reports = [TaskReport(task_id="t1", status=RUNNING)]
    rig.desk.refusal = NoQuorum("no quorum")
    await agent.send(Report(number=1, tasks=reports))
    await agent.send(Heartbeat())
    await until(lambda: rig.desk.beats)
    assert rig.desk.reports == []
    rig.desk.refusal = None
    assert await agent.next() == ReportStored(number=1)
    assert rig.desk.reports == [("n1", reports)]


async def test_a_node_reports_its_own_tasks_only(rig: Rig) -> None:
    agent = await rig.connected()
    own = TaskReport(task_id="t1", status=RUNNING)
    others = [TaskReport(task_id=id, status=RUNNING) for id in ("t2", "gone")]
    await agent.send(Report(number=1, tasks=[*others, own]))
    assert await agent.next() == ReportStored(number=1)
    assert rig.desk.reports == [("n1", [own])]


async def test_every_message_counts_as_a_sign_of_life(rig: Rig) -> None:
    agent = await rig.connected()
    await agent.send(Heartbeat())
    await agent.send(Applied(version=1))
    await until(lambda: rig.desk.beats == ["n1", "n1"])


async def test_an_applied_version_is_passed_on_once_and_only_if_it_was_sent(rig: Rig) -> None:
    agent = await rig.connected()
    for message in (Applied(version=99), Heartbeat(applied=0), Applied(version=1), Heartbeat(applied=1)):
        await agent.send(message)
    await until(lambda: len(rig.desk.beats) == 4)
    assert rig.dispatch.acknowledged == [("n1", 1)]


async def test_a_newer_session_takes_the_place_of_the_older(rig: Rig) -> None:
    older = await rig.connected()
    newer = await rig.connected()
    assert isinstance(await older.next(), Refused)
    await older.ended()
    assert rig.dispatch.detached == []
    assert rig.sessions.connected == {"n1"}
    await newer.channel.close()
    await newer.ended()
    assert rig.dispatch.detached == ["n1"]
    assert rig.sessions.connected == frozenset()


async def test_a_removed_node_is_told_and_let_go(rig: Rig) -> None:
    agent = await rig.connected()
    cluster = rig.state.cluster
    assert cluster is not None
    rig.commit(Put(msgspec.structs.replace(cluster, removed_nodes={"n1": 1})))
    refused = await agent.next()
    assert isinstance(refused, Refused)
    assert refused.removed
    await agent.ended()
    again = rig.agent()
    await again.send(hello())
    refused = await again.next()
    assert isinstance(refused, Refused)
    assert refused.removed
    assert len(rig.desk.registered) == 1


@pytest.mark.parametrize(
    ("node_id", "said", "reason"),
    [
        pytest.param("unknown", hello(), "does not know the node", id="unknown-node"),
        pytest.param("n1", hello(protocol=2), "protocol 2", id="other-protocol"),
    ],
)
async def test_who_is_refused_may_come_again(rig: Rig, node_id: str, said: Hello, reason: str) -> None:
    agent = rig.agent(node_id)
    await agent.send(said)
    refused = await agent.next()
    assert isinstance(refused, Refused)
    assert reason in refused.reason
    assert not refused.removed
    await agent.ended()
    assert rig.sessions.connected == frozenset()


async def test_a_manager_that_cannot_store_says_so(rig: Rig) -> None:
    rig.desk.refusal = NoQuorum("too few managers are reachable")
    agent = rig.agent()
    await agent.send(hello())
    assert await agent.next() == Refused(reason="too few managers are reachable")


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xc1", id="not-messagepack"),
        pytest.param(msgspec.msgpack.encode({"type": "root"}), id="unknown-tag"),
        pytest.param(msgspec.msgpack.encode({"type": "heartbeat", "applied": "x"}), id="wrong-type"),
        pytest.param(protocol.encoder.encode(hello()), id="hello-again"),
        pytest.param(protocol.encoder.encode(Welcome(epoch="e", heartbeat_period=1)), id="a-managers-word"),
        pytest.param(b"\x91" * 5000, id="deeply-nested"),
    ],
)
@pytest.mark.parametrize("is_open", [False, True], ids=["at-first", "amid-a-session"])
async def test_nonsense_ends_the_session_and_nothing_else(rig: Rig, raw: bytes, is_open: bool) -> None:
    other = await rig.connected("n2")
    if is_open:
        agent = await rig.connected()
    else:
        agent = rig.agent()
        if raw == protocol.encoder.encode(hello()):
            return
    await agent.channel.send(raw)
    await agent.ended()
    await other.send(Report(number=1, tasks=[]))
    assert await other.next() == ReportStored(number=1)


async def test_more_unconfirmed_reports_than_allowed_end_the_session(rig: Rig) -> None:
    agent = await rig.connected()
    rig.desk.refusal = NoQuorum("no quorum")
    with contextlib.suppress(ChannelClosed):
        for number in range(100):
            await agent.send(Report(number=number, tasks=[TaskReport(task_id="t1", status=RUNNING)]))
    await agent.ended()


async def test_an_agent_that_takes_nothing_loses_its_session(rig: Rig) -> None:
    agent = await rig.connected()
    for version in range(2, 6000):
        rig.dispatch.pending = {"n1": Delta(base=version - 1, version=version)}
        rig.sessions.observe(Batch(version, []))
    await asyncio.wait_for(agent.serving, SOON_S)
    assert rig.dispatch.detached == ["n1"]


async def test_a_silent_node_loses_its_session(rig: Rig) -> None:
    agent = await rig.connected()
    rig.clock.ahead = sessions_module.SILENCE + 1
    await agent.ended()
    assert rig.sessions.connected == frozenset()


async def test_agents_learn_when_a_manager_moves(rig: Rig) -> None:
    agent = await rig.connected()
    rig.commit(Put(msgspec.structs.replace(a_node(id="m1"), manager_status=ManagerStatus(addr="192.0.2.9:2377"))))
    told = await agent.next()
    assert isinstance(told, Managers)
    assert [manager.addr for manager in told.managers] == ["192.0.2.9:2377"]


async def test_a_stopping_manager_says_goodbye(rig: Rig) -> None:
    agent = await rig.connected()
    rig.sessions.close()
    refused = await agent.next()
    assert isinstance(refused, Refused)
    assert not refused.removed
    await agent.ended()


# --- streams -------------------------------------------------------------------------


async def opened(rig: Rig, agent: Agent) -> "tuple[AsyncIterator[StreamData], asyncio.Future[StreamData], int]":
    stream = rig.sessions.open_stream("n1", LogRequest(task_id="t1"))
    first = asyncio.ensure_future(anext(stream))
    said = await agent.next()
    assert isinstance(said, StreamOpen)
    assert said.request == LogRequest(task_id="t1")
    return stream, first, said.stream


async def test_a_stream_comes_in_order_and_ends(rig: Rig) -> None:
    agent = await rig.connected()
    stream, first, number = await opened(rig, agent)
    for payload in (b"a", b"b"):
        await agent.send(StreamData(stream=number, payload=payload))
    await agent.send(StreamEnd(stream=number))
    assert (await first).payload == b"a"
    assert [part.payload async for part in stream] == [b"b"]


async def test_an_error_at_the_agent_reaches_the_reader_after_what_came(rig: Rig) -> None:
    agent = await rig.connected()
    stream, first, number = await opened(rig, agent)
    await agent.send(StreamData(stream=number, payload=b"a"))
    await agent.send(StreamEnd(stream=number, error="no such task"))
    assert (await first).payload == b"a"
    with pytest.raises(Unavailable, match="no such task"):
        await anext(stream)


async def test_a_broken_session_ends_its_streams(rig: Rig) -> None:
    agent = await rig.connected()
    _, first, _ = await opened(rig, agent)
    await agent.channel.cut()
    with pytest.raises(Unavailable, match="ended"):
        await asyncio.wait_for(first, SOON_S)
    with pytest.raises(Unavailable, match="n1 is not available"):
        rig.sessions.open_stream("n1", LogRequest(task_id="t1"))


async def test_a_reader_that_leaves_ends_the_stream_at_the_agent(rig: Rig) -> None:
    agent = await rig.connected()
    stream, first, number = await opened(rig, agent)
    await agent.send(StreamData(stream=number, payload=b"a"))
    await first
    await stream.aclose()  # type: ignore[attr-defined]  # It is a generator.
    assert await agent.next() == StreamEnd(stream=number)
    await agent.send(StreamData(stream=number, payload=b"late"))
    await agent.send(Report(number=1, tasks=[]))
    assert await agent.next() == ReportStored(number=1)


async def test_credit_comes_back_as_the_reader_reads(rig: Rig) -> None:
    agent = await rig.connected()
    stream, first, number = await opened(rig, agent)
    payload = bytes(protocol.MAX_PAYLOAD)
    await agent.send(StreamData(stream=number, payload=payload))
    await first
    granted = await agent.next()
    assert isinstance(granted, StreamCredit)
    assert granted.n_bytes == protocol.MAX_PAYLOAD
    await stream.aclose()  # type: ignore[attr-defined]  # It is a generator.


@pytest.mark.parametrize("size", [protocol.MAX_PAYLOAD + 1, protocol.MAX_PAYLOAD, 0])
async def test_an_agent_that_sends_beyond_its_credit_loses_its_session(rig: Rig, size: int) -> None:
    agent = await rig.connected()
    _, first, number = await opened(rig, agent)
    with contextlib.suppress(ChannelClosed):
        for _ in range(protocol.INITIAL_CREDIT // protocol.SMALLEST_COST + 2):
            await agent.send(StreamData(stream=number, payload=bytes(size)))
    if size == 0:
        assert (await asyncio.wait_for(first, SOON_S)).payload == b""
    else:
        await asyncio.wait([first], timeout=SOON_S)
    await agent.ended()
    first.exception()
