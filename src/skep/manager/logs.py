"""The logs of a service's tasks, wherever they run, as one stream by time.

Edge: asyncio. Each task's log comes over its node's session. A node that does not answer is named in a stderr entry and
holds up the others no longer than it takes to know.
"""

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from typing import Final

import msgspec

from skep.lib.durations import SECOND
from skep.manager.replica import Replica
from skep.manager.time_merge import Source, TimeMerge
from skep.model.base import Nanoseconds
from skep.model.errors import Disconnected, SkepError
from skep.model.lifecycle import TaskState
from skep.model.session import LogRequest, StreamData
from skep.model.task import Task
from skep.ports.clock import Clock
from skep.ports.logs import TaskLogEntry
from skep.ports.runtime import LogEntry, LogOptions
from skep.ports.store import Compacted

STDERR: Final = 2
PATIENCE_S: Final = 0.3
"""How long an entry waits for those of other tasks that may be older, where logs are followed."""
SILENCE_S: Final = 10.0
"""How long a node may say nothing before it is given up, where nothing is to be followed."""
AGAIN: Final[Nanoseconds] = SECOND // 2
BACK_AFTER: Final[Nanoseconds] = 15 * SECOND
"""How soon a node whose logs are followed has to be back after its session broke, as when another manager leads."""
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

    async def logs(
        self, tasks: Sequence[Task], options: LogOptions, coming: AsyncIterator[Task] | None = None
    ) -> AsyncIterator[TaskLogEntry]:
        """Read, and follow, the logs of tasks; tasks without a node have none.

        Args:
            coming: Tasks whose logs are followed from their beginning, as they come up; one that comes twice is read
                once. While it lasts, so does what is returned.
        Returns:
            Entries of each task in its own order and all by time, as far as nodes that are slow let one know. Closing
            the iterator ends the streams.
        """
        merge: TimeMerge[TaskLogEntry] = TimeMerge(PATIENCE_S if options.follow else None)
        readers = _Readers(lambda task, chosen: self._read(task, chosen, merge.open()))
        for task in tasks:
            if task.node_id and (coming is None or _is_there(task)):
                readers.begin(task, options)
        if coming is not None:
            merge.hold()
            readers.admit(coming, dataclasses.replace(options, tail=-1), merge.release)
        try:
            while (entry := await merge.take()) is not None:
                yield entry
        finally:
            await readers.close()

    async def _read(self, task: Task, options: LogOptions, source: Source[TaskLogEntry]) -> None:
        try:
            async for part in self._parts(task, options):
                entry = LogEntry(channel=part.channel, timestamp=part.timestamp, payload=part.payload)
                await source.put(entry.timestamp, TaskLogEntry(task, entry))
        except (SkepError, TimeoutError) as error:
            reason = str(error) or f"node {task.node_id} does not answer"
            text = f"{INCOMPLETE}{reason}\n".encode()
            now = self._clock.now()
            await source.put(now, TaskLogEntry(task, LogEntry(channel=STDERR, timestamp=now, payload=text)))
        finally:
            source.end()

    async def _parts(self, task: Task, options: LogOptions) -> AsyncIterator[StreamData]:
        request = LogRequest(
            task_id=task.id,
            follow=options.follow,
            stdout=options.stdout,
            stderr=options.stderr,
            since=options.since,
            tail=options.tail,
        )
        told: Nanoseconds = 0
        lost_at: Nanoseconds | None = None
        while True:
            stream = self._open_stream(task.node_id, request) if lost_at is None else self._reopened(task, request)
            try:
                while True:
                    async with asyncio.timeout(None if options.follow else SILENCE_S):
                        part = await anext(stream, None)
                    if part is None:
                        return
                    told = part.timestamp
                    yield part
            except SkepError as error:
                now = self._clock.now()
                if options.follow and isinstance(error, Disconnected):
                    lost_at = now
                if lost_at is None or now - lost_at > BACK_AFTER:
                    raise
                if told:
                    request = msgspec.structs.replace(request, since=told + 1, tail=-1)
            finally:
                await _close(stream)

    async def _reopened(self, task: Task, request: LogRequest) -> AsyncIterator[StreamData]:
        """A stream once more, after a moment: the node may be with another leader by then."""
        await self._clock.sleep(AGAIN)
        stream = self._open_stream(task.node_id, request)
        try:
            async for part in stream:
                yield part
        finally:
            await _close(stream)


class _Readers:
    """One reader for each task, however often the task comes up."""

    def __init__(self, read: Callable[[Task, LogOptions], Coroutine[None, None, None]]) -> None:
        self._read = read
        self._running: dict[str, asyncio.Task[None]] = {}
        self._door: asyncio.Task[None] | None = None

    def begin(self, task: Task, options: LogOptions) -> None:
        if task.id not in self._running:
            self._running[task.id] = asyncio.ensure_future(self._read(task, options))

    def admit(self, coming: AsyncIterator[Task], options: LogOptions, is_over: Callable[[], None]) -> None:
        """Begin with every task that comes, until no more do."""

        async def admit_all() -> None:
            async for task in coming:
                self.begin(task, options)
            is_over()

        self._door = asyncio.ensure_future(admit_all())

    async def close(self) -> None:
        working = [*self._running.values(), *((self._door,) if self._door else ())]
        for each in working:
            each.cancel()
        await asyncio.gather(*working, return_exceptions=True)


def _is_there(task: Task) -> bool:
    """Whether its node has taken the task, so that asking for its log makes sense."""
    return bool(task.node_id) and task.status.state >= TaskState.ACCEPTED


async def newcomers(replica: Replica, is_wanted: Callable[[Task], bool]) -> AsyncIterator[Task]:
    """Tasks that their nodes take from now on, and again at some later changes; ends with its reader."""
    while True:
        changes = replica.watch()
        for task in tuple(replica.view.tasks.values()):
            if _is_there(task) and is_wanted(task):
                yield task
        try:
            async for batch in changes:
                for event in batch.events:
                    changed = event.new
                    if isinstance(changed, Task) and _is_there(changed) and is_wanted(changed):
                        yield changed
        except Compacted:
            continue  # More has changed than could be kept: look at all tasks anew.


async def _close(stream: AsyncIterator[StreamData]) -> None:
    """Close a generator now rather than when it is collected, so that the agent stops reading at once."""
    if isinstance(stream, AsyncGenerator):
        await stream.aclose()
