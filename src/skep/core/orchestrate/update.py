"""Rolling updates and rollbacks: slot by slot to the new spec, watched, and paused or rolled back on failure.

Pure. Nothing is remembered but what is stored: which tasks an update made (`Task.rollout`), when they started, and
which slots failed (`Service.rollout`). A new leader goes on where the old one stopped.
Source: swarmkit/manager/orchestrator/update/updater.go; the limit for tasks that never become ready is ours.
"""

from collections.abc import Iterator

import msgspec

from skep.core.orchestrate import global_, modes
from skep.core.orchestrate.moves import handover
from skep.core.orchestrate.roster import Roster, SlotKey, Start
from skep.model.base import Nanoseconds
from skep.model.lifecycle import TaskState, is_terminal
from skep.model.service import FailureAction, Rollout, UpdateOrder, UpdateStatus
from skep.model.task import Task


def judge(roster: Roster) -> None:
    """Count new failures of the update under way, and pause it or roll it back when there are too many."""
    rollout = _current(roster)
    if rollout is None or not roster.is_rolling:
        return
    unfailed = [key for key in roster.restless_keys() if str(key) not in rollout.failed]
    found = {key: task for key in unfailed for task in _failures(roster, key)}
    if not found:
        return
    failed = {**rollout.failed, **{str(key): roster.now for key in found}}
    roster.change_service(rollout=msgspec.structs.replace(rollout, failed=failed))
    config = roster.update_config
    is_too_many = len(failed) > config.max_failure_ratio * max(rollout.n_slots, 1)
    if is_too_many and config.failure_action != FailureAction.CONTINUE:
        _act_on_failure(roster, config.failure_action, next(iter(found.values())))


def _failures(roster: Roster, key: SlotKey) -> Iterator[Task]:
    """A slot's task made by this update that failed under watch, or took too long to become ready."""
    monitor = modes.monitor_period(roster.update_config)
    for task in roster.live(key):
        if task.rollout != roster.service.spec_version:
            continue
        if is_terminal(task.status.state):
            ended_at = task.ended_at or task.status.timestamp
            is_early = not task.started_at or ended_at - task.started_at <= monitor
            if is_early and task.status.state != TaskState.ORPHANED:
                yield task
        elif not roster.is_ready(task) and not _lasts_until(roster, _ready_by(roster, task)):
            yield task


def _ready_by(roster: Roster, task: Task) -> Nanoseconds:
    return max(task.created_at, task.not_before) + modes.ready_limit(roster.service)


def _act_on_failure(roster: Roster, action: FailureAction, task: Task) -> None:
    status = roster.service.update_status or UpdateStatus()
    is_rollback = status.state == "rollback_started"
    cause = f"due to failure or early termination of task {task.id}"
    if is_rollback:
        _set_status(roster, "rollback_paused", f"rollback paused {cause}")
    elif action == FailureAction.ROLLBACK and roster.service.previous_spec is not None:
        _roll_back(roster, f"update rolled back {cause}")
    else:
        _set_status(roster, "paused", f"update paused {cause}")


def _set_status(roster: Roster, state: str, message: str, completed_at: Nanoseconds = 0) -> None:
    status = roster.service.update_status or UpdateStatus(started_at=roster.now)
    roster.change_service(
        update_status=msgspec.structs.replace(status, state=state, message=message, completed_at=completed_at)
    )
    roster.notes.append(f"service {roster.service.spec.name}: {message}")


def _roll_back(roster: Roster, message: str) -> None:
    """Bring the previous spec back, as a spec version of its own: a number never means two specs."""
    service = roster.service
    if service.previous_spec is None:
        return
    roster.change_service(
        spec=service.previous_spec,
        spec_version=service.spec_version + 1,
        previous_spec=None,
        previous_spec_version=0,
        registry_auth=service.previous_registry_auth or service.registry_auth,
        previous_registry_auth=None,
    )
    _set_status(roster, "rollback_started", message)


# --- going on ------------------------------------------------------------------


def advance(roster: Roster) -> None:
    """Begin, continue or complete the update that the service's tasks call for."""
    failed = _failed_before(roster)
    todo = [key for key in roster.restless_keys() if str(key) not in failed and is_slot_dirty(roster, key)]
    rollout = _rollout_under_way(roster, len(todo), failed)
    if rollout is None:
        return
    under_way = sum(1 for key in roster.restless_keys() if _is_under_way(roster, rollout, key))
    if not todo and not under_way:
        _complete_when_watched(roster, rollout)
        return
    limit = roster.update_config.parallelism or len(roster.slots)
    todo.sort(key=lambda key: any(roster.is_ready(task) for task in roster.live(key)))  # What is down first.
    for key in todo[: max(limit - under_way, 0)]:
        _replace_slot(roster, key)


