"""Restart: an ended task gets a successor in its slot, or a reason why not.

Pure. What a slot went through travels from task to task, so it survives the leader. Failures soon after a start double
the delay up to five minutes; a task that ended because its node did is replaced at once and counts for nothing.
Source: swarmkit/manager/orchestrator/restart/restart.go; the back-off is ours.
"""

from skep.core.orchestrate import modes, starts
from skep.core.orchestrate.roster import Roster, SlotKey, Start
from skep.lib.durations import MINUTE, SECOND
from skep.model.base import Nanoseconds
from skep.model.lifecycle import TaskState
from skep.model.node import Availability
from skep.model.service import RestartCondition, RestartPolicy
from skep.model.task import RestartRecord, Task

LONGEST_DELAY: Nanoseconds = 5 * MINUTE
SHORTEST_DOUBLED: Nanoseconds = SECOND
LASTING_RUN: Nanoseconds = MINUTE
"""A task that ran this long did not fail at its start."""


def tend(roster: Roster) -> None:
    """Replace ended tasks in every slot, as far as the policy allows."""
    for key in roster.restless_keys():
        if any(roster.has_ended(task) for task in roster.live(key)):
            _tend_slot(roster, key)


def _tend_slot(roster: Roster, key: SlotKey) -> None:
    live = roster.live(key)
    newest = live[-1]
    for task in live[:-1]:
        if roster.has_ended(task):
            roster.stop(task)  # Its successor exists.
    if not roster.has_ended(newest):
        return
    if any(not roster.has_ended(task) and roster.is_wanted(task) for task in live):
        roster.stop(newest)  # It was to take over from a task that may stay after all.
    else:
        _replace(roster, newest)


def _replace(roster: Roster, task: Task) -> None:
    reason = refusal(roster, task)
    if reason:
        roster.put(task, desired_state=TaskState.SHUTDOWN, look_at=0, restart=_refused(task, reason))
        return
    if not _may_run_again(roster, task):
        return
    if _is_early(roster, task):
        roster.put(task, look_at=task.not_before)
        return
    start = _successor(roster, task)
    roster.create(roster.key(task), start)
    roster.stop(task)


def refuse(roster: Roster, task: Task, reason: str) -> None:
    """Stop a task for good: its slot stays settled until the service changes."""
    if task.status.state < TaskState.ASSIGNED:
        roster.delete(task)
    else:
        roster.put(task, desired_state=TaskState.SHUTDOWN, look_at=0, restart=_refused(task, reason))


def refusal(roster: Roster, task: Task) -> str:
    """Why an ended task gets no successor; empty if it gets one."""
    policy = modes.restart_policy(task.spec)
    if policy.condition == RestartCondition.NONE:
        return "its restart condition is none"
    if task.status.state == TaskState.COMPLETE and policy.condition == RestartCondition.ON_FAILURE:
        return "it completed, and is restarted on failure only"
    if task.status.state == TaskState.ORPHANED or not policy.max_attempts:
        return ""
    n = _attempts(roster, task, policy)
    return f"it was restarted {n} times, as often as its policy allows" if n >= policy.max_attempts else ""


def _attempts(roster: Roster, task: Task, policy: RestartPolicy) -> int:
    record = _record(roster, task)
    if not policy.window:
        return record.attempts
    return sum(1 for moment in record.moments if moment > roster.now - policy.window)


def _may_run_again(roster: Roster, task: Task) -> bool:
    """Whether the slot may get a task now; a node that is the slot has to take new tasks."""
    if not modes.is_per_node(roster.mode):
        return True
    node = roster.node(task)
    return node is not None and node.spec.availability == Availability.ACTIVE and not roster.is_lost(task)


def _is_early(roster: Roster, task: Task) -> bool:
    """Whether a task ended before it was due to start, as one does whose image or mount is refused.

    Its node prepares a waiting task at once, so a successor made now would be refused now, and so on without a pause.
    """
    return task.not_before > roster.now and task.status.state != TaskState.ORPHANED and roster.is_wanted(task)


def _successor(roster: Roster, task: Task) -> Start:
    """How the next task begins: READY, raised at once unless its delay or an earlier task of its slot hinders it."""
    record = _record(roster, task)
    if task.status.state == TaskState.ORPHANED:
        if modes.is_at_most_one(roster.service):  # Nobody can tell that it has stopped but the clock.
            ends_at = starts.lease_end(roster, task)
            return Start(TaskState.READY, not_before=ends_at, rollout=task.rollout, restart=record)
        return Start(TaskState.READY, rollout=task.rollout, restart=record)
    policy = modes.restart_policy(task.spec)
    streak = _streak(task, policy, record)
    moments = [*record.moments, roster.now][-policy.max_attempts :] if policy.window and policy.max_attempts else []
    record = RestartRecord(attempts=record.attempts + 1, moments=moments, streak=streak)
    node = roster.node(task)
    if node is None or node.spec.availability == Availability.DRAIN or roster.is_lost(task):
        return Start(TaskState.READY, restart=record)
    delay = back_off(modes.restart_delay(policy), streak)
    return Start(TaskState.READY, not_before=roster.now + delay if delay else 0, restart=record)


def back_off(delay: Nanoseconds, streak: int) -> Nanoseconds:
    """How long the next restart waits.

    Args:
        delay: The policy's; longer than the limit it is kept as it is.
        streak: Failures in a row up to now; the first waits the policy's delay.
    """
    if streak <= 1:
        return delay
    doubled = max(delay, SHORTEST_DOUBLED) << min(streak - 1, 32)
    return max(delay, min(doubled, LONGEST_DELAY))


def _streak(task: Task, policy: RestartPolicy, record: RestartRecord) -> int:
    """Failures in a row, this one included.

    A task that completes follows the delay its user chose, as those do who use it for a rhythm.
    """
    ran = task.ended_at - task.started_at if task.started_at else 0
    if ran >= LASTING_RUN or (task.status.state == TaskState.COMPLETE and policy.delay is not None):
        return 0
    return record.streak + 1


def _record(roster: Roster, task: Task) -> RestartRecord:
    """The slot's history, which a new spec version begins anew."""
    return task.restart if task.spec_version == roster.service.spec_version else RestartRecord()


def _refused(task: Task, reason: str) -> RestartRecord:
    record = task.restart
    return RestartRecord(attempts=record.attempts, moments=record.moments, streak=record.streak, refused=reason)
