"""What the simulator found, each shown by itself."""

import asyncio
import itertools
import random
import shutil
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from tests import factories
from tests.agent.node import (
    EPOCH,
    Failpoint,
    Names,
    NodeUnderTest,
    Plane,
    a_running_node,
    assigned,
    the_cluster,
    until,
)
from tests.core.orchestrate.world import World, a_job, a_spec

from skep.agent import fence
from skep.agent.assignments import AssignmentSet
from skep.agent.network import Mesh
from skep.core import allocate, observe, schedule
from skep.core.allocate import Ledger
from skep.core.dispatch import DRAIN_LIMIT
from skep.core.orchestrate import modes
from skep.core.orchestrate.starts import PARTITION_LEASE
from skep.core.plan import Dirty
from skep.core.schedule import Inventory
from skep.lib.durations import SECOND
from skep.manager.control.services import rolled_back
from skep.model import codec
from skep.model.assignment import Delta
from skep.model.lifecycle import TaskState
from skep.model.node import EngineDescription, NodeDescription
from skep.model.service import Resources, RestartPolicy, Rollout, Service, UpdateConfig, UpdateOrder, UpdateStatus
from skep.model.session import TaskReport
from skep.model.task import Task, TaskStatus
from skep.ports.dataplane import DataPlaneFailure
from skep.ports.runtime import Container, ContainerState, EngineUnreachable
from skep.ports.store import RowBatch, RowEvent
from skep.sim import convergence
from skep.sim.checkers import StateChecker
from skep.sim.clock import SimClock
from skep.sim.loop import SimLoop
from skep.sim.network import PING
from skep.sim.workload import Workload
from skep.store.changes import Delete


def test_a_job_that_is_rolled_back_is_in_no_rollback_that_never_ends() -> None:
    """Seed 10 without faults: its update status said `rollback_started` for ever."""
    spec = a_spec(mode=a_job(2, 1))
    service = rolled_back(Service(id="job", spec=spec, previous_spec=spec, spec_version=4), spec, 5, 1)
    assert service.update_status is None
    assert service.spec_version == 5


def test_a_lost_tasks_replacement_that_is_refused_backs_off() -> None:
    """Seed 36: while the lost task's node was away, its replacement was made anew at once whenever it was rejected."""
    world = World()
    world.add_nodes("n1", "n2")
    world.create(a_spec())
    world.settle()
    old = world.running()[0]
    world.kill(old.node_id)
    for _ in range(6):
        world.step()
        world.now += SECOND // 10
        heir = max(world.tasks(), key=lambda task: task.ordinal)
        if TaskState.ASSIGNED <= heir.status.state <= TaskState.RUNNING and heir.node_id not in world.dead:
            status = TaskStatus(state=TaskState.REJECTED, timestamp=world.now)
            reports = [TaskReport(task_id=heir.id, status=status)]
            world.dirty.note(factories.commit(world.state, observe.fold(world.state, heir.node_id, reports, world.now)))
    assert max(task.ordinal for task in world.tasks()) <= old.ordinal + 2


def test_a_slot_updated_twice_start_first_keeps_one_old_task_serving() -> None:
    """Seed 362: two tasks of older specs both went on serving until the newest was ready."""
    world = World()
    world.add_nodes("n1", "n2", "n3")
    config = UpdateConfig(order=UpdateOrder.START_FIRST)
    world.create(a_spec(update_config=config))
    world.settle()
    world.update(a_spec(update_config=config, force=1))
    for _ in range(3):
        world.decide()
        world.place()
        world.decide()
        heir = max(world.live(), key=lambda task: task.ordinal)
    world.put(factories.with_status(heir, state=TaskState.RUNNING, is_accepting=True))
    world.update(a_spec(image="stuck", update_config=config, force=2))
    world.step()
    assert len([task for task in world.live() if task.status.state <= TaskState.RUNNING]) == 2


