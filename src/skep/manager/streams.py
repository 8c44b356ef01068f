"""The manager's end of the streams multiplexed on one session.

Edge: asyncio events only. A reader grants credit as it reads, so a stream nobody reads stops at its source and holds up
nothing else; an agent that sends more than it was granted breaks the protocol and loses its session.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from skep.model.errors import Unavailable
from skep.model.session import (
    INITIAL_CREDIT,
    MAX_PAYLOAD,
    FromManager,
    StreamCredit,
    StreamData,
    StreamEnd,
    StreamOpen,
    StreamRequest,
    cost_of,
)

REGRANT = INITIAL_CREDIT // 2
"""Credit is given back in portions of at least this many bytes."""


class Overdrawn(Exception):
    """The agent sent more than it was granted."""


class _Stream:
    """What has come and was not read yet. Attributes: credit: what the agent may still send."""

    def __init__(self) -> None:
        self.parts: deque[StreamData] = deque()
        self.credit = INITIAL_CREDIT
        self.unreturned = 0
        self.end: StreamEnd | None = None
        self.news = asyncio.Event()

    def take(self, part: StreamData) -> None:
        if self.credit <= 0 or len(part.payload) > MAX_PAYLOAD:
            raise Overdrawn(f"stream {part.stream} was sent more than it may hold")
        self.credit -= cost_of(part)
        self.parts.append(part)
        self.news.set()

    def finish(self, end: StreamEnd) -> None:
        self.end = end
        self.news.set()

    def regrant(self, part: StreamData) -> int:
        """Account for a part that was read; returns the credit to give back now, 0 for none yet."""
        self.unreturned += cost_of(part)
        if self.unreturned < REGRANT:
            return 0
        granted, self.unreturned = self.unreturned, 0
        self.credit += granted
        return granted


class Streams:
    """All streams of one session."""

    def __init__(self, push: Callable[[FromManager], None]) -> None:
        """Prepare.

        Args:
            push: Queues a message to the agent; never waits.
        """
        self._push = push
        self._open: dict[int, _Stream] = {}
        self._last = 0
        self._failure = ""

    async def open(self, request: StreamRequest) -> AsyncIterator[StreamData]:
        """Open a stream and follow it; closing the iterator ends it at the agent too.

        Raises:
            Unavailable: The agent ended it with an error, or its session broke.
        """
        if self._failure:
            raise Unavailable(self._failure)
        self._last += 1
        number, stream = self._last, _Stream()
        self._open[number] = stream
        self._push(StreamOpen(stream=number, request=request))
        try:
            while True:
                while stream.parts:
                    part = stream.parts.popleft()
                    if granted := stream.regrant(part):
                        self._push(StreamCredit(stream=number, n_bytes=granted))
                    yield part
                if stream.end is not None:
                    break
                stream.news.clear()
                await stream.news.wait()
            if stream.end.error:
                raise Unavailable(stream.end.error)
        finally:
            del self._open[number]
            if stream.end is None:
                self._push(StreamEnd(stream=number))

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
                pass  # Nothing is sent to agents on streams yet.

    def fail(self, reason: str) -> None:
        """The session is over: so are its streams, and no more will be opened."""
        self._failure = reason
        for number, stream in self._open.items():
            if stream.end is None:
                stream.finish(StreamEnd(stream=number, error=reason))
