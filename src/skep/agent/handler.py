"""Between the session and the rest of the agent: what one asks of the other.

Protocol only. The session moves messages and survives broken connections; the handler holds the node's assignments,
carries them out and knows what has been observed. Both run on one event loop.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from skep.model.assignment import Delta
from skep.model.session import Answer, Hello, LogRequest, ManagerAddress, Question, StreamData, TaskReport
from skep.ports.bytestream import ByteStream


class Handler(Protocol):
    """The node's side of its session."""

    async def hello(self) -> Hello:
        """What to say first, also after every reconnect: the description as of now and the version held."""
        ...

    def connected(self) -> None:
        """A manager welcomed this node: there is a session from now on."""
        ...

    def disconnected(self) -> None:
        """The session is over, or there never was one."""
        ...

    async def wait_outdated(self) -> None:
        """Wait until `hello` would describe the node otherwise than it did last, as when its engine first answers."""
        ...

    async def assign(self, epoch: str, delta: Delta) -> None:
        """Take a full set (base 0) or a delta; returns once it is remembered, not once it is carried out.

        Raises:
            ValueError: The delta's base is not the version held; the session asks for a full set by saying hello again.
        """
        ...

    @property
    def applied_version(self) -> int:
        """The newest assignment version whose mesh is in force in the kernel."""
        ...

    async def wait_applied(self, after: int) -> int:
        """Wait until `applied_version` is greater than `after`; returns it."""
        ...

    async def next_reports(self) -> Sequence[TaskReport]:
        """Wait until something is to be reported, then everything not yet acknowledged, the newest per task."""
        ...

    async def reported(self, reports: Sequence[TaskReport]) -> None:
        """These reports are committed by the manager: do not send them again."""
        ...

    async def next_wanted(self) -> Sequence[Question]:
        """Wait until there is something to ask that this session has not asked yet."""
        ...

    def answered(self, answer: Answer) -> None:
        """A manager's answer; nothing of it may be written down."""
        ...

    async def managers_changed(self, managers: Sequence[ManagerAddress]) -> None: ...

    def open_stream(self, request: LogRequest) -> AsyncIterator[StreamData]:
        """Serve a stream; `stream` in what it yields is filled in by the session. Errors end the stream with text."""
        ...

    async def open_engine(self) -> ByteStream:
        """Connect to this node's container engine.

        Raises:
            Unsupported: It has no API of its own. Unavailable: it does not answer.
        """
        ...

    async def removed(self, reason: str) -> None:
        """The node is no longer of this swarm: stop its tasks and forget its identity."""
        ...