def test_a_lost_tasks_replacement_ends_for_good_when_its_attempts_are_used_up() -> None:
    """Seed 562: a slot whose replacement had failed as often as allowed began again at once, without history."""
    world = World()
    world.add_nodes("n1", "n2")
    world.create(a_spec(restart=RestartPolicy(max_attempts=1, delay=SECOND)))
    world.settle()
    old = world.running()[0]
    world.kill(old.node_id)
    for _ in range(100):
        world.step()
        for heir in world.live():
            if heir.id != old.id and TaskState.ASSIGNED <= heir.status.state <= TaskState.RUNNING:
                world.fail(heir)
        world.now += SECOND
    assert max(task.ordinal for task in world.tasks()) == old.ordinal + 2
    world.revive(old.node_id)
    world.step()
    assert [task.id for task in world.running()] == [old.id]


AT_MOST_ONE = {"skep.partition": "at-most-one"}


def _raised_at(world: World, old_id: str) -> int:
    """Step until a task other than `old_id` is wanted running, and say when that was."""
    for _ in range(200):
        world.step()
        if any(task.id != old_id and task.desired_state in (512, 576) for task in world.live()):
            return world.now
        world.now += SECOND // 2
    raise AssertionError(world.table())


def test_a_stopping_at_most_one_tasks_heir_waits_for_its_lease_when_the_node_goes_away() -> None:
    """Seed 35: told to stop, its node fell silent, and the waiting heir was raised as soon as the node was down."""
    world = World()
    world.add_nodes("n1", "n2")
    world.create(a_spec(labels=AT_MOST_ONE))
    world.settle()
    old = world.running()[0]
    world.slow_stop.add(old.id)
    world.update(a_spec(labels=AT_MOST_ONE, force=1))
    while world.task(old.id).desired_state < TaskState.SHUTDOWN:  # Told to once its heir is prepared.
        world.step()
    world.kill(old.node_id)
    assert _raised_at(world, old.id) >= world.node(old.node_id).status.since + 20 * SECOND


def _remove_node_of(world: World, task: Task) -> None:
    node = world.node(task.node_id)
    world.dirty.note(world.state.apply([Delete("node", node.id, node.version)], world.state.revision + 1))


def test_the_heir_of_an_at_most_one_task_waits_when_its_node_is_removed() -> None:
    """Seed 163: a node removed by force counts as stopped at once, though it may not have heard of it.

    Seed 200693: one that was cut off 2.4 s before did not know of it yet; its lease began after the one its heir waited
    for.
    """
    world = World()
    world.add_nodes("n1", "n2")
    world.create(a_spec(labels=AT_MOST_ONE))
    world.settle()
    old, removed_at = world.running()[0], world.now
    _remove_node_of(world, old)
    noticed_at = removed_at + PING[1] + fence.TICK
    assert _raised_at(world, old.id) >= noticed_at + PARTITION_LEASE + modes.stop_grace(old.spec)


def test_an_heir_that_was_already_waiting_waits_longer_when_the_old_tasks_node_is_removed() -> None:
    """Seed 5006: the old task was being stopped when its node was removed, and counted as stopped from then on."""
    world = World()
    world.add_nodes("n1", "n2")
    world.create(a_spec(labels=AT_MOST_ONE))
    world.settle()
    old = world.running()[0]
    world.slow_stop.add(old.id)
    world.drain(old.node_id)
    for _ in range(4):
        world.step()
    (heir,) = world.live()
    assert (heir.desired_state, heir.node_id != old.node_id) == (TaskState.READY, True)
    removed_at = world.now
    _remove_node_of(world, old)
    assert _raised_at(world, old.id) >= removed_at + 20 * SECOND


def test_what_is_kept_of_an_at_most_one_task_for_its_lease_goes_with_it() -> None:
    """Found beside seed 5006: nothing looked again at a removed slot's task that was kept until its lease had ended."""
    world = World()
    world.add_nodes("n1", "n2")
    world.create(a_spec(replicas=2, labels=AT_MOST_ONE))
    world.settle()
    old = world.running()[0]
    world.kill(old.node_id)
    world.update(a_spec(replicas=0, labels=AT_MOST_ONE))
    world.step()
    assert [task.id for task in world.tasks()] == [old.id]
    ends_at = world.node(old.node_id).status.since + 20 * SECOND
    assert world.wake_at == ends_at
    world.now = ends_at
    world.step()
    assert not world.tasks()


