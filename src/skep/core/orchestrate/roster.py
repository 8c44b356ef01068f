"""One service with its tasks, slot by slot, and what this decision has changed about them so far.

Pure. Every step of the orchestration reads and writes a roster, so each sees what the steps before it decided; the plan
is what differs in the end. A slot is a number for replicated services and a node's id for per-node ones. A slot whose
one task simply runs as it should is told apart once; only the others, the restless ones, go through the steps.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from skep.core.orchestrate import changed, modes
from skep.core.orchestrate.modes import Mode
from skep.model.base import Nanoseconds
from skep.model.lifecycle import TaskState, is_terminal
from skep.model.node import Availability, Node, NodeState
from skep.model.service import Service, UpdateConfig
from skep.model.task import RestartRecord, Task, TaskStatus
from skep.store.changes import Change, Delete, Put
from skep.store.state import View

SlotKey = int | str
NO_HISTORY = RestartRecord()


@dataclass(frozen=True, slots=True)
class Start:
    """How a new task begins. Attributes: not_before: it may not be raised to run before; 0 for at once."""

    desired_state: TaskState
    not_before: Nanoseconds = 0
    rollout: int = 0
    restart: RestartRecord = NO_HISTORY


@dataclass(frozen=True, slots=True)
class _Slot:
    """A slot's tasks, oldest first. Attributes: live: wanted; working: wanted and not ended in any way."""

    tasks: Sequence[Task]
    live: Sequence[Task]
    working: Sequence[Task]

    @classmethod
    def of(cls, tasks: Iterable[Task]) -> "_Slot":
        ordered = sorted(tasks, key=age)
        live = [task for task in ordered if task.desired_state <= TaskState.COMPLETE]
        return cls(ordered, live, [task for task in live if not is_terminal(task.status.state)])


NO_TASKS = _Slot((), (), ())


