"""What holds in every state, however it came about."""

from collections import Counter

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests import factories
from tests.core.orchestrate.world import EVERYWHERE, JOB_EVERYWHERE, World, a_job, a_spec, an_update

from skep.core.liveness import LivenessSettings
from skep.core.orchestrate.reconcile import Agenda, reconcile
from skep.core.orchestrate.starts import PARTITION_LEASE
from skep.core.plan import Dirty
from skep.lib.durations import SECOND
from skep.model.lifecycle import TaskState, is_terminal
from skep.model.node import Availability, NodeState, NodeStatus
from skep.model.service import (
    FailureAction,
    RestartCondition,
    RestartPolicy,
    Rollout,
    Service,
    ServiceMode,
    UpdateOrder,
    UpdateStatus,
)
from skep.model.task import RestartRecord, Task, TaskStatus
from skep.store.changes import Delete, Put
from skep.store.state import Draft, State

NOW = 10_000 * SECOND
NODES = ("n1", "n2", "n3")
SILENT = -LivenessSettings().down_after
"""A node counts its lease from when it heard of a manager last, which is so long before it is declared down."""
moments = st.sampled_from([0, NOW - 400 * SECOND, NOW - 6 * SECOND, NOW - SECOND, NOW, NOW + SECOND])
modes = st.sampled_from([a_spec(replicas=n).mode for n in (0, 1, 3)] + [EVERYWHERE, JOB_EVERYWHERE, a_job(3, 2)])
images = st.sampled_from(["good", "next"])
flawed_images = st.sampled_from(["good", "next", "unknown", "crash", "short", "stuck"])
AT_MOST_ONE = {"skep.partition": "at-most-one"}
policies = st.builds(
    RestartPolicy,
    condition=st.sampled_from(RestartCondition),
    delay=st.sampled_from([None, 0, 30 * SECOND]),
    max_attempts=st.sampled_from([None, 2]),
    window=st.sampled_from([None, 10 * SECOND]),
)
single_modes = st.sampled_from([a_spec(replicas=n).mode for n in (1, 3)] + [EVERYWHERE])
updates = st.builds(
    an_update,
    parallelism=st.integers(0, 2),
    delay=st.sampled_from([0, 3 * SECOND]),
    failure_action=st.sampled_from(FailureAction),
    max_failure_ratio=st.sampled_from([0.0, 0.5]),
    order=st.sampled_from(UpdateOrder),
)


@st.composite
def specs(
    draw: st.DrawFn, mode: ServiceMode | None = None, labels: dict[str, str] | None = None, image: str = ""
) -> object:
    labels = draw(st.sampled_from([{}, {}, AT_MOST_ONE])) if labels is None else labels
    return a_spec(
        image=image or draw(images),
        mode=mode or draw(modes),
        restart=draw(policies),
        constraints=draw(st.sampled_from([(), (), ("node.labels.a==b",)])),
        update_config=draw(updates),
        rollback_config=draw(st.none() | updates),
        labels=labels,
    )


@st.composite
def services(draw: st.DrawFn) -> Service:
    mode = draw(modes)
    states = ["", "updating", "paused", "completed", "rollback_started", "rollback_paused", "rollback_completed"]
    state = draw(st.sampled_from(states))
    failed = draw(st.dictionaries(st.sampled_from(["1", "2", *NODES]), moments, max_size=2))
    rollout = Rollout(version=draw(st.integers(1, 3)), started_at=NOW - SECOND, n_slots=draw(st.integers(0, 3)))
    return Service(
        id="web",
        spec=draw(specs(mode)),
        previous_spec=draw(st.none() | specs(mode)),
        spec_version=draw(st.integers(1, 3)),
        update_status=UpdateStatus(state=state, started_at=NOW - SECOND) if state else None,
        rollout=draw(st.none() | st.just(Rollout(version=rollout.version, started_at=0, n_slots=2, failed=failed))),
        removing=draw(st.sampled_from([False] * 7 + [True])),
    )


