"""The assignment set a node holds, and its memory on disk.

Edge: one file. It is a log of deltas that begins with a full set, so remembering a change costs as much as the change;
it is rewritten as one full set when it has grown to several times that. Each record carries a length and a checksum;
what follows a torn or damaged record is ignored. Nothing waits for the disk: a daemon that is killed loses nothing that
was written, and after a power cut an older version, or none, is brought up to date by the manager.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import structlog

from skep.core.mesh.intent import NodeIntent, fold
from skep.model.assignment import Delta, Item, ItemKey, OverlayNetwork
from skep.model.base import Record
from skep.model.codec import MALFORMED

REWRITE_BYTES = 1_000_000
REWRITE_FACTOR = 3
TASK_PREFIX = "task/"
HEADER_BYTES = 8

log = structlog.get_logger(__name__)


class Entry(Record, frozen=True, kw_only=True):
    """One record of the log. Attributes: epoch: see `session.Welcome`."""

    epoch: str
    delta: Delta


@dataclass(frozen=True, slots=True)
class Change:
    """What a delta did. Attributes: put: new values; removed: keys that were held; is_full: it replaced everything."""

    put: Mapping[ItemKey, Item] = field(default_factory=dict)
    removed: Sequence[ItemKey] = ()
    is_full: bool = False


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Entry)


class AssignmentSet:
    """What the managers told this node last.

    Attributes:
        intent: Everything assigned, in tables by kind; its version is 0 while nothing is.
        epoch: What the versions are numbered by.
        dismissed: Ids of tasks the managers took away and of which something may remain here.
    """

    def __init__(self, path: Path, node_id: str) -> None:
        self._path = path
        self._node_id = node_id
        self.intent = NodeIntent(node_id=node_id)
        self.epoch = ""
        self.dismissed: set[str] = set()
        self._log_bytes = 0
        self._full_bytes = 0
        self._is_damaged = False

    @property
    def version(self) -> int:
        return self.intent.version

    def load(self) -> None:
        """Take over what an earlier daemon remembered; nothing if there is none or it is damaged."""
        try:
            raw = self._path.read_bytes()
        except FileNotFoundError:
            return
        good = 0
        for entry, end in _entries(raw):
            if entry.delta.base != 0 and not self._follows(entry.epoch, entry.delta):
                break
            self._apply(entry)
            good = end
        self._log_bytes = self._full_bytes = good
        self._is_damaged = good < len(raw)

    def take(self, epoch: str, delta: Delta) -> Change:
        """Hold a full set or a delta, and remember it.

        Raises:
            ValueError: The delta's base is not what is held.
        """
        if delta.base != 0 and not self._follows(epoch, delta):
            raise ValueError(f"a delta from version {delta.base} does not apply to version {self.version}")
        entry = Entry(epoch=epoch, delta=delta)
        change = self._apply(entry)
        try:
            self._remember(entry)
        except OSError as error:
            # The node goes on from memory; after a restart it asks the manager from the last version that was written.
            self._is_damaged = True
            log.warning("assignments cannot be written", path=str(self._path), error=str(error))
        return change

    def _follows(self, epoch: str, delta: Delta) -> bool:
        return self.version != 0 and delta.base == self.version and epoch == self.epoch

    def _apply(self, entry: Entry) -> Change:
        before, delta = self.intent, entry.delta
        is_full = delta.base == 0
        self.intent = fold(before, delta, self._node_id)
        put = {item.key: item for item in delta.put}
        gone = [key for key in _keys(before) if key not in put] if is_full else delta.remove
        self.dismissed |= {key.removeprefix(TASK_PREFIX) for key in (*gone, *delta.remove) if _is_task(key)}
        self.dismissed -= {item.task.id for item in self.intent.tasks.values()}
        self.epoch = entry.epoch
        return Change(put=put, removed=gone, is_full=is_full)

    def forget(self, task_id: str) -> None:
        """Nothing remains here of a dismissed task."""
        self.dismissed.discard(task_id)

    def network(self, network_id: str) -> OverlayNetwork | None:
        return self.intent.networks.get(f"network/{network_id}")

    @property
    def ingress_network_id(self) -> str:
        """Empty when there is none."""
        return self.intent.cluster.ingress_network_id if self.intent.cluster else ""

    def clear(self) -> None:
        """Hold nothing, and remember nothing."""
        self.intent, self.epoch, self.dismissed = NodeIntent(node_id=self._node_id), "", set()
        self._path.unlink(missing_ok=True)

    def _remember(self, entry: Entry) -> None:
        is_long = self._log_bytes > max(REWRITE_BYTES, REWRITE_FACTOR * self._full_bytes)
        if entry.delta.base == 0 or is_long or self._is_damaged:
            self._rewrite()
            return
        raw = _frame(entry)
        with self._path.open("ab") as file:
            file.write(raw)
        self._log_bytes += len(raw)

    def whole(self) -> Delta:
        """Everything held as one full set, with the dismissed tasks of which something may remain."""
        remove = [TASK_PREFIX + task_id for task_id in sorted(self.dismissed)]
        return Delta(base=0, version=self.version, put=_items(self.intent), remove=remove)

    def _rewrite(self) -> None:
        raw = _frame(Entry(epoch=self.epoch, delta=self.whole()))
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_suffix(".new")
        draft.write_bytes(raw)
        draft.replace(self._path)
        self._full_bytes = self._log_bytes = len(raw)
        self._is_damaged = False


def _items(intent: NodeIntent) -> list[Item]:
    tables = (intent.peers, intent.networks, intent.endpoints, intent.services, intent.published, intent.tasks)
    items: list[Item] = [item for table in tables for item in table.values()]
    return [intent.cluster, *items] if intent.cluster else items


def _keys(intent: NodeIntent) -> list[ItemKey]:
    return [item.key for item in _items(intent)]


def _is_task(key: ItemKey) -> bool:
    return key.startswith(TASK_PREFIX)


def _frame(entry: Entry) -> bytes:
    body = _encoder.encode(entry)
    return len(body).to_bytes(4, "big") + zlib.crc32(body).to_bytes(4, "big") + body


def _entries(raw: bytes) -> Sequence[tuple[Entry, int]]:
    """The undamaged records from the start, each with the offset of its end."""
    entries: list[tuple[Entry, int]] = []
    position = 0
    while position + HEADER_BYTES <= len(raw):
        length = int.from_bytes(raw[position : position + 4], "big")
        checksum = int.from_bytes(raw[position + 4 : position + 8], "big")
        body = raw[position + HEADER_BYTES : position + HEADER_BYTES + length]
        if len(body) != length or zlib.crc32(body) != checksum:
            break
        try:
            entry = _decoder.decode(body)
        except MALFORMED:
            break
        position += HEADER_BYTES + length
        entries.append((entry, position))
    return entries
