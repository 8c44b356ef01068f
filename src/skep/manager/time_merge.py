"""Entries of many sources as one sequence, oldest first.

Edge: asyncio. A sorted merge has to wait for every source's next entry; a source that has had none for `patience_s` is
no longer waited for until it has one again, so that following quiet sources holds up nobody. What an entry costs grows
with the logarithm of the sources that have one, not with how many there are.
"""

import asyncio
import heapq
import itertools
from collections import deque
from typing import Final, Generic, TypeVar

T = TypeVar("T")
QUEUED_ENTRIES: Final = 64
"""Entries of one source that may wait; then the source does."""


class Source(Generic[T]):
    """One source's end of the merge."""

    def __init__(self, merge: "TimeMerge[T]") -> None:
        self._merge = merge
        self._entries: deque[tuple[int, T]] = deque()
        self._has_room = asyncio.Event()
        self.has_ended = False

    async def put(self, moment: int, entry: T) -> None:
        """Hand an entry in; waits while too many are there already. Args: moment: any unit, the same for all."""
        while len(self._entries) >= QUEUED_ENTRIES:
            self._has_room.clear()
            await self._has_room.wait()
        self._entries.append((moment, entry))
        if len(self._entries) == 1:
            self._merge.is_waiting(self)

    def end(self) -> None:
        """There will be no more."""
        self.has_ended = True
        self._merge.forget(self)

    @property
    def first(self) -> int | None:
        """Moment of the oldest entry; None if there is none."""
        return self._entries[0][0] if self._entries else None

    def take(self) -> T:
        """Take the oldest entry."""
        _, entry = self._entries.popleft()
        self._has_room.set()
        return entry


class TimeMerge(Generic[T]):
    """The reading end. One reader."""

    def __init__(self, patience_s: float | None) -> None:
        """Prepare.

        Args:
            patience_s: How long a source with nothing to say is waited for; None for ever.
        """
        self._patience_s = patience_s
        self._numbers = itertools.count()
        self._heads: list[tuple[int, int, Source[T]]] = []
        self._silent: dict[Source[T], float] = {}
        """Since when a source has nothing, the longest first; without those that are no longer waited for."""
        self._open = 0
        self._changed = asyncio.Event()

    def open(self) -> Source[T]:
        """Add a source."""
        source = Source(self)
        self._open += 1
        self._silent[source] = asyncio.get_running_loop().time()
        return source

    def hold(self) -> None:
        """Do not end before `release`, even without a source."""
        self._open += 1

    def release(self) -> None:
        self._open -= 1
        self._changed.set()

    def is_waiting(self, source: Source[T]) -> None:
        """A source has an entry again."""
        self._silent.pop(source, None)
        assert source.first is not None  # noqa: S101 -- called by `put` alone, right after it added one
        heapq.heappush(self._heads, (source.first, next(self._numbers), source))
        self._changed.set()

    def forget(self, source: Source[T]) -> None:
        """A source has ended; what it has handed in is still given out."""
        self._silent.pop(source, None)
        self.release()

    async def take(self) -> T | None:
        """The next entry; None once all sources have ended."""
        while True:
            wait_s = self._wait_s()
            if self._heads and wait_s == 0:
                return self._take_first()
            if not self._heads and not self._open:
                return None
            self._changed.clear()
            try:
                async with asyncio.timeout(wait_s if self._heads else None):
                    await self._changed.wait()
            except TimeoutError:
                pass  # Someone's patience is over; look again.

    def _take_first(self) -> T:
        _, _, source = heapq.heappop(self._heads)
        entry = source.take()
        if source.first is not None:
            heapq.heappush(self._heads, (source.first, next(self._numbers), source))
        elif not source.has_ended:
            self._silent[source] = asyncio.get_running_loop().time()
        return entry

    def _wait_s(self) -> float | None:
        """How long there is a source to wait for; 0 if there is none."""
        if self._patience_s is None:
            return None if self._silent else 0
        now = asyncio.get_running_loop().time()
        while self._silent:
            source, since = next(iter(self._silent.items()))
            if since + self._patience_s > now:
                return since + self._patience_s - now
            del self._silent[source]
        return 0
