"""Three managers, one of which leads: nodes find it, users ask any, and the leader may go at any time."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from tests.factories import a_service, a_task
from tests.manager.council import CLOCK, LONG_S, Council, convened
from tests.sessions import until

from skep.manager.logs import TaskLogs
from skep.model.errors import Unavailable
from skep.model.lifecycle import TaskState
from skep.model.service import Service
from skep.model.session import LogRequest, StreamData, StreamRequest
from skep.ports.runtime import LogOptions
from skep.store.changes import Put

pytestmark = pytest.mark.anyio


@pytest.fixture
async def council() -> AsyncIterator[Council]:
    async with convened() as made:
        yield made


def running(council: Council) -> set[str]:
    """Ids of tasks that every living manager sees running."""
    return set.intersection(
        *(
            {task.id for task in manager.replica.view.tasks.values() if task.status.state == TaskState.RUNNING}
            for manager in council.managers.values()
        )
    )


async def create(council: Council, at: str, id: str, replicas: int = 4) -> Service:
    service = a_service(id, replicas=replicas)
    await council.managers[at].writes.transact(lambda view: [Put(service)])
    return service


async def test_nodes_are_with_the_leader_whomever_they_asked_first(council: Council) -> None:
    assert council.leader.reception.sessions is not None
    assert council.leader.reception.sessions.connected == set(council.workers)
    assert [manager.reception.sessions for manager in council.others] == [None, None]


async def test_what_any_manager_is_asked_becomes_running_tasks(council: Council) -> None:
    await asyncio.gather(*(create(council, name, f"at-{name}") for name in council.managers))
    await until(lambda: len(running(council)) == 12, LONG_S)


async def test_the_leader_dies_and_nothing_acknowledged_is_lost_and_nothing_restarted(council: Council) -> None:
    await create(council, "m2", "before")
    await until(lambda: len(running(council)) == 4, LONG_S)
    before = running(council)
    dead = council.managers.pop(council.election.holder)
    for manager in council.managers.values():
        manager.replica.observers.append(council.watch)
    await dead.die()
    survivor = next(iter(council.managers))
    await create(council, survivor, "between")  # Nobody leads, and it is stored.
    await council.election.depose()
    await council.wait_led()
    await create(council, survivor, "after")
    await until(lambda: len(running(council)) == 12, LONG_S)
    assert before <= running(council)
    begun = [task_id for worker in council.workers.values() for task_id in worker.begun]
    assert sorted(begun) == sorted(running(council)), "a task was started twice, or one too many"
    assert council.complaints == []
    shown = {
        node.id: node.manager_status.leader
        for node in council.leader.replica.view.nodes.values()
        if node.manager_status is not None
    }
    assert [id for id, is_leader in shown.items() if is_leader] == [council.leader.node_id]


async def test_a_leader_that_lives_on_sends_its_nodes_to_the_next(council: Council) -> None:
    await create(council, "m1", "web")
    await until(lambda: len(running(council)) == 4, LONG_S)
    former = council.leader
    epochs = {worker.epoch for worker in council.workers.values()}
    await council.election.depose()
    await until(lambda: council.election.holder not in ("", former.node_id) or former.reign.lease is not None, LONG_S)
    await council.wait_led()
    await until(lambda: epochs.isdisjoint(worker.epoch for worker in council.workers.values()), LONG_S)
    assert sum(len(worker.begun) for worker in council.workers.values()) == 4
    await create(council, former.node_id, "next", replicas=2)
    await until(lambda: len(running(council)) == 6, LONG_S)


async def test_logs_are_read_at_any_manager_and_no_faster_than_they_are_taken(council: Council) -> None:
    sent = 0
    is_closed = asyncio.Event()

    async def endless(request: StreamRequest) -> AsyncIterator[StreamData]:
        nonlocal sent
        try:
            while True:
                sent += 1
                yield StreamData(stream=0, timestamp=sent, payload=b"x" * 1000)
                await asyncio.sleep(0)
        finally:
            is_closed.set()

    council.workers["w1"].source = endless
    logs = council.others[0].reception.open_stream("w1", LogRequest(task_id="t", follow=True))
    parts = [await asyncio.wait_for(anext(logs), LONG_S) for _ in range(600)]  # More than a stream's first credit.
    assert [part.timestamp for part in parts] == list(range(1, 601))
    while True:  # Nobody reads: soon it sends no more.
        before = sent
        await asyncio.sleep(0.3)
        if sent == before:
            break
    assert sent < 20_000
    await logs.aclose()  # type: ignore[attr-defined]  # it is a generator
    await asyncio.wait_for(is_closed.wait(), LONG_S)


async def test_logs_that_end_or_fail_do_so_at_any_manager(council: Council) -> None:
    async def short(request: StreamRequest) -> AsyncIterator[StreamData]:
        yield StreamData(stream=0, payload=b"line\n")

    async def failing(request: StreamRequest) -> AsyncIterator[StreamData]:
        raise Unavailable("the engine is away")
        yield

    request = LogRequest(task_id="t")
    for manager in council.managers.values():
        council.workers["w1"].source = short
        assert [part.payload async for part in manager.reception.open_stream("w1", request)] == [b"line\n"]
        council.workers["w1"].source = failing
        with pytest.raises(Unavailable, match="the engine is away"):
            await anext(manager.reception.open_stream("w1", request))
        with pytest.raises(Unavailable, match="nowhere is not available"):
            await anext(manager.reception.open_stream("nowhere", request))


async def test_a_node_that_was_demoted_has_no_streams_relayed(council: Council) -> None:
    former = council.others[0]
    node = council.leader.replica.view.nodes.get(former.node_id)
    assert node is not None
    spec = msgspec.structs.replace(node.spec, role="worker")
    await council.leader.writes.transact(lambda view: [Put(msgspec.structs.replace(node, spec=spec))])
    with pytest.raises(Unavailable):
        await anext(former.reception.open_stream("w1", LogRequest(task_id="t")))


async def test_without_a_quorum_it_is_said_that_what_is_shown_may_be_old(council: Council) -> None:
    manager = council.others[0]
    assert not manager.standing.is_stale
    council.election.is_away = True
    await until(lambda: manager.standing.is_stale, LONG_S)
    council.election.is_away = False
    await until(lambda: not manager.standing.is_stale, LONG_S)


async def test_logs_that_are_followed_outlive_the_leader(council: Council) -> None:
    async def counting(request: StreamRequest) -> AsyncIterator[StreamData]:
        assert isinstance(request, LogRequest)
        number = request.since
        while True:
            yield StreamData(stream=0, timestamp=number, payload=b"%d" % number)
            number += 1
            await asyncio.sleep(0.02)

    council.workers["w1"].source = counting
    reader = council.others[0]
    source = TaskLogs(reader.reception.open_stream, CLOCK)
    following = source.logs([a_task(id="t", node_id="w1")], LogOptions(follow=True, since=1))
    got = [(await asyncio.wait_for(anext(following), LONG_S)).entry.timestamp for _ in range(5)]
    await council.managers.pop(council.election.holder).die()
    await council.election.depose()
    while len(got) < 60:
        got.append((await asyncio.wait_for(anext(following), LONG_S)).entry.timestamp)
    assert got == list(range(1, 61)), "nothing is left out, nothing comes twice"
    await following.aclose()  # type: ignore[attr-defined]  # it is a generator
