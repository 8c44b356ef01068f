"""The manager's end of the streams multiplexed on one session.

Edge: asyncio events only. A reader grants credit as it reads, so a stream nobody reads stops at its source and holds up
nothing else; an agent that sends more than it was granted breaks the protocol and loses its session. What is sent to an
agent waits for credit of the agent's, and for room in the session's queue.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from skep.model.credit import Account
from skep.model.errors import Disconnected, SkepError, Unavailable, Unsupported
from skep.model.session import (
    INITIAL_CREDIT,
    MAX_PAYLOAD,
    EngineRequest,
    FromManager,
    LogRequest,
    StreamCredit,
    StreamData,
    StreamEnd,
    StreamEof,
    StreamOpen,
    StreamRequest,
    cost_of,
)
from skep.ports.bytestream import StreamBroken

STDIN: Final = 0

Push = Callable[[FromManager], None]


class _Stream:
    """One open stream. Attributes: parts: what has come and was not read yet; may_send: credit towards the agent."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.parts: deque[StreamData] = deque()
        self.account = Account()
        self.may_send = INITIAL_CREDIT
        self.end: StreamEnd | None = None
        self.news = asyncio.Event()
        self.is_sendable = asyncio.Event()

    def take(self, part: StreamData) -> None:
        self.account.charge(part)
        self.parts.append(part)
        self.news.set()

    def finish(self, end: StreamEnd) -> None:
        self.end = end
        self.news.set()
        self.is_sendable.set()

    def grant(self, n_bytes: int) -> None:
        self.may_send += n_bytes
        self.is_sendable.set()

    async def spend(self, part: StreamData) -> None:
        """Wait until there is credit for a part.

        Raises:
            StreamBroken: The agent has ended the stream.
        """
        while self.end is None and self.may_send <= 0:
            self.is_sendable.clear()
            await self.is_sendable.wait()
        if self.end is not None:
            raise StreamBroken(self.end.error or "the other end has closed the stream")
        self.may_send -= cost_of(part)

    async def next(self) -> StreamData | None:
        """The next part; None at the proper end.

        Raises:
            Unavailable, Unsupported: The agent ended it with an error. Disconnected: its session broke.
        """
        while not self.parts:
            if self.end is not None:
                if self.end.error:
                    raise refusal_of(self.end)
                return None
            self.news.clear()
            await self.news.wait()
        return self.parts.popleft()


def refusal_of(end: StreamEnd) -> SkepError:
    """What a stream that ended with an error says to who reads it."""
    if end.is_lost:
        return Disconnected(end.error)
    return Unsupported(end.error) if end.is_unsupported else Unavailable(end.error)


class EngineStream:
    """A connection to a node's engine. Implements `ports.bytestream.ByteStream`."""

    def __init__(self, streams: "Streams", stream: _Stream) -> None:
        self._streams = streams
        self._stream = stream

    async def send(self, data: bytes, /) -> None:
        for start in range(0, len(data), MAX_PAYLOAD):
            payload = data[start : start + MAX_PAYLOAD]
            part = StreamData(stream=self._stream.number, channel=STDIN, payload=payload)
            await self._stream.spend(part)
            await self._streams.wait_room()
            self._streams.push(part)

    async def send_end(self) -> None:
        if self._stream.end is not None:
            raise StreamBroken("the other end has closed the stream")
        self._streams.push(StreamEof(stream=self._stream.number))

    async def receive(self) -> bytes:
        part = await self._streams.next_part(self._stream)
        return part.payload if part is not None else b""

    async def close(self) -> None:
        self._streams.close(self._stream)


class Streams:
    """All streams of one session."""

    def __init__(self, push: Push, wait_room: Callable[[], Awaitable[None]]) -> None:
        """Prepare.

        Args:
            push: Queues a message to the agent; never waits.
            wait_room: Waits until that queue is short; for whoever has much to send.
        """
        self.push = push
        self.wait_room = wait_room
        self._open: dict[int, _Stream] = {}
        self._last = 0
        self._failure = ""

    async def open(self, request: LogRequest) -> AsyncIterator[StreamData]:
        """Open a stream and follow it; closing the iterator ends it at the agent too.

        Raises:
            Unavailable: The agent ended it with an error, or its session broke.
        """
        stream = self._start(request)
        try:
            while (part := await self.next_part(stream)) is not None:
                yield part
        finally:
            self.close(stream)

    def open_engine(self) -> EngineStream:
        """Open a connection to the node's engine; close it in every case.

        Raises:
            Unavailable: The session broke.
        """
        return EngineStream(self, self._start(EngineRequest()))

    def _start(self, request: StreamRequest) -> _Stream:
        if self._failure:
            raise Unavailable(self._failure)
        self._last += 1
        stream = self._open[self._last] = _Stream(self._last)
        self.push(StreamOpen(stream=stream.number, request=request))
        return stream

    async def next_part(self, stream: _Stream) -> StreamData | None:
        """Read a part and give credit for it back; None at the end. Raises as `_Stream.next`."""
        part = await stream.next()
        if part is not None and (granted := stream.account.regrant(part)):
            self.push(StreamCredit(stream=stream.number, n_bytes=granted))
        return part

    def close(self, stream: _Stream) -> None:
        """Forget a stream, ending it at the agent unless that ended it itself."""
        if self._open.pop(stream.number, None) is not None and stream.end is None:
            end = StreamEnd(stream=stream.number)
            stream.finish(end)
            self.push(end)

    def take(self, message: StreamData | StreamEnd | StreamCredit) -> None:
        """Take what the agent sent; what belongs to no open stream came too late and is dropped.

        Raises:
            Overdrawn: The agent does not keep to its credit.
        """
        stream = self._open.get(message.stream)
        if stream is None:
            return
        match message:
            case StreamData():
                stream.take(message)
            case StreamEnd():
                stream.finish(message)
            case StreamCredit():
                stream.grant(message.n_bytes)

    def fail(self, reason: str) -> None:
        """The session is over: so are its streams, and no more will be opened."""
        self._failure = reason
        for number, stream in self._open.items():
            if stream.end is None:
                stream.finish(StreamEnd(stream=number, error=reason, is_lost=True))
