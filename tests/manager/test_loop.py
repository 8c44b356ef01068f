"""The loop of decisions: rounds, bursts, alarms, conflicts, and what agents tell."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
from tests.factories import a_service, a_state, a_task, all_dirty, with_status

from skep.core.plan import NOTHING, Dirty, Plan
from skep.edge.clock import SystemClock
from skep.edge.memory import MemoryStore
from skep.manager.decide import Decision, decide
from skep.manager.loop import DecisionLoop
from skep.manager.replica import Replica
from skep.model.base import Nanoseconds
from skep.model.errors import NotFound, Unavailable
from skep.model.lifecycle import TaskState
from skep.ports.store import LeaseLost
from skep.store.changes import Put
from skep.store.state import View


def one_task_each(view: View, dirty: Dirty, now: Nanoseconds) -> Plan:
    """Gives every dirty service one task."""
    lacking = [id for id in sorted(dirty.services) if id in view.services and not view.tasks.where("service", id)]
    return Plan(tuple(Put(a_task(f"{id}-task", service=view.services.get(id))) for id in lacking))


def start_new(view: View, dirty: Dirty, now: Nanoseconds) -> Plan:
    """Moves every dirty new task on."""
    tasks = [view.tasks.get(id) for id in sorted(dirty.tasks)]
    return Plan(
        tuple(Put(with_status(task, state=TaskState.PENDING)) for task in tasks if task and task.status.state == 0),
        wake_at=now + 5,
    )


def test_a_decision_builds_on_the_ones_before_it() -> None:
    state = a_state(a_service("web"))
    plan = decide(state, all_dirty(state), [one_task_each, start_new], now=10)
    assert [change.id for change in plan.changes] == ["web-task"]
    assert isinstance(plan.changes[0], Put)
    assert plan.changes[0].value.status.state == TaskState.PENDING  # type: ignore[attr-defined] # it is a task
    assert plan.wake_at == 15
    assert "web-task" not in state.tasks


def test_a_round_leaves_its_input_as_it_was() -> None:
    state = a_state(a_service("web"))
    dirty = Dirty(services={"web"})
    decide(state, dirty, [one_task_each, start_new], now=10)
    assert dirty == Dirty(services={"web"})


def test_a_round_on_its_own_result_changes_nothing() -> None:
    state = a_state(a_service("web"))
    first = decide(state, all_dirty(state), [one_task_each, start_new], now=10)
    state.apply(first.changes, 2)
    assert decide(state, all_dirty(state), [one_task_each, start_new], now=11).changes == ()


class Setting:
    """A replica on a store in memory, and a running loop."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.clock = SystemClock()
        self.replica = Replica(store, self.clock)
        self.loop: DecisionLoop | None = None
        self.running: asyncio.Task[None] | None = None

    def start(self, *decisions: Decision, lease: str = "") -> DecisionLoop:
        self.loop = DecisionLoop(self.replica, self.clock, decisions)
        self.running = asyncio.create_task(self.loop.run(lease))
        return self.loop


@asynccontextmanager
async def a_setting() -> AsyncIterator[Setting]:
    setting = Setting(MemoryStore())
    await setting.replica.open()
    try:
        yield setting
    finally:
        if setting.running:
            setting.running.cancel()
            await asyncio.gather(setting.running, return_exceptions=True)
        await setting.replica.close()
        await setting.store.close()


@pytest.mark.anyio
async def test_where_nobody_decides_what_agents_tell_is_refused_soon() -> None:
    async with a_setting() as setting:
        loop = DecisionLoop(setting.replica, setting.clock, [])
        with pytest.raises(Unavailable):
            await asyncio.wait_for(loop.observe(lambda view, dirty, now: NOTHING), 10)


async def wait_task(replica: Replica, id: str) -> None:
    watch = replica.watch()
    async with asyncio.timeout(10):
        while id not in replica.view.tasks:
            await anext(watch)


@pytest.mark.anyio
async def test_what_was_there_at_the_start_and_what_comes_is_decided_on() -> None:
    async with a_setting() as setting:
        await setting.replica.commit([Put(a_service("before"))])
        setting.start(one_task_each, start_new)
        await wait_task(setting.replica, "before-task")
        await setting.replica.commit([Put(a_service("after"))])
        await wait_task(setting.replica, "after-task")


