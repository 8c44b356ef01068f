"""The agent's end of the streams multiplexed on its session.

Edge: asyncio. Each open stream is one task that sends while it has credit. What comes for a stream waits in a buffer
that is bounded by the credit given for it, so that one that is not read holds up no other.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator

import msgspec
import structlog

from skep.agent.handler import Handler
from skep.model.credit import Account
from skep.model.errors import SkepError, Unsupported
from skep.model.session import (
    INITIAL_CREDIT,
    MAX_PAYLOAD,
    EngineRequest,
    LogRequest,
    StreamCredit,
    StreamData,
    StreamEnd,
    StreamEof,
    StreamOpen,
    cost_of,
)
from skep.ports.bytestream import ByteStream, StreamBroken
from skep.ports.transport import ChannelClosed

log = structlog.get_logger(__name__)

MAX_STREAMS = 1000
Send = Callable[[StreamData | StreamCredit | StreamEnd], Awaitable[None]]


class _Credit:
    """What may still be sent on one stream."""

    def __init__(self) -> None:
        self._left = INITIAL_CREDIT
        self._is_more = asyncio.Event()

    async def spend(self, amount: int) -> None:
        """Wait until there is any credit, then take `amount`, even beyond what is left."""
        while self._left <= 0:
            self._is_more.clear()
            await self._is_more.wait()
        self._left -= amount

    def add(self, amount: int) -> None:
        self._left += amount
        self._is_more.set()


class _Inlet:
    """What came for one stream and was not taken yet."""

    def __init__(self) -> None:
        self.account = Account()
        self._parts: deque[StreamData] = deque()
        self._is_ended = False
        self._news = asyncio.Event()

    def put(self, part: StreamData) -> None:
        self.account.charge(part)
        self._parts.append(part)
        self._news.set()

    def end(self) -> None:
        self._is_ended = True
        self._news.set()

    async def next(self) -> StreamData | None:
        """The next part; None once no more will come."""
        while not self._parts:
            if self._is_ended:
                return None
            self._news.clear()
            await self._news.wait()
        return self._parts.popleft()


class AgentStreams:
    """All streams of one session, served by the handler."""

    def __init__(self, handler: Handler, send: Send) -> None:
        self._handler = handler
        self._send = send
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._credits: dict[int, _Credit] = {}
        self._inlets: dict[int, _Inlet] = {}
        self._n_engines = 0

    @property
    def serves_engine(self) -> bool:
        """Whether a connection to the engine is open: nobody can take it up again on another session."""
        return self._n_engines > 0

    async def take(self, message: StreamOpen | StreamData | StreamCredit | StreamEof | StreamEnd) -> None:
        """Take what the manager sent; what belongs to no open stream came too late and is dropped.

        Raises:
            Overdrawn: The manager does not keep to its credit.
        """
        match message:
            case StreamOpen():
                await self._open(message)
            case StreamCredit():
                if message.stream in self._credits:
                    self._credits[message.stream].add(message.n_bytes)
            case StreamData():
                if message.stream in self._inlets:
                    self._inlets[message.stream].put(message)
            case StreamEof():
                if message.stream in self._inlets:
                    self._inlets[message.stream].end()
            case StreamEnd():
                if message.stream in self._tasks:
                    self._tasks[message.stream].cancel()

    async def _open(self, message: StreamOpen) -> None:
        if len(self._tasks) >= MAX_STREAMS:
            await self._send(StreamEnd(stream=message.stream, error="this node serves too many streams"))
        elif message.stream not in self._tasks:
            self._credits[message.stream] = _Credit()
            self._inlets[message.stream] = _Inlet()
            self._tasks[message.stream] = asyncio.create_task(self._serve(message))

    async def close(self) -> None:
        """End all of them."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, opened: StreamOpen) -> None:
        """Supervise one stream: a fault in it ends it with a text, and nothing else."""
        number = opened.stream
        end = StreamEnd(stream=number)
        try:
            match opened.request:
                case LogRequest() as request:
                    await self._read_log(number, request)
                case EngineRequest():
                    await self._connect_engine(number)
        except ChannelClosed:
            return
        except SkepError as refusal:
            end = StreamEnd(stream=number, error=str(refusal), is_unsupported=isinstance(refusal, Unsupported))
        except Exception as fault:  # A supervisor: the one who asked is told; the session and its other streams go on.
            log.exception("a stream failed", stream=number)
            end = StreamEnd(stream=number, error=f"the node failed to serve this: {fault}")
        finally:
            del self._tasks[number], self._credits[number], self._inlets[number]
        try:
            await self._send(end)
        except ChannelClosed:
            pass

    async def _read_log(self, number: int, request: LogRequest) -> None:
        async for entry in self._handler.open_stream(request):
            for part in _parts(entry):
                await self._pass(msgspec.structs.replace(part, stream=number))

    async def _connect_engine(self, number: int) -> None:
        """Carry bytes both ways; the engine's end of its answer is the end of the stream."""
        engine = await self._handler.open_engine()
        upload = asyncio.create_task(self._upload(number, engine))
        self._n_engines += 1
        try:
            while data := await _received(engine):
                await self._pass(StreamData(stream=number, payload=data))
        finally:
            self._n_engines -= 1
            upload.cancel()
            await asyncio.wait([upload])
            await engine.close()
        if not upload.cancelled():
            upload.result()

    async def _upload(self, number: int, engine: ByteStream) -> None:
        inlet = self._inlets[number]
        takes_more = True
        while (part := await inlet.next()) is not None:
            if takes_more:
                takes_more = await _is_taken(engine.send(part.payload))
            if granted := inlet.account.regrant(part):
                await self._send(StreamCredit(stream=number, n_bytes=granted))
        await _is_taken(engine.send_end())

    async def _pass(self, part: StreamData) -> None:
        await self._credits[part.stream].spend(cost_of(part))
        await self._send(part)


async def _received(engine: ByteStream) -> bytes:
    try:
        return await engine.receive()
    except StreamBroken:
        return b""  # It closed without having taken everything; what it had said before was read.


async def _is_taken(sending: Awaitable[None]) -> bool:
    """Send; False where the engine takes no more, whose output still counts."""
    try:
        await sending
    except StreamBroken:
        return False
    return True


def _parts(entry: StreamData) -> Iterator[StreamData]:
    """An entry as one part, or several where it is too long for one."""
    yield msgspec.structs.replace(entry, payload=entry.payload[:MAX_PAYLOAD])
    for start in range(MAX_PAYLOAD, len(entry.payload), MAX_PAYLOAD):
        yield msgspec.structs.replace(entry, payload=entry.payload[start : start + MAX_PAYLOAD])
