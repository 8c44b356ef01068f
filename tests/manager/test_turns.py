"""Users' operations on several managers of one store: serial, whoever they ask, and each done once or refused."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
import pytest
from tests.etcd_members import Members, running
from tests.factories import a_service
from tests.sessions import until

from skep.edge.clock import SystemClock, SystemDice
from skep.edge.etcd.store import EtcdStore
from skep.edge.memory import MemoryStore
from skep.edge.rebase import RebasedStore
from skep.manager.control.turns import Turns
from skep.manager.control.writes import Writes
from skep.manager.replica import Replica
from skep.model.errors import Conflict, NoQuorum, OutOfDate, SkepError
from skep.model.secret import Config, ConfigSpec
from skep.model.service import Service
from skep.ports.store import OutcomeUnknown, Row, Store, Write
from skep.store.changes import Batch, Change, Put
from skep.store.state import View

pytestmark = pytest.mark.anyio
LONG_S = 120.0


class Shared(MemoryStore):
    """A store of several managers, which sends nothing back until asked to. Attributes: gate: commits wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None

    async def commit(self, writes: Sequence[Write], *, lease: str = "") -> int:
        await self.gate.wait()
        revision = await super().commit(writes, lease=lease)
        if self.failure is not None:
            raise self.failure
        return revision


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Members]:
    with running(tmp_path_factory.mktemp("etcd"), 1, is_plain=True) as members:
        yield members


@asynccontextmanager
async def replicas(stores: Sequence[Store]) -> AsyncIterator[list[Replica]]:
    async with AsyncExitStack() as stack:
        opened = [Replica(store, SystemClock(), is_shared=True) for store in stores]
        for replica in opened:
            await replica.open()
            stack.push_async_callback(replica.close)
        yield opened


@pytest.fixture(params=["memory", "etcd"])
async def managers(request: pytest.FixtureRequest) -> AsyncIterator[list[Turns]]:
    stores: list[Store] = [Shared()] * 3
    if request.param == "etcd":
        members: Members = request.getfixturevalue("etcd")
        stores = [await EtcdStore.open(members.target(), request.node.name, f"m{n}") for n in range(3)]
    async with replicas(stores) as opened:
        yield [Turns(replica, LONG_S) for replica in opened]
    for store in stores:
        await store.close()


def named(id: str, name: str) -> Service:
    service = a_service(id)
    return msgspec.structs.replace(service, spec=msgspec.structs.replace(service.spec, name=name))


def creation(id: str, name: str) -> "Operation":
    return Operation(named(id, name))


class Operation:
    """Creates a service unless its name is taken. Attributes: runs: how often it was tried."""

    def __init__(self, service: Service) -> None:
        self.runs = 0
        self._service = service

    def __call__(self, view: View) -> Sequence[Change]:
        self.runs += 1
        if view.services.where("name", self._service.spec.name):
            raise Conflict("taken")
        return [Put(self._service)]


async def outcomes(*work: "asyncio.Future[Batch]") -> list[Batch | BaseException]:
    return await asyncio.gather(*work, return_exceptions=True)


def run(turns: Turns, operation: Operation) -> "asyncio.Future[Batch]":
    return asyncio.ensure_future(turns.run(operation))


async def test_a_name_asked_for_on_all_managers_at_once_is_given_once(managers: list[Turns]) -> None:
    for n in range(8):
        found = await outcomes(*(run(turns, creation(f"{n}-{k}", f"web{n}")) for k, turns in enumerate(managers)))
        assert sorted(type(each).__name__ for each in found) == ["Batch", "Conflict", "Conflict"]


async def test_everything_of_a_burst_on_all_managers_is_there_once(managers: list[Turns]) -> None:
    wanted = {f"s{k}-{n}" for k in range(3) for n in range(70)}
    created = await outcomes(*(run(managers[int(id[1])], creation(id, id)) for id in wanted))
    assert [each for each in created if not isinstance(each, Batch)] == []
    again = await outcomes(*(run(managers[(int(id[1]) + 1) % 3], creation(f"again{id}", id)) for id in wanted))
    assert {type(each) for each in again} == {Conflict}


async def test_of_two_updates_of_one_version_that_go_together_only_one_is_taken() -> None:
    async with replicas([Shared()]) as (replica,):
        turns = Turns(replica)
        await turns.run(creation("web", "web"))
        stored = replica.view.services.get("web")
        assert stored is not None

        def update(view: View) -> Sequence[Change]:
            current = view.services.get("web")
            assert current is not None
            if current.version != stored.version:
                raise OutOfDate("update out of sequence")
            return [Put(msgspec.structs.replace(current, spec_version=current.spec_version + 1))]

        found = await asyncio.gather(turns.run(update), turns.run(update), return_exceptions=True)
        assert sorted(type(each).__name__ for each in found) == ["Batch", "OutOfDate"]


async def test_operations_that_wait_go_in_one_transaction_and_see_each_other() -> None:
    store = Shared()
    async with replicas([store]) as (replica,):
        turns = Turns(replica)
        store.gate.clear()
        first = run(turns, creation("first", "first"))
        await asyncio.sleep(0)
        rest = [run(turns, creation(f"s{n}", f"name{n % 20}")) for n in range(40)]
        store.gate.set()
        revision = (await first).revision
        found = await outcomes(*rest)
        assert [type(each).__name__ for each in found].count("Batch") == 20
        assert {each.revision for each in found if isinstance(each, Batch)} == {revision + 1}


