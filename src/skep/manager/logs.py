"""The logs of a service's tasks, wherever they run, as one stream.

Edge: asyncio. Each task's log comes over its node's session; entries are passed on as they come. A node that does not
answer is named in a stderr entry and does not hold up the others.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import Final

from skep.model.errors import SkepError
from skep.model.session import LogRequest, StreamData
from skep.model.task import Task
from skep.ports.clock import Clock
from skep.ports.logs import TaskLogEntry
from skep.ports.runtime import LogEntry, LogOptions

STDERR: Final = 2
QUEUED_ENTRIES: Final = 64
SILENCE_S: Final = 10.0
"""How long a node may say nothing before it is given up, where nothing is to be followed."""
INCOMPLETE: Final = "warning: incomplete log stream. some logs could not be retrieved for the following reasons: "

OpenStream = Callable[[str, LogRequest], AsyncIterator[StreamData]]


class TaskLogs:
    """Reads logs over sessions. Implements `ports.logs.LogSource`."""

    def __init__(self, open_stream: OpenStream, clock: Clock) -> None:
        """Prepare.

        Args:
            open_stream: Opens a stream to a node; see `Sessions.open_stream`.
        """
        self._open_stream = open_stream
        self._clock = clock

    async def logs(self, tasks: Sequence[Task], options: LogOptions) -> AsyncIterator[TaskLogEntry]:
        """Follow the logs of tasks; tasks without a node have none.

        Returns:
            Entries of each task in its own order, tasks mixed as their entries come; ends when all have ended. Closing
            the iterator ends the streams.
        """
        queue: asyncio.Queue[TaskLogEntry | None] = asyncio.Queue(QUEUED_ENTRIES)
        readers = [asyncio.ensure_future(self._read(task, options, queue)) for task in tasks if task.node_id]
        left = len(readers)
        try:
            while left:
                entry = await queue.get()
                if entry is None:
                    left -= 1
                else:
                    yield entry
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)

    async def _read(self, task: Task, options: LogOptions, queue: "asyncio.Queue[TaskLogEntry | None]") -> None:
        try:
            async for part in self._parts(task, options):
                entry = LogEntry(channel=part.channel, timestamp=part.timestamp, payload=part.payload)
                await queue.put(TaskLogEntry(task, entry))
        except (SkepError, TimeoutError) as error:
            reason = str(error) or f"node {task.node_id} does not answer"
            text = f"{INCOMPLETE}{reason}\n".encode()
            await queue.put(TaskLogEntry(task, LogEntry(channel=STDERR, timestamp=self._clock.now(), payload=text)))
        await queue.put(None)

    async def _parts(self, task: Task, options: LogOptions) -> AsyncIterator[StreamData]:
        request = LogRequest(
            task_id=task.id,
            follow=options.follow,
            stdout=options.stdout,
            stderr=options.stderr,
            since=options.since,
            tail=options.tail,
        )
        stream = self._open_stream(task.node_id, request)
        try:
            while True:
                async with asyncio.timeout(None if options.follow else SILENCE_S):
                    part = await anext(stream, None)
                if part is None:
                    return
                yield part
        finally:
            await _close(stream)


async def _close(stream: AsyncIterator[StreamData]) -> None:
    """Close a generator now rather than when it is collected, so that the agent stops reading at once."""
    if isinstance(stream, AsyncGenerator):
        await stream.aclose()