def test_an_at_most_one_jobs_next_iteration_waits_for_the_one_before() -> None:
    """Seed 83: a job that was changed ran again beside its task that was still being stopped."""
    world = World()
    world.add_nodes("n1", "n2")
    world.create(a_spec(mode=a_job(1, 1), labels=AT_MOST_ONE))
    for _ in range(6):
        world.step()
    old = world.live()[0]
    world.slow_stop.add(old.id)
    world.update(a_spec(mode=a_job(1, 1), labels=AT_MOST_ONE, force=1))
    for _ in range(20):
        world.step()
        world.now += SECOND
        assert all(task.desired_state == TaskState.READY for task in world.live())
    world.slow_stop.clear()
    assert _raised_at(world, old.id)


@pytest.mark.anyio
async def test_after_a_power_cut_nothing_is_begun_on_an_old_memory(tmp_path: Path) -> None:
    """Seed 2: the assignment log lost its end with the power, and a task that had run and was gone ran again."""
    node = NodeUnderTest(tmp_path)
    await node.give(the_cluster(), assigned(), is_full=True)
    old = (tmp_path / "assignments").read_bytes()
    node.run()
    await node.reach(TaskState.RUNNING)
    await node.give(remove=["task/t1"])
    await until(lambda: not node.engine.containers and not (tmp_path / "tasks" / "t1").exists())
    await node.kill()
    (tmp_path / "assignments").write_bytes(old)
    node.boot_id = "boot-2"
    node.begin()
    node.run()
    try:
        await asyncio.sleep(0.2)  # Long enough for what would be begun at once.
        assert len(node.engine.starts) == 1
        await node.agent.assign(EPOCH, Delta(base=0, version=9, put=[the_cluster(), assigned("t2")]))
        await node.reach(TaskState.RUNNING, "t2")
        assert len(node.engine.starts) == 2
    finally:
        await node.kill()


@pytest.mark.anyio
async def test_after_a_power_cut_what_was_only_prepared_waits_for_a_manager(tmp_path: Path) -> None:
    """Seed 120014: a task that had been prepared and stopped got a sandbox again, with an address given to another."""
    node = NodeUnderTest(tmp_path)
    await node.give(the_cluster(), assigned(desired=TaskState.READY), is_full=True)
    old = (tmp_path / "assignments").read_bytes()
    node.run()
    await node.reach(TaskState.READY)
    await node.give(assigned(desired=TaskState.SHUTDOWN))
    await node.reach(TaskState.SHUTDOWN)
    await node.kill()
    (tmp_path / "assignments").write_bytes(old)
    shutil.rmtree(tmp_path / "tasks")  # No state of it was waited for.
    node.plane.prepared.clear()
    node.boot_id = "boot-2"
    node.begin()
    node.run()
    try:
        await asyncio.sleep(0.2)  # Long enough for what would be begun at once.
        assert node.plane.prepared == {}
        await node.agent.assign(EPOCH, Delta(base=0, version=9, put=[the_cluster()]))
        await until(lambda: not node.engine.containers)
    finally:
        await node.kill()


@pytest.mark.anyio
async def test_a_word_that_changes_nothing_lets_what_waited_begin(tmp_path: Path) -> None:
    """Seed 155: a session resumed with an empty delta, and an assigned task of which nothing was there never began."""
    node = NodeUnderTest(tmp_path)
    await node.give(the_cluster(), assigned(), is_full=True)
    node.begin()
    node.run()
    try:
        await until(lambda: node.agent._inventory is not None)
        version = node.agent._assignments.version
        await node.agent.assign(EPOCH, Delta(base=version, version=version))
        await node.reach(TaskState.RUNNING)
    finally:
        await node.kill()


