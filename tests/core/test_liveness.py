"""Silence, its two thresholds, the brake, and whose fault it is."""

import msgspec
import pytest
from tests.factories import a_cluster, a_node, a_state, a_task, commit, put

from skep.core import liveness
from skep.core.liveness import Heartbeats, LivenessSettings
from skep.lib.durations import HOUR, MILLISECOND, SECOND
from skep.model.cluster import Brake, DispatcherConfig, SwarmSpec
from skep.model.lifecycle import TaskState
from skep.model.node import Node, NodeState
from skep.store.changes import Delete
from skep.store.state import State

START = 1_000_000 * SECOND
TICK = 250 * MILLISECOND


class Watch:
    """Nodes that beat or do not, watched by a manager that comes by on time unless told otherwise."""

    def __init__(self, *ids: str, own: str = "", period: int = 0) -> None:
        spec = SwarmSpec(dispatcher=DispatcherConfig(heartbeat_period=period))
        self.state: State = a_state(a_cluster(spec=spec), *(a_node(id) for id in ids))
        self.now = START
        self.heartbeats = Heartbeats(started_at=START, own_node_id=own)
        self.silent: set[str] = set()
        self.notes: list[str] = []
        self.beat()

    def beat(self) -> None:
        for node in self.state.nodes.values():
            if node.id not in self.silent:
                self.heartbeats.beat(node.id, self.now)

    def look(self) -> None:
        plan = liveness.reconcile(self.state, self.heartbeats, self.now)
        self.notes.extend(plan.notes)
        commit(self.state, plan)
        again = liveness.reconcile(self.state, self.heartbeats, self.now)
        assert again.changes == ()
        assert again.wake_at == self.now + TICK

    def advance(self, seconds: float) -> None:
        end = self.now + int(seconds * SECOND)
        while self.now < end:
            self.now += TICK
            self.beat()
            self.look()

    def stall(self, seconds: float) -> None:
        """The manager's own loop does not run; what arrived meanwhile is read after its next look."""
        self.now += int(seconds * SECOND)
        self.look()
        self.beat()

    def node(self, id: str) -> Node:
        node = self.state.nodes.get(id)
        assert node is not None
        return node

    def standing(self, id: str) -> str:
        node = self.node(id)
        return f"{node.status.state.value}{'' if node.balanced else ', unbalanced'}"

    def down(self) -> set[str]:
        return {node.id for node in self.state.nodes.values() if node.status.state == NodeState.DOWN}

    @property
    def brake(self) -> Brake | None:
        assert self.state.cluster is not None
        return self.state.cluster.brake


def test_nodes_that_have_just_joined_are_not_silent_for_longer_than_they_are_there() -> None:
    """As where many join at once: they are neither down nor do they engage the brake before they can say hello."""
    watch = Watch("n1", "n2", own="n1")
    watch.advance(30)
    watch.silent = {"n3", "n4", "n5"}
    put(watch.state, *(a_node(id, created_at=watch.now) for id in sorted(watch.silent)))
    watch.advance(1.5)
    assert watch.notes == []
    watch.advance(5)
    assert watch.down() == set()
    assert watch.brake is not None  # By now they should have.
    watch.silent = set()
    watch.advance(1)
    assert watch.standing("n3") == "ready"
    assert watch.brake is None


def test_silence_takes_a_node_out_of_balancing_then_down() -> None:
    watch = Watch("n1", "n2", "n3", own="n1")
    watch.advance(10)
    watch.silent = {"n3"}
    watch.advance(1.5)
    assert watch.standing("n3") == "ready"
    watch.advance(0.25)
    assert watch.standing("n3") == "ready, unbalanced"
    watch.advance(4.25)
    assert watch.standing("n3") == "ready, unbalanced"
    watch.advance(0.25)
    assert watch.standing("n3") == "down, unbalanced"
    assert watch.node("n3").status.since == watch.now
    assert watch.standing("n2") == "ready"


@pytest.mark.parametrize("silence", [2, 10], ids=["out-of-balancing", "down"])
def test_the_next_heartbeat_brings_it_back(silence: float) -> None:
    watch = Watch("n1", "n2", own="n1")
    watch.advance(5)
    watch.silent = {"n2"}
    watch.advance(silence)
    assert watch.standing("n2") != "ready"
    watch.silent = set()
    watch.advance(0.25)
    assert watch.standing("n2") == "ready"


