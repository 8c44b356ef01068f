"""Stop-first updates: nothing is stopped before its successor's image, and all else it needs, is there."""

from collections import Counter

import msgspec
import pytest
from tests.core.orchestrate.world import EVERYWHERE, World, a_spec, an_update

from skep.lib.durations import SECOND
from skep.model.lifecycle import TaskState, is_terminal
from skep.model.service import FailureAction, RestartCondition, RestartPolicy, ServiceSpec, UpdateOrder
from skep.model.task import Task

QUICK = RestartPolicy(delay=SECOND)
AT_MOST_ONE = {"skep.partition": "at-most-one"}


@pytest.fixture
def world() -> World:
    world = World()
    world.add_nodes("n1", "n2")
    return world


def images(world: World) -> list[str]:
    return [task.spec.container_spec.image for task in world.running() if task.spec.container_spec]


def to_image(spec: ServiceSpec, image: str) -> ServiceSpec:
    return msgspec.structs.replace(spec, task_template=a_spec(image=image, restart=QUICK).task_template)


def updating(world: World, image: str = "next", **fields: object) -> tuple[Task, Task]:
    """A service of one task, in the first moment of its update; returns the old task and the new one."""
    spec = a_spec(restart=QUICK, **fields)  # type: ignore[arg-type]  # Each test gives the fields it is about.
    world.create(spec)
    world.settle()
    world.update(to_image(spec, image))
    world.decide()
    old, new = world.live()
    return old, new


@pytest.mark.parametrize("labels", [{}, AT_MOST_ONE], ids=["plain", "at-most-one"])
def test_the_old_task_serves_until_the_new_one_is_prepared(world: World, labels: dict[str, str]) -> None:
    old, new = updating(world, labels=labels)
    world.place()
    world.decide()
    for state in (TaskState.ACCEPTED, TaskState.PREPARING):
        world.report(world.task(new.id), state)
        world.now += 200 * SECOND  # However long the pull takes.
        world.decide()
        assert world.task(old.id).desired_state == TaskState.RUNNING
        assert world.task(new.id).desired_state == TaskState.READY
    world.report(world.task(new.id), TaskState.READY)
    world.decide()
    assert world.task(old.id).desired_state == TaskState.SHUTDOWN
    assert world.task(new.id).desired_state == TaskState.READY  # Not beside the old one.
    world.now += 30 * SECOND
    world.decide()
    assert world.task(new.id).desired_state == TaskState.READY  # The limit for stopping begins when it was told to.
    world.report(world.task(old.id), TaskState.SHUTDOWN)
    world.decide()
    assert world.task(new.id).desired_state == TaskState.RUNNING


def test_an_image_that_cannot_be_had_leaves_every_old_task_as_it_was(world: World) -> None:
    spec = a_spec(replicas=3, restart=QUICK)
    world.create(spec)
    world.settle()
    before = {task.id for task in world.running()}
    world.update(to_image(spec, "unknown"))
    world.advance(60)
    assert world.update_state() == "paused"
    assert {task.id for task in world.running()} == before


def test_it_takes_over_once_the_image_can_be_had_after_all(world: World) -> None:
    _, new = updating(world, image="unknown")
    world.advance(5)
    assert world.update_state() == "paused"
    assert images(world) == ["good"]
    spec = world.service().spec
    world.update(to_image(spec, "next"))
    world.settle()
    assert images(world) == ["next"]
    assert new.id not in {task.id for task in world.live()}


@pytest.mark.parametrize("labels", [{}, AT_MOST_ONE], ids=["plain", "at-most-one"])
def test_a_successor_without_delay_does_not_run_beside_the_old_task(world: World, labels: dict[str, str]) -> None:
    """Seed 50038: the heir's heir, made at once where the policy has no delay, was wanted RUNNING from the start."""
    at_once, go_on = RestartPolicy(delay=0), an_update(parallelism=1, failure_action=FailureAction.CONTINUE)
    world.create(a_spec(mode=EVERYWHERE, restart=at_once, labels=labels))
    world.settle()
    wanted: list[int] = []

    def look(world: World) -> None:
        tasks = [task for task in world.tasks() if task.desired_state == TaskState.RUNNING]
        homes = Counter(task.node_id for task in tasks if not is_terminal(task.status.state))
        wanted.append(max(homes.values(), default=0))

    world.watchers.append(look)
    for force, image in enumerate(("unknown", "next")):
        world.update(a_spec(mode=EVERYWHERE, image=image, restart=at_once, labels=labels, force=force,
                            update_config=go_on))  # fmt: skip
        world.advance(30)
    assert images(world) == ["next", "next"]
    assert max(wanted) == 1


def test_rolled_back_it_is_the_very_same_task_that_stays(world: World) -> None:
    old, _ = updating(world, image="unknown", update_config=an_update(failure_action=FailureAction.ROLLBACK))
    assert world.task(old.id).yielding
    world.settle()
    assert world.update_state() == "rollback_completed"
    assert [(task.id, task.yielding) for task in world.running()] == [(old.id, False)]


def test_given_up_the_old_task_counts_again(world: World) -> None:
    never = RestartPolicy(condition=RestartCondition.NONE)
    world.create(a_spec(restart=never))
    world.settle()
    (old,) = world.running()
    world.update(a_spec(image="unknown", restart=never))
    world.settle()
    assert [(task.id, task.yielding) for task in world.running()] == [(old.id, False)]


def test_where_the_new_one_finds_no_place_the_old_one_leaves_first(world: World) -> None:
    old, new = updating(world)
    world.put(msgspec.structs.replace(new, status=msgspec.structs.replace(new.status, state=TaskState.PENDING)))
    world.decide()
    assert world.task(old.id).desired_state == TaskState.RUNNING
    status = msgspec.structs.replace(
        world.task(new.id).status, err="no suitable node (max replicas per node limit exceed)"
    )
    world.put(msgspec.structs.replace(world.task(new.id), status=status))
    world.decide()
    assert world.task(old.id).desired_state == TaskState.SHUTDOWN


def test_a_task_nobody_places_does_not_hold_the_update_up_for_ever(world: World) -> None:
    old, _ = updating(world)
    world.now += 11 * SECOND
    world.decide()
    assert world.task(old.id).desired_state == TaskState.SHUTDOWN


def test_a_lost_old_task_is_not_waited_for(world: World) -> None:
    old, new = updating(world)
    world.place()
    world.decide()
    assert world.task(new.id).node_id != old.node_id
    world.kill(old.node_id)
    world.settle()
    assert [task.id for task in world.running()] == [new.id]


def test_the_next_update_may_be_start_first(world: World) -> None:
    old, _ = updating(world, image="stuck")
    spec = to_image(a_spec(update_config=an_update(order=UpdateOrder.START_FIRST)), "next")
    world.update(spec)
    world.decide()
    assert not world.task(old.id).yielding
    running: list[int] = []
    world.watchers.append(lambda world: running.append(len(world.running())))
    world.settle()
    assert images(world) == ["next"]
    assert min(running) == 1


def test_a_global_services_task_is_prepared_beside_the_old_one(world: World) -> None:
    world.create(a_spec(mode=EVERYWHERE, restart=QUICK))
    world.settle()
    before = {task.id for task in world.running()}
    world.update(a_spec(mode=EVERYWHERE, image="unknown", restart=QUICK))
    world.advance(30)
    assert {task.id for task in world.running()} == before
    world.update(a_spec(mode=EVERYWHERE, image="next", restart=QUICK))
    world.settle()
    assert images(world) == ["next", "next"]
