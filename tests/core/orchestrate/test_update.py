"""Rolling updates and rollbacks: what changes, in which order, how fast, and what happens on failure."""

import msgspec
import pytest
from tests.core.orchestrate.world import EVERYWHERE, World, a_spec, an_update
from tests.factories import a_node, a_service, a_task

from skep.core.orchestrate.changed import is_dirty
from skep.lib.durations import MINUTE, SECOND
from skep.model import codec
from skep.model.lifecycle import TaskState
from skep.model.node import Availability
from skep.model.service import (
    Endpoint,
    EndpointSpec,
    FailureAction,
    PortConfig,
    RestartCondition,
    RestartPolicy,
    ServiceSpec,
    UpdateConfig,
    UpdateOrder,
)
from skep.store.changes import Delete

START_FIRST = UpdateOrder.START_FIRST
QUICK = RestartPolicy(delay=SECOND)


@pytest.fixture
def world() -> World:
    world = World()
    world.add_nodes("n1", "n2", "n3")
    return world


def images(world: World) -> list[str]:
    return [task.spec.container_spec.image for task in world.running() if task.spec.container_spec]


def message(world: World) -> str:
    status = world.service().update_status
    return status.message if status else ""


class Counts:
    """How many tasks ran, were wanted, and were on their way, after every step."""

    def __init__(self, world: World) -> None:
        self.running: list[int] = []
        self.live: list[int] = []
        world.watchers.append(self._count)

    def _count(self, world: World) -> None:
        self.running.append(len(world.running()))
        self.live.append(len(world.live()))


def updated(world: World, replicas: int = 4, image: str = "next", **config: object) -> Counts:
    """Roll a service out, then change it; returns counts from the change on."""
    settings = UpdateConfig(**config)  # type: ignore[arg-type]  # Each test gives the fields it is about.
    world.create(a_spec(replicas=replicas, restart=QUICK, update_config=settings))
    world.settle()
    counts = Counts(world)
    world.update(a_spec(replicas=replicas, image=image, restart=QUICK, update_config=settings))
    return counts


# --- going well ----------------------------------------------------------------


def test_one_slot_at_a_time_stop_first(world: World) -> None:
    counts = updated(world)
    world.decide()
    assert world.update_state() == "updating"
    assert message(world) == "update in progress"
    world.settle()
    assert images(world) == ["next"] * 4
    assert min(counts.running) == 3
    assert max(counts.live) == 5  # The next one is prepared while the one before still serves.
    assert world.update_state() == "completed"
    assert message(world) == "update completed"


def test_start_first_never_falls_below_the_replicas(world: World) -> None:
    counts = updated(world, order=START_FIRST)
    world.settle()
    assert images(world) == ["next"] * 4
    assert min(counts.running) == 4
    assert max(counts.live) == 5


def test_start_first_waits_until_the_new_task_accepts(world: World) -> None:
    endpoint = EndpointSpec(ports=[PortConfig(target_port=80, published_port=8080)])
    settings = an_update(order=START_FIRST)
    world.create(a_spec(endpoint_spec=endpoint, update_config=settings))
    world.settle()
    world.update(a_spec(endpoint_spec=endpoint, update_config=settings, image="deaf"))
    world.advance(60)
    assert sorted(images(world)) == ["deaf", "good"]


@pytest.mark.parametrize(("parallelism", "n_down"), [(1, 1), (2, 2), (0, 4)], ids=["1", "2", "0-is-all"])
def test_parallelism(world: World, parallelism: int, n_down: int) -> None:
    counts = updated(world, parallelism=parallelism)
    world.settle()
    assert 4 - min(counts.running) == n_down


def test_delay_between_two_slots(world: World) -> None:
    updated(world, replicas=2, delay=20 * SECOND)
    world.advance(15)
    assert sorted(images(world)) == ["good", "next"]
    world.advance(15)
    assert images(world) == ["next", "next"]


def test_completes_after_one_more_monitor_period(world: World) -> None:
    updated(world, replicas=1, monitor=30 * SECOND)
    world.advance(20)
    assert world.update_state() == "updating"
    world.advance(20)
    assert world.update_state() == "completed"


def test_the_monitor_outlasts_the_delay(world: World) -> None:
    updated(world, replicas=1, monitor=5 * SECOND, delay=20 * SECOND)
    world.advance(15)
    assert world.update_state() == "updating"
    world.advance(15)
    assert world.update_state() == "completed"


def test_the_old_task_is_waited_for_up_to_a_minute(world: World) -> None:
    world.create(a_spec())
    world.settle()
    (old,) = world.running()
    world.slow_stop.add(old.id)
    world.update(a_spec(image="next"))
    world.advance(58)
    assert "next" not in images(world)
    world.advance(4)
    assert "next" in images(world)


