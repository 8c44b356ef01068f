"""The store port on a SQLite file: the store of a swarm with one manager.

Edge: one thread owns the file; the event loop only queues and is called back. Transactions that arrive while a sync is
under way are written together with the next one (group commit): the disk's sync rate bounds the latency, not the
rate. Each transaction still is atomic and its own revision.
"""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from skep.edge.changelog import ChangeLog
from skep.edge.sqlite_file import StoreFile
from skep.ports.store import Row, RowBatch, RowEvent, StoreError, StoreUnavailable, Write, check_legal

T = TypeVar("T")
MAX_GROUP: Final = 256
CLOSED: Final = "the store is closed"


@dataclass(slots=True)
class _Commit:
    writes: Sequence[Write]
    done: "asyncio.Future[int]"


@dataclass(slots=True)
class _Job(Generic[T]):
    """Anything else that needs the file; it has its turn between groups."""

    run: Callable[[StoreFile], T]
    done: "asyncio.Future[T]"


class SqliteStore:
    """Implements `ports.store.Store`. Made by `SqliteStore.open`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._log = ChangeLog(0)
        self._waiting: deque[_Commit | _Job[Any]] = deque()
        self._has_work = threading.Condition()
        self._is_closed = False
        self._ended: asyncio.Future[None] = self._loop.create_future()

    @classmethod
    async def open(cls, path: Path, *, create: bool = True, begin_at: int = 0) -> "SqliteStore":
        """Open the file, or make it; its directory must exist.

        Args:
            create: Whether a missing file is made; otherwise that is damage.
            begin_at: Revision of one that is made.
        Raises:
            StoreLocked: Another process has it open.
            StoreDamaged: Do not go on; the text says what is wrong.
            StoreUnavailable: It cannot be opened at present.
        """
        store = cls(path)
        opened: asyncio.Future[int] = store._loop.create_future()
        arguments = (create, begin_at, opened)
        threading.Thread(target=store._run, args=arguments, name="skep-store", daemon=True).start()
        store._log = ChangeLog(await opened)
        return store

    async def load(self) -> tuple[int, Sequence[Row]]:
        return await self._ask(StoreFile.load)

    async def version(self, kind: str, id: str) -> int:
        return await self._ask(lambda file: file.version(kind, id))

    async def commit(self, writes: Sequence[Write], *, lease: str = "") -> int:
        """See `Store.commit`. The lease is not looked at: who has the file open is the only manager."""
        check_legal(writes)
        commit = _Commit(writes, self._loop.create_future())
        self._queue(commit)
        return await commit.done

    def watch(self, after: int) -> AsyncIterator[RowBatch]:
        return self._log.follow(after)

    async def copy(self, path: Path) -> None:
        """Write a consistent copy to a new file while the store goes on serving; commits wait meanwhile."""
        await self._ask(lambda file: file.copy(path))

    async def close(self) -> None:
        """Finish what is queued, fold the log into the file and let go of it; idempotent."""
        with self._has_work:
            self._is_closed = True
            self._has_work.notify()
        await asyncio.shield(self._ended)
        self._log.close()

    async def _ask(self, run: Callable[[StoreFile], T]) -> T:
        done: asyncio.Future[T] = self._loop.create_future()
        self._queue(_Job(run, done))
        return await done

    def _queue(self, work: _Commit | _Job[Any]) -> None:
        with self._has_work:
            if self._is_closed:
                raise StoreUnavailable(CLOSED)
            self._waiting.append(work)
            self._has_work.notify()

    # --- in the thread ---

    def _run(self, create: bool, begin_at: int, opened: "asyncio.Future[int]") -> None:
        try:
            file = StoreFile(self._path, create=create, begin_at=begin_at)
        except StoreError as error:
            self._is_closed = True
            self._post(self._settle, opened, error)
            self._post(self._settle, self._ended, None)
            return
        self._post(self._settle, opened, file.revision)
        try:
            while work := self._take():
                self._perform(file, work)
        finally:
            self._give_up(file)

    def _take(self) -> _Job[Any] | list[_Commit] | None:
        """Wait for work: one job, or all commits at the head of the queue; None once closed and empty."""
        with self._has_work:
            while not self._waiting:
                if self._is_closed:
                    return None
                self._has_work.wait()
            group: list[_Commit] = []
            while self._waiting and len(group) < MAX_GROUP:
                head = self._waiting[0]
                if isinstance(head, _Job):
                    if not group:
                        self._waiting.popleft()
                        return head
                    break
                group.append(head)
                self._waiting.popleft()
            return group

    def _perform(self, file: StoreFile, work: _Job[Any] | list[_Commit]) -> None:
        if isinstance(work, _Job):
            try:
                self._post(self._settle, work.done, work.run(file))
            except StoreError as error:
                self._post(self._settle, work.done, error)
            return
        try:
            outcomes: Sequence[int | StoreError] = file.write([commit.writes for commit in work])
        except StoreError as error:
            outcomes = [error] * len(work)
        self._post(self._deliver, work, outcomes)

    def _give_up(self, file: StoreFile) -> None:
        """Close the file and leave nobody waiting, also when the thread ends by a mistake."""
        with self._has_work:
            self._is_closed = True
            left = list(self._waiting)
            self._waiting.clear()
        ended: StoreError | None = None
        try:
            file.close()
        except StoreError as error:
            ended = error
        for work in left:
            self._post(self._settle, work.done, StoreUnavailable(CLOSED))
        self._post(self._settle, self._ended, ended)

    def _post(self, function: Callable[..., None], *arguments: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    # --- back in the event loop ---

    def _deliver(self, group: Sequence[_Commit], outcomes: Sequence[int | StoreError]) -> None:
        for commit, outcome in zip(group, outcomes, strict=True):
            if isinstance(outcome, int):
                self._log.append(RowBatch(outcome, [RowEvent(w.kind, w.id, w.value) for w in commit.writes]))
            self._settle(commit.done, outcome)

    @staticmethod
    def _settle(future: "asyncio.Future[T]", outcome: T | StoreError) -> None:
        if future.done():
            return  # Its caller was cancelled; what it wrote stays written.
        if isinstance(outcome, StoreError):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
