"""What would become of a service, without doing it: the leader's own decisions on a draft, played to their end.

Pure. Nodes are taken to do at once what they are told, so that a rolling update runs through all its slots. Nothing is
stored.
"""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from skep.core import allocate, schedule
from skep.core.allocate import Ledger
from skep.core.orchestrate import modes
from skep.core.orchestrate.reconcile import reconcile as orchestrate
from skep.core.plan import Dirty, Plan, earliest
from skep.core.schedule import Inventory
from skep.lib.durations import MILLISECOND
from skep.model.base import Nanoseconds
from skep.model.lifecycle import TaskState, is_terminal
from skep.model.service import Service
from skep.model.task import Task
from skep.store.changes import Put
from skep.store.state import Draft, View

MAX_ROUNDS = 5_000
"""More than an update of any service takes; a play that goes on for ever is cut off here."""


@dataclass(frozen=True, slots=True)
class Placement:
    """A task as it would be.

    Attributes:
        reason: Why it has no node; empty if it has one.
        is_new: It does not run yet.
    """

    slot: int
    node_id: str
    reason: str
    is_new: bool


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """Attributes: placements: by slot and node; reasons: what the service itself would lack."""

    placements: tuple[Placement, ...]
    reasons: tuple[str, ...]


def rehearse(view: View, service: Service, now: Nanoseconds, new_id: Callable[[], str]) -> Rehearsal:
    """Play a service, new or changed, on a copy of the state.

    Args:
        service: As it would be stored; checked already.
    """
    draft = Draft(view)
    draft.put(service)
    _play(draft, service.id, now, new_id)
    known = {task.id for task in view.tasks.where("service", service.id)}
    tasks = [task for task in draft.tasks.where("service", service.id) if task.desired_state <= TaskState.COMPLETE]
    tasks.sort(key=lambda task: (task.slot, task.node_id))
    played = draft.services.get(service.id) or service
    return Rehearsal(
        tuple(
            Placement(
                task.slot, _node(task), "" if _node(task) else task.status.err or "it waits", task.id not in known
            )
            for task in tasks
        ),
        tuple(played.reasons),
    )


def _node(task: Task) -> str:
    """Where a task would be; one made for a node that refuses it is nowhere."""
    return task.node_id if task.status.state >= TaskState.ASSIGNED else ""


def _play(draft: Draft, service_id: str, now: Nanoseconds, new_id: Callable[[], str]) -> None:
    leader = _Leader(draft, Ledger.of(draft), Inventory.of(draft), new_id)
    dirty = Dirty(services={service_id})
    for _ in range(MAX_ROUNDS):
        wake_at = leader.decide(dirty, now)
        tasks = draft.tasks.where("service", service_id)
        news = [Put(new) for task in tasks if (new := _obeyed(draft, task, now)) != task]
        draft.lay(news)
        dirty.note_changes(news)
        now += MILLISECOND
        if dirty:
            continue
        if wake_at is None or not _is_rolling(draft, service_id):
            return
        now = max(wake_at, now)
        dirty = Dirty(services={service_id})


@dataclass(slots=True)
class _Leader:
    draft: Draft
    ledger: Ledger
    inventory: Inventory
    new_id: Callable[[], str]

    def decide(self, dirty: Dirty, now: Nanoseconds) -> Nanoseconds | None:
        """One round of all decisions. Leaves in `dirty` what they changed; returns when the next is due by itself."""
        seen = Dirty()
        seen.merge(dirty)
        dirty.clear()
        moments: list[Nanoseconds | None] = []
        decisions: tuple[Callable[[], Plan], ...] = (
            lambda: allocate.reconcile(self.draft, seen, self.ledger, now),
            lambda: orchestrate(self.draft, seen, now, self.new_id),
            lambda: allocate.reconcile(self.draft, seen, self.ledger, now),
            lambda: schedule.reconcile(self.draft, seen, self.inventory, now),
        )
        for decision in decisions:
            plan = decision()
            self.draft.lay(plan.changes)
            seen.note_changes(plan.changes)
            dirty.note_changes(plan.changes)
            moments.append(plan.wake_at)
        return earliest(moments)


def _is_rolling(draft: Draft, service_id: str) -> bool:
    service = draft.services.get(service_id)
    status = service.update_status if service is not None else None
    return status is not None and status.state in ("updating", "rollback_started")


def _obeyed(draft: Draft, task: Task, now: Nanoseconds) -> Task:
    """A task after its node did what it is told; a job's task completes."""
    state = task.status.state
    if state < TaskState.ASSIGNED or is_terminal(state):
        return task
    service = draft.services.get(task.service_id)
    is_job = service is not None and modes.is_job(modes.mode_of(service.spec))
    if task.desired_state >= TaskState.SHUTDOWN:
        return _at(task, TaskState.SHUTDOWN, now)
    if task.desired_state == TaskState.READY:
        return task if state >= TaskState.READY else _at(task, TaskState.READY, now)
    if state < TaskState.RUNNING and not is_job:
        return _at(task, TaskState.RUNNING, now)
    return task


def _at(task: Task, state: TaskState, now: Nanoseconds) -> Task:
    status = msgspec.structs.replace(
        task.status, state=state, timestamp=now, err="", is_accepting=state == TaskState.RUNNING
    )
    return msgspec.structs.replace(
        task,
        status=status,
        started_at=now if state == TaskState.RUNNING else task.started_at,
        ended_at=now if is_terminal(state) else task.ended_at,
        look_at=0 if state >= TaskState.RUNNING else task.look_at,
    )
