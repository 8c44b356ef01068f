"""The store port in memory: for tests, simulations and trying things out. Nothing outlives the process.

Edge: asyncio only.
"""

from collections.abc import AsyncIterator, Sequence

from skep.edge.changelog import ChangeLog
from skep.ports.store import (
    LeaseLost,
    Row,
    RowBatch,
    RowEvent,
    StaleVersion,
    StoreUnavailable,
    Write,
    check_legal,
)


class MemoryStore:
    """Implements `ports.store.Store`.

    Attributes:
        leader_lease: The lease in force; None accepts every writer. For tests of fencing.
        refusal: While set, commits are refused with this sentence. For tests of a store that is away.
    """

    def __init__(self) -> None:
        self.leader_lease: str | None = None
        self.refusal: str | None = None
        self._revision = 0
        self._rows: dict[tuple[str, str], Row] = {}
        self._log = ChangeLog(0)
        self._is_closed = False

    async def load(self) -> tuple[int, Sequence[Row]]:
        self._check_open()
        return self._revision, tuple(self._rows.values())

    async def version(self, kind: str, id: str) -> int:
        self._check_open()
        row = self._rows.get((kind, id))
        return row.version if row is not None else 0

    async def commit(self, writes: Sequence[Write], *, lease: str = "") -> int:
        check_legal(writes)
        self._check_open()
        if self.refusal is not None:
            raise StoreUnavailable(self.refusal)
        if lease and self.leader_lease is not None and lease != self.leader_lease:
            raise LeaseLost("this manager is no longer the leader")
        for write in writes:
            row = self._rows.get((write.kind, write.id))
            if (row.version if row else 0) != write.expected_version:
                raise StaleVersion(write.kind, write.id)
        self._revision += 1
        for write in writes:
            if write.value is None:
                self._rows.pop((write.kind, write.id), None)
            else:
                self._rows[write.kind, write.id] = Row(write.kind, write.id, write.value, self._revision)
        self._log.append(RowBatch(self._revision, [RowEvent(w.kind, w.id, w.value) for w in writes]))
        return self._revision

    def watch(self, after: int) -> AsyncIterator[RowBatch]:
        return self._log.follow(after)

    async def close(self) -> None:
        self._is_closed = True
        self._log.close()

    def _check_open(self) -> None:
        if self._is_closed:
            raise StoreUnavailable("the store is closed")
