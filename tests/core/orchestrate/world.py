"""A small world for the orchestrator: its plans are applied, and tasks are placed and run as the nodes would.

Every decision is checked to be at rest: made again on its own result, with everything marked, it changes nothing.
"""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec
from tests import factories

from skep.core import observe
from skep.core.orchestrate import changed
from skep.core.orchestrate.reconcile import Agenda, reconcile
from skep.core.plan import Dirty, Plan
from skep.lib.durations import SECOND
from skep.model.lifecycle import TaskState, is_terminal
from skep.model.node import Availability, Node, NodeState
from skep.model.service import (
    ContainerSpec,
    Global,
    GlobalJob,
    Placement,
    Replicated,
    ReplicatedJob,
    RestartPolicy,
    Service,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
    UpdateStatus,
)
from skep.model.session import TaskReport
from skep.model.task import Task, TaskStatus

START = 1_000_000 * SECOND
STAGES = (TaskState.ACCEPTED, TaskState.PREPARING, TaskState.READY, TaskState.STARTING, TaskState.RUNNING)


def a_spec(
    *,
    image: str = "good",
    mode: ServiceMode | None = None,
    replicas: int = 1,
    restart: RestartPolicy | None = None,
    constraints: Iterable[str] = (),
    force: int = 0,
    **fields: Any,
) -> ServiceSpec:
    """A service's spec; the image's name says how its tasks behave, see `World.run`."""
    return ServiceSpec(
        name=fields.pop("name", "web"),
        mode=mode or ServiceMode(replicated=Replicated(replicas=replicas)),
        task_template=TaskSpec(
            container_spec=ContainerSpec(image=image),
            restart_policy=restart,
            placement=Placement(constraints=list(constraints) or None),
            force_update=force,
        ),
        **fields,
    )


EVERYWHERE = ServiceMode(global_=Global())
JOB_EVERYWHERE = ServiceMode(global_job=GlobalJob())


def a_job(total: int | None, at_once: int | None) -> ServiceMode:
    return ServiceMode(replicated_job=ReplicatedJob(total_completions=total, max_concurrent=at_once))


def an_update(**fields: Any) -> UpdateConfig:
    return UpdateConfig(**fields)