def is_slot_dirty(roster: Roster, key: SlotKey) -> bool:
    """Whether a slot has nothing yet of what the spec asks for now."""
    if modes.is_per_node(roster.mode):
        node = roster.view.nodes.get(str(key))
        if node is None or not global_.is_eligible(roster, node):
            return False  # Updated once its node takes new tasks.
    live = roster.live(key)
    if not live and roster.is_settled(key):
        live = roster.tasks(key)[-1:]
    return bool(live) and all(roster.is_dirty(task) for task in live)


def _current(roster: Roster) -> Rollout | None:
    """The bookkeeping of the update to the spec as it is now, if one has begun."""
    rollout = roster.service.rollout
    return rollout if rollout is not None and rollout.version == roster.service.spec_version else None


def _failed_before(roster: Roster) -> dict[str, Nanoseconds]:
    """Slots in which this very spec failed: they are left as they are."""
    rollout = _current(roster)
    return rollout.failed if rollout is not None else {}


def _rollout_under_way(roster: Roster, n_todo: int, failed: dict[str, Nanoseconds]) -> Rollout | None:
    """The update that is under way, begun now if there is reason to; None if there is nothing to do."""
    rollout = _current(roster)
    if roster.is_rolling and rollout is not None:
        return rollout
    state = roster.service.update_status.state if roster.service.update_status else ""
    is_paused = rollout is not None and state in ("paused", "rollback_paused")
    if not roster.is_rolling and (is_paused or not n_todo):
        return None
    if state != "rollback_started":
        status = UpdateStatus(state="updating", started_at=roster.now, message="update in progress")
        roster.change_service(update_status=status)
    n_slots = n_todo + len(failed)
    begun = Rollout(version=roster.service.spec_version, started_at=roster.now, n_slots=n_slots, failed=failed)
    roster.change_service(rollout=begun)
    return begun


def _is_under_way(roster: Roster, rollout: Rollout, key: SlotKey) -> bool:
    """Whether a slot still counts against the parallelism: not ready yet, or within the delay after it."""
    made = [task for task in roster.live(key) if task.rollout == rollout.version]
    delay = roster.update_config.delay
    failed_at = rollout.failed.get(str(key))
    if failed_at is not None:
        return bool(made) and _lasts_until(roster, failed_at + delay)
    if not made:
        return False
    if made[-1].status.state == TaskState.ORPHANED:  # Its node went; a successor is about to be made for it.
        return _lasts_until(roster, _ready_by(roster, made[-1]))
    if is_terminal(made[-1].status.state):
        return False
    if not roster.is_ready(made[-1]):
        _lasts_until(roster, _ready_by(roster, made[-1]))
        return True
    return _lasts_until(roster, _started_at(made[-1]) + delay)


def _lasts_until(roster: Roster, moment: Nanoseconds) -> bool:
    if moment <= roster.now:
        return False
    roster.wakes.append(moment)
    return True


def _started_at(task: Task) -> Nanoseconds:
    return task.started_at or task.status.timestamp


def _complete_when_watched(roster: Roster, rollout: Rollout) -> None:
    config = roster.update_config
    moments = list(rollout.failed.values())
    for key in roster.restless_keys():
        moments.extend(_started_at(task) for task in roster.live(key) if task.rollout == rollout.version)
    is_watched = bool(moments) and config.failure_action != FailureAction.CONTINUE
    if is_watched and _lasts_until(roster, max(moments) + modes.monitor_period(config) + 1):
        return
    status = roster.service.update_status
    if status is not None and status.state == "rollback_started":
        _set_status(roster, "rollback_completed", "rollback completed", roster.now)
    else:
        _set_status(roster, "completed", "update completed", roster.now)


def _replace_slot(roster: Roster, key: SlotKey) -> None:
    """Create a slot's new task. The old one serves until that is ready, or, stop-first, prepared: its image is here."""
    version = roster.service.spec_version
    old = roster.live(key)
    is_serving = any(roster.is_ready(task) for task in old)
    is_start_first = roster.update_config.order == UpdateOrder.START_FIRST and is_serving
    if is_start_first and not modes.is_at_most_one(roster.service):
        for task in old:
            roster.put(task, yielding=False)
        roster.create(key, Start(roster.goal, rollout=version))
        return
    lease = max((handover(roster, task).not_before for task in old if roster.is_lost(task)), default=0)
    roster.create(key, Start(TaskState.READY, not_before=lease, rollout=version))
    for task in old:
        if roster.is_ready(task):
            roster.put(task, yielding=True)
        else:
            roster.stop(task)
