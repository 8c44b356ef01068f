"""What every adapter of the store port keeps to."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.etcd_members import Members, running

from skep.edge.etcd.store import EtcdStore
from skep.edge.memory import MemoryStore
from skep.edge.rebase import RebasedStore
from skep.edge.sqlite import SqliteStore
from skep.ports.store import (
    MAX_BYTES,
    MAX_OPERATIONS,
    Compacted,
    Row,
    RowBatch,
    RowEvent,
    StaleVersion,
    Store,
    StoreUnavailable,
    Write,
)

pytestmark = pytest.mark.anyio


_clusters = itertools.count()


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Members]]:
    """Started when first asked for: one member without TLS, as an external one may be, or three as of managers."""
    with ExitStack() as stack:
        started: dict[str, Members] = {}

        def members(kind: str) -> Members:
            if kind not in started:
                directory = tmp_path_factory.mktemp(kind)
                n_members = 3 if kind == "etcd-3" else 1
                started[kind] = stack.enter_context(running(directory, n_members, is_plain=kind == "etcd-1"))
            return started[kind]

        yield members


@pytest.fixture(params=["memory", "rebased", "sqlite", "etcd-1", "etcd-3"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, etcd: Callable[[str], Members]) -> AsyncIterator[Store]:
    opened: Store
    match request.param:
        case "memory":
            opened = MemoryStore()
        case "rebased":
            opened = RebasedStore(MemoryStore(), 1_000)
        case "sqlite":
            opened = await SqliteStore.open(tmp_path / "store.db")
        case kind:
            opened = await EtcdStore.open(etcd(kind).target(), f"cluster-{next(_clusters)}", "m0")
    yield opened
    await opened.close()


def put(id: str, value: bytes = b"v", at: int = 0) -> Write:
    return Write("task", id, value, at)


def delete(id: str, at: int) -> Write:
    return Write("task", id, None, at)


async def take(watch: AsyncIterator[RowBatch], n: int) -> list[RowBatch]:
    async with asyncio.timeout(10):
        return [await anext(watch) for _ in range(n)]


async def test_a_new_store_is_empty(store: Store) -> None:
    revision, rows = await store.load()
    assert list(rows) == []
    assert isinstance(revision, int)


async def test_the_version_of_one_row_is_known(store: Store) -> None:
    assert await store.version("task", "a") == 0
    first = await store.commit([put("a")])
    await store.commit([put("b")])
    assert await store.version("task", "a") == first
    second = await store.commit([put("a", at=first)])
    assert await store.version("task", "a") == second
    await store.commit([delete("a", second)])
    assert await store.version("task", "a") == 0


async def test_what_was_committed_is_loaded_with_its_revision(store: Store) -> None:
    first = await store.commit([put("a", b"1"), Write("node", "a", b"2", 0)])
    second = await store.commit([put("b", b"3")])
    revision, rows = await store.load()
    assert first < second == revision
    assert sorted(rows, key=lambda row: (row.kind, row.id)) == [
        Row("node", "a", b"2", first),
        Row("task", "a", b"1", first),
        Row("task", "b", b"3", second),
    ]


async def test_a_row_is_replaced_and_deleted_at_its_version(store: Store) -> None:
    first = await store.commit([put("a", b"1")])
    second = await store.commit([put("a", b"2", first)])
    assert list((await store.load())[1]) == [Row("task", "a", b"2", second)]
    await store.commit([delete("a", second)])
    assert list((await store.load())[1]) == []


@pytest.mark.parametrize(
    "writes",
    [
        pytest.param([put("a", b"2", 0)], id="create what exists"),
        pytest.param([put("a", b"2", 999_999)], id="replace at another version"),
        pytest.param([put("new", b"2", 1)], id="replace what is not there"),
        pytest.param([delete("a", 999_999)], id="delete at another version"),
        pytest.param([delete("gone", 1)], id="delete what is not there"),
        pytest.param([put("b"), put("c"), put("a", b"2", 0)], id="the last of several"),
        pytest.param([put("a", b"2", 0), put("b"), put("c")], id="the first of several"),
    ],
)
async def test_a_stale_version_refuses_the_whole_transaction(store: Store, writes: list[Write]) -> None:
    await store.commit([put("filler")])
    await store.commit([put("a", b"1")])
    before = await store.load()
    with pytest.raises(StaleVersion) as caught:
        await store.commit(writes)
    assert caught.value.id in ("a", "new", "gone")
    after = await store.load()
    assert after[0] == before[0]
    assert list(after[1]) == list(before[1])


async def test_exactly_one_of_many_concurrent_writers_wins_a_row(store: Store) -> None:
    version = await store.commit([put("a", b"0")])
    outcomes = await asyncio.gather(
        *(store.commit([put("a", str(n).encode(), version), put(f"by-{n}")]) for n in range(40)),
        return_exceptions=True,
    )
    won = [outcome for outcome in outcomes if isinstance(outcome, int)]
    assert len(won) == 1
    assert sum(isinstance(outcome, StaleVersion) for outcome in outcomes) == 39
    assert len((await store.load())[1]) == 2


async def test_concurrent_commits_get_revisions_of_their_own(store: Store) -> None:
    start = (await store.load())[0]
    watch = store.watch(start)
    revisions = await asyncio.gather(*(store.commit([put(f"t{n}"), put(f"u{n}")]) for n in range(100)))
    assert len(set(revisions)) == 100
    batches = await take(watch, 100)
    assert [batch.revision for batch in batches] == sorted(revisions)
    for n, revision in enumerate(revisions):
        batch = next(batch for batch in batches if batch.revision == revision)
        assert {event.id for event in batch.events} == {f"t{n}", f"u{n}"}


async def test_a_watch_follows_from_any_kept_revision(store: Store) -> None:
    start = (await store.load())[0]
    first = await store.commit([put("a", b"1"), put("b", b"2")])
    second = await store.commit([put("a", b"3", first), delete("b", first)])
    assert await take(store.watch(start), 2) == [
        RowBatch(first, [RowEvent("task", "a", b"1"), RowEvent("task", "b", b"2")]),
        RowBatch(second, [RowEvent("task", "a", b"3"), RowEvent("task", "b", None)]),
    ]
    assert [batch.revision for batch in await take(store.watch(first), 1)] == [second]


async def test_a_watch_waits_for_what_comes(store: Store) -> None:
    watch = store.watch((await store.load())[0])
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    revision = await store.commit([put("a")])
    async with asyncio.timeout(10):
        assert (await waiting).revision == revision


async def test_a_refused_transaction_is_not_watched(store: Store) -> None:
    start = (await store.load())[0]
    await store.commit([put("a")])
    with pytest.raises(StaleVersion):
        await store.commit([put("a")])
    last = await store.commit([put("b")])
    assert [batch.revision for batch in await take(store.watch(start), 2)][-1] == last


async def test_many_watchers_see_the_same(store: Store) -> None:
    start = (await store.load())[0]
    watches = [store.watch(start) for _ in range(20)]
    for n in range(10):
        await store.commit([put(f"t{n}")])
    seen = await asyncio.gather(*(take(watch, 10) for watch in watches))
    assert all(batches == seen[0] for batches in seen)


async def test_a_watch_from_a_revision_before_the_log_is_compacted(store: Store) -> None:
    await store.commit([put("a")])
    with pytest.raises(Compacted):
        await take(store.watch(-1_000_000), 1)


@pytest.mark.parametrize(
    "writes",
    [
        pytest.param([], id="nothing"),
        pytest.param([put(f"t{n}") for n in range(MAX_OPERATIONS + 1)], id="too many"),
        pytest.param([put("a", b"x" * (MAX_BYTES + 1))], id="too large"),
        pytest.param([put("a"), put("a")], id="one row twice"),
    ],
)
async def test_an_illegal_transaction_is_the_programs_mistake(store: Store, writes: list[Write]) -> None:
    with pytest.raises(ValueError, match="transaction"):
        await store.commit(writes)
    assert list((await store.load())[1]) == []


async def test_the_largest_legal_transaction_is_taken(store: Store) -> None:
    value = b"x" * (MAX_BYTES // MAX_OPERATIONS)
    await store.commit([put(f"t{n}", value) for n in range(MAX_OPERATIONS)])
    assert {row.value for row in (await store.load())[1]} == {value}


async def test_a_closed_store_refuses(store: Store) -> None:
    watch = store.watch((await store.load())[0])
    await store.commit([put("a")])
    await store.close()
    await store.close()
    with pytest.raises(StoreUnavailable):
        await store.commit([put("b")])
    with pytest.raises(StoreUnavailable):
        await store.load()
    assert len(await take(watch, 1)) == 1
    with pytest.raises(StoreUnavailable):
        await take(watch, 1)


async def test_a_cancelled_caller_disturbs_no_other(store: Store) -> None:
    first = asyncio.ensure_future(store.commit([put("a")]))
    second = asyncio.ensure_future(store.commit([put("b")]))
    await asyncio.sleep(0)
    first.cancel()
    async with asyncio.timeout(10):
        await second
    await asyncio.gather(first, return_exceptions=True)
    assert "b" in {row.id for row in (await store.load())[1]}
