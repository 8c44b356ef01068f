"""Tasks on nodes that are down, drained or no longer fit: replaced, and settled once the replacement runs.

Pure. A task whose node is silent is not told to stop before its replacement runs: if the node returns first, the task
is adopted and the replacement dropped. A task that must leave a living node goes on serving until its replacement
is ready, a few at a time, as long as there is a place for it.
"""

from collections.abc import Sequence

from skep.core.orchestrate import modes, restart, starts
from skep.core.orchestrate.roster import Roster, SlotKey, Start
from skep.model.lifecycle import TaskState
from skep.model.service import RestartCondition
from skep.model.task import RestartRecord, Task

PARTITION_LEASE = starts.PARTITION_LEASE
HOPELESS_STREAK = 3
"""Failures in a row of a replacement after which the task that waits for it leaves all the same."""


def settle(roster: Roster) -> None:
    """Bring every slot with several tasks at work back to the one that is to stay, as soon as it can be told."""
    for key in roster.restless_keys():
        working = roster.working(key)
        if roster.is_done(key):
            for task in working:
                roster.stop(task)
        elif len(working) > 1:
            _settle_slot(roster, working)
        elif working and (roster.is_wanted(working[0]) or _is_given_up(roster, key)):
            roster.put(working[0], yielding=False)  # Nobody comes for whom it would make way.


def _settle_slot(roster: Roster, working: Sequence[Task]) -> None:
    wanted = [task for task in working if roster.is_wanted(task)]
    ready = [task for task in wanted if roster.is_ready(task)]
    if ready:
        _keep(roster, ready[0], working)
    elif wanted:
        heir = max(wanted, key=lambda task: (task.status.state, task.ordinal))
        _keep(roster, heir, wanted)
        others = [task for task in working if task not in wanted]
        serving = [task for task in others if roster.is_ready(task)]
        for task in others:
            if task in serving[:-1]:
                roster.stop(task)  # Updated again before its own heir had taken over: one serves until then.
            else:
                _wait_for_heir(roster, task, heir)
    else:
        best = max(working, key=lambda task: (roster.is_ready(task), task.status.state, -task.ordinal))
        _keep(roster, best, working)


def _keep(roster: Roster, kept: Task, working: Sequence[Task]) -> None:
    if roster.is_wanted(kept):
        roster.put(kept, yielding=False)
    for task in working:
        if task.id != kept.id:
            roster.stop(task)


def _wait_for_heir(roster: Roster, task: Task, heir: Task) -> None:
    """Decide whether a task that is to go still has to stay until its successor is ready."""
    if roster.is_lost(task):
        return  # Should its node return first, it is adopted.
    if task.yielding and roster.is_ready(task):
        if _can_take_over(roster, heir):
            roster.stop(task)
        return
    if modes.is_at_most_one(roster.service) or not roster.is_ready(task):
        roster.stop(task)
        return
    reason = "" if roster.is_dirty(task) else roster.misplacement(task)
    n_failures = heir.restart.streak - _inherited(roster, task).streak
    is_hopeless = n_failures >= HOPELESS_STREAK or roster.now >= starts.patience_ends(roster, heir)
    if not reason or not is_hopeless:
        return
    if reason == task.move:
        roster.stop(heir)
        roster.put(task, move="")
        roster.notes.append(f"task {task.id} stays where it is: no better place could be had ({reason})")
    else:
        roster.stop(task)
        roster.notes.append(f"task {task.id} leaves without a ready replacement: {reason}")


def _can_take_over(roster: Roster, heir: Task) -> bool:
    """Whether a held successor is prepared, or cannot be as long as the earlier task is where it is."""
    if heir.status.state >= TaskState.ASSIGNED:
        return heir.status.state >= TaskState.READY and heir.not_before <= roster.now
    return bool(heir.status.err) or roster.now >= starts.patience_ends(roster, heir)


def replace(roster: Roster) -> None:
    """Start replacements for lost tasks at once, and for misplaced ones within the update's limits."""
    if modes.is_per_node(roster.mode):
        return
    budget = _budget(roster)
    for key in roster.restless_keys():
        working = roster.working(key)
        if len(working) != 1 or any(roster.has_ended(task) for task in roster.live(key)):
            continue  # A replacement that failed is followed by the next when its delay is over.
        (task,) = working
        if _is_given_up(roster, key):
            _go_without_heir(roster, task)
        elif roster.is_lost(task):
            _replace_lost(roster, key, task)
        elif roster.misplacement(task):
            budget -= _replace_misplaced(roster, key, task, budget)


def _is_given_up(roster: Roster, key: SlotKey) -> bool:
    """Whether the slot's policy allows no further task of this spec: its last one failed too often."""
    newest = roster.tasks(key)[-1]
    return bool(newest.restart.refused) and newest.spec_version == roster.service.spec_version


def _go_without_heir(roster: Roster, task: Task) -> None:
    """Let a task that must leave do so, and one that only should stay; a lost one may still come back."""
    reason = "" if roster.is_lost(task) else roster.misplacement(task)
    if reason and reason == task.move:
        roster.put(task, move="")
    elif reason:
        roster.stop(task)
        roster.notes.append(f"task {task.id} leaves without a replacement, which failed too often: {reason}")


def _budget(roster: Roster) -> int:
    parallelism = roster.update_config.parallelism or len(roster.slots)
    under_way = sum(
        1
        for key in roster.restless_keys()
        for working in [roster.working(key)]
        if len(working) > 1 and any(not roster.is_lost(task) and roster.misplacement(task) for task in working)
    )
    return parallelism - under_way


def _replace_lost(roster: Roster, key: SlotKey, task: Task) -> None:
    if modes.restart_policy(task.spec).condition == RestartCondition.NONE:
        return
    roster.create(key, handover(roster, task))
    roster.notes.append(f"task {task.id} is replaced: its node {task.node_id} is down")


def _replace_misplaced(roster: Roster, key: SlotKey, task: Task, budget: int) -> int:
    """Returns how much of the budget it took."""
    if modes.restart_policy(task.spec).condition == RestartCondition.NONE:
        restart.refuse(roster, task, f"{roster.misplacement(task)}, and its restart condition is none")
        return 0
    is_serving = roster.is_ready(task) and not modes.is_job(roster.mode)
    if is_serving and not modes.is_at_most_one(roster.service):
        if budget < 1:
            return 0
        roster.create(key, handover(roster, task))
        return 1
    must_wait = modes.is_job(roster.mode) or modes.is_at_most_one(roster.service)
    roster.create(key, handover(roster, task, must_wait=must_wait))
    roster.stop(task)
    return 0


def handover(roster: Roster, task: Task, *, must_wait: bool = False) -> Start:
    """How the successor of a task begins that did not fail: without delay, and with the slot's history.

    Args:
        must_wait: Not before the old task has stopped.
    """
    not_before = task.not_before if task.not_before > roster.now else 0
    if roster.is_lost(task) and modes.is_at_most_one(roster.service):
        not_before = max(not_before, starts.lease_end(roster, task))
    is_held = must_wait or not_before > roster.now
    desired = TaskState.READY if is_held else roster.goal
    return Start(desired, not_before=not_before, rollout=task.rollout, restart=_inherited(roster, task))


def _inherited(roster: Roster, task: Task) -> RestartRecord:
    """The slot's history that a task's successor begins with; a new spec version begins another."""
    return task.restart if task.spec_version == roster.service.spec_version else RestartRecord()