def test_thresholds_follow_the_heartbeat_period() -> None:
    watch = Watch("n1", "n2", own="n1", period=2 * SECOND)
    limits = liveness.thresholds(watch.state, LivenessSettings())
    assert (limits.unbalanced, limits.down) == (6 * SECOND, 8 * SECOND)
    assert liveness.thresholds(Watch("n1").state, LivenessSettings()).unbalanced == 1500 * MILLISECOND


def test_large_swarms_beat_more_slowly() -> None:
    state = a_state(a_cluster(), *(a_node(f"n{i}") for i in range(3000)))
    assert liveness.heartbeat_period(state) == 1500 * MILLISECOND
    assert liveness.heartbeat_period(a_state(a_cluster(), a_node())) == 500 * MILLISECOND


def test_after_a_start_nodes_get_a_grace() -> None:
    watch = Watch("n1", "n2", own="n1")
    watch.heartbeats = Heartbeats(started_at=START, own_node_id="n1")
    watch.silent = {"n2"}
    watch.advance(6.5)
    assert watch.standing("n2") == "ready"
    watch.advance(0.5)
    assert watch.standing("n2") == "ready, unbalanced"
    watch.advance(3.75)
    assert watch.standing("n2") == "ready, unbalanced"
    watch.advance(0.5)
    assert watch.standing("n2") == "down, unbalanced"


def test_a_down_node_that_this_manager_never_heard_stays_down() -> None:
    watch = Watch("n1", own="n1")
    put(watch.state, a_node("n2", state=NodeState.DOWN))
    watch.heartbeats = Heartbeats(started_at=START, own_node_id="n1")
    watch.silent = {"n2"}
    watch.advance(2)
    assert watch.node("n2").status.state == NodeState.DOWN


def test_a_node_that_forgot_itself_is_forgotten() -> None:
    heartbeats = Heartbeats(started_at=START)
    heartbeats.beat("n1", START + SECOND)
    assert heartbeats.knows("n1")
    heartbeats.forget("n1")
    assert not heartbeats.knows("n1")
    assert heartbeats.silence("n1", START + 8 * SECOND) == 3 * SECOND


# --- whose fault ---------------------------------------------------------------


def test_a_single_node_is_never_declared_anything() -> None:
    watch = Watch("n1", own="n1")
    watch.silent = {"n1"}
    watch.advance(60)
    watch.stall(60)
    watch.advance(60)
    assert watch.standing("n1") == "ready"


@pytest.mark.parametrize("stall", [0.8, 3, 60])
def test_a_slow_loop_declares_nobody(stall: float) -> None:
    watch = Watch("n1", "n2", "n3", own="n1")
    watch.advance(10)
    watch.stall(stall)
    assert {watch.standing(id) for id in ("n1", "n2", "n3")} == {"ready"}
    watch.advance(10)
    assert {watch.standing(id) for id in ("n1", "n2", "n3")} == {"ready"}


def test_a_loop_that_is_slow_for_good_declares_nobody() -> None:
    watch = Watch("n1", "n2", "n3", own="n1")
    watch.silent = {"n2", "n3"}
    for _ in range(60):
        watch.stall(0.9)
    assert {watch.standing(id) for id in ("n1", "n2", "n3")} == {"ready"}


def test_a_short_hiccup_hardly_delays_a_real_loss() -> None:
    watch = Watch("n1", "n2", "n3", own="n1")
    watch.advance(10)
    watch.silent = {"n3"}
    watch.advance(3)
    watch.stall(0.8)
    watch.advance(3.75)
    assert watch.standing("n3") == "down, unbalanced"


def test_nodes_return_even_while_the_loop_is_slow() -> None:
    watch = Watch("n1", "n2", own="n1")
    watch.advance(1)
    watch.silent = {"n2"}
    watch.advance(10)
    watch.silent = set()
    watch.beat()
    watch.stall(0.9)
    assert watch.standing("n2") == "ready"


# --- the brake -----------------------------------------------------------------


FIVE = ("n1", "n2", "n3", "n4", "n5")


def test_more_than_half_at_once_is_held() -> None:
    watch = Watch(*FIVE, own="n1")
    watch.advance(10)
    watch.silent = {"n3", "n4", "n5"}
    watch.advance(120)
    assert watch.down() == set()
    assert watch.brake is not None
    assert watch.brake.nodes == ["n3", "n4", "n5"]
    assert {watch.standing(id) for id in watch.silent} == {"ready, unbalanced"}
    assert any("vanished at once" in note for note in watch.notes)


