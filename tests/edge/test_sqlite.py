"""What the SQLite store adds to the port: durability, damage, locks, full disks."""

import asyncio
import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from skep.edge.changelog import ChangeLog
from skep.edge.sqlite import SqliteStore
from skep.edge.sqlite_file import StoreFile, checksum_of
from skep.ports.store import (
    Compacted,
    RowBatch,
    RowEvent,
    StoreDamaged,
    StoreError,
    StoreLocked,
    StoreUnavailable,
    Write,
)

pytestmark = pytest.mark.anyio

WRITER = textwrap.dedent("""
    import asyncio, sys
    from pathlib import Path
    from skep.edge.sqlite import SqliteStore
    from skep.ports.store import Write

    async def write(store, lane, first):
        for n in range(first, first + 100_000):
            name = f"{lane}-{n}"
            await store.commit([Write("task", f"{name}-{part}", bytes(200), 0) for part in "abc"])
            print(name, flush=True)

    async def main():
        store = await SqliteStore.open(Path(sys.argv[1]))
        await asyncio.gather(*(write(store, lane, int(sys.argv[2])) for lane in range(4)))

    asyncio.run(main())
""")


async def test_acknowledged_writes_survive_a_kill_and_others_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    acknowledged: set[str] = set()
    dice = random.Random(7)
    for round_number in range(20):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(round_number * 100_000)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            for _ in range(dice.randint(1, 60)):
                acknowledged.add(writer.stdout.readline().strip())
            writer.send_signal(signal.SIGKILL)
            acknowledged.update(line.strip() for line in writer.stdout if line.endswith("\n"))
        store = await SqliteStore.open(path, create=False)
        _, rows = await store.load()
        await store.close()
        parts: dict[str, set[str]] = {}
        for row in rows:
            name, _, part = row.id.rpartition("-")
            parts.setdefault(name, set()).add(part)
        assert acknowledged <= parts.keys()
        assert all(found == set("abc") for found in parts.values())
    assert len(acknowledged) > 100


async def test_revisions_go_on_after_a_restart_and_older_ones_are_compacted(tmp_path: Path) -> None:
    first = await SqliteStore.open(tmp_path / "store.db")
    revision = await first.commit([Write("task", "a", b"1", 0)])
    await first.close()
    second = await SqliteStore.open(tmp_path / "store.db", create=False)
    try:
        assert (await second.load())[0] == revision
        watch = second.watch(revision)
        assert await second.commit([Write("task", "a", b"2", revision)]) == revision + 1
        assert (await anext(watch)).revision == revision + 1
        with pytest.raises(Compacted):
            await anext(second.watch(revision - 1))
    finally:
        await second.close()


async def test_a_new_store_can_begin_at_a_revision_and_one_that_is_there_keeps_its_own(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    for begin_at, expected in ((1_000, 1_001), (5, 1_002)):
        store = await SqliteStore.open(path, begin_at=begin_at)
        try:
            assert (await store.load())[0] == expected - 1
            assert await store.commit([Write("task", f"t{expected}", b"x", 0)]) == expected
        finally:
            await store.close()


async def test_a_second_opener_is_refused_and_a_third_may_after_the_first_closed(tmp_path: Path) -> None:
    first = await SqliteStore.open(tmp_path / "store.db")
    with pytest.raises(StoreLocked, match="in use by another daemon"):
        await SqliteStore.open(tmp_path / "store.db")
    await first.commit([Write("task", "a", b"1", 0)])
    await first.close()
    third = await SqliteStore.open(tmp_path / "store.db")
    await third.close()


async def filled(path: Path) -> None:
    store = await SqliteStore.open(path)
    for n in range(40):
        await store.commit([Write("task", f"t{n}-{m}", os.urandom(300), 0) for m in range(5)])
    await store.close()


async def contents(path: Path) -> set[tuple[str, bytes]]:
    store = await SqliteStore.open(path, create=False)
    try:
        return {(row.id, row.value) for row in (await store.load())[1]}
    finally:
        await store.close()


@pytest.mark.parametrize("how", ["flip", "zero", "truncate"])
async def test_a_damaged_file_is_refused_and_never_served(tmp_path: Path, how: str) -> None:
    path = tmp_path / "store.db"
    await filled(path)
    good = path.read_bytes()
    truth = await contents(path)
    dice = random.Random(how)
    refused = 0
    for _ in range(60):
        bad = bytearray(good)
        offset = dice.randrange(len(good))
        if how == "flip":
            bad[offset] ^= 1 << dice.randrange(8)
        elif how == "zero":
            bad[offset : offset + 512] = bytes(len(bad[offset : offset + 512]))
        else:
            del bad[offset:]
        path.write_bytes(bad)
        try:
            assert await contents(path) == truth
        except StoreDamaged as error:
            refused += 1
            assert "restore" in str(error)  # noqa: PT017 # damage to unused bytes may rightly go unnoticed
        path.with_name("store.db-wal").unlink(missing_ok=True)
    assert refused > 40


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param("DELETE FROM object WHERE id = 't3'", id="a row vanished"),
        pytest.param(
            "UPDATE object SET (version, checksum, value) = (SELECT * FROM old) WHERE id = 't3'",
            id="a row from the past",
        ),
        pytest.param("UPDATE object SET value = 'text' WHERE id = 't3'", id="another type"),
        pytest.param("UPDATE object SET value = CAST(x'ff00' AS TEXT) WHERE id = 't3'", id="text that is none"),
        pytest.param("DELETE FROM summary", id="no summary"),
        pytest.param("PRAGMA user_version = 99", id="a newer format"),
        pytest.param("PRAGMA application_id = 99", id="another program's file"),
    ],
)
async def test_what_fits_sqlites_own_check_is_noticed_too(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "store.db"
    store = await SqliteStore.open(path)
    revision = await store.commit([Write("task", "t3", b"old", 0)])
    await store.commit([Write("task", "other", b"v", 0)])
    _, rows = await store.load()
    past = next(row for row in rows if row.id == "t3")
    await store.commit([Write("task", "t3", b"new", revision)])
    await store.close()
    with contextlib.closing(sqlite3.connect(path)) as database:
        checksum = checksum_of(past.kind, past.id, past.version, past.value)
        database.execute("CREATE TEMP TABLE old AS SELECT ?, ?, ?", (past.version, checksum, past.value))
        database.execute(damage)
        database.commit()
    with pytest.raises(StoreDamaged):
        await contents(path)


@pytest.mark.parametrize(
    ("main", "log"),
    [
        pytest.param(None, None, id="missing"),
        pytest.param(b"", None, id="empty"),
        pytest.param(b"", b"frames", id="empty with a log"),
        pytest.param(b"not a database, but long enough to be read as one" * 50, None, id="another file"),
    ],
)
async def test_what_is_not_a_store_is_damage_where_one_must_be(
    tmp_path: Path, main: bytes | None, log: bytes | None
) -> None:
    path = tmp_path / "store.db"
    if main is not None:
        path.write_bytes(main)
    if log is not None:
        path.with_name("store.db-wal").write_bytes(log)
    with pytest.raises(StoreDamaged):
        await SqliteStore.open(path, create=False)


async def test_a_directory_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="cannot be opened: No such file"):
        await SqliteStore.open(tmp_path / "nowhere" / "store.db")


