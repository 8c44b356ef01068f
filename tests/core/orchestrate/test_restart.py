"""Restart policies: condition, delay, attempts, window, back-off, and what survives a change of leader."""

import pytest
from tests.core.orchestrate.world import World, a_job, a_spec

from skep.core.orchestrate.restart import back_off
from skep.lib.durations import MINUTE, SECOND
from skep.model.lifecycle import TaskState
from skep.model.service import RestartCondition, RestartPolicy
from skep.model.task import Task

FAILED, COMPLETE, REJECTED = TaskState.FAILED, TaskState.COMPLETE, TaskState.REJECTED


def a_policy(condition: RestartCondition = RestartCondition.ANY, **fields: int) -> RestartPolicy:
    return RestartPolicy(condition=condition, **fields)


@pytest.fixture
def world() -> World:
    world = World()
    world.add_nodes("n1", "n2")
    return world


def newest(world: World) -> Task:
    return max(world.tasks(), key=lambda task: task.ordinal)


def test_a_failed_task_gets_a_successor_after_five_seconds(world: World) -> None:
    world.create(a_spec(replicas=2))
    world.settle()
    first = world.running()[0]
    world.fail(first)
    world.decide()
    successor = newest(world)
    assert successor.slot == first.slot
    assert successor.desired_state == TaskState.READY
    assert successor.not_before == world.now + 5 * SECOND
    assert world.wake_at == successor.not_before
    assert world.task(first.id).desired_state == TaskState.SHUTDOWN
    world.advance(4.5)
    assert world.task(successor.id).desired_state == TaskState.READY
    assert world.task(successor.id).status.state == TaskState.READY  # Prepared meanwhile.
    world.advance(1)
    assert world.task(successor.id).desired_state == TaskState.RUNNING


def test_the_delay_is_the_policys(world: World) -> None:
    world.create(a_spec(restart=a_policy(delay=42 * SECOND)))
    world.settle()
    world.fail(world.running()[0])
    world.decide()
    assert newest(world).not_before == world.now + 42 * SECOND


def test_without_delay_the_successor_runs_at_once(world: World) -> None:
    world.create(a_spec(restart=a_policy(delay=0)))
    world.settle()
    world.fail(world.running()[0])
    world.decide()
    assert newest(world).desired_state == TaskState.RUNNING


@pytest.mark.parametrize(
    ("condition", "ending", "is_restarted"),
    [
        (RestartCondition.ANY, FAILED, True),
        (RestartCondition.ANY, COMPLETE, True),
        (RestartCondition.ANY, REJECTED, True),
        (RestartCondition.ON_FAILURE, FAILED, True),
        (RestartCondition.ON_FAILURE, REJECTED, True),
        (RestartCondition.ON_FAILURE, COMPLETE, False),
        (RestartCondition.NONE, FAILED, False),
        (RestartCondition.NONE, COMPLETE, False),
    ],
)
def test_condition(world: World, condition: RestartCondition, ending: TaskState, is_restarted: bool) -> None:
    world.create(a_spec(restart=a_policy(condition)))
    world.settle()
    (task,) = world.running()
    world.fail(task, ending)
    world.settle()
    assert bool(world.running()) == is_restarted
    assert bool(world.task(task.id).restart.refused) != is_restarted
    assert world.task(task.id).desired_state == TaskState.SHUTDOWN


def test_a_slot_that_ended_for_good_still_counts(world: World) -> None:
    world.create(a_spec(replicas=2, restart=a_policy(RestartCondition.NONE)))
    world.settle()
    world.fail(world.running()[0])
    world.settle()
    world.update(a_spec(replicas=3, restart=a_policy(RestartCondition.NONE)))
    world.settle()
    assert [task.slot for task in world.running()] == [2, 3]
    world.update(a_spec(replicas=2, restart=a_policy(RestartCondition.NONE)))
    world.settle()
    assert [task.slot for task in world.tasks()] == [2, 3]  # The idle slot goes first.


def test_max_attempts_count_per_slot(world: World) -> None:
    world.create(a_spec(image="crash", replicas=2, restart=a_policy(max_attempts=3, delay=SECOND)))
    world.settle()
    assert world.live() == []
    for slot in (1, 2):
        last = [task for task in world.tasks() if task.slot == slot][-1]
        assert last.ordinal == 4
        assert last.restart.refused == "it was restarted 3 times, as often as its policy allows"


def test_a_new_spec_version_counts_attempts_anew(world: World) -> None:
    policy = a_policy(max_attempts=2, delay=SECOND)
    world.create(a_spec(image="crash", restart=policy))
    world.settle()
    assert world.live() == []
    world.update(a_spec(image="good", restart=policy))
    world.settle()
    (task,) = world.running()
    assert task.restart.attempts == 0


