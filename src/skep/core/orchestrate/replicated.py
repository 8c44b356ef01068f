"""Replicated services: as many occupied slots as replicas are asked for.

Pure. A slot is occupied while it has a wanted task, or its last one ended for good. Slot numbers may have gaps.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from skep.core.orchestrate import modes, starts
from skep.core.orchestrate.roster import Roster, SlotKey, Start
from skep.model.lifecycle import TaskState
from skep.model.task import Task


def scale(roster: Roster) -> None:
    """Fill missing slots, or remove those too many."""
    wanted = modes.replicas(roster.service.spec)
    idle = {key for key in roster.restless_keys() if not roster.live(key) and not roster.is_settled(key)}
    n_occupied = len(roster.slots) - len(idle)
    if n_occupied < wanted:
        _fill(roster, set(roster.slots) - idle, wanted - n_occupied)
    elif n_occupied > wanted:
        occupied = {key: roster.live(key) for key in roster.slot_keys() if key not in idle}
        for key in removal_order(occupied)[: n_occupied - wanted]:
            remove_slot(roster, key)


def _fill(roster: Roster, occupied: set[SlotKey], n: int) -> None:
    number = 0
    for _ in range(n):
        number += 1
        while number in occupied:
            number += 1
        open_slot(roster, number, must_wait=modes.is_at_most_one(roster.service))


def open_slot(roster: Roster, key: SlotKey, *, must_wait: bool) -> Task:
    """Create a slot's task.

    Args:
        must_wait: Do not run it while an earlier task of the slot is still being stopped.
    """
    earlier = roster.tasks(key) if must_wait else []
    is_held = any(roster.is_stopping(task) or starts.may_run_unseen(roster, task) for task in earlier)
    return roster.create(key, Start(TaskState.READY if is_held else roster.goal))


def remove_slot(roster: Roster, key: SlotKey) -> None:
    """Want a slot's tasks gone, history and all."""
    for task in roster.tasks(key):
        roster.stop(task, TaskState.REMOVE)


def removal_order(slots: Mapping[SlotKey, Sequence[Task]]) -> list[SlotKey]:
    """Sort slots, first to remove first: idle ones, then those on the most crowded nodes.

    Ties go to the highest slot: a stateful service tends to keep its primary in slot 1.

    Args:
        slots: Each slot's wanted tasks, oldest first; a slot without any is idle.
    Returns:
        Every key of `slots`, once.
    Source: swarmkit/manager/orchestrator/replicated/slot.go, slotsByNode.
    """
    copies: Counter[str] = Counter()
    rank: dict[SlotKey, tuple[bool, int, int]] = {}
    in_order = sorted(slots, key=lambda key: (not _is_running(slots[key]), key))
    for position, key in enumerate(in_order):
        is_running = _is_running(slots[key])
        node_id = slots[key][0].node_id if slots[key] else ""
        if node_id:
            copies[node_id] += 1  # This slot is the nth copy of the service on its node.
        rank[key] = (not is_running, copies[node_id], position)
    return sorted(slots, key=rank.__getitem__, reverse=True)


def _is_running(tasks: Sequence[Task]) -> bool:
    return any(task.status.state == TaskState.RUNNING for task in tasks)