@st.composite
def tasks(draw: st.DrawFn, service: Service, id: str) -> Task:
    state = draw(st.sampled_from(TaskState))
    goals = [TaskState.READY, TaskState.RUNNING, TaskState.COMPLETE, TaskState.SHUTDOWN, TaskState.REMOVE]
    source = draw(st.sampled_from([service.spec, service.previous_spec or service.spec]))
    is_placed = state >= TaskState.ASSIGNED or service.spec.mode in (EVERYWHERE, JOB_EVERYWHERE)
    return Task(
        id=id,
        version=1,
        created_at=NOW - draw(st.integers(0, 400)) * SECOND,
        spec=source.task_template,
        service_id=service.id,
        slot=draw(st.integers(0, 4)),
        node_id=draw(st.sampled_from([*NODES, "gone"])) if is_placed else "",
        desired_state=draw(st.sampled_from(goals)),
        status=TaskStatus(state=state, timestamp=draw(moments), is_accepting=draw(st.booleans())),
        not_before=draw(moments),
        spec_version=draw(st.integers(1, 3)),
        job_iteration=draw(st.sampled_from([None, 0, 1])),
        ordinal=draw(st.integers(0, 4)),
        started_at=draw(moments),
        ended_at=draw(moments),
        restart=RestartRecord(
            attempts=draw(st.integers(0, 3)),
            moments=draw(st.lists(moments, max_size=2)),
            streak=draw(st.integers(0, 4)),
            refused=draw(st.sampled_from(["", "", "it was refused"])),
        ),
        rollout=draw(st.integers(0, 3)),
        move=draw(st.sampled_from(["", "", "rebalance"])),
        look_at=draw(moments),
    )


@st.composite
def states(draw: st.DrawFn) -> State:
    service = draw(services())
    nodes = [
        factories.a_node(
            id,
            state=draw(st.sampled_from(NodeState)),
            availability=draw(st.sampled_from(Availability)),
            labels=draw(st.sampled_from([{}, {"a": "b"}])),
        )
        for id in NODES
    ]
    found = [draw(tasks(service, f"old{n}")) for n in range(draw(st.integers(0, 7)))]
    return factories.a_state(factories.a_cluster(), *nodes, service, *found)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(states())
def test_a_decision_is_at_rest_on_its_own_result(state: State) -> None:
    """In any state at all, reachable or not."""
    world = World(now=NOW)
    world.state = state
    world.dirty = factories.all_dirty(state)
    before = {task.id: task for task in state.tasks.values()}
    world.decide()  # Checks it.
    for task in state.tasks.values():
        old = before.get(task.id)
        assert old is None or task.desired_state >= min(old.desired_state, TaskState.SHUTDOWN) or _is_raised(old, task)
        assert old is None or task.status.state >= old.status.state


def _is_raised(old: Task, new: Task) -> bool:
    return new.desired_state > old.desired_state


