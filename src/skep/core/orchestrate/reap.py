"""Forgetting: history beyond its limit, tasks of removed slots and services, tasks that nobody owns.

Pure. A task wanted REMOVE is deleted once nothing of it can run: it ended, no node was told of it, or its node is
down and will stop, on its return, what it is no longer assigned. A slot's last task is kept:
it says why the slot is idle.
"""

from collections.abc import Iterable

import msgspec

from skep.core.orchestrate import starts
from skep.core.orchestrate.roster import Roster, is_live
from skep.model.base import Nanoseconds
from skep.model.lifecycle import TaskState, is_terminal
from skep.model.node import NodeState
from skep.model.task import Task
from skep.store.changes import Change, Delete, Put
from skep.store.state import View

DEFAULT_HISTORY = 5


def history_limit(view: View) -> int:
    """How many tasks a slot shows, wanted ones included; negative for all."""
    limit = view.cluster.spec.orchestration.task_history_retention_limit if view.cluster else None
    return DEFAULT_HISTORY if limit is None else limit


def trim(roster: Roster) -> None:
    """Delete removed tasks that are over, and each slot's oldest history."""
    limit = history_limit(roster.view)
    for key in roster.restless_keys():
        _delete_removed(roster, roster.tasks(key))
        tasks = roster.tasks(key)
        if limit < 0 or len(tasks) <= limit:
            continue
        n_live = sum(1 for task in tasks if is_live(task))
        n_kept = max(limit - n_live, 0 if n_live else 1)
        ended = [
            task
            for task in tasks
            if not is_live(task) and roster.has_ended(task) and not starts.may_run_unseen(roster, task)
        ]
        for task in ended[: len(ended) - n_kept]:
            roster.delete(task)


def _delete_removed(roster: Roster, tasks: Iterable[Task]) -> None:
    for task in tasks:
        if task.desired_state < TaskState.REMOVE:
            continue
        is_over = is_terminal(task.status.state) or roster.is_lost(task)
        is_kept = starts.may_run_unseen(roster, task) and not roster.service.removing  # Its slot's next one waits.
        if is_over and not is_kept:
            roster.delete(task)
        else:
            roster.put(task, look_at=starts.lease_end(roster, task) if is_kept else 0)


def remove_service(roster: Roster) -> None:
    """Want all of a service's tasks gone; with the last of them goes the service."""
    for task in list(roster.all_tasks()):
        roster.stop(task, TaskState.REMOVE)
    _delete_removed(roster, list(roster.all_tasks()))
    if not roster.slots:
        roster.is_service_deleted = True


def reap_ownerless(view: View, task: Task, now: Nanoseconds) -> Change | None:
    """Remove a task whose service is gone."""
    node = view.nodes.get(task.node_id) if task.node_id else None
    is_away = node is None or node.status.state == NodeState.DOWN
    if is_terminal(task.status.state) or task.status.state < TaskState.ASSIGNED or is_away:
        return Delete("task", task.id, task.version)
    if task.desired_state >= TaskState.REMOVE:
        return None
    return Put(msgspec.structs.replace(task, desired_state=TaskState.REMOVE, updated_at=now, look_at=0))
