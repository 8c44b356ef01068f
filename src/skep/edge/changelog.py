"""The recent transactions of a store that lives in this process, for its watchers.

Edge: asyncio only. Bounded in revisions and bytes: a watcher that falls behind, or that asks for what was before the
store was opened, is told `Compacted` and loads again. Revisions have no gaps here.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from skep.ports.store import Compacted, RowBatch, StoreUnavailable

MAX_BATCHES: Final = 8_192
MAX_BYTES: Final = 16_000_000


def _size(batch: RowBatch) -> int:
    return sum(len(event.value or b"") for event in batch.events)


class ChangeLog:
    """The last transactions, and who waits for the next."""

    def __init__(self, revision: int, *, max_batches: int = MAX_BATCHES, max_bytes: int = MAX_BYTES) -> None:
        self._compacted = revision
        self._batches: dict[int, RowBatch] = {}
        self._bytes = 0
        self._max_batches = max_batches
        self._max_bytes = max_bytes
        self._grown = asyncio.Event()
        self._is_closed = False

    def append(self, batch: RowBatch) -> None:
        """Add the next revision and wake everyone who waits for it."""
        self._batches[batch.revision] = batch
        self._bytes += _size(batch)
        while len(self._batches) > self._max_batches or (self._bytes > self._max_bytes and len(self._batches) > 1):
            self._compacted += 1
            self._bytes -= _size(self._batches.pop(self._compacted))
        self._wake()

    def close(self) -> None:
        self._is_closed = True
        self._wake()

    async def follow(self, after: int) -> AsyncIterator[RowBatch]:
        """See `Store.watch`."""
        while True:
            if after < self._compacted:
                raise Compacted(f"revision {after + 1} is no longer kept, only {self._compacted + 1} and later")
            batch = self._batches.get(after + 1)
            if batch is not None:
                after += 1
                yield batch
            elif self._is_closed:
                raise StoreUnavailable("the store is closed")
            else:
                await self._grown.wait()

    def _wake(self) -> None:
        self._grown.set()
        self._grown = asyncio.Event()
