"""Whatever comes over a session, from either end: it may end, and nothing else happens."""

import asyncio
import contextlib

import structlog
from hypothesis import given
from hypothesis import strategies as st
from tests.fuzz.damage import mutated
from tests.fuzz.rounds import brief, lasting, rounds
from tests.manager.test_session_fuzz import anything, speak
from tests.sessions import SOON_S, FakeHandler, QuickClock, SettledPapers

from skep.agent.conversation import Conversation, Removed, SessionOver
from skep.edge.clock import SystemDice
from skep.edge.loopback import memory_channels
from skep.model import session as protocol
from skep.model.assignment import Delta
from skep.model.errors import Unavailable
from skep.model.session import (
    Assignments,
    EngineRequest,
    LogRequest,
    ManagerAddress,
    Managers,
    Refused,
    ReportStored,
    StreamCredit,
    StreamData,
    StreamEnd,
    StreamEof,
    StreamOpen,
    Welcome,
)
from skep.ports.bytestream import ByteStream
from skep.ports.transport import ChannelClosed

numbers = st.one_of(st.integers(0, 3), st.integers(min_value=-(2**63), max_value=2**64 - 1))
WELCOME = Welcome(epoch="e", heartbeat_period=10**9)
requests = st.one_of(st.just(EngineRequest()), st.builds(LogRequest, task_id=st.sampled_from(["t1", ""])))
addresses = st.builds(ManagerAddress, node_id=st.text(max_size=3), addr=st.text(max_size=9))
messages = st.one_of(
    st.just(WELCOME),
    st.builds(Managers, managers=st.lists(addresses)),
    st.builds(Assignments, delta=st.builds(Delta, base=numbers, version=numbers)),
    st.builds(ReportStored, number=numbers),
    st.builds(Refused, reason=st.text(max_size=5), removed=st.booleans()),
    st.builds(StreamOpen, stream=numbers, request=requests),
    st.builds(StreamData, stream=numbers, payload=st.binary(max_size=100)),
    st.builds(StreamCredit, stream=numbers, n_bytes=numbers),
    st.builds(StreamEof, stream=numbers),
    st.builds(StreamEnd, stream=numbers, error=st.text(max_size=3)),
).map(protocol.encoder.encode)  # fmt: skip
frames = st.lists(st.one_of(messages, mutated(messages), st.binary(max_size=60)), max_size=8)


class Echo:
    """An engine that says what it hears."""

    def __init__(self) -> None:
        self._said: asyncio.Queue[bytes] = asyncio.Queue()

    async def send(self, data: bytes, /) -> None:
        self._said.put_nowait(data)

    async def send_end(self) -> None:
        self._said.put_nowait(b"")

    async def receive(self) -> bytes:
        return await self._said.get()

    async def close(self) -> None:
        self._said.put_nowait(b"")


class Node(FakeHandler):
    async def open_engine(self) -> ByteStream:
        return Echo()

    async def wait_outdated(self) -> None:
        await asyncio.Event().wait()


async def nothing(request: LogRequest):  # type: ignore[no-untyped-def]  # An iterator that refuses at once.
    raise Unavailable("the engine is away")
    yield


async def listen(said: list[bytes]) -> None:
    """Hold a conversation with a manager that welcomes, then says all this, then goes."""
    ours, theirs = memory_channels()
    handler = Node(source=nothing)
    talk = Conversation(ours, handler, QuickClock(), SystemDice(), papers=SettledPapers())

    async def hold() -> None:
        welcome = await talk.greet()

        async def learn(_: object) -> None: ...

        await talk.hold(welcome.heartbeat_period, learn)

    async def drain() -> None:
        while True:
            await theirs.receive()

    holding, draining = asyncio.ensure_future(hold()), asyncio.ensure_future(drain())
    with contextlib.suppress(ChannelClosed):
        for raw in [protocol.encoder.encode(WELCOME), *said]:
            await theirs.send(raw)
        await asyncio.sleep(0)
    await theirs.close()
    with contextlib.suppress(SessionOver, Removed, ChannelClosed):
        await asyncio.wait_for(holding, SOON_S)
    with contextlib.suppress(ChannelClosed):
        await draining
    assert asyncio.all_tasks() == {asyncio.current_task()}, "the session left something running"


@lasting
def test_an_agent_takes_any_frames() -> None:
    @brief(150)
    @given(said=frames)
    def target(said: list[bytes]) -> None:
        with structlog.testing.capture_logs() as lines:
            asyncio.run(listen(said))
        assert [line for line in lines if line["log_level"] in ("error", "critical")] == []

    rounds(target)


@lasting
def test_a_manager_takes_any_frames() -> None:
    @brief(100)
    @given(said=st.lists(st.one_of(anything, mutated(messages)), max_size=8))
    def target(said: list[bytes]) -> None:
        with structlog.testing.capture_logs() as lines:
            assert asyncio.run(speak(said)).connected == frozenset()
        assert [line for line in lines if line["log_level"] in ("error", "critical")] == []

    rounds(target)