def test_force_replaces_every_task(world: World) -> None:
    world.create(a_spec(replicas=2))
    world.settle()
    before = {task.id for task in world.running()}
    world.update(a_spec(replicas=2, force=1))
    world.settle()
    assert len(world.running()) == 2
    assert not before & {task.id for task in world.running()}


@pytest.mark.parametrize(
    "change",
    [{"labels": {"a": "b"}}, {"replicas": 3}, {"update_config": UpdateConfig(parallelism=3)}, {}],
    ids=["labels", "replicas", "update-settings", "nothing"],
)
def test_what_restarts_nothing(world: World, change: dict[str, object]) -> None:
    world.create(a_spec(replicas=2))
    world.settle()
    before = {task.id for task in world.running()}
    world.update(a_spec(**{"replicas": 2, **change}))  # type: ignore[arg-type]  # As above.
    world.settle()
    assert before <= {task.id for task in world.running()}
    assert world.update_state() == ""


def test_scaling_while_updating_ends_in_the_new_state(world: World) -> None:
    updated(world, replicas=4)
    world.advance(4)
    world.update(msgspec.structs.replace(world.service().spec, mode=a_spec(replicas=6).mode))
    world.settle()
    assert images(world) == ["next"] * 6


def test_an_update_overtaken_by_the_next(world: World) -> None:
    updated(world, replicas=4)
    world.advance(4)
    world.update(a_spec(replicas=4, image="third"))
    world.settle()
    assert images(world) == ["third"] * 4
    assert world.update_state() == "completed"


def test_a_new_leader_goes_on_where_the_old_one_stopped(world: World) -> None:
    """Nothing but the stored state is needed: every object is written and read back in the middle of an update."""
    updated(world, replicas=4)
    world.advance(4)
    objects = [*world.state.services.values(), *world.state.tasks.values()]
    again = [codec.decode(codec.KIND_OF[type(value)], codec.encode(value), value.version) for value in objects]
    assert again == objects
    world.dirty.services.add("web")
    world.settle()
    assert images(world) == ["next"] * 4


def test_global_services_are_updated_node_by_node_and_paused_nodes_later(world: World) -> None:
    world.create(a_spec(mode=EVERYWHERE))
    world.settle()
    world.set_node("n2", availability=Availability.PAUSE)
    counts = Counts(world)
    world.update(a_spec(mode=EVERYWHERE, image="next"))
    world.settle()
    assert sorted(images(world)) == ["good", "next", "next"]
    assert min(counts.running) == 2
    assert world.update_state() == "completed"
    world.set_node("n2", availability=Availability.ACTIVE)
    world.settle()
    assert images(world) == ["next"] * 3


def test_ended_slots_are_updated_too(world: World) -> None:
    never = RestartPolicy(condition=RestartCondition.NONE)
    world.create(a_spec(image="done", restart=never))
    world.settle()
    assert world.running() == []
    world.update(a_spec(image="good", restart=never))
    world.settle()
    assert images(world) == ["good"]


# --- what counts as changed ------------------------------------------------------


def _spec(**template: object) -> ServiceSpec:
    spec = a_spec()
    return msgspec.structs.replace(spec, task_template=msgspec.structs.replace(spec.task_template, **template))


@pytest.mark.parametrize(
    ("new", "is_changed"),
    [
        pytest.param(a_spec(), False, id="same"),
        pytest.param(a_spec(image="other"), True, id="image"),
        pytest.param(a_spec(force=1), True, id="force"),
        pytest.param(a_spec(restart=QUICK), True, id="restart-policy"),
        pytest.param(a_spec(labels={"a": "b"}), False, id="service-labels"),
        pytest.param(a_spec(replicas=9), False, id="replicas"),
        pytest.param(a_spec(constraints=["node.id==n1"]), False, id="placement-still-satisfied"),
        pytest.param(a_spec(constraints=["node.id==n2"]), True, id="placement-not-satisfied"),
        pytest.param(a_spec(constraints=["node.id==n1"], image="other"), True, id="placement-and-image"),
        pytest.param(a_spec(endpoint_spec=EndpointSpec(ports=[PortConfig(target_port=1)])), True, id="endpoint"),
        pytest.param(a_spec(endpoint_spec=EndpointSpec()), False, id="endpoint-default"),
    ],
)
def test_dirty(new: ServiceSpec, is_changed: bool) -> None:
    old = msgspec.structs.replace(a_service(), spec=a_spec(), spec_version=1, endpoint=Endpoint())
    task = a_task(service=old, state=TaskState.RUNNING, node_id="n1")
    service = msgspec.structs.replace(old, spec=new, spec_version=2)
    assert is_dirty(service, task, a_node("n1")) == is_changed
    assert not is_dirty(old, task, a_node("n1"))