@dataclass
class World:
    """Attributes: dead: nodes whose agents do nothing; slow_stop: ids of tasks that ignore orders to stop."""

    now: int = START
    dead: set[str] = field(default_factory=set)
    slow_stop: set[str] = field(default_factory=set)
    dirty: Dirty = field(default_factory=Dirty)
    wake_at: int | None = None
    notes: list[str] = field(default_factory=list)
    watchers: list[Callable[["World"], None]] = field(default_factory=list)
    ids: Iterable[int] = field(default_factory=lambda: itertools.count(1))
    agenda: Agenda = field(default_factory=Agenda)

    def __post_init__(self) -> None:
        self.state = factories.a_state(factories.a_cluster())

    # --- what users and operators do ----------------------------------------------

    def put(self, *objects: Any) -> None:
        self.dirty.note(factories.put(self.state, *objects))

    def add_nodes(self, *ids: str, **fields: Any) -> None:
        self.put(*(factories.a_node(id, **fields) for id in ids))

    def create(self, spec: ServiceSpec, id: str = "web") -> None:
        self.put(Service(id=id, spec=spec, spec_version=1))

    def update(self, spec: ServiceSpec, id: str = "web") -> None:
        """As the control operations do it."""
        old = self.service(id)
        self.put(
            msgspec.structs.replace(
                old,
                spec=spec,
                spec_version=old.spec_version + 1,
                previous_spec=old.spec,
                previous_spec_version=old.spec_version,
                update_status=None,
            )
        )

    def roll_back(self, id: str = "web") -> None:
        old = self.service(id)
        assert old.previous_spec is not None
        status = UpdateStatus(state="rollback_started", message="manually requested rollback", started_at=self.now)
        self.put(
            msgspec.structs.replace(
                old,
                spec=old.previous_spec,
                spec_version=old.spec_version + 1,
                previous_spec=old.spec,
                previous_spec_version=old.spec_version,
                update_status=status,
            )
        )

    def remove(self, id: str = "web") -> None:
        self.put(msgspec.structs.replace(self.service(id), removing=True))

    def set_node(self, id: str, *, state: NodeState | None = None, **spec: Any) -> None:
        node = self.node(id)
        status = node.status
        if state is not None:
            status = msgspec.structs.replace(status, state=state, since=self.now)
        self.put(msgspec.structs.replace(node, spec=msgspec.structs.replace(node.spec, **spec), status=status))

    def drain(self, id: str) -> None:
        self.set_node(id, availability=Availability.DRAIN)

    def kill(self, id: str) -> None:
        """A node dies, and liveness has noticed."""
        self.dead.add(id)
        self.set_node(id, state=NodeState.DOWN)

    def revive(self, id: str) -> None:
        """A node is heard again; what ran on it still runs."""
        self.dead.discard(id)
        self.set_node(id, state=NodeState.READY)

    def fail(self, task: Task, state: TaskState = TaskState.FAILED) -> None:
        self.report(task, state)

    # --- what the manager and the nodes do ----------------------------------------

    def decide(self) -> Plan:
        """One decision, committed and checked to be at rest."""
        plan = reconcile(self.state, self.dirty, self.now, self.new_id, self.agenda)
        self.wake_at = plan.wake_at
        self.notes.extend(plan.notes)
        batch = factories.commit(self.state, plan)
        again = reconcile(self.state, factories.all_dirty(self.state), self.now, self.new_id)
        assert again.changes == ()
        assert again.wake_at == plan.wake_at
        self.dirty = factories.dirty_of(batch)
        return plan

    def new_id(self) -> str:
        return f"t{next(iter(self.ids)):03d}"

    def place(self) -> None:
        """Allocate and schedule: the fitting node with the fewest tasks."""
        for task in list(self.state.tasks.values()):
            if task.status.state >= TaskState.ASSIGNED or task.desired_state > TaskState.COMPLETE:
                continue
            node_id = self._choose(task)
            status = TaskStatus(state=TaskState.ASSIGNED, timestamp=self.now)
            if not node_id:
                status = TaskStatus(state=TaskState.PENDING, timestamp=task.status.timestamp, err="no suitable node")
            new = msgspec.structs.replace(task, node_id=node_id or task.node_id, status=status)
            if new != task:
                self.put(new)

    def _choose(self, task: Task) -> str:
        fitting = [
            node
            for node in self.state.nodes.values()
            if node.status.state == NodeState.READY
            and node.spec.availability == Availability.ACTIVE
            and changed.satisfies(task.spec.placement, node)
            and task.node_id in ("", node.id)
        ]
        return min(fitting, key=lambda node: (self.load(node), node.id)).id if fitting else ""

    def load(self, node: Node) -> int:
        tasks = self.state.tasks.where("node", node.id)
        return sum(1 for task in tasks if not is_terminal(task.status.state) and task.desired_state <= 576)

    def run(self) -> None:
        """Every living node brings its tasks one stage further.

        Images: `good` runs; `unknown` is rejected when it is prepared; `crash` fails instead of running; `short` fails
        at once after it ran; `done` completes after it ran; `stuck` never gets beyond starting; `deaf` runs
        and never accepts.
        """
        for task in list(self.state.tasks.values()):
            if task.node_id in self.dead or not TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING:
                continue
            state = self._next(task)
            if state != task.status.state:
                self.report(task, state)

    def _next(self, task: Task) -> TaskState:
        state, image = task.status.state, task.spec.container_spec.image if task.spec.container_spec else ""
        if task.desired_state > TaskState.COMPLETE:
            return state if task.id in self.slow_stop else TaskState.SHUTDOWN
        if state == TaskState.RUNNING:
            return {"short": TaskState.FAILED, "done": TaskState.COMPLETE}.get(image, state)
        if task.desired_state == TaskState.READY and state == TaskState.READY:
            return state
        following = next(stage for stage in STAGES if stage > state)
        if following == TaskState.PREPARING and image == "unknown":
            return TaskState.REJECTED
        if following == TaskState.RUNNING and image in ("crash", "stuck"):
            return TaskState.FAILED if image == "crash" else state
        return following

    def report(self, task: Task, state: TaskState) -> None:
        image = task.spec.container_spec.image if task.spec.container_spec else ""
        is_accepting = state == TaskState.RUNNING and image != "deaf"
        status = TaskStatus(state=state, timestamp=self.now, is_accepting=is_accepting)
        plan = observe.fold(self.state, task.node_id, [TaskReport(task_id=task.id, status=status)], self.now)
        self.dirty.note(factories.commit(self.state, plan))

    def step(self) -> None:
        """One round at one moment: decide, place, decide again, run."""
        self.decide()
        self.place()
        self.decide()
        self.run()
        self.decide()
        for watcher in self.watchers:
            watcher(self)

    def advance(self, seconds: float, tick: float = 0.5) -> None:
        """Let time pass, in rounds."""
        end = self.now + int(seconds * SECOND)
        while self.now < end:
            self.step()
            self.now += int(tick * SECOND)
        self.step()

    def settle(self, limit: float = 600) -> None:
        """Let time pass until nothing changes and nothing is due."""
        for _ in range(int(limit * 2)):
            revision = self.state.revision
            self.step()
            self.now += SECOND // 2
            if self.wake_at is None and self._is_quiet(revision):
                return
        raise AssertionError(f"not at rest after {limit} s: {self.table()}")

    def _is_quiet(self, revision: int) -> bool:
        """Every decision commits, so a quiet round is three empty revisions."""
        return self.state.revision == revision + 3 and not self.dirty

    # --- questions ----------------------------------------------------------------

    def service(self, id: str = "web") -> Service:
        found = self.state.services.get(id)
        assert found is not None
        return found

    def node(self, id: str) -> Node:
        found = self.state.nodes.get(id)
        assert found is not None
        return found

    def task(self, id: str) -> Task:
        found = self.state.tasks.get(id)
        assert found is not None
        return found

    def tasks(self, id: str = "web") -> list[Task]:
        """A service's tasks, by slot and age."""
        tasks = self.state.tasks.where("service", id)
        return sorted(tasks, key=lambda task: (task.slot, task.node_id if not task.slot else "", task.ordinal))

    def live(self, id: str = "web") -> list[Task]:
        return [task for task in self.tasks(id) if task.desired_state <= TaskState.COMPLETE]

    def running(self, id: str = "web") -> list[Task]:
        """Tasks that really run on living nodes and are wanted."""
        tasks = [task for task in self.live(id) if task.status.state == TaskState.RUNNING]
        return [task for task in tasks if task.node_id not in self.dead]

    def update_state(self, id: str = "web") -> str:
        status = self.service(id).update_status
        return status.state if status else ""

    def table(self, id: str = "web") -> str:
        """All tasks, for a failing test's message."""
        return "\n".join(
            f"{task.name} on {task.node_id or '-'}: {task.status.state.name}, wanted {task.desired_state.name}"
            for task in self.tasks(id)
        )
