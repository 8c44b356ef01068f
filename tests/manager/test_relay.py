"""A stream of a node between two managers: whole, both ways, no faster than it is read, over when either side is."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from tests.identities import Authorities
from tests.sessions import SOON_S

from skep.edge.loopback import memory_channels
from skep.manager.relay import Relay, serve_relay
from skep.model import session as protocol
from skep.model.errors import SkepError, Unavailable, Unsupported
from skep.model.identity import Credentials
from skep.model.session import LogRequest, StreamData, StreamEnd
from skep.ports.bytestream import ByteStream, StreamBroken
from skep.ports.transport import Channel, Unreachable

pytestmark = pytest.mark.anyio
REQUEST = LogRequest(task_id="t")


class Echo:
    """An engine that says everything twice; after the end of what it is sent it says so and ends."""

    def __init__(self, refusal: SkepError | None = None) -> None:
        self.is_closed = asyncio.Event()
        self._said: asyncio.Queue[bytes] = asyncio.Queue(4)
        self._refusal = refusal

    async def send(self, data: bytes, /) -> None:
        await self._said.put(data * 2)

    async def send_end(self) -> None:
        await self._said.put(b"bye")
        await self._said.put(b"")

    async def receive(self) -> bytes:
        if self._refusal is not None:
            raise self._refusal
        return await self._said.get()

    async def close(self) -> None:
        self.is_closed.set()


class Leading:
    """A leader's sessions with one node, and the way to them. Implements `ports.transport.RelayPort` too."""

    def __init__(self, engine: Echo | None = None, *, is_leading: bool = True) -> None:
        self.engine = engine or Echo()
        self.carried: list[asyncio.Task[None]] = []
        self.channels: list[Channel] = []
        self.is_reachable = True
        self._is_leading = is_leading

    def open_stream(self, node_id: str, request: LogRequest) -> AsyncIterator[StreamData]:
        raise Unavailable(f"node {node_id} is not available")

    def open_engine(self, node_id: str) -> ByteStream:
        return self.engine

    async def relay(self, addr: str, credentials: Credentials) -> Channel:
        if not self.is_reachable:
            raise Unreachable(f"{addr} cannot be reached")
        ours, theirs = memory_channels()
        self.channels.append(ours)
        self.carried.append(asyncio.ensure_future(serve_relay(self.find, theirs)))
        return ours

    async def find(self) -> "Leading | None":
        return self if self._is_leading else None


def relay_to(leading: Leading, leader: Callable[[], str] = lambda: "m1:2377") -> Relay:
    credentials = Authorities().make("m2")

    async def find() -> str:
        return leader()

    return Relay(leading, lambda: credentials, find)


async def test_what_is_sent_to_an_engine_and_what_it_says_comes_over_whole() -> None:
    leading = Leading()
    stream = relay_to(leading).open_engine("w1")
    await stream.send(b"hello")
    assert await asyncio.wait_for(stream.receive(), SOON_S) == b"hellohello"
    large = bytes(300_000)  # More than fits one message.
    await stream.send(large)
    got = b""
    while len(got) < 600_000:
        got += await asyncio.wait_for(stream.receive(), SOON_S)
    assert got == large * 2
    await stream.send_end()
    assert await asyncio.wait_for(stream.receive(), SOON_S) == b"bye", "what it says after our end still counts"
    assert await asyncio.wait_for(stream.receive(), SOON_S) == b""
    assert await stream.receive() == b""
    await stream.close()
    await asyncio.wait_for(leading.carried[0], SOON_S)
    assert leading.engine.is_closed.is_set()


async def test_nothing_is_connected_before_it_is_used_and_then_once() -> None:
    leading = Leading()
    stream = relay_to(leading).open_engine("w1")
    assert leading.channels == []
    receiving = asyncio.ensure_future(stream.receive())
    await stream.send(b"x")
    assert await asyncio.wait_for(receiving, SOON_S) == b"xx"
    assert len(leading.channels) == 1
    await stream.close()


async def test_a_sender_waits_for_an_engine_that_does_not_read() -> None:
    stream = relay_to(Leading()).open_engine("w1")

    async def flood() -> None:
        for _ in range(1000):
            await stream.send(bytes(1000))

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(flood(), 0.5)
    await stream.close()


async def test_the_engine_is_let_go_when_the_user_goes() -> None:
    leading = Leading()
    stream = relay_to(leading).open_engine("w1")
    await stream.send(b"x")
    await stream.close()
    await stream.close()
    await asyncio.wait_for(leading.engine.is_closed.wait(), SOON_S)
    with pytest.raises(StreamBroken):
        await stream.send(b"late")
    assert await stream.receive() == b""


@pytest.mark.parametrize("refusal", [Unavailable("node w1 is not available"), Unsupported("it has no engine")])
async def test_a_refusal_comes_over_as_what_it_is(refusal: SkepError) -> None:
    stream = relay_to(Leading(Echo(refusal))).open_engine("w1")
    with pytest.raises(type(refusal), match=str(refusal)):
        await asyncio.wait_for(stream.receive(), SOON_S)
    await stream.close()
    with pytest.raises(Unavailable, match="w9 is not available"):
        await anext(relay_to(Leading()).open_stream("w9", REQUEST))


async def test_one_that_leads_no_more_says_so() -> None:
    with pytest.raises(Unavailable, match="does not lead"):
        await anext(relay_to(Leading(is_leading=False)).open_stream("w1", REQUEST))


async def test_a_leader_that_is_away_is_a_refusal_to_who_reads_and_a_break_to_who_writes() -> None:
    leading = Leading()
    leading.is_reachable = False
    stream = relay_to(leading).open_engine("w1")
    with pytest.raises(StreamBroken):
        await stream.send(b"x")
    with pytest.raises(Unavailable, match="m1:2377 cannot be reached"):
        await stream.receive()
    await stream.close()


async def test_a_leader_that_dies_breaks_the_stream() -> None:
    leading = Leading()
    stream = relay_to(leading).open_engine("w1")
    await stream.send(b"x")
    assert await asyncio.wait_for(stream.receive(), SOON_S) == b"xx"
    await leading.channels[0].close()
    with pytest.raises(StreamBroken):
        await asyncio.wait_for(stream.receive(), SOON_S)
    await stream.close()


@pytest.mark.parametrize("message", [b"\xc1", protocol.encoder.encode(StreamData(stream=0, payload=b"x"))])
async def test_nonsense_from_another_manager_is_answered_and_ends_the_channel(message: bytes) -> None:
    ours, theirs = memory_channels()
    serving = asyncio.ensure_future(serve_relay(Leading().find, theirs))
    await ours.send(message)
    end = protocol.from_relay.decode(await asyncio.wait_for(ours.receive(), SOON_S))
    assert isinstance(end, StreamEnd)
    assert end.error
    await asyncio.wait_for(serving, SOON_S)