@pytest.mark.anyio
async def test_a_removed_node_cleans_up_however_long_its_kernel_refuses(tmp_path: Path) -> None:
    """Seed 187: the node's session failed when the kernel did not take its rules back at the first try."""
    async with a_running_node(tmp_path) as node:
        await node.give(the_cluster(), is_full=True)
        tries = 0
        clear = node.plane.clear

        async def refusing_at_first() -> None:
            nonlocal tries
            tries += 1
            if tries < 3:
                raise DataPlaneFailure("netlink: no buffer space available")
            await clear()

        node.plane.clear = refusing_at_first  # type: ignore[method-assign]  # a kernel that refuses
        await node.agent.removed("removed")
        assert node.plane.is_cleared
        assert tries == 3


def test_a_node_whose_engine_is_away_when_its_daemon_starts_keeps_its_resources() -> None:
    """Seed 25: the hello said no CPUs, and the scheduler believed it until the next session."""
    has = Resources(nano_cpus=4 * 10**9, memory_bytes=8 << 30)
    known = NodeDescription(hostname="n1", resources=has, engine=EngineDescription(engine_version="1"))
    state = factories.a_state(msgspec.structs.replace(factories.a_node("n1"), description=known))
    plan = observe.register(state, "n1", NodeDescription(hostname="n1-new"), "10.0.0.1", [], 1)
    factories.commit(state, plan)
    node = state.nodes.get("n1")
    assert node is not None
    assert (node.description.hostname, node.description.resources) == ("n1-new", has)


@pytest.mark.anyio
async def test_a_node_says_hello_again_once_its_engine_answers(tmp_path: Path) -> None:
    """Seed 25: a description made while the engine was away was never corrected."""
    node = NodeUnderTest(tmp_path)
    node.engine.down = True
    assert (await node.agent.hello()).description.resources.nano_cpus == 0
    waiting = asyncio.create_task(node.agent.wait_outdated())
    await asyncio.sleep(0.1)
    assert not waiting.done()
    node.engine.down = False
    await asyncio.wait_for(waiting, 5)
    assert (await node.agent.hello()).description.resources.nano_cpus > 0


def test_a_kernel_that_takes_rules_again_is_programmed_well_within_the_drain_limit(tmp_path: Path) -> None:
    """Seeds 5032, 5071 and 5087: the node slept for seconds between its tries, and went on sending to what stopped."""
    loop, plane = SimLoop(), Plane(Failpoint())
    assignments = AssignmentSet(tmp_path / "assignments", "node1")
    mesh = Mesh(assignments, plane, Names(), SimClock(loop))

    async def live() -> int:
        plane.failure = DataPlaneFailure("netlink: no buffer space available")
        mesh.note(assignments.take(EPOCH, Delta(base=0, version=1, put=[the_cluster()])))
        running = asyncio.ensure_future(mesh.run())
        await loop.sleep(20 * SECOND)
        plane.failure, healed_at = None, loop.now
        await mesh.wait_applied(0)
        running.cancel()
        return loop.now - healed_at

    assert loop.run(live()) < DRAIN_LIMIT // 2


@pytest.mark.anyio
async def test_a_task_told_to_stop_while_its_start_is_uncertain_is_stopped_first(tmp_path: Path) -> None:
    """Found beside seed 5006: a start whose answer was lost counted as none, and the task as shut down while it ran."""
    async with a_running_node(tmp_path) as node:
        start = node.engine.run

        async def lose_the_answer(container_id: str) -> Container:
            await start(container_id)
            node.engine.down = True
            raise EngineUnreachable("the engine's socket was closed")

        node.engine.run = lose_the_answer  # type: ignore[method-assign]  # an engine that goes away in the middle
        await node.give(the_cluster(), assigned(), is_full=True)
        await until(lambda: node.engine.down)
        await node.give(assigned(desired=TaskState.SHUTDOWN, drained=True))
        await asyncio.sleep(0.05)  # Long enough for saying what is not known.
        assert TaskState.SHUTDOWN not in node.states()
        node.engine.down = False
        await node.reach(TaskState.SHUTDOWN)
        assert node.engine.only().state is ContainerState.EXITED


