"""A store with revisions that go on where the store before it ended.

Edge: only through the store and the leadership it wraps. A swarm whose state moves to another store keeps its numbers
rising: clients hold versions of objects, and services carry the revision of their spec.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from skep.ports.leadership import Candidate, Leader, Term
from skep.ports.store import Compacted, Row, RowBatch, StaleVersion, Store, Write


class RebasedStore:
    """Implements `ports.store.Store`: another one's, with every revision `base` higher."""

    def __init__(self, store: Store, base: int) -> None:
        self._store = store
        self._base = base

    async def load(self) -> tuple[int, Sequence[Row]]:
        revision, rows = await self._store.load()
        return revision + self._base, [replace(row, version=row.version + self._base) for row in rows]

    async def version(self, kind: str, id: str) -> int:
        found = await self._store.version(kind, id)
        return found + self._base if found else 0

    async def commit(self, writes: Sequence[Write], *, lease: str = "") -> int:
        for write in writes:
            if 0 < write.expected_version <= self._base:  # Read before the move: there is a later one.
                raise StaleVersion(write.kind, write.id)
        moved = [
            replace(write, expected_version=write.expected_version - self._base) if write.expected_version else write
            for write in writes
        ]
        return await self._store.commit(moved, lease=lease) + self._base

    def watch(self, after: int) -> AsyncIterator[RowBatch]:
        if after < self._base:
            raise Compacted("that revision is of the store before this one: load again")
        return self._moved(self._store.watch(after - self._base))

    async def close(self) -> None:
        await self._store.close()

    async def _moved(self, batches: AsyncIterator[RowBatch]) -> AsyncIterator[RowBatch]:
        async for batch in batches:
            yield replace(batch, revision=batch.revision + self._base)


class RebasedTerm:
    """Implements `ports.leadership.Term`."""

    def __init__(self, term: Term, base: int) -> None:
        self.lease = term.lease
        self.revision = term.revision + base
        self._term = term

    async def wait_lost(self) -> None:
        await self._term.wait_lost()

    async def hold(self, length_s: float) -> None:
        await self._term.hold(length_s)

    async def resign(self) -> None:
        await self._term.resign()


class RebasedCandidate:
    """Implements `ports.leadership.Candidate`."""

    def __init__(self, candidate: Candidate, base: int) -> None:
        self._candidate = candidate
        self._base = base

    async def win(self) -> Term:
        return RebasedTerm(await self._candidate.win(), self._base)

    async def leader(self) -> Leader | None:
        return await self._candidate.leader()

    async def depose(self, leader: Leader) -> None:
        await self._candidate.depose(leader)

    async def close(self) -> None:
        await self._candidate.close()
