"""The agent's end of the streams multiplexed on its session.

Edge: asyncio. Each open stream is one task that sends while it has credit.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import msgspec
import structlog

from skep.agent.handler import Handler
from skep.model.errors import SkepError
from skep.model.session import (
    INITIAL_CREDIT,
    MAX_PAYLOAD,
    StreamCredit,
    StreamData,
    StreamEnd,
    StreamOpen,
    cost_of,
)
from skep.ports.transport import ChannelClosed

log = structlog.get_logger(__name__)

MAX_STREAMS = 1000
Send = Callable[[StreamData | StreamEnd], Awaitable[None]]


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


class AgentStreams:
    """All streams of one session, served by the handler."""

    def __init__(self, handler: Handler, send: Send) -> None:
        self._handler = handler
        self._send = send
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._credits: dict[int, _Credit] = {}

    async def take(self, message: StreamOpen | StreamCredit | StreamEnd) -> None:
        """Take what the manager sent; what belongs to no open stream came too late and is dropped."""
        match message:
            case StreamOpen():
                if len(self._tasks) >= MAX_STREAMS:
                    await self._send(StreamEnd(stream=message.stream, error="this node serves too many streams"))
                elif message.stream not in self._tasks:
                    self._credits[message.stream] = _Credit()
                    self._tasks[message.stream] = asyncio.create_task(self._serve(message))
            case StreamCredit():
                if message.stream in self._credits:
                    self._credits[message.stream].add(message.n_bytes)
            case StreamEnd():
                if message.stream in self._tasks:
                    self._tasks[message.stream].cancel()

    async def close(self) -> None:
        """End all of them."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, opened: StreamOpen) -> None:
        """Supervise one stream: a fault in it ends it with a text, and nothing else."""
        number = opened.stream
        error = ""
        try:
            await self._carry(number, self._handler.open_stream(opened.request))
        except ChannelClosed:
            return
        except SkepError as refusal:
            error = str(refusal)
        except Exception as fault:
            log.exception("a stream failed", stream=number)
            error = f"the node failed to serve this: {fault}"
        finally:
            del self._tasks[number], self._credits[number]
        try:
            await self._send(StreamEnd(stream=number, error=error))
        except ChannelClosed:
            pass

    async def _carry(self, number: int, source: AsyncIterator[StreamData]) -> None:
        async for entry in source:
            for part in _parts(entry):
                numbered = msgspec.structs.replace(part, stream=number)
                await self._credits[number].spend(cost_of(numbered))
                await self._send(numbered)


def _parts(entry: StreamData) -> Iterator[StreamData]:
    """An entry as one part, or several where it is too long for one."""
    yield msgspec.structs.replace(entry, payload=entry.payload[:MAX_PAYLOAD])
    for start in range(MAX_PAYLOAD, len(entry.payload), MAX_PAYLOAD):
        yield msgspec.structs.replace(entry, payload=entry.payload[start : start + MAX_PAYLOAD])