class Life(RuleBasedStateMachine):
    """Users, operators, faults and time, in any order; every decision is checked by the world."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.world.add_nodes(*NODES)
        self.seen: dict[str, TaskState] = {}

    @initialize(spec=specs())
    def create(self, spec: object) -> None:
        self.world.create(spec)  # type: ignore[arg-type]  # The strategy is untyped.

    @rule(spec=specs(), replicas=st.integers(0, 4))
    def update(self, spec: object, replicas: int) -> None:
        if self.world.state.services.get("web") is not None:
            old = self.world.service().spec.mode
            mode = a_spec(replicas=replicas).mode if old.replicated is not None else old
            self.world.update(msgspec.structs.replace(spec, mode=mode))

    @rule()
    def roll_back(self) -> None:
        service = self.world.state.services.get("web")
        if service is not None and service.previous_spec is not None:
            self.world.roll_back()

    @precondition(lambda self: self.world.state.services.get("web") is not None)
    @rule(is_meant=st.sampled_from([False, False, False, True]))
    def remove(self, is_meant: bool) -> None:
        if is_meant:
            self.world.remove()

    @rule(id=st.sampled_from(NODES), availability=st.sampled_from(Availability))
    def set_availability(self, id: str, availability: Availability) -> None:
        if self.world.state.nodes.get(id) is not None:
            self.world.set_node(id, availability=availability)

    @rule(id=st.sampled_from(NODES), labels=st.sampled_from([{}, {"a": "b"}]))
    def label(self, id: str, labels: dict[str, str]) -> None:
        if self.world.state.nodes.get(id) is not None:
            self.world.set_node(id, labels=labels)

    @rule(id=st.sampled_from(NODES))
    def kill(self, id: str) -> None:
        if self.world.state.nodes.get(id) is not None:
            self.world.kill(id)

    @rule(id=st.sampled_from(NODES))
    def revive(self, id: str) -> None:
        if self.world.state.nodes.get(id) is not None:
            self.world.revive(id)

    @rule(id=st.sampled_from(NODES))
    def replace_node(self, id: str) -> None:
        """A node is removed for good; another joins."""
        node = self.world.state.nodes.get(id)
        if node is not None and node.status.state == NodeState.DOWN:
            gone = self.world.state.apply([Delete("node", id, node.version)], self.world.state.revision + 1)
            self.world.dirty.note(gone)

    @rule(position=st.integers(0, 20), state=st.sampled_from([TaskState.FAILED, TaskState.COMPLETE]))
    def end(self, position: int, state: TaskState) -> None:
        running = self.world.running()
        if running:
            self.world.fail(running[position % len(running)], state)

    @rule(seconds=st.sampled_from([0, 1, 5, 12]))
    def live(self, seconds: int) -> None:
        self.world.advance(seconds)

    @rule(n=st.integers(0, 6))
    def lose_the_leader(self, n: int) -> None:
        """It dies with its plan half committed; the next one begins with everything marked."""
        world = self.world
        plan = reconcile(world.state, world.dirty, world.now, world.new_id)
        world.state.apply(plan.changes[:n], world.state.revision + 1)
        world.dirty = factories.all_dirty(world.state)
        world.agenda = Agenda()

    @rule(id=st.sampled_from(NODES), state=st.sampled_from(NodeState), n=st.integers(1, 3))
    def fail_to_store(self, id: str, state: NodeState, n: int) -> None:
        """A round is worked out from what is judged in it, more than once, and the store does not take it."""
        world = self.world
        node = world.state.nodes.get(id)
        for _ in range(n if node is not None else 0):
            draft, dirty = Draft(world.state), Dirty()
            dirty.merge(world.dirty)
            judged = Put(msgspec.structs.replace(node, status=NodeStatus(state=state, since=world.now)))
            draft.lay([judged])
            dirty.note_changes([judged])
            reconcile(draft, dirty, world.now, world.new_id, world.agenda)

    @invariant()
    def observed_state_never_goes_back(self) -> None:
        for task in self.world.state.tasks.values():
            assert task.status.state >= self.seen.get(task.id, TaskState.NEW) or task.status.state == TaskState.PENDING
            self.seen[task.id] = task.status.state

    def teardown(self) -> None:
        """Once everything is mended, the service is what it asks for, and nothing is left over."""
        world = self.world
        for id in NODES:
            if world.state.nodes.get(id) is None:
                world.add_nodes(id)
            world.revive(id)
            world.set_node(id, availability=Availability.ACTIVE, labels={"a": "b"})
        world.settle(limit=1500)
        if world.state.services.get("web") is None:
            assert len(world.state.tasks) == 0
            return
        service = world.service()
        assert not service.removing
        per_slot: dict[object, int] = {}
        for task in world.live():
            key = task.slot or task.node_id
            if not is_terminal(task.status.state):
                per_slot[key] = per_slot.get(key, 0) + 1
        assert set(per_slot.values()) <= {1}
        replicas = service.spec.mode.replicated
        if replicas is not None and world.update_state() not in ("paused", "rollback_paused"):
            settled = [task for task in world.tasks() if task.restart.refused]
            assert len(world.running()) == replicas.replicas or settled


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


class SingleLife(Life):
    """The life of a service that may run at most once: whatever happens, no slot ever has two that are to run.

    Nodes that lost their managers stop such tasks by themselves before anybody else may start them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.killed_at: dict[str, int] = {}
        self.world.watchers.append(self.check_single)

    @initialize(mode=single_modes, image=flawed_images, data=st.data())
    def create(self, mode: ServiceMode, image: str, data: st.DataObject) -> None:
        self.world.create(data.draw(specs(mode, AT_MOST_ONE, image)))  # type: ignore[arg-type]  # The strategy is untyped.

    @rule(image=flawed_images, replicas=st.integers(0, 4), data=st.data())
    def update(self, image: str, replicas: int, data: st.DataObject) -> None:
        if self.world.state.services.get("web") is not None:
            old = self.world.service().spec.mode
            mode = a_spec(replicas=replicas).mode if old.replicated is not None else old
            self.world.update(data.draw(specs(mode, AT_MOST_ONE, image)))  # type: ignore[arg-type]  # As above.

    @rule(id=st.sampled_from(NODES))
    def kill(self, id: str) -> None:
        if self.world.state.nodes.get(id) is not None and id not in self.world.dead:
            self.killed_at[id] = self.world.now
            self.world.kill(id)

    @rule(id=st.sampled_from(NODES))
    def revive(self, id: str) -> None:
        if self.world.state.nodes.get(id) is None:
            return
        was_alone = self.world.now - self.killed_at.pop(id, self.world.now) >= SILENT + PARTITION_LEASE
        self.world.revive(id)
        for task in self.world.tasks() if was_alone else ():
            if task.node_id == id and TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING:
                self.world.report(task, TaskState.FAILED)

    def teardown(self) -> None:
        if self.world.state.services.get("web") is not None and not self.world.service().removing:
            self.world.update(a_spec(mode=self.world.service().spec.mode, labels=AT_MOST_ONE))
        super().teardown()

    def check_single(self, world: World) -> None:
        wanted = [task for task in world.tasks() if task.desired_state == TaskState.RUNNING]
        alive = [task for task in wanted if not is_terminal(task.status.state) and task.node_id not in world.dead]
        per_slot = Counter(task.slot or task.node_id for task in alive)
        assert max(per_slot.values(), default=0) <= 1, world.table()


TestSingleLife = SingleLife.TestCase
TestSingleLife.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
