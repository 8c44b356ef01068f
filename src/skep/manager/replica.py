"""This manager's copy of the whole state, and the one way to change it.

Edge: asyncio; the store port. Whoever wrote, changes come back through the store's watch and are applied here in the
order of their revisions: another manager's, or those of a process of the simulation, look no different from our own.
Reads never wait. If the watch breaks, it resumes where it stopped, or, where the store no longer has that
revision, everything is loaded again and told as one batch of what differs.

Where several managers write, what a user's operation has checked must still hold when it is stored, whoever else writes
meanwhile. So each such transaction takes the turn: it compares and rewrites one row, which is no part of the state.
Long, because reading, writing and moving to another store share what is known to be applied.
"""

import asyncio
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import msgspec
import structlog

from skep.model import codec
from skep.model.base import Object
from skep.model.errors import NoQuorum, OutOfDate, Unavailable
from skep.ports.clock import Clock
from skep.ports.store import (
    MAX_OPERATIONS,
    Compacted,
    Row,
    RowBatch,
    StaleVersion,
    Store,
    StoreDamaged,
    StoreLocked,
    StoreUnavailable,
    Write,
    transactions,
)
from skep.store.changes import Batch, Change, Delete, Event, Put
from skep.store.state import State

MAX_PENDING: Final = 4_096
"""Batches a slow subscriber may be behind before it is told to start over."""
RETRY: Final = 250_000_000
TURN_KIND: Final = "turn"
TURN_ID: Final = "api"
OUT_OF_SEQUENCE: Final = "rpc error: code = Unknown desc = update out of sequence"

log = structlog.get_logger(__name__)


class Subscription(AsyncIterator[Batch]):
    """Batches committed since it was made. Raises `Compacted` once its reader is too far behind."""

    def __init__(self) -> None:
        self._batches: deque[Batch] = deque()
        self._has_more = asyncio.Event()
        self._is_overrun = False

    def offer(self, batch: Batch) -> None:
        if len(self._batches) >= MAX_PENDING:
            self._batches.clear()
            self._is_overrun = True
        if not self._is_overrun:
            self._batches.append(batch)
        self._has_more.set()

    async def __anext__(self) -> Batch:
        while not self._batches:
            if self._is_overrun:
                raise Compacted("the reader is too slow: list again and watch from there")
            self._has_more.clear()
            await self._has_more.wait()
        return self._batches.popleft()


@dataclass(slots=True, eq=False)
class _Commit:
    """One of our own transactions: keeps what is applied until it is known which revision was its own."""

    applied: dict[int, Batch] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def batch(self, revision: int) -> Batch:
        """Wait until the view holds a revision; if it came with a reload, the batch is the reload's."""
        while not (reached := [n for n in self.applied if n >= revision]):
            self.changed.clear()
            await self.changed.wait()
        return self.applied[min(reached)]


