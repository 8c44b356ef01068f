"""Raising tasks that wait: for their restart delay, and for the slot's earlier task to stop.

Pure. Such a task is wanted READY: its node prepares it meanwhile. The moments are stored with the task, so a new leader
raises it when the old one would have.
"""

from collections.abc import Iterator

from skep.core.orchestrate import modes
from skep.core.orchestrate.roster import Roster, is_live
from skep.lib.durations import SECOND
from skep.model.base import Nanoseconds
from skep.model.lifecycle import TaskState, is_active
from skep.model.task import Task

STOP_LIMIT: Nanoseconds = 60 * SECOND
"""How long a new task waits for the old one to stop. Source: swarmkit/manager/orchestrator/restart."""
STOP_MARGIN: Nanoseconds = 10 * SECOND
PARTITION_LEASE: Nanoseconds = 10 * SECOND
"""An agent that reaches no manager for this long stops its at-most-one tasks by itself."""
UNNOTICED: Nanoseconds = 5 * SECOND
"""A node knows within 3.5 s that it hears no manager; its lease begins then. One that is down was silent for longer."""
PATIENCE: Nanoseconds = 10 * SECOND
"""How long a task that must leave its node waits for its replacement to find a place."""


def raise_due(roster: Roster) -> None:
    """Let every waiting task run whose time has come."""
    for key in roster.restless_keys():
        for task in roster.working(key):
            if task.desired_state == TaskState.READY and not list(_hindrances(roster, task)):
                roster.put(task, desired_state=roster.goal, look_at=0)


def note_moments(roster: Roster) -> None:
    """Store on each unfinished start when it has to be looked at again."""
    for key in roster.restless_keys():
        working = roster.working(key)
        for task in working:
            if task.status.state >= TaskState.RUNNING:
                continue
            moments = list(_hindrances(roster, task)) if task.desired_state == TaskState.READY else []
            if len(working) > 1:
                moments.append(patience_ends(roster, task))
            future = [moment for moment in moments if moment > roster.now]
            roster.put(task, look_at=min(future, default=0))


def patience_ends(roster: Roster, task: Task) -> Nanoseconds:
    """Until when a replacement may keep the task waiting that it is to take over from."""
    limit = modes.ready_limit(roster.service) if task.node_id else PATIENCE
    return task.created_at + limit


def lease_end(roster: Roster, task: Task) -> Nanoseconds:
    """When a task on a lost node has surely stopped itself; one whose node was removed may not have heard of it."""
    node = roster.node(task)
    since = node.status.since if node is not None else (task.ended_at or roster.now) + UNNOTICED
    return since + PARTITION_LEASE + modes.stop_grace(task.spec)


def may_run_unseen(roster: Roster, task: Task) -> bool:
    """Whether an at-most-one task may still run on a node that is away, where its lease has not ended.

    ORPHANED says that nobody will report its end, not that it has ended.
    """
    may_run = is_active(task.status.state) or task.status.state == TaskState.ORPHANED
    if not modes.is_at_most_one(roster.service) or not may_run or not roster.is_lost(task):
        return False
    return lease_end(roster, task) > roster.now


def _makes_way(roster: Roster, task: Task) -> bool:
    """Whether a task still serves that is to stop before its successor starts."""
    return task.yielding and is_live(task) and not roster.has_ended(task) and not roster.is_lost(task)


def _hindrances(roster: Roster, task: Task) -> Iterator[Nanoseconds]:
    """What keeps a task from being raised, as the moments it ends by itself; 0 for never."""
    if task.not_before > roster.now:
        yield task.not_before
    before = [old for old in roster.tasks(roster.key(task)) if old.ordinal < task.ordinal]
    if any(_makes_way(roster, old) for old in before):
        yield 0
        return
    earlier = [old for old in before if old.yielding or not is_live(old)]
    stopping = [old for old in earlier if roster.is_stopping(old)]
    # Also one that nobody told to go: its first replacement waited for the lease, and failed or was of an earlier spec.
    yield from (lease_end(roster, old) for old in before if may_run_unseen(roster, old))
    if not stopping:
        return
    if modes.is_at_most_one(roster.service):
        yield 0
        return
    grace = max(modes.stop_grace(old.spec) for old in stopping)
    since = max(old.updated_at if old.yielding else task.created_at for old in stopping)  # Yielding, it began later.
    deadline = since + max(STOP_LIMIT, grace + STOP_MARGIN)
    if deadline > roster.now:
        yield deadline