def test_half_is_not_more_than_half() -> None:
    watch = Watch("n1", "n2", "n3", "n4", "n5", "n6", own="n1")
    watch.advance(10)
    watch.silent = {"n4", "n5", "n6"}
    watch.advance(10)
    assert watch.down() == {"n4", "n5", "n6"}


def test_two_nodes_are_too_few_for_the_brake() -> None:
    watch = Watch("n1", "n2", "n3", own="n1")
    watch.advance(10)
    watch.silent = {"n2", "n3"}
    watch.advance(10)
    assert watch.down() == {"n2", "n3"}


def test_losses_spread_over_a_long_time_are_not_held() -> None:
    watch = Watch(*FIVE, own="n1")
    watch.advance(10)
    for id in ("n3", "n4", "n5"):
        watch.silent = {*watch.silent, id}
        watch.advance(60)
    assert watch.down() == {"n3", "n4", "n5"}


def test_losses_within_the_window_are_held_from_the_one_that_is_too_many() -> None:
    watch = Watch(*FIVE, own="n1")
    watch.advance(10)
    for id in ("n3", "n4", "n5"):
        watch.silent = {*watch.silent, id}
        watch.advance(8)
    watch.advance(60)
    assert watch.down() == {"n3", "n4"}
    assert watch.brake is not None


def test_their_return_lifts_the_brake() -> None:
    watch = Watch(*FIVE, own="n1")
    watch.advance(10)
    watch.silent = {"n3", "n4", "n5"}
    watch.advance(30)
    watch.silent = set()
    watch.advance(1)
    assert watch.brake is None
    assert {watch.standing(id) for id in FIVE} == {"ready"}


def test_when_enough_return_the_rest_is_down() -> None:
    watch = Watch(*FIVE, own="n1")
    watch.advance(10)
    watch.silent = {"n3", "n4", "n5"}
    watch.advance(30)
    watch.silent = {"n5"}
    watch.advance(1)
    assert watch.brake is None
    assert watch.down() == {"n5"}


def test_an_operator_releases_the_brake() -> None:
    watch = Watch(*FIVE, own="n1")
    watch.advance(10)
    watch.silent = {"n3", "n4", "n5"}
    watch.advance(30)
    assert watch.state.cluster is not None
    assert watch.brake is not None
    released = msgspec.structs.replace(watch.brake, is_released=True)
    put(watch.state, msgspec.structs.replace(watch.state.cluster, brake=released))
    watch.advance(1)
    assert watch.down() == {"n3", "n4", "n5"}
    assert watch.brake is None


def test_the_brake_holds_across_a_change_of_leader() -> None:
    watch = Watch(*FIVE, own="n1")
    watch.advance(10)
    watch.silent = {"n3", "n4", "n5"}
    watch.advance(30)
    watch.heartbeats = Heartbeats(started_at=watch.now, own_node_id="n2")
    watch.advance(60)
    assert watch.down() == set()
    assert watch.brake is not None


def test_removing_held_nodes_lifts_the_brake() -> None:
    watch = Watch(*FIVE, own="n1")
    watch.advance(10)
    watch.silent = {"n3", "n4", "n5"}
    watch.advance(30)
    watch.state.apply([Delete("node", "n5", watch.node("n5").version)], watch.state.revision + 1)
    watch.advance(1)
    assert watch.brake is None
    assert watch.down() == {"n3", "n4"}


# --- orphans -------------------------------------------------------------------


def test_after_a_day_the_tasks_of_a_down_node_are_orphaned() -> None:
    watch = Watch("n1", own="n1")
    put(watch.state, a_node("n2"))
    node = watch.node("n2")
    status = msgspec.structs.replace(node.status, state=NodeState.DOWN, since=watch.now - 24 * HOUR + SECOND)
    put(watch.state, msgspec.structs.replace(node, status=status, balanced=False))
    running = a_task("t1", node_id="n2", state=TaskState.RUNNING)
    ended = a_task("t2", node_id="n2", state=TaskState.FAILED)
    put(watch.state, running, ended)
    watch.heartbeats = Heartbeats(started_at=START, own_node_id="n1")
    watch.silent = {"n2"}
    watch.advance(0.5)
    assert [task.status.state for task in watch.state.tasks.values()] == [TaskState.RUNNING, TaskState.FAILED]
    watch.advance(1)
    assert [task.status.state for task in watch.state.tasks.values()] == [TaskState.ORPHANED, TaskState.FAILED]
