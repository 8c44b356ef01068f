"""Recorded histories of the store, checked: every read and write took effect at one moment; nothing is lost or doubled.

On etcd while members are killed, frozen and cut off, the leading one included; that is `make soak`.
"""

import asyncio
import contextlib
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from tests.etcd_members import BRISK, Members, running
from tests.linearizable import Kind, Operation, is_linearizable
from tests.segment import Machine, segment

from skep.edge.etcd.store import EtcdStore
from skep.edge.memory import MemoryStore
from skep.edge.sqlite import SqliteStore
from skep.ports.store import OutcomeUnknown, RowBatch, StaleVersion, Store, StoreUnavailable, Write

pytestmark = pytest.mark.anyio

KEYS = ("a", "b", "c")
SOAK_S = float(os.environ.get("SKEP_SOAK_SECONDS", "60"))


# --- the checker itself ----------------------------------------------------------


def read(called: float, returned: float, seen: str | None) -> Operation:
    return Operation(Kind.READ, called, returned, seen)


def swap(called: float, returned: float, seen: str | None, value: str, kind: Kind = Kind.SWAPPED) -> Operation:
    return Operation(kind, called, returned, seen, value)


@pytest.mark.parametrize(
    ("history", "is_sound"),
    [
        pytest.param([], True, id="nothing"),
        pytest.param([swap(0, 1, None, "x"), read(2, 3, "x")], True, id="write, then read"),
        pytest.param([swap(0, 1, None, "x"), read(2, 3, None)], False, id="a lost write"),
        pytest.param([swap(0, 5, None, "x"), read(1, 2, None), read(3, 4, "x")], True, id="during a write"),
        pytest.param([swap(0, 5, None, "x"), read(1, 2, "x"), read(3, 4, None)], False, id="a read goes back"),
        pytest.param([swap(0, 1, None, "x"), swap(0, 1, None, "y")], False, id="two winners"),
        pytest.param([swap(0, 1, None, "x"), swap(0, 1, None, "y", Kind.REFUSED)], True, id="winner and loser"),
        pytest.param([swap(0, 1, None, "x", Kind.REFUSED)], False, id="refused without reason"),
        pytest.param([swap(0, 1, None, "x", Kind.UNKNOWN), read(2, 3, None)], True, id="unknown, and never"),
        pytest.param([swap(0, 1, None, "x", Kind.UNKNOWN), read(8, 9, "x")], True, id="unknown, and late"),
        pytest.param(
            [swap(0, 1, None, "x", Kind.UNKNOWN), read(2, 3, "x"), read(4, 5, None)], False, id="unknown, and undone"
        ),
    ],
)
def test_the_checker_tells_sound_histories_from_others(history: list[Operation], is_sound: bool) -> None:
    assert is_linearizable(history) is is_sound


# --- recording -------------------------------------------------------------------


@dataclass
class Recorder:
    """Clients of one cluster's stores, and what they saw. Attributes: acked: revision by value."""

    seed: int
    histories: dict[str, list[Operation]] = field(default_factory=lambda: {key: [] for key in KEYS})
    acked: dict[str, int] = field(default_factory=dict)
    n_unknown: int = 0
    n_written: int = 0

    async def client(self, number: int, store: Store) -> None:
        """Read and write at random until cancelled."""
        dice = random.Random(self.seed * 100 + number)
        known: dict[str, tuple[str | None, int]] = dict.fromkeys(KEYS, (None, 0))
        while True:
            key = dice.choice(KEYS)
            if dice.random() < 0.4:
                await self._read(store, known)
            else:
                await self._write(store, key, known)
            await asyncio.sleep(dice.random() * 0.005)

    async def _read(self, store: Store, known: dict[str, tuple[str | None, int]]) -> None:
        called_at = asyncio.get_running_loop().time()
        try:
            rows = {row.id: row for row in (await store.load())[1]}
        except StoreUnavailable:
            return
        returned_at = asyncio.get_running_loop().time()
        for key in KEYS:
            value = rows[key].value.decode() if key in rows else None
            known[key] = (value, rows[key].version if key in rows else 0)
            self.histories[key].append(Operation(Kind.READ, called_at, returned_at, value))

    async def _write(self, store: Store, key: str, known: dict[str, tuple[str | None, int]]) -> None:
        seen, version = known[key]
        self.n_written += 1
        value = f"{key}{self.n_written}"
        called_at = asyncio.get_running_loop().time()
        try:
            revision = await store.commit([Write("task", key, value.encode(), version)])
        except asyncio.CancelledError:  # At the end; somebody may have read it all the same.
            self.histories[key].append(Operation(Kind.UNKNOWN, called_at, called_at, seen, value))
            raise
        except StaleVersion:
            kind = Kind.REFUSED
        except OutcomeUnknown:
            kind = Kind.UNKNOWN
            self.n_unknown += 1
        except StoreUnavailable:
            return
        else:
            kind = Kind.SWAPPED
            known[key] = (value, revision)
            self.acked[value] = revision
        returned_at = asyncio.get_running_loop().time()
        self.histories[key].append(Operation(kind, called_at, returned_at, seen, value))

    def check(self, told: list[RowBatch]) -> None:
        """Every history is sound, and the watch told each acknowledged write once, at its revision."""
        for key, history in self.histories.items():
            assert is_linearizable(history), f"seed {self.seed}: the history of {key} has no order: {_crux(history)}"
        at = [(event.value or b"", batch.revision) for batch in told for event in batch.events]
        told_at = {value.decode(): revision for value, revision in at}
        assert len(told_at) == len(at), "a write was told twice"
        assert {value: told_at.get(value) for value in self.acked} == self.acked


