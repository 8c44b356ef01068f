"""Global services: one task on every node that may have one."""

import pytest
from tests.core.orchestrate.world import EVERYWHERE, World, a_spec

from skep.model.lifecycle import TaskState
from skep.model.node import Availability, NodeState
from skep.model.service import RestartCondition, RestartPolicy
from skep.store.changes import Delete


@pytest.fixture
def world() -> World:
    world = World()
    world.add_nodes("n1", "n2", "n3")
    return world


def nodes(world: World) -> list[str]:
    return sorted(task.node_id for task in world.running())


def test_one_task_per_node_with_the_node_given(world: World) -> None:
    world.create(a_spec(mode=EVERYWHERE))
    world.decide()
    assert sorted(task.node_id for task in world.tasks()) == ["n1", "n2", "n3"]
    assert {(task.slot, task.status.state) for task in world.tasks()} == {(0, TaskState.NEW)}
    world.settle()
    assert nodes(world) == ["n1", "n2", "n3"]


def test_a_new_node_gets_its_task(world: World) -> None:
    world.create(a_spec(mode=EVERYWHERE))
    world.settle()
    world.add_nodes("n4")
    world.settle()
    assert nodes(world) == ["n1", "n2", "n3", "n4"]


@pytest.mark.parametrize(
    ("state", "availability"),
    [
        (NodeState.DOWN, Availability.ACTIVE),
        (NodeState.UNKNOWN, Availability.ACTIVE),
        (NodeState.DISCONNECTED, Availability.ACTIVE),
        (NodeState.READY, Availability.PAUSE),
        (NodeState.READY, Availability.DRAIN),
    ],
)
def test_nodes_that_get_none(world: World, state: NodeState, availability: Availability) -> None:
    world.add_nodes("n4", state=state, availability=availability)
    world.create(a_spec(mode=EVERYWHERE))
    world.settle()
    assert nodes(world) == ["n1", "n2", "n3"]


def test_constraints_choose_nodes(world: World) -> None:
    world.set_node("n2", labels={"disk": "ssd"})
    world.create(a_spec(mode=EVERYWHERE, constraints=["node.labels.disk==ssd"]))
    world.settle()
    assert nodes(world) == ["n2"]
    world.set_node("n3", labels={"disk": "ssd"})
    world.set_node("n2", labels={})
    world.settle()
    assert nodes(world) == ["n3"]


def test_draining_takes_the_task_and_activating_brings_one_back(world: World) -> None:
    world.create(a_spec(mode=EVERYWHERE))
    world.settle()
    world.drain("n2")
    world.settle()
    assert nodes(world) == ["n1", "n3"]
    world.set_node("n2", availability=Availability.ACTIVE)
    world.settle()
    assert nodes(world) == ["n1", "n2", "n3"]


def test_a_returned_drain_waits_for_the_old_task_to_stop(world: World) -> None:
    world.create(a_spec(mode=EVERYWHERE))
    world.settle()
    (old,) = [task for task in world.running() if task.node_id == "n2"]
    world.slow_stop.add(old.id)
    world.drain("n2")
    world.advance(1)
    world.set_node("n2", availability=Availability.ACTIVE)
    world.advance(5)
    (new,) = [task for task in world.live() if task.node_id == "n2"]
    assert new.desired_state == TaskState.READY
    world.slow_stop.clear()
    world.settle()
    assert world.task(new.id).status.state == TaskState.RUNNING


def test_pausing_keeps_the_task_and_starts_none(world: World) -> None:
    world.create(a_spec(mode=EVERYWHERE))
    world.settle()
    world.set_node("n2", availability=Availability.PAUSE)
    world.settle()
    assert nodes(world) == ["n1", "n2", "n3"]
    (task,) = [task for task in world.running() if task.node_id == "n2"]
    world.fail(task)
    world.settle()
    assert nodes(world) == ["n1", "n3"]
    world.set_node("n2", availability=Availability.ACTIVE)
    world.settle()
    assert nodes(world) == ["n1", "n2", "n3"]


def test_a_silent_node_keeps_its_task(world: World) -> None:
    """Nothing is killed only for having been silent."""
    world.create(a_spec(mode=EVERYWHERE))
    world.settle()
    before = {task.id for task in world.running()}
    world.kill("n2")
    world.settle()
    world.revive("n2")
    world.settle()
    assert {task.id for task in world.running()} == before


def test_a_removed_nodes_tasks_are_forgotten(world: World) -> None:
    world.create(a_spec(mode=EVERYWHERE))
    world.settle()
    world.dirty.note(world.state.apply([Delete("node", "n2", world.node("n2").version)], world.state.revision + 1))
    world.settle()
    assert sorted(task.node_id for task in world.tasks()) == ["n1", "n3"]


def test_a_failed_task_is_restarted_on_its_node(world: World) -> None:
    world.create(a_spec(mode=EVERYWHERE))
    world.settle()
    (task,) = [task for task in world.running() if task.node_id == "n2"]
    world.fail(task)
    world.settle()
    assert nodes(world) == ["n1", "n2", "n3"]


def test_a_completed_task_that_is_not_restarted_stays_completed(world: World) -> None:
    policy = RestartPolicy(condition=RestartCondition.ON_FAILURE)
    world.create(a_spec(mode=EVERYWHERE, image="done", restart=policy))
    world.settle()
    assert world.live() == []
    assert len(world.tasks()) == 3
