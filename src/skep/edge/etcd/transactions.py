"""One transaction as etcd is asked for it, and what its answer means.

Pure. Three comparisons guard the rows': the writer's epoch (no newer daemon of the same manager has taken over), the
leader's term (it still leads), and the lane's receipt. A receipt is a key that each transaction of a lane replaces
and compares. So a transaction may be sent again after a break, any number of times and to any member: it takes place
at most once, and its receipt says whether it did.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from skep.edge.etcd import wire
from skep.edge.etcd.keys import Keys
from skep.ports.store import LeaseLost, StaleVersion, StoreLocked, Write


@dataclass(frozen=True, slots=True)
class Writer:
    """Attributes: name: the manager's; epoch: the revision at which this daemon took over its writing."""

    keys: Keys
    name: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a transaction leaves. Attributes: known: the revision the key is expected at; token: its new value."""

    key: bytes
    known: int
    token: bytes


@dataclass(frozen=True, slots=True)
class Moved:
    """Attributes: known: the revision the lane's receipt is at now."""

    known: int


Outcome = int | StaleVersion | LeaseLost | StoreLocked | Moved


def opening(keys: Keys, writer: str) -> wire.Txn:
    """Take over a manager's writing: whatever an earlier daemon of it has under way can land no more."""
    receipts = keys.receipts(writer)
    return wire.Txn(
        success=[
            wire.RequestOp(request_put=wire.Put(keys.epoch(writer))),
            wire.RequestOp(request_delete_range=wire.DeleteRange(receipts, wire.prefix_end(receipts))),
        ]
    )


def transaction(writer: Writer, writes: Sequence[Write], term: int, receipt: Receipt) -> wire.Txn:
    """Spell a transaction.

    Args:
        term: The leader's, which is the revision at which its key was created; 0 where no leader writes.
    """
    keys = writer.keys
    rows = [keys.row(write.kind, write.id) for write in writes]
    compared = [receipt.key, keys.epoch(writer.name), *([keys.leader] if term else []), *rows]
    compare = [_unchanged(receipt.key, receipt.known), _unchanged(keys.epoch(writer.name), writer.epoch)]
    if term:
        compare.append(wire.Compare(keys.leader, "CREATE", create_revision=term))
    compare.extend(_unchanged(row, write.expected_version) for row, write in zip(rows, writes, strict=True))
    return wire.Txn(
        compare=compare,
        success=[
            wire.RequestOp(request_put=wire.Put(receipt.key, receipt.token)),
            *(_write(row, write.value) for row, write in zip(rows, writes, strict=True)),
        ],
        failure=[_look(key, with_value=key == receipt.key) for key in compared],
    )


def void(writer: Writer, receipt: Receipt) -> wire.Txn:
    """Make sure that a transaction which has not taken place never will."""
    epoch = writer.keys.epoch(writer.name)
    return wire.Txn(
        compare=[_unchanged(receipt.key, receipt.known), _unchanged(epoch, writer.epoch)],
        success=[wire.RequestOp(request_put=wire.Put(receipt.key, b"void"))],
        failure=[_look(receipt.key, with_value=True), _look(epoch, with_value=False)],
    )


def outcome(writer: Writer, writes: Sequence[Write], term: int, receipt: Receipt, answer: wire.TxnAnswer) -> Outcome:
    """What an answer to `transaction` means: its revision, why it was refused for good, or that the lane has moved."""
    if answer.succeeded:
        return answer.header.revision
    kept, epoch, *rest = _found(answer)
    if kept is not None and kept.value == receipt.token:
        return kept.mod_revision  # An earlier attempt did it, and its answer was lost.
    if _revision(epoch) != writer.epoch:
        return _taken_over(writer)
    if term:
        leader, *rest = rest
        if leader is None or leader.create_revision != term:
            return LeaseLost("this manager is no longer the leader")
    for write, row in zip(writes, rest, strict=True):
        if _revision(row) != write.expected_version:
            return StaleVersion(write.kind, write.id)
    return Moved(_revision(kept))


def voided(writer: Writer, receipt: Receipt, answer: wire.TxnAnswer) -> int | StoreLocked | None:
    """What an answer to `void` means: the revision of the transaction if it has taken place after all, else None."""
    if answer.succeeded:
        return None
    kept, epoch = _found(answer)
    if kept is not None and kept.value == receipt.token:
        return kept.mod_revision
    return None if _revision(epoch) == writer.epoch else _taken_over(writer)


def _taken_over(writer: Writer) -> StoreLocked:
    return StoreLocked(f"another daemon of the manager {writer.name} has taken over: stop one of the two")


def _found(answer: wire.TxnAnswer) -> list[wire.KeyValue | None]:
    """What was looked at, in the order of the question."""
    kvs = [response.response_range.kvs for response in answer.responses]
    return [kv[0] if kv else None for kv in kvs]


def _revision(found: wire.KeyValue | None) -> int:
    return found.mod_revision if found is not None else 0


def _unchanged(key: bytes, revision: int) -> wire.Compare:
    return wire.Compare(key, "MOD", mod_revision=revision)


def _look(key: bytes, *, with_value: bool) -> wire.RequestOp:
    return wire.RequestOp(request_range=wire.Range(key, keys_only=not with_value))


def _write(row: bytes, value: bytes | None) -> wire.RequestOp:
    if value is None:
        return wire.RequestOp(request_delete_range=wire.DeleteRange(row))
    return wire.RequestOp(request_put=wire.Put(row, value))
