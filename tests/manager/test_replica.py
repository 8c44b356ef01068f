"""The replica: what is committed here or elsewhere reaches the view, the observers and the subscribers, in order."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from tests.factories import a_cluster, a_node, a_service, a_task

from skep.edge.memory import MemoryStore
from skep.edge.rebase import RebasedStore
from skep.edge.sqlite import SqliteStore
from skep.manager import replica as replicas
from skep.manager import store_copy
from skep.manager.replica import Replica
from skep.model.base import Nanoseconds, Object
from skep.model.errors import NoQuorum, OutOfDate
from skep.ports.store import MAX_OPERATIONS, Compacted, RowBatch, Store, StoreDamaged, Write
from skep.store.changes import Batch, Change, Delete, Put

pytestmark = pytest.mark.anyio


class SteppingClock:
    """A clock that moves a second each time it is read; sleeping only yields."""

    def __init__(self) -> None:
        self.moment = 1_000_000_000

    def now(self) -> Nanoseconds:
        self.moment += 1_000_000_000
        return self.moment

    async def sleep(self, length: Nanoseconds) -> None:
        await asyncio.sleep(0)


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    opened: Store = MemoryStore() if request.param == "memory" else await SqliteStore.open(tmp_path / "store.db")
    yield opened
    await opened.close()


@pytest.fixture
async def replica(store: Store) -> AsyncIterator[Replica]:
    opened = Replica(store, SteppingClock())
    await opened.open()
    yield opened
    await opened.close()


def put(*values: Object) -> Sequence[Change]:
    return [Put(value) for value in values]


async def reach(replica: Replica, revision: int) -> None:
    watch = replica.watch()
    async with asyncio.timeout(10):
        while replica.view.revision < revision:
            await anext(watch)


async def test_a_commit_returns_when_the_view_has_it(replica: Replica) -> None:
    batch = await replica.commit(put(a_cluster(), a_node("n1")))
    node = replica.view.nodes.get("n1")
    assert node is not None
    assert replica.view.cluster is not None
    assert node.version == batch.revision == replica.view.revision
    assert [(event.kind, event.old, event.new) for event in batch.events] == [
        ("cluster", None, replica.view.cluster),
        ("node", None, node),
    ]


async def test_moments_are_stamped_and_creation_is_kept(replica: Replica) -> None:
    await replica.commit(put(a_service("web")))
    first = replica.view.services.get("web")
    assert first is not None
    assert first.created_at == first.updated_at > 0
    await replica.commit(put(first))
    second = replica.view.services.get("web")
    assert second is not None
    assert second.created_at == first.created_at
    assert second.updated_at > first.updated_at


async def test_a_stale_change_is_out_of_date_and_changes_nothing(replica: Replica) -> None:
    await replica.commit(put(a_service("web")))
    old = replica.view.services.get("web")
    assert old is not None
    await replica.commit(put(old))
    with pytest.raises(OutOfDate, match="update out of sequence"):
        await replica.commit([Put(a_node("n1")), Put(old)])
    assert "n1" not in replica.view.nodes


async def test_a_large_plan_is_cut_into_prefixes(replica: Replica) -> None:
    seen: list[Batch] = []
    replica.observers.append(seen.append)
    tasks = [a_task(f"t{n}") for n in range(2 * MAX_OPERATIONS + 5)]
    batch = await replica.commit(put(*tasks))
    assert [len(part.events) for part in seen] == [MAX_OPERATIONS, MAX_OPERATIONS, 5]
    assert [event.id for event in batch.events] == [task.id for task in tasks]
    assert len(replica.view.tasks) == len(tasks)


async def test_bytes_cut_a_plan_too(replica: Replica) -> None:
    seen: list[Batch] = []
    replica.observers.append(seen.append)
    await replica.commit(put(*(a_service(f"s{n}", labels={"big": "x" * 400_000}) for n in range(8))))
    assert [len(part.events) for part in seen] == [3, 3, 2]


async def test_nothing_to_commit_writes_nothing(replica: Replica) -> None:
    assert await replica.commit([]) == Batch(replica.view.revision, [])


async def test_two_replicas_of_one_store_agree(store: Store, replica: Replica) -> None:
    other = Replica(store, SteppingClock())
    await other.open()
    try:
        await asyncio.gather(
            *(one.commit(put(a_task(f"{name}{n}"))) for name, one in (("a", replica), ("b", other)) for n in range(30))
        )
        revision = (await store.load())[0]
        await reach(replica, revision)
        await reach(other, revision)
        assert dict(replica.view.tasks.rows) == dict(other.view.tasks.rows)
        assert len(other.view.tasks) == 60
    finally:
        await other.close()


async def test_what_was_there_before_is_loaded_with_its_versions(store: Store, replica: Replica) -> None:
    first = await replica.commit(put(a_node("n1")))
    await replica.commit(put(a_node("n2")))
    later = Replica(store, SteppingClock())
    await later.open()
    await later.close()
    node = later.view.nodes.get("n1")
    assert node is not None
    assert node.version == first.revision
    assert later.view.revision == replica.view.revision


async def test_subscribers_and_observers_hear_everything_in_order(replica: Replica) -> None:
    observed: list[int] = []
    replica.observers.append(lambda batch: observed.append(batch.revision))
    watch = replica.watch()
    for n in range(5):
        await replica.commit(put(a_task(f"t{n}")))
    heard = [(await anext(watch)).revision for _ in range(5)]
    assert heard == observed == sorted(heard)


async def test_a_slow_subscriber_is_told_to_start_over(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas, "MAX_PENDING", 3)
    slow, quick = replica.watch(), replica.watch()
    for n in range(5):
        await replica.commit(put(a_task(f"t{n}")))
        await anext(quick)
    with pytest.raises(Compacted):
        await anext(slow)


async def test_deletions_are_applied(replica: Replica) -> None:
    batch = await replica.commit(put(a_node("n1")))
    deleted = await replica.commit([Delete("node", "n1", batch.revision)])
    assert "n1" not in replica.view.nodes
    assert [(event.id, event.new) for event in deleted.events] == [("n1", None)]


async def test_a_store_that_is_away_is_a_sentence(replica: Replica, store: Store) -> None:
    await store.close()
    with pytest.raises(NoQuorum, match="cannot store changes at present"):
        await replica.commit(put(a_node("n1")))


class ForgetfulStore(MemoryStore):
    """Answers the first watch with `Compacted`, as etcd does after a long absence."""

    def __init__(self) -> None:
        super().__init__()
        self.watches = 0
        self.may_watch = asyncio.Event()

    async def watch(self, after: int) -> AsyncIterator[RowBatch]:  # type: ignore[override] # a generator is an iterator
        self.watches += 1
        if self.watches == 1:
            await self.may_watch.wait()
            raise Compacted("gone")
        async for batch in super().watch(after):
            yield batch


async def test_after_compaction_the_difference_is_one_batch() -> None:
    store = ForgetfulStore()
    await store.commit(
        [replicas._write(Put(value), 1) for value in (a_node("kept"), a_node("gone"), a_node("changed"))]
    )
    reader = Replica(store, SteppingClock())
    await reader.open()
    seen: list[Batch] = []
    reader.observers.append(seen.append)
    for change in (Delete("node", "gone", 1), Put(a_node("new")), Put(a_node("changed", version=1, addr="10.0.0.9"))):
        last = await store.commit([replicas._write(change, 2)])
    store.may_watch.set()
    await reach(reader, last)
    assert {(event.id, event.old is None, event.new is None) for event in seen[0].events} == {
        ("gone", False, True),
        ("changed", False, False),
        ("new", True, False),
    }
    fresh = Replica(store, SteppingClock())
    await fresh.open()
    assert dict(fresh.view.nodes.rows) == dict(reader.view.nodes.rows)
    for one in (reader, fresh):
        await one.close()


async def test_a_commit_whose_revision_comes_with_a_reload_returns() -> None:
    store = ForgetfulStore()
    replica = Replica(store, SteppingClock())
    await replica.open()
    writing = [asyncio.ensure_future(replica.commit(put(a_node(f"n{n}")))) for n in range(3)]
    await asyncio.sleep(0)
    store.may_watch.set()
    async with asyncio.timeout(10):
        batches = await asyncio.gather(*writing)
    assert all(f"n{n}" in {event.id for event in batch.events} for n, batch in enumerate(batches))
    await replica.close()


async def test_bytes_that_are_no_object_are_damage() -> None:
    store = MemoryStore()
    await store.commit([Write("node", "n1", b"\xc1", 0)])
    with pytest.raises(StoreDamaged, match="restore"):
        await Replica(store, SteppingClock()).open()


async def test_it_goes_on_with_another_store_that_holds_the_same() -> None:
    first, second = MemoryStore(), MemoryStore()
    replica = Replica(first, SteppingClock())
    await replica.open()
    await replica.commit(put(a_node("n1"), a_node("n2")))
    version = replica.view.revision
    follower = replica.watch()
    ended = asyncio.ensure_future(replica.wait_ended())
    moved = RebasedStore(second, version)
    async with replica.paused():
        late = asyncio.ensure_future(replica.commit(put(a_node("n3"))))
        stale = asyncio.ensure_future(replica.commit([Delete("node", "n1", version)]))
        await asyncio.sleep(0)
        copied = await store_copy.copy(first, moved)
        await replica.switch(moved, copied.revision, copied.rows)
        assert {node.id for node in replica.view.nodes.values()} == {"n1", "n2"}
    for early in (late, stale):
        with pytest.raises(OutOfDate):
            await early  # What was worked out before the move is worked out again.
    await replica.commit(put(a_node("n3")))
    assert {row.id for row in (await second.load())[1]} == {"n1", "n2", "n3"}
    assert {row.id for row in (await first.load())[1]} == {"n1", "n2"}
    batches = [await anext(follower) for _ in range(2)]
    assert [len(batch.events) for batch in batches] == [0, 1]  # Other versions alone are no news.
    revisions = [batch.revision for batch in batches]
    assert version < revisions[0] < revisions[1]
    assert not ended.done()
    await replica.close()
    await asyncio.wait_for(ended, 10)