@pytest.mark.anyio
async def test_a_burst_is_few_rounds() -> None:
    rounds = []

    def count(view: View, dirty: Dirty, now: Nanoseconds) -> Plan:
        rounds.append(len(dirty.services))
        return NOTHING

    async with a_setting() as setting:
        setting.start(count, one_task_each)
        for n in range(50):
            await setting.replica.commit([Put(a_service(f"s{n}"))])
        await wait_task(setting.replica, "s49-task")
        assert max(rounds) > 10
        assert len(rounds) < 25


@pytest.mark.anyio
async def test_an_alarm_wakes_the_loop() -> None:
    woken = asyncio.Event()
    started = SystemClock().now()

    def later(view: View, dirty: Dirty, now: Nanoseconds) -> Plan:
        if now >= started + 60_000_000:
            woken.set()
            return NOTHING
        return Plan(wake_at=started + 60_000_000)

    async with a_setting() as setting:
        setting.start(later)
        async with asyncio.timeout(10):
            await woken.wait()


@pytest.mark.anyio
async def test_what_an_agent_told_is_stored_with_what_follows_from_it() -> None:
    def arrive(view: View, dirty: Dirty, now: Nanoseconds) -> Plan:
        return Plan((Put(a_service("told")),))

    async with a_setting() as setting:
        loop = setting.start(one_task_each)
        watch = setting.replica.watch()
        await loop.observe(arrive)
        assert {event.id for event in (await anext(watch)).events} == {"told", "told-task"}
        assert "told-task" in setting.replica.view.tasks


@pytest.mark.anyio
async def test_a_refused_observation_disturbs_no_other() -> None:
    def refuse(view: View, dirty: Dirty, now: Nanoseconds) -> Plan:
        raise NotFound("no such node")

    def arrive(view: View, dirty: Dirty, now: Nanoseconds) -> Plan:
        return Plan((Put(a_service("told")),))

    async with a_setting() as setting:
        loop = setting.start()
        outcomes = await asyncio.gather(loop.observe(refuse), loop.observe(arrive), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [NotFound, type(None)]


@pytest.mark.anyio
async def test_a_conflict_is_decided_again_on_what_is_there_now() -> None:
    async with a_setting() as setting:
        await setting.replica.commit([Put(a_service("web"))])
        attempts = []

        def label(view: View, dirty: Dirty, now: Nanoseconds) -> Plan:
            service = view.services.get("web")
            assert service is not None
            attempts.append(service.version)
            stale = msgspec.structs.replace(service, version=service.version + (1000 if len(attempts) == 1 else 0))
            return Plan((Put(msgspec.structs.replace(stale, reasons=["decided"])),) if not service.reasons else ())

        setting.start(label)
        watch = setting.replica.watch()
        async with asyncio.timeout(10):
            await anext(watch)
        service = setting.replica.view.services.get("web")
        assert service is not None
        assert service.reasons == ["decided"]
        assert len(attempts) >= 2


@pytest.mark.anyio
async def test_without_a_store_observations_wait_and_are_stored_afterwards() -> None:
    def arrive(view: View, dirty: Dirty, now: Nanoseconds) -> Plan:
        return Plan((Put(a_service("told")),))

    async with a_setting() as setting:
        setting.store.refusal = "the disk is full"
        loop = setting.start(one_task_each)
        telling = asyncio.create_task(loop.observe(arrive))
        done, _ = await asyncio.wait({telling}, timeout=0.1)
        assert not done
        setting.store.refusal = None
        async with asyncio.timeout(10):
            await telling
        assert "told-task" in setting.replica.view.tasks


@pytest.mark.anyio
async def test_who_lost_the_lease_ends_and_leaves_nobody_waiting() -> None:
    def arrive(view: View, dirty: Dirty, now: Nanoseconds) -> Plan:
        return Plan((Put(a_service("told")),))

    async with a_setting() as setting:
        setting.store.leader_lease = "another"
        loop = setting.start(lease="mine")
        with pytest.raises(Unavailable):
            await loop.observe(arrive)
        assert setting.running is not None
        with pytest.raises(LeaseLost):
            await setting.running
        assert "told" not in setting.replica.view.services
