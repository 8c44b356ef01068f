"""What survives a daemon: the manager's store and a node's own memory.

Edge: asyncio on the simulated loop. The store answers late and may be killed before, between and after the write and
its answer. A node's memory survives its daemon always; what was not synced may be lost with the power.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from skep.agent.assignments import AssignmentSet, Entry
from skep.agent.records import RecordStore, TaskRecord
from skep.core.mesh.intent import NodeIntent
from skep.edge.memory import MemoryStore
from skep.model.base import Nanoseconds
from skep.ports.store import Row, RowBatch, RowEvent, StaleVersion, StoreUnavailable, Write
from skep.sim.loop import Process, SimLoop

MILLISECOND = 1_000_000


class StoreDisk:
    """The machine's side of the store.

    Attributes:
        refusal: Why it takes no writes now.
        write: How long one takes.
        on_commit, on_refusal: Told of what was written, and of what was to be.
    """

    def __init__(self, loop: SimLoop, dice: random.Random) -> None:
        self.loop = loop
        self.dice = dice
        self.inner = MemoryStore()
        self.refusal = ""
        self.write: tuple[Nanoseconds, Nanoseconds] = (MILLISECOND, 4 * MILLISECOND)
        self.on_commit: Callable[[RowBatch], None] = lambda batch: None
        self.on_refusal: Callable[[Sequence[Write]], None] = lambda writes: None


class SimStore:
    """One daemon's hold of the store. Implements `ports.store.Store`."""

    def __init__(self, disk: StoreDisk, process: Process) -> None:
        self._disk = disk
        self._process = process

    async def load(self) -> tuple[int, Sequence[Row]]:
        await self._disk.loop.sleep(MILLISECOND)
        return await self._disk.inner.load()

    async def version(self, kind: str, id: str) -> int:
        await self._disk.loop.sleep(MILLISECOND)
        return await self._disk.inner.version(kind, id)

    async def commit(self, writes: Sequence[Write], *, lease: str = "") -> int:
        disk = self._disk
        await disk.loop.sleep(disk.dice.randint(*disk.write))
        self._process.check()
        if disk.refusal:
            disk.on_refusal(writes)
            raise StoreUnavailable(disk.refusal)
        try:
            revision = await disk.inner.commit(writes, lease=lease)
        except StaleVersion:
            disk.on_refusal(writes)
            raise
        disk.on_commit(RowBatch(revision, [RowEvent(write.kind, write.id, write.value) for write in writes]))
        if disk.dice.random() < 0.3:  # The watch may bring the batch before the answer comes, or after it.
            await disk.loop.sleep(disk.dice.randint(0, 2 * MILLISECOND))
        return revision

    async def watch(self, after: int) -> AsyncIterator[RowBatch]:
        async for batch in self._disk.inner.watch(after):
            if self._disk.dice.random() < 0.2:
                await self._disk.loop.sleep(self._disk.dice.randint(0, 2 * MILLISECOND))
            yield batch

    async def close(self) -> None:
        await asyncio.sleep(0)


class NodeDisk:
    """A node's own files. Attributes: entries: the assignment log; records: by task; synced: what power cannot cost."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.entries: list[Entry] = []
        self.records: dict[str, TaskRecord] = {}
        self.synced: dict[str, TaskRecord] = {}

    def power_cut(self) -> None:
        """Lose some of what nobody waited for: the end of the log, and records since their last sync."""
        if self.dice.random() < 0.5:
            keep = self.dice.randint(0, len(self.entries))
            self.entries = self.entries[:keep]
            self.records = dict(self.synced)


class DiskRecords(RecordStore):
    """Task records on a `NodeDisk`, for one daemon."""

    def __init__(self, disk: NodeDisk, process: Process, node_id: str) -> None:
        super().__init__(Path("/sim") / node_id)
        self._disk = disk
        self._process = process

    def load(self, task_id: str) -> TaskRecord | None:
        return self._disk.records.get(task_id)

    def save(self, task_id: str, record: TaskRecord, *, sync: bool = False) -> None:
        self._process.check()
        self._disk.records[task_id] = record
        if sync:
            self._disk.synced[task_id] = record

    def write(self, task_id: str, name: str, content: bytes, *, sync: bool = False, in_place: bool = False) -> Path:
        return self.path(task_id) / name

    def remove(self, task_id: str) -> None:
        self._process.check()
        self._disk.records.pop(task_id, None)
        self._disk.synced.pop(task_id, None)

    def task_ids(self) -> Sequence[str]:
        return sorted(self._disk.records)

    def clear(self) -> None:
        self._process.check()
        self._disk.records.clear()
        self._disk.synced.clear()


class DiskAssignments(AssignmentSet):
    """The assignment log on a `NodeDisk`, for one daemon."""

    def __init__(self, disk: NodeDisk, process: Process, node_id: str) -> None:
        super().__init__(Path("/sim") / node_id / "assignments", node_id)
        self._disk = disk
        self._process = process

    def load(self) -> None:
        good: list[Entry] = []
        for entry in self._disk.entries:
            if entry.delta.base != 0 and not self._follows(entry.epoch, entry.delta):
                break
            self._apply(entry)
            good.append(entry)
        self._disk.entries = good

    def clear(self) -> None:
        self._process.check()
        self.intent, self.epoch, self.dismissed = NodeIntent(node_id=self._node_id), "", set()
        self._disk.entries = []

    def _remember(self, entry: Entry) -> None:
        self._process.check()
        if entry.delta.base == 0 or len(self._disk.entries) > 200:
            self._disk.entries = [Entry(epoch=self.epoch, delta=self.whole())]
        else:
            self._disk.entries.append(entry)