async def test_a_copy_made_while_writing_is_a_store(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "store.db")
    writes = [asyncio.ensure_future(store.commit([Write("task", f"t{n}", b"v", 0)])) for n in range(200)]
    await writes[20]
    done_before = {f"t{n}" for n, write in enumerate(writes) if write.done()}
    await store.copy(tmp_path / "copy.db")
    await asyncio.gather(*writes)
    await store.close()
    assert done_before <= {id for id, _ in await contents(tmp_path / "copy.db")}


async def test_only_the_owner_reads_the_files(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "store.db")
    await store.commit([Write("task", "a", b"1", 0)])
    modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    await store.close()
    assert set(modes) == {"store.db", "store.db-wal", "store.db.lock"}
    assert set(modes.values()) == {0o600}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk]).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.kernel
async def test_a_full_disk_refuses_writes_with_the_reason_and_writing_resumes(small_disk: Path) -> None:
    store = await SqliteStore.open(small_disk / "store.db")
    kept: set[str] = set()
    try:
        with pytest.raises(StoreUnavailable, match="no space left"):  # noqa: PT012 # which write fails is the disk's choice
            for n in range(1_000):
                await store.commit([Write("task", f"t{n}", os.urandom(20_000), 0)])
                kept.add(f"t{n}")
        assert {row.id for row in (await store.load())[1]} == kept
        subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
        await store.commit([Write("task", "after", b"v", 0)])
    finally:
        await store.close()
    reopened = await SqliteStore.open(small_disk / "store.db", create=False)
    _, rows = await reopened.load()
    await reopened.close()
    assert {row.id for row in rows} == kept | {"after"}


class UnsyncedDatabase:
    """A connection whose disk fails the next sync."""

    in_transaction = False

    def __init__(self, real: sqlite3.Connection) -> None:
        self.real = real
        self.fails = 1

    def execute(self, statement: str, *arguments: object) -> sqlite3.Cursor:
        if statement == "COMMIT" and self.fails:
            self.fails -= 1
            self.real.execute("ROLLBACK")
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorname = "SQLITE_IOERR_FSYNC"
            raise error
        return self.real.execute(statement, *arguments)  # type: ignore[arg-type] # passed on as they came

    def close(self) -> None:
        self.real.close()


def test_after_a_failed_sync_nothing_is_written_until_a_restart(tmp_path: Path) -> None:
    file = StoreFile(tmp_path / "store.db")
    file._database = UnsyncedDatabase(file._database)  # type: ignore[assignment] # as much of one as is used
    for name in ("a", "b"):
        with pytest.raises(StoreDamaged, match="restart the daemon"):
            file.write([[Write("task", name, b"v", 0)]])
    file.close()
    reopened = StoreFile(tmp_path / "store.db", create=False)
    assert reopened.load() == (0, [])
    assert reopened.write([[Write("task", "a", b"v", 0)]]) == [1]
    reopened.close()


async def test_errors_of_sqlite_never_cross_the_port(tmp_path: Path) -> None:
    (tmp_path / "store.db").mkdir()
    with pytest.raises(StoreError):
        await SqliteStore.open(tmp_path / "store.db")


async def test_a_watcher_too_far_behind_is_told(tmp_path: Path) -> None:
    log = ChangeLog(0, max_batches=3, max_bytes=100)
    for revision in range(1, 6):
        log.append(RowBatch(revision, [RowEvent("task", "a", b"v")]))
    assert (await anext(log.follow(2))).revision == 3
    with pytest.raises(Compacted):
        await anext(log.follow(1))
    log.append(RowBatch(6, [RowEvent("task", "a", bytes(500))]))
    assert (await anext(log.follow(5))).revision == 6
    with pytest.raises(Compacted):
        await anext(log.follow(4))