def _crux(history: list[Operation]) -> list[Operation]:
    """The last operations of the shortest beginning that has no order."""
    moments = sorted(each.returned_at for each in history)
    low, high = 0, len(moments) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if is_linearizable(_until(history, moments[middle])) else (low, middle)
    ended = [each for each in history if each.returned_at <= moments[low]]
    return sorted(ended, key=lambda each: each.returned_at)[-8:]


def _until(history: list[Operation], moment: float) -> list[Operation]:
    """What was seen by then; of writes under way it is not known whether they had taken effect."""
    ended = [each for each in history if each.returned_at <= moment]
    under_way = [each for each in history if each.called_at <= moment < each.returned_at and each.value is not None]
    return ended + [replace(each, kind=Kind.UNKNOWN) for each in under_way if each.kind is Kind.SWAPPED]


async def _follow(store: Store, told: list[RowBatch]) -> None:
    """Keep what the watch tells, over its breaks."""
    while True:
        after = told[-1].revision if told else 0
        with contextlib.suppress(StoreUnavailable):
            async for batch in store.watch(after):
                told.append(batch)


@contextlib.asynccontextmanager
async def recording(recorder: Recorder, stores: list[Store]) -> AsyncIterator[None]:
    """Clients at work on all stores; at the end everything they saw is checked."""
    told: list[RowBatch] = []
    clients = [asyncio.ensure_future(recorder.client(n, stores[n % len(stores)])) for n in range(9)]
    following = asyncio.ensure_future(_follow(stores[0], told))
    try:
        yield
        for client in clients:
            client.cancel()
        for outcome in await asyncio.gather(*clients, return_exceptions=True):
            assert isinstance(outcome, asyncio.CancelledError), repr(outcome)
        last = max(recorder.acked.values())
        async with asyncio.timeout(60):
            while not told or told[-1].revision < last:  # noqa: ASYNC110 — a list tells nobody
                await asyncio.sleep(0.05)
        recorder.check(told)
    finally:
        for task in (*clients, following):
            task.cancel()
        await asyncio.gather(*clients, following, return_exceptions=True)


def test_the_crux_of_a_history_is_where_it_loses_its_order() -> None:
    lost = read(4, 5, None)
    history = [swap(0, 1, None, "x"), read(2, 3, "x"), lost, swap(4, 9, "x", "y"), read(10, 11, "y")]
    assert _crux(history)[-1] == lost


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_a_store_in_this_process_is_linearizable(kind: str, tmp_path: Path) -> None:
    store: Store = MemoryStore() if kind == "memory" else await SqliteStore.open(tmp_path / "store.db")
    recorder = Recorder(1)
    try:
        async with recording(recorder, [store]):
            await asyncio.sleep(0.4)
    finally:
        await store.close()
    assert len(recorder.acked) > 10


async def _break(members: Members, machines: list[Machine], dice: random.Random) -> str:
    """One fault, and its end. A member that is cut off may still be reached by those who use it."""
    n = members.leader() if dice.random() < 0.5 else dice.randrange(3)
    kind = dice.choice(["killed", "frozen", "cut off", "cut off from members"])
    if kind == "killed":
        members.kill(n)
        await asyncio.sleep(dice.uniform(0.2, 2))
        members.launch(n)
    elif kind == "frozen":
        members.signal(n, signal.SIGSTOP)
        await asyncio.sleep(dice.uniform(0.5, 3))
        members.signal(n, signal.SIGCONT)
    else:
        others = [each for each in machines[:3] if each is not machines[n]]
        machines[n].cut_off(*(others if kind == "cut off from members" else []))
        await asyncio.sleep(dice.uniform(0.5, 3))
        machines[n].heal()
    return kind


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [1, 2])
async def test_etcd_is_linearizable_while_its_members_are_killed_frozen_and_cut_off(seed: int, tmp_path: Path) -> None:
    dice = random.Random(seed)
    recorder = Recorder(seed)
    faults: Counter[str] = Counter()
    with segment(3) as machines, machines[-1].inside(), running(tmp_path, 3, machines=machines[:3]) as members:
        stores: list[Store] = [
            await EtcdStore.open(members.target(n, (n + 1) % 3, (n + 2) % 3, patience=BRISK), "swarm", f"m{n}")
            for n in range(3)
        ]
        try:
            async with recording(recorder, stores):
                until = asyncio.get_running_loop().time() + SOAK_S
                while asyncio.get_running_loop().time() < until:
                    faults[await _break(members, machines, dice)] += 1
                    await asyncio.sleep(dice.uniform(0.5, 2.5))
        finally:
            for store in stores:
                await store.close()
    print(
        f"\nseed {seed}: {dict(faults)}, {sum(map(len, recorder.histories.values()))} operations, "
        f"{len(recorder.acked)} acknowledged, {recorder.n_unknown} of unknown outcome"
    )
    assert faults.total() >= SOAK_S / 10
    assert len(faults) == 4
    assert len(recorder.acked) > 100