async def test_what_is_too_large_together_is_never_cut_in_two() -> None:
    async with replicas([Shared()]) as (replica,):
        turns = Turns(replica)
        large = [Config(id=f"c{n}", spec=ConfigSpec(name=f"c{n}", data="A" * 400_000)) for n in range(5)]
        batches = await asyncio.gather(*(turns.run(lambda _, one=one: [Put(one)]) for one in large))
        assert len({batch.revision for batch in batches}) == 5


async def test_what_another_manager_took_meanwhile_is_seen_before_it_is_tried_again() -> None:
    store = Shared()
    async with replicas([store, store]) as (one, two):
        theirs, ours = creation("a", "web"), creation("b", "web")
        store.gate.clear()
        waiting = [run(Turns(one), theirs), run(Turns(two), ours)]
        await until(lambda: theirs.runs and ours.runs)
        store.gate.set()
        found = await outcomes(*waiting)
        assert sorted(type(each).__name__ for each in found) == ["Batch", "Conflict"]
        assert sorted((theirs.runs, ours.runs)) == [1, 2]


async def test_what_the_leader_decides_takes_no_turn() -> None:
    store = Shared()
    async with replicas([store, store]) as (one, two):
        store.gate.clear()
        ours = creation("b", "web")
        waiting = run(Turns(one), ours)
        deciding = asyncio.ensure_future(two.commit([Put(a_service("decided"))]))
        await until(lambda: ours.runs)
        store.gate.set()
        await asyncio.gather(waiting, deciding)
        assert ours.runs == 1


@pytest.mark.parametrize("is_sent", [True, False], ids=["under way", "behind another"])
async def test_a_store_that_is_silent_refuses_in_time(is_sent: bool) -> None:
    store = Shared()
    async with replicas([store]) as (replica,):
        turns = Turns(replica, patience_s=0.2)
        store.gate.clear()
        first = run(turns, creation("first", "first"))
        await asyncio.sleep(0.05)
        asked = first if is_sent else run(turns, creation("second", "second"))
        with pytest.raises(NoQuorum, match="may be stored" if is_sent else "nothing was stored"):
            await asyncio.wait_for(asked, 5)
        await outcomes(first)
        store.gate.set()
        await turns.run(creation("third", "third"))
        assert {service.id for service in replica.view.services.values()} == {"first", "third"}


async def test_a_store_that_refuses_is_told_and_not_asked_again() -> None:
    store = Shared()
    async with replicas([store]) as (replica,):
        turns, operation = Turns(replica), creation("a", "a")
        store.refusal = "too few members answer"
        with pytest.raises(NoQuorum, match="too few members answer"):
            await turns.run(operation)
        assert operation.runs == 1


async def test_a_change_of_unknown_outcome_is_not_applied_twice() -> None:
    store = Shared()
    async with replicas([store]) as (replica,):
        turns, operation = Turns(replica), creation("a", "a")
        store.failure = OutcomeUnknown("the change may or may not be stored")
        with pytest.raises(NoQuorum, match="may or may not"):
            await turns.run(operation)
        store.failure = None
        assert operation.runs == 1
        with pytest.raises(Conflict):  # It was, and the watch has told.
            await turns.run(creation("b", "a"))


async def test_one_operations_mistake_is_told_to_who_asked_for_it_only() -> None:
    def wrong(view: View) -> Sequence[Change]:
        raise ZeroDivisionError

    async with replicas([Shared()]) as (replica,):
        turns = Turns(replica)
        found = await asyncio.gather(turns.run(wrong), turns.run(creation("a", "a")), return_exceptions=True)
        assert [type(each) for each in found] == [ZeroDivisionError, Batch]


async def test_an_operation_nobody_waits_for_any_more_is_left_out() -> None:
    store = Shared()
    async with replicas([store]) as (replica,):
        turns, given_up = Turns(replica), creation("b", "b")
        store.gate.clear()
        first = run(turns, creation("a", "a"))
        await asyncio.sleep(0)
        second = run(turns, given_up)
        await asyncio.sleep(0)
        second.cancel()
        store.gate.set()
        await first
        await outcomes(second)
        with pytest.raises(SkepError):
            await turns.run(creation("c", "a"))
        assert given_up.runs == 0


class Fresh(RebasedStore):
    """Where the state moves to: its revisions go on."""

    async def hold(self, rows: Sequence[Row]) -> tuple[int, Sequence[Row]]:
        for row in rows:
            await self.commit([Write(row.kind, row.id, row.value, 0)])
        return await self.load()


async def test_what_was_worked_out_before_the_state_moved_is_worked_out_again() -> None:
    """One manager with a file becomes the first of several: an operation that waited meanwhile takes the turn, too."""
    store = Shared()
    replica = Replica(store, SystemClock())
    await replica.open()
    writes = Writes(replica, SystemClock(), SystemDice())
    early = [creation("a", "web"), creation("b", "web"), creation("c", "other")]
    async with replica.paused():
        waiting = [asyncio.ensure_future(writes.transact(operation)) for operation in early]
        await until(lambda: early[0].runs)
        revision, rows = await store.load()
        fresh = Fresh(MemoryStore(), revision + 1)
        await replica.switch(fresh, *await fresh.hold(rows), is_shared=True)
    found = await outcomes(*waiting)
    assert sorted(type(each).__name__ for each in found) == ["Batch", "Batch", "Conflict"]
    assert isinstance(found[2], Batch)
    assert early[0].runs == 2
    assert [row.id for row in (await fresh.load())[1] if row.kind == "turn"] == ["api"]
    await replica.close()