def test_a_task_without_a_node_follows_a_new_placement() -> None:
    old = msgspec.structs.replace(a_service(), spec=a_spec(), spec_version=1)
    service = msgspec.structs.replace(old, spec=a_spec(constraints=["node.id==n1"]), spec_version=2)
    assert is_dirty(service, a_task(service=old), None)


# --- going wrong -----------------------------------------------------------------


@pytest.mark.parametrize("order", list(UpdateOrder))
def test_a_crashing_image_pauses_the_update(world: World, order: UpdateOrder) -> None:
    updated(world, image="crash", order=order)
    world.advance(20)
    assert world.update_state() == "paused"
    assert message(world).startswith("update paused due to failure or early termination of task t")
    assert images(world) == ["good"] * (4 if order == START_FIRST else 3)
    world.advance(60)
    assert images(world) == ["good"] * (4 if order == START_FIRST else 3)


def test_failing_within_the_monitor_counts(world: World) -> None:
    updated(world, replicas=2, image="next", monitor=10 * SECOND)
    world.advance(6)
    (new,) = [task for task in world.running() if task.spec.container_spec and task.rollout][:1]
    world.fail(new)
    world.decide()
    assert world.update_state() == "paused"
    assert new.id in message(world)


def test_failing_after_the_monitor_does_not_count(world: World) -> None:
    updated(world, replicas=2, monitor=3 * SECOND, delay=30 * SECOND)
    world.advance(10)
    monitored = 31 * SECOND  # Never shorter than the delay.
    world.now += monitored
    (new,) = [task for task in world.running() if task.rollout]
    world.fail(new)
    world.settle()
    assert world.update_state() == "completed"


def test_a_lost_node_is_not_the_updates_failure(world: World) -> None:
    updated(world, replicas=3, monitor=10 * SECOND)
    world.advance(4)
    new = next(task for task in world.live() if task.rollout and task.node_id)
    world.kill(new.node_id)
    world.settle()
    assert world.update_state() == "completed"
    assert images(world) == ["next"] * 3


def test_a_removed_node_is_not_the_updates_failure(world: World) -> None:
    updated(world, replicas=3, monitor=10 * SECOND)
    world.advance(4)
    new = next(task for task in world.live() if task.rollout and task.node_id)
    gone = Delete("node", new.node_id, world.node(new.node_id).version)
    world.dirty.note(world.state.apply([gone], world.state.revision + 1))
    world.settle()
    assert world.update_state() == "completed"
    assert images(world) == ["next"] * 3


@pytest.mark.parametrize("order", list(UpdateOrder))
def test_a_crashing_image_is_rolled_back(world: World, order: UpdateOrder) -> None:
    counts = updated(world, image="crash", order=order, failure_action=FailureAction.ROLLBACK)
    world.settle()
    assert images(world) == ["good"] * 4
    assert world.update_state() == "rollback_completed"
    assert message(world) == "rollback completed"
    assert world.service().previous_spec is None
    assert world.service().spec_version == 3  # Never the number of another spec.
    assert min(counts.running) == (4 if order == START_FIRST else 3)
    assert len([task for task in world.tasks() if task.restart.attempts]) == 0  # No delay on the way back.


def test_the_rollback_says_why_and_uses_its_own_settings(world: World) -> None:
    spec = a_spec(
        replicas=4,
        update_config=an_update(failure_action=FailureAction.ROLLBACK, parallelism=4),
        rollback_config=an_update(parallelism=1),
    )
    world.create(spec)
    world.settle()
    bad = a_spec(replicas=4, image="short").task_template
    world.update(msgspec.structs.replace(spec, task_template=bad))
    world.advance(6)
    assert message(world).startswith("update rolled back due to failure or early termination of task t")
    assert world.service().spec == spec
    world.settle()
    assert images(world) == ["good"] * 4


def test_a_failing_rollback_is_paused_and_never_rolled_back(world: World) -> None:
    settings = an_update(failure_action=FailureAction.ROLLBACK)
    crash = a_spec(image="crash", restart=QUICK, update_config=settings, rollback_config=settings)
    world.create(crash)
    world.advance(3)
    world.update(msgspec.structs.replace(crash, task_template=a_spec(image="short", restart=QUICK).task_template))
    world.advance(60)
    assert world.update_state() == "rollback_paused"
    assert message(world).startswith("rollback paused due to failure or early termination of task t")


def test_continue_ignores_failures(world: World) -> None:
    updated(world, image="crash", failure_action=FailureAction.CONTINUE)
    world.advance(60)
    assert world.update_state() == "completed"
    assert images(world) == []


