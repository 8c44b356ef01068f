"""Replicated services: slots, scaling, removal and history."""

import pytest
from tests.core.orchestrate.world import World, a_spec
from tests.factories import a_task

from skep.core.orchestrate.replicated import removal_order
from skep.model.cluster import Cluster, OrchestrationConfig, SwarmSpec
from skep.model.lifecycle import TaskState
from skep.model.service import RestartCondition, RestartPolicy
from skep.model.task import Task
from skep.store.changes import Delete


@pytest.fixture
def world() -> World:
    world = World()
    world.add_nodes("n1", "n2", "n3")
    return world


def test_creates_one_task_per_slot_from_one(world: World) -> None:
    world.create(a_spec(replicas=3))
    world.decide()
    assert [task.slot for task in world.tasks()] == [1, 2, 3]
    assert {task.status.state for task in world.tasks()} == {TaskState.NEW}
    assert {task.desired_state for task in world.tasks()} == {TaskState.RUNNING}
    assert {task.service_name for task in world.tasks()} == {"web"}
    assert {task.spec_version for task in world.tasks()} == {1}


def test_converges_and_comes_to_rest(world: World) -> None:
    world.create(a_spec(replicas=5))
    world.settle()
    assert len(world.running()) == 5
    assert len(world.tasks()) == 5


def test_scaling_up_fills_gaps_and_keeps_the_running(world: World) -> None:
    world.create(a_spec(replicas=2))
    world.settle()
    before = {task.id for task in world.running()}
    world.update(a_spec(replicas=4))
    world.settle()
    assert [task.slot for task in world.running()] == [1, 2, 3, 4]
    assert before < {task.id for task in world.running()}
    assert world.update_state() == ""


def test_scaling_down_removes_without_history(world: World) -> None:
    world.create(a_spec(replicas=6))
    world.settle()
    world.update(a_spec(replicas=2))
    world.decide()
    assert sorted(task.desired_state for task in world.tasks()) == [TaskState.RUNNING] * 2 + [TaskState.REMOVE] * 4
    world.settle()
    assert len(world.tasks()) == 2
    assert {task.node_id for task in world.running()} != {world.running()[0].node_id}


def test_a_task_wanted_gone_stays_until_it_stopped(world: World) -> None:
    world.create(a_spec(replicas=1))
    world.settle()
    (task,) = world.tasks()
    world.slow_stop.add(task.id)
    world.update(a_spec(replicas=0))
    world.advance(30)
    assert world.task(task.id).desired_state == TaskState.REMOVE
    world.slow_stop.clear()
    world.settle()
    assert world.tasks() == []


def test_tasks_no_node_was_told_of_go_at_once(world: World) -> None:
    world.create(a_spec(replicas=3))
    world.decide()
    world.update(a_spec(replicas=1))
    world.decide()
    assert len(world.tasks()) == 1


def test_removing_a_service_takes_its_tasks_then_itself(world: World) -> None:
    world.create(a_spec(replicas=3))
    world.settle()
    world.remove()
    world.decide()
    assert {task.desired_state for task in world.tasks()} == {TaskState.REMOVE}
    assert world.state.services.get("web") is not None
    world.settle()
    assert world.state.services.get("web") is None
    assert len(world.state.tasks) == 0


def test_removing_a_service_does_not_wait_for_a_dead_node(world: World) -> None:
    world.create(a_spec(replicas=3))
    world.settle()
    world.kill("n2")
    world.remove()
    world.settle()
    assert world.state.services.get("web") is None
    assert len(world.state.tasks) == 0


def test_tasks_without_a_service_are_removed(world: World) -> None:
    world.create(a_spec(replicas=2))
    world.settle()
    gone = Delete("service", "web", world.service().version)
    world.dirty.note(world.state.apply([gone], world.state.revision + 1))
    world.settle()
    assert len(world.state.tasks) == 0


@pytest.mark.parametrize(("limit", "n_kept"), [(None, 5), (2, 2), (1, 1), (0, 1)], ids=["default", "2", "1", "0"])
def test_history_is_bounded_per_slot(world: World, limit: int | None, n_kept: int) -> None:
    spec = SwarmSpec(orchestration=OrchestrationConfig(task_history_retention_limit=limit))
    world.put(Cluster(id="cluster", spec=spec))
    world.create(a_spec(replicas=2))
    world.settle()
    for _ in range(8):
        (first, *_) = world.running()
        world.fail(first)
        world.settle()
    assert len([task for task in world.tasks() if task.slot == 1]) == n_kept
    assert len(world.running()) == 2


def test_without_history_a_task_that_ended_for_good_is_still_kept(world: World) -> None:
    spec = SwarmSpec(orchestration=OrchestrationConfig(task_history_retention_limit=0))
    world.put(Cluster(id="cluster", spec=spec))
    world.create(a_spec(image="crash", restart=RestartPolicy(condition=RestartCondition.NONE)))
    world.settle()
    assert [task.ordinal for task in world.tasks()] == [1]
    assert world.live() == []


def slots(*rows: tuple[int, str, TaskState]) -> dict[int | str, list[Task]]:
    return {slot: [a_task(f"t{slot}", slot=slot, node_id=node, state=state)] for slot, node, state in rows}


RUNNING, PENDING = TaskState.RUNNING, TaskState.PENDING


@pytest.mark.parametrize(
    ("rows", "order"),
    [
        pytest.param([(1, "a", RUNNING), (2, "b", RUNNING), (3, "c", RUNNING)], [3, 2, 1], id="even-highest-first"),
        pytest.param([(1, "a", RUNNING), (2, "a", RUNNING), (3, "b", RUNNING)], [2, 3, 1], id="crowded-node-first"),
        pytest.param([(1, "", PENDING), (2, "a", RUNNING), (3, "a", RUNNING)], [1, 3, 2], id="idle-before-crowded"),
        pytest.param([(1, "a", RUNNING), (2, "a", RUNNING), (3, "a", PENDING)], [3, 2, 1], id="idle-on-crowded"),
        pytest.param([], [], id="none"),
    ],
)
def test_removal_order(rows: list[tuple[int, str, TaskState]], order: list[int]) -> None:
    assert removal_order(slots(*rows)) == order