@dataclass(slots=True)
class Roster:
    """Attributes: wakes: moments at which something is due although nothing changes; writes: counts changes.

    What is derived is kept until a write makes it untrue: the steps ask the same again and again.
    """

    view: View
    service: Service
    now: Nanoseconds
    new_id: Callable[[], str]
    slots: dict[SlotKey, dict[str, Task]] = field(default_factory=dict)
    restless: set[SlotKey] = field(default_factory=set)
    puts: dict[str, Task] = field(default_factory=dict)
    deletions: dict[str, Task] = field(default_factory=dict)
    wakes: list[Nanoseconds] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    is_service_deleted: bool = False
    writes: int = 0
    mode: Mode = Mode.REPLICATED
    _is_per_node: bool = False
    _is_job: bool = False
    _sorted: dict[SlotKey, _Slot] = field(default_factory=dict)
    _restless_keys: list[SlotKey] | None = None
    _nodes: dict[str, Node | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._read_mode()

    @classmethod
    def load(cls, view: View, service: Service, now: Nanoseconds, new_id: Callable[[], str]) -> "Roster":
        """Gather a service's tasks."""
        roster = cls(view, service, now, new_id)
        slots, is_per_node = roster.slots, roster._is_per_node
        for task in view.tasks.where("service", service.id):
            slots.setdefault(task.node_id if is_per_node else task.slot, {})[task.id] = task
        roster.restless = roster._find_restless()
        return roster

    def _find_restless(self) -> set[SlotKey]:
        if self._is_job or self.is_rolling:
            return set(self.slots)
        placement = self.service.spec.task_template.placement
        sound = {"": True}  # By node: whether a task that is as it should be may simply stay there.
        for slot in self.slots.values():
            node_id = next(iter(slot.values())).node_id
            if node_id not in sound:
                node = self._node(node_id)
                sound[node_id] = node is not None and is_sound(node) and changed.satisfies(placement, node)
        return {key for key, slot in self.slots.items() if not self._is_restful(slot, sound)}

    def _is_restful(self, slot: dict[str, Task], sound: dict[str, bool]) -> bool:
        if len(slot) > 1:
            return False
        (task,) = slot.values()
        return (
            task.desired_state == TaskState.RUNNING
            and task.status.state <= TaskState.RUNNING
            and not task.move
            and not task.yielding
            and not task.look_at
            and sound[task.node_id]
            and not self.is_dirty(task)
        )

    # --- the service -----------------------------------------------------------

    def _read_mode(self) -> None:
        self.mode = modes.mode_of(self.service.spec)
        self._is_per_node = modes.is_per_node(self.mode)
        self._is_job = modes.is_job(self.mode)

    @property
    def goal(self) -> TaskState:
        """The desired state of a task that is to do its work."""
        return TaskState.COMPLETE if self._is_job else TaskState.RUNNING

    @property
    def is_rolling(self) -> bool:
        status = self.service.update_status
        return status is not None and status.state in ("updating", "rollback_started")

    @property
    def update_config(self) -> UpdateConfig:
        """The settings of the update or rollback under way, or of the next one."""
        status = self.service.update_status
        is_rollback = status is not None and status.state == "rollback_started"
        spec = self.service.spec
        return (spec.rollback_config if is_rollback else spec.update_config) or UpdateConfig()

    def change_service(self, **fields: Any) -> None:
        """Replace fields of the service."""
        self.service = msgspec.structs.replace(self.service, **fields)
        self._read_mode()
        self.restless = set(self.slots)
        self._restless_keys = None
        self.writes += 1

    # --- tasks ----------------------------------------------------------------

    def key(self, task: Task) -> SlotKey:
        return task.node_id if self._is_per_node else task.slot

    def slot_keys(self) -> list[SlotKey]:
        """All slots with tasks, sorted."""
        return sorted(self.slots, key=_order)

    def restless_keys(self) -> Sequence[SlotKey]:
        """Slots in which there may be something to do, sorted."""
        if self._restless_keys is None:
            self._restless_keys = sorted((key for key in self.restless if key in self.slots), key=_order)
        return self._restless_keys

    def _slot(self, key: SlotKey) -> _Slot:
        found = self._sorted.get(key)
        if found is None:
            tasks = self.slots.get(key)
            found = self._sorted[key] = _Slot.of(tasks.values()) if tasks else NO_TASKS
        return found

    def tasks(self, key: SlotKey) -> Sequence[Task]:
        """A slot's tasks, oldest first."""
        return self._slot(key).tasks

    def live(self, key: SlotKey) -> Sequence[Task]:
        """Those of a slot's tasks that are wanted, oldest first; they may have ended all the same."""
        return self._slot(key).live

    def working(self, key: SlotKey) -> Sequence[Task]:
        """Those that are wanted and have not ended in any way, oldest first."""
        return self._slot(key).working

    def all_tasks(self) -> Iterable[Task]:
        for key in self.slot_keys():
            yield from self.tasks(key)

    def put(self, task: Task, **fields: Any) -> Task:
        """Store a task with some fields replaced; does nothing if nothing differs."""
        key = self.key(task)
        known = self.slots.get(key, {}).get(task.id)
        if known is task and all(getattr(task, name) == value for name, value in fields.items()):
            return task
        new = msgspec.structs.replace(task, **fields)
        if new != known:
            new = msgspec.structs.replace(new, updated_at=self.now)
            self.puts[task.id] = new
            self.slots.setdefault(key, {})[task.id] = new
            self.restless.add(key)
            self._written(key)
        return new

    def _written(self, key: SlotKey) -> None:
        self.writes += 1
        self._sorted.pop(key, None)
        self._restless_keys = None

    def delete(self, task: Task) -> None:
        """Forget a task of which nothing is left to stop."""
        key = self.key(task)
        self.restless.add(key)
        if self.view.tasks.get(task.id) is not None:
            self.deletions[task.id] = task
        self.puts.pop(task.id, None)
        slot = self.slots.get(key, {})
        slot.pop(task.id, None)
        if not slot:
            self.slots.pop(key, None)
        self._written(key)

    def stop(self, task: Task, desired: TaskState = TaskState.SHUTDOWN) -> None:
        """Want a task stopped; one that no node was told of is forgotten instead."""
        if task.status.state < TaskState.ASSIGNED:
            self.delete(task)
        elif task.desired_state < desired:
            self.put(task, desired_state=desired, look_at=0)

    def _home(self, earlier: Sequence[Task]) -> str:
        """Where a slot's local volumes are, if its tasks are to stay with them: where its last task was."""
        if not modes.is_sticky(self.service.spec):
            return ""
        return next((home for task in reversed(earlier) if (home := task.node_id or task.home)), "")

    def create(self, key: SlotKey, start: Start) -> Task:
        """Add a task to a slot."""
        earlier = self.tasks(key)
        task = Task(
            id=self.new_id(),
            created_at=self.now,
            updated_at=self.now,
            spec=modes.task_template(self.service),
            service_id=self.service.id,
            service_name=self.service.spec.name,
            service_labels=self.service.spec.labels,
            slot=key if isinstance(key, int) else 0,
            node_id=key if isinstance(key, str) else "",
            desired_state=start.desired_state,
            status=TaskStatus(state=TaskState.NEW, timestamp=self.now, message="created"),
            not_before=start.not_before,
            spec_version=self.service.spec_version,
            job_iteration=self._iteration(),
            ordinal=earlier[-1].ordinal + 1 if earlier else 1,
            restart=start.restart,
            rollout=start.rollout,
            home=self._home(earlier),
            has_registry_auth=self.service.registry_auth is not None,
        )
        if earlier or start.desired_state != TaskState.RUNNING:
            self.restless.add(key)
        self.slots.setdefault(key, {})[task.id] = task
        self.puts[task.id] = task
        self._written(key)
        return task

    def _iteration(self) -> int | None:
        status = self.service.job_status
        return status.iteration if self._is_job and status is not None else None

    # --- how a task stands --------------------------------------------------------

    def node(self, task: Task) -> Node | None:
        return self._node(task.node_id) if task.node_id else None

    def _node(self, node_id: str) -> Node | None:
        try:
            return self._nodes[node_id]
        except KeyError:
            node = self._nodes[node_id] = self.view.nodes.get(node_id)
            return node

    def has_ended(self, task: Task) -> bool:
        """Whether nothing of it runs any more; a completed task of a job has done what it should."""
        return is_terminal(task.status.state) and not self.has_completed(task)

    def has_completed(self, task: Task) -> bool:
        return self._is_job and task.status.state == TaskState.COMPLETE

    def is_done(self, key: SlotKey) -> bool:
        """Whether a task of a job completed here; one that was told to stop may have completed before."""
        if not self._is_job:
            return False
        return any(self.has_completed(task) and task.desired_state < TaskState.REMOVE for task in self.tasks(key))

    def is_lost(self, task: Task) -> bool:
        """Whether its node is down or gone: what it does now is not known."""
        if not task.node_id or task.status.state < TaskState.ASSIGNED:
            return False
        node = self.node(task)
        return node is None or node.status.state == NodeState.DOWN

    def is_dirty(self, task: Task) -> bool:
        return task.spec_version != self.service.spec_version and changed.is_dirty(self.service, task, self.node(task))

    def misplacement(self, task: Task) -> str:
        """Why a task has to leave its node; empty if it may stay. A lost task has no say."""
        node = self.node(task)
        if node is None or task.status.state < TaskState.ASSIGNED:
            return ""
        if node.spec.availability == Availability.DRAIN:
            return "its node is being drained"
        placement = task.spec.placement if self.is_dirty(task) else self.service.spec.task_template.placement
        if not changed.satisfies(placement, node):
            return "its node no longer satisfies the constraints"
        return task.move

    def is_wanted(self, task: Task) -> bool:
        """Whether a task is as it should be and where it may be, running yet or not."""
        return not self.is_lost(task) and not self.is_dirty(task) and not self.misplacement(task)

    def is_ready(self, task: Task) -> bool:
        """Whether a task does its work: running, and accepting connections where it publishes TCP ports."""
        if task.status.state != TaskState.RUNNING or self.is_lost(task):
            return False
        return task.status.is_accepting or not modes.waits_for_accepting(self.service)

    def is_stopping(self, task: Task) -> bool:
        """Whether it is told to stop and may still run."""
        is_on_node = TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING
        return is_on_node and not is_live(task) and not self.is_lost(task)

    def is_settled(self, key: SlotKey) -> bool:
        """Whether a slot's last task ended for good: its policy allows no further one."""
        tasks = self.tasks(key)
        return bool(tasks) and tasks[-1].desired_state == TaskState.SHUTDOWN and bool(tasks[-1].restart.refused)

    # --- the plan --------------------------------------------------------------

    def moments(self) -> list[Nanoseconds]:
        """When this service has to be looked at again although nothing changes."""
        tasks = [task for slot in self.slots.values() for task in slot.values() if task.look_at]
        return [*self.wakes, *(task.look_at for task in tasks)]

    def changes(self) -> list[Change]:
        """Service first, then new tasks, then changed ones, then deletions: each prefix is a legal state."""
        puts = [task for task in self.puts.values() if task != self.view.tasks.get(task.id)]
        found: list[Change] = []
        if self.service != self.view.services.get(self.service.id) and not self.is_service_deleted:
            found.append(Put(msgspec.structs.replace(self.service, updated_at=self.now)))
        found.extend(Put(task) for task in puts if task.version == 0)
        found.extend(Put(task) for task in puts if task.version != 0)
        found.extend(Delete("task", task.id, task.version) for task in self.deletions.values())
        if self.is_service_deleted:
            found.append(Delete("service", self.service.id, self.service.version))
        return found


def _order(key: SlotKey) -> tuple[bool, SlotKey]:
    return isinstance(key, str), key


def is_sound(node: Node) -> bool:
    """Whether a node is up and not to be emptied."""
    return node.status.state != NodeState.DOWN and node.spec.availability != Availability.DRAIN


def age(task: Task) -> tuple[int, Nanoseconds, str]:
    """Sorts a slot's tasks, oldest first."""
    return task.ordinal, task.created_at, task.id


def is_live(task: Task) -> bool:
    """Whether a task is wanted: it has not been told to stop."""
    return task.desired_state <= TaskState.COMPLETE