def test_a_task_without_an_address_is_waited_for_only_while_none_is_free() -> None:
    """Seed 5092: a swarm at rest with a full network counted as restless; that one task waits, and says why, is right.

    Its users give the service up now, as they do where no node fits; a number that is free and not given is a failure.
    Seeds 30106 and 30144: of several that waited, each number that had cooled down went to another, and the checker
    took the one it looked at for forgotten. It asks now whether a number that nobody had for long is still nobody's,
    and so it does of a whole swarm at rest (30396).
    """
    network = factories.a_network("net", subnet="10.9.0.0/29", vni=4096)
    service = factories.a_service(networks=["net"])
    state = factories.a_state(factories.a_cluster(), network, service)
    moment = [SECOND]
    checker = StateChecker(pytest.fail, lambda: moment[0])
    factories.put(state, *(factories.a_task(f"t{n}", service=service) for n in range(6)))
    factories.commit(state, allocate.reconcile(state, Dirty.everything(state), Ledger.of(state), 1))
    checker.take(RowBatch(1, [RowEvent("task", task.id, codec.encode(task)) for task in state.tasks.values()]))
    n_placed = sum(1 for task in state.tasks.values() if task.status.state == TaskState.PENDING)
    assert n_placed == 4
    assert list(convergence.unnumbered(state, 2, ())) == []
    workload = Workload(SimpleNamespace(stored=state), random.Random(1), asyncio.sleep)
    assert workload._is_waiting(service)
    placed = next(task for task in state.tasks.values() if task.status.state == TaskState.PENDING)
    state.apply([Delete("task", placed.id, placed.version)], state.revision + 1)
    checker.take(RowBatch(2, [RowEvent("task", placed.id, None)]))
    for seconds, n_forgotten in ((0, 0), (15, 1)):
        moment[0] += seconds * SECOND
        assert len(list(convergence.unnumbered(state, moment[0], checker.resting(10 * SECOND)))) == n_forgotten


