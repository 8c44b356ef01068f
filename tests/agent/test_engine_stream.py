"""A connection to a node's engine, over its session: bytes both ways, ends apart, nothing held without bound."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.agent.test_session import Manager, Rig
from tests.sessions import SOON_S, until

from skep.agent.engine import open_engine
from skep.edge.unix_stream import connect_unix
from skep.model import session as protocol
from skep.model.errors import Unavailable, Unsupported
from skep.model.session import INITIAL_CREDIT, MAX_PAYLOAD, EngineRequest, StreamData, StreamOpen
from skep.ports.bytestream import ByteStream, StreamBroken

pytestmark = pytest.mark.anyio

BIG = bytes(range(256)) * 12_000  # 3 MB
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class FakeEngine:
    """A unix socket that does with each connection what the test says."""

    path: Path
    serve: Serve | None = None
    left: asyncio.Event = field(default_factory=asyncio.Event)
    passthrough: Path | None = None

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self.serve is not None
        with contextlib.suppress(ConnectionError):
            await self.serve(reader, writer)
        writer.close()
        self.left.set()


@dataclass
class Up:
    rig: Rig
    manager: Manager
    engine: FakeEngine

    def connect(self) -> ByteStream:
        return self.manager.sessions.open_engine("n1")


@pytest.fixture
async def up(anyio_backend: str, tmp_path: Path) -> AsyncIterator[Up]:
    engine = FakeEngine(tmp_path / "engine.sock")
    engine.passthrough = engine.path
    server = await asyncio.start_unix_server(engine.accept, str(engine.path))
    rig = Rig()

    async def connected() -> ByteStream:
        return await open_engine(engine, connect_unix, "host")  # type: ignore[arg-type]  # Only `passthrough` is asked.

    rig.handler.open_engine = connected  # type: ignore[attr-defined]
    manager = rig.manager()
    running = asyncio.ensure_future(rig.session.run())
    await asyncio.wait_for(rig.session.wait_connected(), SOON_S)
    yield Up(rig, manager, engine)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await rig.board.unplug("m1:2377")
    server.close()


async def read_all(stream: ByteStream) -> bytes:
    pieces = []
    while piece := await asyncio.wait_for(stream.receive(), SOON_S):
        pieces.append(piece)
    return b"".join(pieces)


async def answer_at_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say everything that was heard, once nothing more comes."""
    heard = await reader.read()
    writer.write(heard)
    await writer.drain()


async def test_everything_sent_comes_back_after_a_half_close(up: Up) -> None:
    up.engine.serve = answer_at_the_end
    stream = up.connect()
    await asyncio.wait_for(stream.send(BIG), SOON_S)
    await stream.send_end()
    assert await read_all(stream) == BIG
    await stream.close()


async def test_both_directions_flow_at_once(up: Up) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(10_000):
            writer.write(piece)
            await writer.drain()

    up.engine.serve = echo
    stream = up.connect()
    reading = asyncio.ensure_future(read_all(stream))
    await asyncio.wait_for(stream.send(BIG), SOON_S)
    await stream.send_end()
    assert await reading == BIG
    await stream.close()


async def test_the_engine_is_let_go_when_the_reader_leaves(up: Up) -> None:
    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"here")
        assert await reader.read() == b""

    up.engine.serve = wait
    stream = up.connect()
    assert await asyncio.wait_for(stream.receive(), SOON_S) == b"here"
    await stream.close()
    await asyncio.wait_for(up.engine.left.wait(), SOON_S)
    with pytest.raises(StreamBroken):
        await stream.send(b"more")


async def test_output_said_before_the_engine_closed_is_not_lost(up: Up) -> None:
    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"last words")
        await writer.drain()

    up.engine.serve = deaf
    stream = up.connect()
    with contextlib.suppress(StreamBroken):
        await asyncio.wait_for(stream.send(BIG), SOON_S)
    assert await read_all(stream) == b"last words"
    await stream.close()


async def test_a_sender_waits_for_an_engine_that_does_not_read(up: Up) -> None:
    goes_on = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await goes_on.wait()
        await answer_at_the_end(reader, writer)

    up.engine.serve = slow
    stream = up.connect()
    sent = 0

    async def send() -> None:
        nonlocal sent
        for start in range(0, len(BIG), 65_536):
            await stream.send(BIG[start : start + 65_536])
            sent += 65_536
        await stream.send_end()

    sending = asyncio.ensure_future(send())
    await until(lambda: sent >= INITIAL_CREDIT)
    await asyncio.sleep(0.05)
    assert sent < 2_000_000  # Kernel buffers, the agent's, and one grant; not everything.
    up.manager.push(protocol.Delta(base=1, version=2))  # And nothing else waits behind it.
    await until(lambda: up.rig.handler.version == 2)
    goes_on.set()
    assert await read_all(stream) == BIG
    await sending
    await stream.close()


async def test_a_node_without_such_an_engine_says_so(up: Up) -> None:
    up.engine.passthrough = None
    stream = up.connect()
    with pytest.raises(Unsupported, match="node host runs tasks only"):
        await asyncio.wait_for(stream.receive(), SOON_S)
    await stream.close()


async def test_an_engine_that_is_away_is_named(up: Up) -> None:
    up.engine.path.unlink()
    stream = up.connect()
    with pytest.raises(Unavailable, match="engine of node host does not answer"):
        await asyncio.wait_for(stream.receive(), SOON_S)
    await stream.close()


async def test_a_broken_session_ends_the_connection_at_both_ends(up: Up) -> None:
    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"here")
        await reader.read()

    up.engine.serve = wait
    stream = up.connect()
    assert await asyncio.wait_for(stream.receive(), SOON_S) == b"here"
    await up.rig.board.unplug("m1:2377")
    with pytest.raises(Unavailable, match="ended"):
        await asyncio.wait_for(stream.receive(), SOON_S)
    await asyncio.wait_for(up.engine.left.wait(), SOON_S)
    with pytest.raises(Unavailable):
        up.connect()


async def test_a_manager_that_sends_beyond_its_credit_loses_the_session(up: Up) -> None:
    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(SOON_S)

    up.engine.serve = deaf
    session = up.manager.sessions._by_node["n1"]
    session.push(StreamOpen(stream=77, request=EngineRequest()))
    for _ in range(40):
        session.push(StreamData(stream=77, channel=0, payload=bytes(MAX_PAYLOAD)))
    await until(lambda: up.rig.handler.hellos > 1)