class Replica:
    """The state in memory, fed by the store.

    Attributes:
        view: The state as of the last applied revision.
        observers: Called with each batch right after it is applied, in order, before anyone else hears of it; they
            must not wait, and must not fail.
        is_shared: Other managers write to the store too.
    """

    def __init__(self, store: Store, clock: Clock, *, is_shared: bool = False) -> None:
        self.view = State()
        self.is_shared = is_shared
        self._turn = 0
        self.observers: list[Callable[[Batch], None]] = []
        self._store = store
        self._clock = clock
        # Told in the order they came, not in that of their addresses in memory: a simulation replays exactly.
        self._subscriptions: weakref.WeakKeyDictionary[Subscription, None] = weakref.WeakKeyDictionary()
        self._commits: dict[_Commit, None] = {}
        self._following: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        self._failure: BaseException | None = None
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._advanced = asyncio.Event()

    async def open(self) -> None:
        """Load everything and begin to follow.

        Raises:
            StoreUnavailable, StoreDamaged.
        """
        revision, rows = await self._store.load()
        try:
            self.view.load([_read(row) for row in self._objects(rows)], revision)
        except codec.CorruptObject as error:
            raise StoreDamaged(
                f"{error}; restore the store from a backup, or run the newer Skep that wrote it"
            ) from error
        self._start_following()

    async def wait_ended(self) -> None:
        """Wait until it follows no more: returns after `close`, raises what it failed of; then the daemon must end."""
        await self._ended.wait()
        if self._failure is not None:
            raise self._failure

    async def close(self) -> None:
        """Stop following; the store stays open."""
        await self._stop_following()
        self._ended.set()

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Let no write begin, after those under way have ended; who would write waits."""
        self._may_write.clear()
        try:
            await self._is_idle.wait()
            yield
        finally:
            self._may_write.set()

    async def switch(self, store: Store, revision: int, rows: Sequence[Row], *, is_shared: bool = False) -> None:
        """Go on with another store that holds the same, while paused; the old one stays open.

        Args:
            revision, rows: What it holds, loaded from it. Revisions and versions are greater than those here; whatever
                differs in nothing else is no event.
        """
        await self._stop_following()
        self._store = store
        self.is_shared = is_shared
        self._take(_catch_up(self.view, revision, self._objects(rows), is_moved=True))
        self._start_following()

    async def commit(self, changes: Sequence[Change], *, lease: str = "", takes_turn: bool = False) -> Batch:
        """Write changes, in several transactions if they are too many for one.

        Args:
            changes: In an order in which every prefix is a legal state; no object twice.
            lease: See `Store.commit`.
            takes_turn: It is refused, too, if anybody took a turn that the view of this very moment does not hold.
        Returns:
            What changed, as applied to the view by now; of several transactions the events of all.
        Raises:
            OutOfDate: An object, or the turn, is not at the version it was read at, or the state has moved to another
                store meanwhile. Of several transactions earlier ones stay.
            NoQuorum, Unavailable: The store cannot write at present.
            LeaseLost: This manager is no longer the leader.
        """
        now = self._clock.now()
        revision = self.view.revision
        events: list[Event] = []
        turn, store = self._turn, self._store
        for writes in transactions([_write(change, now) for change in changes], MAX_OPERATIONS - takes_turn):
            own = [Write(TURN_KIND, TURN_ID, b"", turn)] if takes_turn else []
            turn, batch = await self._commit(store, [*own, *writes], lease)
            revision = batch.revision
            events.extend(batch.events)
        return Batch(revision, events)

    async def wait_revision(self, revision: int) -> None:
        """Wait until the view is at least as new."""
        while self.view.revision < revision:
            await self._advanced.wait()

    async def wait_turns(self) -> None:
        """Wait until the view holds every turn that was taken before this call, by whichever manager.

        Raises:
            StoreUnavailable: It cannot be known at present.
        """
        await self.wait_revision(await self._store.version(TURN_KIND, TURN_ID))

    def watch(self) -> Subscription:
        """Follow every batch applied from this call on; see `Subscription`."""
        subscription = Subscription()
        self._subscriptions[subscription] = None
        return subscription

    async def _commit(self, store: Store, writes: Sequence[Write], lease: str) -> tuple[int, Batch]:
        """Returns: the transaction's own revision, and the batch it came with."""
        commit = _Commit()
        await self._may_write.wait()
        if store is not self._store:
            raise OutOfDate(OUT_OF_SEQUENCE)  # It was worked out without the turns that are taken from now on.
        self._commits[commit] = None
        self._is_idle.clear()
        try:
            revision = await store.commit(writes, lease=lease)
            return revision, await commit.batch(revision)
        except StaleVersion as error:
            raise OutOfDate(OUT_OF_SEQUENCE) from error
        except StoreUnavailable as error:
            raise NoQuorum(f"The swarm cannot store changes at present: {error}") from error
        except (StoreDamaged, StoreLocked) as error:
            raise Unavailable(f"The swarm cannot store changes: {error}") from error
        finally:
            del self._commits[commit]
            if not self._commits:
                self._is_idle.set()

    def _start_following(self) -> None:
        self._following = asyncio.create_task(self._follow(), name="replica")
        self._following.add_done_callback(self._followed)

    async def _stop_following(self) -> None:
        following, self._following = self._following, None
        if following is not None:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    def _followed(self, following: "asyncio.Task[None]") -> None:
        if following is self._following and not following.cancelled():
            self._failure = following.exception()
            self._ended.set()

    async def _follow(self) -> None:
        while True:
            try:
                async for batch in self._store.watch(self.view.revision):
                    self._take(self.view.apply(self._changes(batch), batch.revision))
            except Compacted:
                await self._reload()
            except StoreUnavailable as error:
                log.warning("the store is away, trying again", reason=str(error))
                await self._clock.sleep(RETRY)

    async def _reload(self) -> bool:
        """Catch up by comparing, where the revisions in between are gone; returns whether the store answered."""
        try:
            revision, rows = await self._store.load()
        except StoreUnavailable:
            await self._clock.sleep(RETRY)
            return False
        self._take(_catch_up(self.view, revision, self._objects(rows)))
        return True

    def _objects(self, rows: Sequence[Row]) -> Sequence[Row]:
        """The rows that are objects; takes in the one that is not."""
        self._turn = next((row.version for row in rows if row.kind == TURN_KIND), 0)
        return [row for row in rows if row.kind != TURN_KIND]

    def _changes(self, batch: RowBatch) -> Iterator[Change]:
        for event in batch.events:
            if event.kind == TURN_KIND:
                self._turn = batch.revision if event.value is not None else 0
            elif event.value is None:
                yield Delete(event.kind, event.id, 0)
            else:
                yield Put(codec.decode(event.kind, event.value, batch.revision))

    def _take(self, batch: Batch) -> None:
        for observer in self.observers:
            observer(batch)
        for subscription in list(self._subscriptions):
            subscription.offer(batch)
        for commit in self._commits:
            commit.applied[batch.revision] = batch
            commit.changed.set()
        self._advanced.set()
        self._advanced = asyncio.Event()


def _write(change: Change, now: int) -> Write:
    match change:
        case Put(value):
            stamped = msgspec.structs.replace(value, version=0, created_at=value.created_at or now, updated_at=now)
            return Write(change.kind, value.id, codec.encode(stamped), value.version)
        case Delete(kind, id, version):
            return Write(kind, id, None, version)


def _read(row: Row) -> Object:
    return codec.decode(row.kind, row.value, row.version)


def _catch_up(state: State, revision: int, rows: Sequence[Row], *, is_moved: bool = False) -> Batch:
    """Bring a state to what was loaded; returns the difference as one batch.

    Args:
        is_moved: Versions are another store's: one that differs tells nothing.
    """
    present = {(row.kind, row.id) for row in rows}
    gone = [(kind, old) for kind, old in state.objects() if (kind, old.id) not in present]
    events = list(state.apply([Delete(kind, old.id, old.version) for kind, old in gone], revision).events)
    for row in rows:
        old = state.find(row.kind, row.id)
        if old is None or old.version != row.version:
            new = _read(row)
            if not is_moved or old is None or msgspec.structs.replace(old, version=new.version) != new:
                events.append(Event(row.kind, row.id, old, new))
            state.load([new], revision)
    return Batch(revision, events)