@pytest.mark.parametrize(("wait", "n_violations"), [(SECOND // 40, 0), (2 * SECOND, 1)], ids=["a race", "too late"])
def test_a_task_may_be_put_on_a_node_only_until_its_removal_is_known(wait: int, n_violations: int) -> None:
    """Seed 86 of 40 s: a node was removed 25 ms before a plan with tasks for it was stored; they were orphaned next."""
    violations: list[str] = []
    moment = [1_000 * SECOND]
    checker = StateChecker(violations.append, lambda: moment[0])
    node, task = factories.a_node("n1"), factories.a_task("t1", node_id="n1", state=TaskState.ASSIGNED)
    checker.take(RowBatch(revision=1, events=[RowEvent("node", "n1", codec.encode(node))]))
    moment[0] += 60 * SECOND
    checker.take(RowBatch(revision=2, events=[RowEvent("node", "n1", None)]))
    moment[0] += wait
    checker.take(RowBatch(revision=3, events=[RowEvent("task", "t1", codec.encode(task))]))
    assert len(violations) == n_violations, violations


@pytest.mark.parametrize(("wait", "n_violations"), [(SECOND // 10, 0), (2 * SECOND, 1)], ids=["a race", "too late"])
def test_slots_may_come_into_being_only_until_it_is_known_how_few_are_wanted(wait: int, n_violations: int) -> None:
    """Seed 30364: a service was scaled to 4 and to 1 while the plan for the 4 was being stored; it was undone next."""
    violations: list[str] = []
    moment = [1_000 * SECOND]
    checker = StateChecker(violations.append, lambda: moment[0])
    for revision, replicas in enumerate((4, 1), 1):
        service = factories.a_service(replicas=replicas)
        checker.take(RowBatch(revision, [RowEvent("service", service.id, codec.encode(service))]))
    moment[0] += wait
    tasks = [factories.a_task(f"t{slot}", service=service, slot=slot) for slot in (1, 2, 3, 4)]
    checker.take(RowBatch(3, [RowEvent("task", task.id, codec.encode(task)) for task in tasks]))
    assert len(violations) == n_violations, violations


@pytest.mark.parametrize(("is_moved", "n_violations"), [(True, 0), (False, 1)], ids=["a move", "too many at once"])
def test_what_an_update_made_is_known_without_history(is_moved: bool, n_violations: int) -> None:
    """Seed 5129: without history a slot's second task passed for the update's own, beside the next slot's."""
    violations: list[str] = []
    checker = StateChecker(violations.append, lambda: 1_000 * SECOND)
    rollout, status = Rollout(version=2, started_at=1, n_slots=2), UpdateStatus(state="updating")
    spec = a_spec(replicas=2, update_config=UpdateConfig(parallelism=1))
    service = Service(id="web", spec=spec, spec_version=2, rollout=rollout, update_status=status)
    first = factories.a_task("t1", service=service, slot=1, rollout=2, ordinal=2, state=TaskState.RUNNING)
    heir = factories.a_task("t2", service=service, slot=1, rollout=2, ordinal=3, state=TaskState.PENDING)
    other = factories.a_task("t3", service=service, slot=2, rollout=2, ordinal=2, state=TaskState.PENDING)
    steps = [[service], [first] if is_moved else [], [heir], [first.id] if is_moved else [], [other]]
    for revision, step in enumerate(steps, 1):
        events = [
            RowEvent("task", each, None)
            if isinstance(each, str)
            else RowEvent("task" if isinstance(each, Task) else "service", each.id, codec.encode(each))
            for each in step
        ]
        checker.take(RowBatch(revision=revision, events=events))
    assert len(violations) == n_violations, violations


def test_what_waits_says_why_as_nodes_would_now() -> None:
    """Seed 5148: room that became free, or was taken, changed the reason of a task that fitted neither way, unsaid."""
    node, elsewhere = factories.a_node("n1", cpus=4), "node.labels.zone==b"
    busy, waiting, newcomer = (
        factories.a_task(id, service=factories.a_service(id, template=template), **fields)
        for id, template, fields in (
            ("busy", factories.a_template(cpus=2), {"state": TaskState.RUNNING, "node_id": "n1"}),
            (
                "waiting",
                factories.a_template(cpus=3, constraints=[elsewhere]),
                {"state": TaskState.PENDING},
            ),
            ("newcomer", factories.a_template(cpus=2), {"state": TaskState.PENDING}),
        )
    )
    state = factories.a_state(factories.a_cluster(), node, busy, waiting)
    inventory = Inventory.of(state)
    reasons: list[str] = []

    def decide(dirty: Dirty) -> None:
        inventory.observe(factories.commit(state, schedule.reconcile(state, dirty, inventory, state.revision)))
        reasons.append(next(task for task in state.tasks.values() if task.id == "waiting").status.err)

    decide(Dirty.everything(state))
    gone = state.apply([Delete("task", "busy", 0)], state.revision + 1)
    inventory.observe(gone)
    decide(factories.dirty_of(gone))
    come = factories.put(state, newcomer)
    inventory.observe(come)
    decide(factories.dirty_of(come))
    room, place = "insufficient resources on 1 node", "scheduling constraints not satisfied on 1 node"
    assert reasons == [f"no suitable node ({each})" for each in (room, place, room)]


@pytest.mark.parametrize(("version", "n_violations"), [(1, 0), (2, 1)], ids=["lifted since", "in force"])
def test_a_limit_that_the_next_spec_lifted_binds_nobody(version: int, n_violations: int) -> None:
    """Seed 60054: a task that waited with an old spec's limit came to a node beside two that have no limit."""
    violations: list[str] = []
    moments = itertools.count(1_000 * SECOND, 60 * SECOND)
    checker = StateChecker(violations.append, lambda: next(moments))
    spec = a_spec(replicas=3)
    service = Service(id="web", spec=spec, spec_version=2)
    node, limited = factories.a_node("n1"), factories.a_template(max_replicas=2)
    placed = [
        factories.a_task(f"t{slot}", service=service, slot=slot, state=TaskState.ASSIGNED, node_id="n1")
        for slot in (1, 2)
    ]
    waiting = factories.a_task("t3", service=service, slot=3, state=TaskState.PENDING)
    waiting = msgspec.structs.replace(waiting, spec=limited, spec_version=version)
    status = msgspec.structs.replace(waiting.status, state=TaskState.ASSIGNED)
    come = msgspec.structs.replace(waiting, node_id="n1", status=status)
    for revision, step in enumerate(([service], [node], [*placed, waiting], [come]), 1):
        events = [RowEvent(type(each).__name__.lower(), each.id, codec.encode(each)) for each in step]
        checker.take(RowBatch(revision, events))
    assert len([each for each in violations if "more than 2" in each]) == n_violations, violations


@pytest.mark.parametrize(("is_at_once", "n_violations"), [(True, 0), (False, 1)], ids=["one round", "there before"])
def test_a_limit_counts_what_was_there_before(is_at_once: bool, n_violations: int) -> None:
    """Seed 140168: tasks of the spec before, which knew no limit, came to a node in the round that filled it."""
    violations: list[str] = []
    moments = itertools.count(1_000 * SECOND, 60 * SECOND)
    checker = StateChecker(violations.append, lambda: next(moments))
    service = Service(id="web", spec=a_spec(replicas=2), spec_version=2)
    waiting = [factories.a_task(f"t{slot}", service=service, slot=slot, state=TaskState.PENDING) for slot in (1, 2)]
    waiting[0] = msgspec.structs.replace(waiting[0], spec_version=1)
    waiting[1] = msgspec.structs.replace(waiting[1], spec=factories.a_template(max_replicas=1))
    placed = [
        msgspec.structs.replace(
            task, node_id="n1", status=msgspec.structs.replace(task.status, state=TaskState.ASSIGNED)
        )
        for task in waiting
    ]
    steps = [[service], [factories.a_node("n1")], waiting, *([placed] if is_at_once else [[each] for each in placed])]
    for revision, step in enumerate(steps, 1):
        events = [RowEvent(type(each).__name__.lower(), each.id, codec.encode(each)) for each in step]
        checker.take(RowBatch(revision, events))
    assert len([each for each in violations if "more than 1" in each]) == n_violations, violations


def test_whoever_starts_in_an_at_most_one_slot_waits_for_the_lease_of_a_lost_task() -> None:
    """Seed 153566: the lost task's heir was refused, and the heir's successor waited for its own delay only."""
    world = World()
    world.add_nodes("n1", "n2", "n3")
    world.create(a_spec(replicas=1, labels={"skep.partition": "at-most-one"}))
    world.settle()
    (lost,) = world.running()
    world.kill(lost.node_id)
    world.advance(1)
    (heir,) = [task for task in world.live() if task.id != lost.id]
    world.put(msgspec.structs.replace(heir, not_before=0, look_at=1))
    world.advance(18)
    assert world.running() == []
    world.settle()
    assert [task.id for task in world.running()] == [heir.id]


def test_an_update_waits_for_a_slot_whose_new_task_lost_its_node() -> None:
    """Seed 211221: a node was removed with a task the update had just made, and the next slot was begun beside it."""
    world = World()
    world.add_nodes("n1", "n2", "n3")
    world.create(a_spec(replicas=2))
    world.settle()
    world.update(a_spec(image="stuck", replicas=2, force=1))
    while not (made := [task for task in world.live() if task.rollout and task.node_id]):
        world.step()
    _remove_node_of(world, made[0])
    for _ in range(4):
        world.step()
        assert {task.slot for task in world.live() if task.rollout} == {made[0].slot}