def test_a_slot_that_failed_is_not_tried_again_by_the_same_update(world: World) -> None:
    settings = UpdateConfig(order=START_FIRST, failure_action=FailureAction.CONTINUE)
    never = RestartPolicy(condition=RestartCondition.NONE)
    world.create(a_spec(replicas=2, restart=never, update_config=settings))
    world.settle()
    world.update(a_spec(replicas=2, restart=never, update_config=settings, image="crash"))
    world.settle()
    assert images(world) == ["good", "good"]
    assert [task.slot for task in world.tasks() if task.status.state == TaskState.FAILED] == [1, 2]
    assert world.update_state() == "completed"


def test_the_failure_ratio_is_over_the_slots_to_change(world: World) -> None:
    updated(world, replicas=4, max_failure_ratio=0.5, monitor=60 * SECOND)
    for _ in range(2):
        world.advance(4)
        world.fail(next(task for task in world.running() if task.rollout and not _failed(world, task.slot)))
        world.decide()
        assert world.update_state() == "updating"
    world.advance(4)
    world.fail(next(task for task in world.running() if task.rollout and not _failed(world, task.slot)))
    world.decide()
    assert world.update_state() == "paused"


def _failed(world: World, slot: int) -> bool:
    rollout = world.service().rollout
    return rollout is not None and str(slot) in rollout.failed


@pytest.mark.parametrize("order", list(UpdateOrder))
def test_a_task_that_never_becomes_ready_fails_the_update_in_the_end(world: World, order: UpdateOrder) -> None:
    counts = updated(world, image="stuck", order=order, failure_action=FailureAction.ROLLBACK)
    world.advance(290)
    assert world.update_state() == "updating"
    world.settle()
    assert world.update_state() == "rollback_completed"
    assert images(world) == ["good"] * 4
    assert min(counts.running) >= 3


def test_the_limit_for_becoming_ready_is_a_label(world: World) -> None:
    spec = a_spec(labels={"skep.update.ready-timeout": "20s"})
    world.create(spec)
    world.settle()
    world.update(a_spec(labels=spec.labels, image="stuck"))
    world.advance(30)
    assert world.update_state() == "paused"


def test_a_task_that_finds_no_place_fails_the_update_in_the_end(world: World) -> None:
    world.create(a_spec())
    world.settle()
    world.update(a_spec(constraints=["node.labels.nowhere==true"], update_config=an_update(order=START_FIRST)))
    world.advance(MINUTE // SECOND * 6, tick=2)
    assert world.update_state() == "paused"
    assert len(world.running()) == 1


def test_a_paused_update_restarts_old_tasks_from_the_new_spec(world: World) -> None:
    updated(world, image="crash")
    world.advance(20)
    old = world.running()[0]
    world.fail(old)
    world.advance(10)
    newest = max((task for task in world.tasks() if task.slot == old.slot), key=lambda task: task.ordinal)
    assert newest.spec.container_spec is not None
    assert newest.spec.container_spec.image == "crash"


def test_updating_again_resumes_after_a_pause(world: World) -> None:
    updated(world, image="crash")
    world.advance(20)
    assert world.update_state() == "paused"
    world.update(a_spec(replicas=4, image="next"))
    world.settle()
    assert images(world) == ["next"] * 4
    assert world.update_state() == "completed"


# --- by hand ---------------------------------------------------------------------


def test_rollback_by_hand(world: World) -> None:
    updated(world, replicas=2)
    world.settle()
    world.roll_back()
    world.settle()
    assert images(world) == ["good"] * 2
    assert world.update_state() == "rollback_completed"
    world.roll_back()  # Back again: the two specs changed places.
    world.settle()
    assert images(world) == ["next"] * 2


def test_rollback_in_the_middle_keeps_tasks_that_never_changed(world: World) -> None:
    updated(world, replicas=4, delay=30 * SECOND)
    world.advance(10)
    unchanged = {task.id for task in world.running() if not task.rollout}
    assert len(unchanged) == 3
    world.roll_back()
    world.settle()
    assert unchanged < {task.id for task in world.running()}
    assert images(world) == ["good"] * 4


def test_rollback_of_a_service_already_as_before_completes_at_once(world: World) -> None:
    world.create(a_spec(replicas=2))
    world.settle()
    world.update(a_spec(replicas=3))
    world.settle()
    world.roll_back()
    world.settle()
    assert len(world.running()) == 2
    assert world.update_state() == "rollback_completed"


def test_the_one_left_when_start_first_is_rolled_back_is_the_old_one(world: World) -> None:
    updated(world, replicas=1, image="stuck", order=START_FIRST)
    world.advance(5)
    (old,) = world.running()
    world.roll_back()
    world.settle()
    assert [task.id for task in world.running()] == [old.id]
