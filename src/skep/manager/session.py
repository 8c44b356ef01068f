"""One node's session as its manager sees it: a bounded queue outward, messages inward, streams.

Edge: asyncio events and an open channel. Assignments are a chain of deltas, so none may be left out: an agent that
falls too far behind loses its session, comes back and is told what it has missed.
"""

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import Any, Final

import structlog

from skep.manager.streams import Streams
from skep.model import session as protocol
from skep.model.assignment import Delta
from skep.model.base import Nanoseconds
from skep.model.codec import MALFORMED
from skep.model.session import Assignments, CertificateHeld, FromManager, Refused, Report
from skep.ports.transport import Channel

MAX_QUEUED_MESSAGES: Final = 4096
MAX_QUEUED_BYTES: Final = 32 * 1024 * 1024
MAX_QUEUED_REPORTS: Final = 16
MAX_QUESTIONS: Final = 256
ROOM_MESSAGES: Final = 256
ROOM_BYTES: Final = 1024 * 1024
"""What streams leave in the queue, so that assignments never wait long behind them nor end the session."""


log = structlog.get_logger(__name__)


class SessionOver(Exception):
    """The session ends from this side; the text says why."""


class Session:
    """One node's session. Everything but the two runners is plain bookkeeping."""

    def __init__(self, node_id: str, channel: Channel, now: Nanoseconds) -> None:
        self.node_id = node_id
        self.heard_at = now
        self.applied = 0
        self.sent = 0
        self.streams = Streams(self.push, self.wait_room)
        self.reports: asyncio.Queue[Report | CertificateHeld] = asyncio.Queue(MAX_QUEUED_REPORTS)
        self._channel = channel
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._has_more = asyncio.Event()
        self._has_room = asyncio.Event()
        self._is_ending = asyncio.Event()
        self._ending: str | None = None
        self._answering: set[asyncio.Task[None]] = set()

    def push(self, message: FromManager) -> None:
        """Queue a message; a session whose agent is too far behind ends, and resumes by version."""
        if self._ending is not None:
            return
        raw = protocol.encoder.encode(message)
        self._queue.append(raw)
        self._queued_bytes += len(raw)
        self._has_more.set()
        if len(self._queue) > MAX_QUEUED_MESSAGES or self._queued_bytes > MAX_QUEUED_BYTES:
            self._queue.clear()
            self.end("the agent is too slow to take what it is sent")

    async def wait_room(self) -> None:
        """Wait until little is queued, or the session is to end; for what may come in any amount."""
        while self._ending is None and (len(self._queue) > ROOM_MESSAGES or self._queued_bytes > ROOM_BYTES):
            self._has_room.clear()
            await self._has_room.wait()

    def answer(self, answering: Coroutine[Any, Any, FromManager]) -> None:
        """Send what becomes of a question that takes a while.

        Raises:
            asyncio.QueueFull: The agent asked too much at once.
        """
        if len(self._answering) >= MAX_QUESTIONS:
            answering.close()
            raise asyncio.QueueFull(f"{MAX_QUESTIONS} questions are open")

        async def pass_on() -> None:
            self.push(await answering)

        task = asyncio.ensure_future(pass_on())
        self._answering.add(task)
        task.add_done_callback(self._answered)

    def _answered(self, task: "asyncio.Task[None]") -> None:
        self._answering.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            log.error("a question could not be answered", node=self.node_id, error=str(failure))

    def drop_answers(self) -> None:
        """Nobody is there any more to be answered."""
        for task in self._answering:
            task.cancel()

    def tell(self, delta: Delta) -> None:
        """Queue assignments."""
        self.sent = delta.version
        self.push(Assignments(delta=delta))

    def end(self, reason: str, farewell: Refused | None = None) -> None:
        """End the session once what is queued has been sent."""
        if farewell is not None:
            self.push(farewell)
        if self._ending is None:
            self._ending = reason
            self._is_ending.set()
        self._has_more.set()
        self._has_room.set()

    async def wait_ending(self) -> str:
        """Wait until the session is to end; returns why."""
        await self._is_ending.wait()
        return self._ending or ""

    async def write(self) -> None:
        """Send what is queued, until the session is to end.

        Raises:
            SessionOver, ChannelClosed.
        """
        while True:
            while self._queue:
                raw = self._queue.popleft()
                self._queued_bytes -= len(raw)
                self._has_room.set()
                await self._channel.send(raw)
            if self._ending is not None:
                raise SessionOver(self._ending)
            self._has_more.clear()
            await self._has_more.wait()

    async def receive(self) -> protocol.FromAgent:
        """The next message.

        Raises:
            SessionOver: It is none. ChannelClosed.
        """
        raw = await self._channel.receive()
        try:
            message: protocol.FromAgent = protocol.from_agent.decode(raw)
        except MALFORMED as error:
            raise SessionOver(f"the agent sent what is no message: {error}") from error
        return message
