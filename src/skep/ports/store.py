"""The replicated store, as the managers see it.

Port. Rows are bytes under (kind, id); each carries the revision of its last write. One transaction is one revision.
Every adapter passes tests/contract/test_store.py.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

MAX_OPERATIONS = 120
"""etcd takes 128, and counts comparisons as it counts writes: the rest is for the lease and for receipts."""
MAX_BYTES = 1_500_000


class StoreError(Exception):
    """Base: the store did not do it, and nothing changed."""


class StaleVersion(StoreError):
    """A row is not at the version the transaction was based on. Attributes: kind, id."""

    def __init__(self, kind: str, id: str) -> None:
        super().__init__(f"{kind} {id} changed since it was read")
        self.kind = kind
        self.id = id


class LeaseLost(StoreError):
    """The writer is no longer the leader."""


class Compacted(StoreError):
    """The revision to watch from is gone: load again."""


class StoreUnavailable(StoreError):
    """The store cannot be reached or cannot write at present (no quorum, disk full): try again."""


class OutcomeUnknown(StoreUnavailable):
    """The store went away amid a transaction, which may or may not be written; the watch tells if it is.

    Later transactions of the same store wait until it is known, so that nothing builds on a state without it.
    """


class StoreLocked(StoreError):
    """Another process has the store open."""


class StoreDamaged(StoreError):
    """The store's files are not what was written: do not go on. The text says which and what to do."""


@dataclass(frozen=True, slots=True)
class Row:
    kind: str
    id: str
    value: bytes
    version: int


@dataclass(frozen=True, slots=True)
class Write:
    """Attributes: value: None deletes; expected_version: of the row now; 0 means it must not exist."""

    kind: str
    id: str
    value: bytes | None
    expected_version: int


def check_legal(writes: Sequence[Write]) -> None:
    """Refuse a transaction that no store takes: a mistake of the program, not of a user.

    Raises:
        ValueError: It is empty, too long, too large or writes a row twice.
    """
    if not 0 < len(writes) <= MAX_OPERATIONS:
        raise ValueError(f"a transaction has 1 to {MAX_OPERATIONS} writes, not {len(writes)}")
    if sum(len(write.value or b"") for write in writes) > MAX_BYTES:
        raise ValueError(f"a transaction has at most {MAX_BYTES} bytes")
    if len({(write.kind, write.id) for write in writes}) < len(writes):
        raise ValueError("a transaction writes each row at most once")


def transactions(writes: Sequence[Write], at_most: int = MAX_OPERATIONS) -> Iterator[Sequence[Write]]:
    """Cut writes, no row twice, into pieces a store takes, in order; `at_most`: writes in a piece."""
    start = size = 0
    for n, write in enumerate(writes):
        length = len(write.value or b"")
        if n > start and (n - start == at_most or size + length > MAX_BYTES):
            yield writes[start:n]
            start, size = n, 0
        size += length
    if start < len(writes):
        yield writes[start:]


@dataclass(frozen=True, slots=True)
class RowEvent:
    """Attributes: value: None for a deletion."""

    kind: str
    id: str
    value: bytes | None


@dataclass(frozen=True, slots=True)
class RowBatch:
    """All of one revision. One without events says only that the store has come so far."""

    revision: int
    events: Sequence[RowEvent]


class Store(Protocol):
    async def load(self) -> tuple[int, Sequence[Row]]:
        """Read everything: the revision and all rows as of it."""
        ...

    async def version(self, kind: str, id: str) -> int:
        """The version of a row now, 0 if there is none; every commit that has returned anywhere is in it.

        Raises:
            StoreUnavailable.
        """
        ...

    async def commit(self, writes: Sequence[Write], *, lease: str = "") -> int:
        """Write all or nothing, durably.

        Args:
            writes: At most MAX_OPERATIONS, at most MAX_BYTES together, no row twice.
            lease: The leader's lease; "" where no leader writes.
        Returns:
            The new revision. When this returns, a power cut does not lose it.
        Raises:
            StaleVersion, LeaseLost, StoreUnavailable: nothing was written.
            OutcomeUnknown: perhaps it was; never with a lease, because a leader must know before it decides again.
            StoreLocked: another daemon of the same name has taken the store over.
            ValueError: `check_legal` refuses it.
        """
        ...

    def watch(self, after: int) -> AsyncIterator[RowBatch]:
        """Follow every revision greater than `after`, in order, none left out.

        Raises:
            Compacted: while iterating, when `after` is too old.
        """
        ...

    async def close(self) -> None: ...
