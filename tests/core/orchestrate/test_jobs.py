"""Jobs: iterations, concurrency, completions."""

import pytest
from tests.core.orchestrate.world import JOB_EVERYWHERE, World, a_job, a_spec

from skep.lib.durations import SECOND
from skep.model.lifecycle import TaskState
from skep.model.node import Availability
from skep.model.service import RestartCondition, RestartPolicy
from skep.model.task import Task


@pytest.fixture
def world() -> World:
    world = World()
    world.add_nodes("n1", "n2", "n3")
    return world


def completed(world: World) -> list[Task]:
    return [task for task in world.tasks() if task.status.state == TaskState.COMPLETE]


def test_slots_count_from_zero_and_want_completion(world: World) -> None:
    world.create(a_spec(mode=a_job(3, 3), image="done"))
    world.decide()
    assert [task.slot for task in world.tasks()] == [0, 1, 2]
    assert {task.desired_state for task in world.tasks()} == {TaskState.COMPLETE}
    assert {task.job_iteration for task in world.tasks()} == {0}
    status = world.service().job_status
    assert status is not None
    assert (status.iteration, status.last_execution) == (0, world.now)


def test_runs_to_completion_and_rests(world: World) -> None:
    world.create(a_spec(mode=a_job(5, 2), image="done"))
    n_active: list[int] = []
    world.watchers.append(lambda world: n_active.append(len(world.live()) - len(completed(world))))
    world.settle()
    assert sorted(task.slot for task in completed(world)) == [0, 1, 2, 3, 4]
    assert max(n_active) == 2
    assert len(world.tasks()) == 5


@pytest.mark.parametrize(
    ("total", "at_once", "n"),
    [(None, None, 1), (None, 3, 3), (4, 0, 4), (4, None, 1), (2, 5, 2), (0, 2, 0)],
    ids=["defaults", "completions-follow-concurrency", "0-is-all-at-once", "one-at-a-time", "no-more-than-total", "0"],
)
def test_how_many_start(world: World, total: int | None, at_once: int | None, n: int) -> None:
    world.create(a_spec(mode=a_job(total, at_once)))
    world.decide()
    assert len(world.tasks()) == n


def test_running_again_is_a_new_iteration_and_removes_the_old(world: World) -> None:
    world.create(a_spec(mode=a_job(2, 2), image="done"))
    world.settle()
    before = {task.id for task in world.tasks()}
    world.update(a_spec(mode=a_job(2, 2), image="done", force=1))
    world.settle()
    assert not before & {task.id for task in world.tasks()}
    assert {task.job_iteration for task in completed(world)} == {1}
    status = world.service().job_status
    assert status is not None
    assert status.iteration == 1
    assert world.update_state() == ""


def test_failures_are_retried_until_the_policy_ends(world: World) -> None:
    world.create(a_spec(mode=a_job(1, 1), image="crash", restart=RestartPolicy(max_attempts=2, delay=SECOND)))
    world.settle()
    assert len(world.tasks()) == 3
    assert world.live() == []
    assert completed(world) == []


def test_never_restarted_jobs_fail_once_per_slot(world: World) -> None:
    world.create(a_spec(mode=a_job(3, 1), image="crash", restart=RestartPolicy(condition=RestartCondition.NONE)))
    world.settle()
    assert [task.slot for task in world.tasks()] == [0, 1, 2]


def test_a_down_nodes_job_tasks_run_elsewhere(world: World) -> None:
    world.create(a_spec(mode=a_job(3, 3)))
    world.advance(5)
    world.kill("n2")
    world.advance(5)
    assert len(world.running()) == 3


def test_a_global_job_runs_once_on_every_eligible_node(world: World) -> None:
    world.set_node("n3", availability=Availability.DRAIN)
    world.create(a_spec(mode=JOB_EVERYWHERE, image="done"))
    world.settle()
    assert sorted(task.node_id for task in completed(world)) == ["n1", "n2"]
    assert {task.desired_state for task in world.tasks()} == {TaskState.COMPLETE}
    world.set_node("n3", availability=Availability.ACTIVE)
    world.settle()
    assert sorted(task.node_id for task in completed(world)) == ["n1", "n2", "n3"]
    world.update(a_spec(mode=JOB_EVERYWHERE, image="done", force=1))
    world.settle()
    assert sorted((task.node_id, task.job_iteration) for task in completed(world)) == [("n1", 1), ("n2", 1), ("n3", 1)]


def test_draining_keeps_what_a_global_job_completed(world: World) -> None:
    world.create(a_spec(mode=JOB_EVERYWHERE, image="done"))
    world.settle()
    world.drain("n1")
    world.settle()
    world.set_node("n1", availability=Availability.ACTIVE)
    world.settle()
    assert len(completed(world)) == 3
    assert len(world.tasks()) == 3
