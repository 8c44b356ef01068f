"""Copying the state between stores: complete, checked, and resumed wherever it was cut off."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.etcd_members import running

from skep.edge.etcd.store import EtcdStore
from skep.edge.memory import MemoryStore
from skep.edge.sqlite import SqliteStore
from skep.manager.store_copy import CopyDiffers, copy, differences
from skep.ports.store import MAX_BYTES, Row, Store, StoreDamaged, StoreUnavailable, Write, transactions

pytestmark = pytest.mark.anyio


async def contents(store: Store) -> dict[tuple[str, str], bytes]:
    return {(row.kind, row.id): row.value for row in (await store.load())[1]}


async def fill(store: Store, n_rows: int, *, size: int = 200) -> None:
    dice = random.Random(n_rows)
    kinds = ("task", "service", "node")
    rows = [Write(kinds[n % 3], f"id{n}", dice.randbytes(size), 0) for n in range(n_rows)]
    for part in transactions(rows):
        await store.commit(part)


class Flagging(MemoryStore):
    """Goes away after a number of transactions."""

    left = 1_000_000

    async def commit(self, writes: Sequence[Write], *, lease: str = "") -> int:
        if not self.left:
            raise StoreUnavailable("away")
        self.left -= 1
        return await super().commit(writes, lease=lease)


@pytest.mark.parametrize("n_rows", [0, 1, 500])
async def test_a_copy_holds_everything_and_is_done_once(n_rows: int) -> None:
    source, target = MemoryStore(), MemoryStore()
    await fill(source, n_rows)
    copied = await copy(source, target)
    assert (len(copied.rows), copied.n_written) == (n_rows, n_rows)
    assert await contents(target) == await contents(source)
    assert (await copy(source, target)).n_written == 0


async def test_large_objects_are_copied_in_legal_pieces() -> None:
    source, target = MemoryStore(), MemoryStore()
    await fill(source, 20, size=MAX_BYTES // 3)
    await copy(source, target)
    assert await contents(target) == await contents(source)


@pytest.mark.parametrize("n_done", range(6))
async def test_a_copy_cut_off_anywhere_is_finished_by_the_next(n_done: int) -> None:
    source, target = MemoryStore(), Flagging()
    await fill(source, 600)
    target.left = n_done
    try:
        await copy(source, target)
    except StoreUnavailable:
        assert n_done < 5
    target.left = 1_000_000
    assert len((await copy(source, target)).rows) == 600
    assert await contents(target) == await contents(source)


async def test_what_an_older_attempt_left_is_replaced_and_removed() -> None:
    source, target = MemoryStore(), MemoryStore()
    await fill(source, 10)
    await target.commit([Write("task", "id0", b"old", 0), Write("task", "gone", b"x", 0)])
    await copy(source, target)
    assert await contents(target) == await contents(source)


async def test_a_source_that_is_written_meanwhile_is_noticed() -> None:
    source = MemoryStore()
    await fill(source, 5)

    class Meddled(MemoryStore):
        async def commit(self, writes: Sequence[Write], *, lease: str = "") -> int:
            await source.commit([Write("task", "late", b"x", 0)])
            return await super().commit(writes, lease=lease)

    with pytest.raises(CopyDiffers, match="the source differs in 1 objects, first task late"):
        await copy(source, Meddled())


def test_a_store_that_tells_an_object_twice_is_damaged() -> None:
    row = Row("task", "a", b"x", 1)
    with pytest.raises(StoreDamaged):
        differences([], [row, row])
    with pytest.raises(StoreDamaged):
        differences([row, row], [])


async def test_sqlite_to_etcd_and_back(tmp_path: Path) -> None:
    with running(tmp_path, 1) as members:
        first = await SqliteStore.open(tmp_path / "first.db")
        etcd = await EtcdStore.open(members.target(), "swarm", "m0")
        second = await SqliteStore.open(tmp_path / "second.db")
        try:
            await fill(first, 1500, size=800)
            await copy(first, etcd)
            await copy(etcd, second)
            assert await contents(second) == await contents(etcd) == await contents(first)
        finally:
            for store in (first, etcd, second):
                await store.close()