def test_a_window_counts_recent_restarts_only(world: World) -> None:
    world.create(a_spec(restart=a_policy(max_attempts=2, window=MINUTE, delay=SECOND)))
    world.settle()
    for _ in range(5):
        world.fail(world.running()[0])
        world.advance(65)
    assert len(world.running()) == 1
    assert len(newest(world).restart.moments) == 2
    for _ in range(2):
        world.fail(world.running()[0])
        world.advance(5)
    world.fail(world.running()[0])
    world.settle()
    assert world.running() == []


def test_crash_loops_back_off_up_to_five_minutes(world: World) -> None:
    world.create(a_spec(image="crash"))
    delays: list[float] = []
    seen: set[str] = set()

    def note(world: World) -> None:
        for task in world.tasks():
            if task.not_before and task.id not in seen:
                seen.add(task.id)
                delays.append((task.not_before - task.created_at) / SECOND)

    world.watchers.append(note)
    world.advance(3000)
    assert delays[:9] == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    assert len(world.tasks()) == 5


def test_a_long_run_ends_the_crash_loop(world: World) -> None:
    world.create(a_spec(restart=a_policy(delay=SECOND)))
    world.settle()
    for _ in range(3):
        world.fail(world.running()[0])
        world.settle()
    assert newest(world).restart.streak == 3
    world.advance(61)
    world.fail(world.running()[0])
    world.decide()
    assert newest(world).restart.streak == 0
    assert newest(world).not_before == world.now + SECOND


def test_a_chosen_rhythm_is_kept(world: World) -> None:
    """Those who use the delay as a timetable for tasks that complete get no back-off."""
    world.create(a_spec(image="done", restart=a_policy(delay=30 * SECOND)))
    world.advance(400)
    assert newest(world).restart.streak == 0
    assert newest(world).ordinal > 10


@pytest.mark.parametrize(
    ("delay", "streak", "expected"),
    [
        pytest.param(5 * SECOND, 0, 5 * SECOND, id="no-streak"),
        pytest.param(5 * SECOND, 1, 5 * SECOND, id="first"),
        pytest.param(5 * SECOND, 2, 10 * SECOND, id="second"),
        pytest.param(5 * SECOND, 50, 5 * MINUTE, id="limit"),
        pytest.param(0, 1, 0, id="no-delay-first"),
        pytest.param(0, 2, 2 * SECOND, id="no-delay-second"),
        pytest.param(10 * MINUTE, 7, 10 * MINUTE, id="longer-than-the-limit"),
    ],
)
def test_back_off(delay: int, streak: int, expected: int) -> None:
    assert back_off(delay, streak) == expected


def test_a_task_that_fails_while_it_waits_is_replaced_when_its_time_has_come(world: World) -> None:
    world.create(a_spec())
    world.settle()
    world.fail(world.running()[0])
    world.advance(1)
    waiting = world.live()[0]
    world.fail(waiting, REJECTED)
    world.decide()
    assert newest(world).id == waiting.id
    assert world.wake_at == waiting.not_before
    world.now = waiting.not_before
    world.decide()
    assert newest(world).id != waiting.id
    assert newest(world).restart.attempts == 2


def test_tasks_that_are_rejected_at_once_back_off_too(world: World) -> None:
    world.create(a_spec(image="unknown"))
    world.advance(100)
    assert newest(world).ordinal == 6  # At 0, 0, 5, 15, 35 and 75 s: the second was prepared during its delay.
    world.update(a_spec(image="good"))
    world.advance(6)
    assert len(world.running()) == 1


@pytest.mark.parametrize("loss", ["drain", "kill"])
def test_a_task_that_fails_while_it_waits_is_replaced_at_once_where_its_node_is_lost(world: World, loss: str) -> None:
    world.create(a_spec(image="unknown"))
    world.advance(20)
    early = newest(world)
    {"drain": world.drain, "kill": world.kill}[loss](early.node_id)
    world.advance(1)
    assert newest(world).ordinal > early.ordinal
    assert newest(world).node_id != early.node_id


def test_a_failing_task_on_a_drained_node_has_no_delay(world: World) -> None:
    world.create(a_spec())
    world.settle()
    (task,) = world.running()
    world.fail(task)
    world.drain(task.node_id)
    world.decide()
    assert newest(world).desired_state == TaskState.RUNNING


def test_a_failed_job_task_is_restarted_and_a_completed_one_is_not(world: World) -> None:
    world.create(a_spec(mode=a_job(1, 1), image="good", restart=a_policy(delay=SECOND)))
    world.advance(5)
    (task,) = world.running()
    world.fail(task)
    world.advance(5)
    (again,) = world.running()
    assert again.slot == task.slot == 0
    world.fail(again, COMPLETE)
    world.settle()
    assert world.running() == []
    assert newest(world).id == again.id
