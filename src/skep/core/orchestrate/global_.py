"""Global services: one task on every node that may have one.

Pure. A paused, silent or down node keeps the task it has and gets no new one; a drained or unfit one loses it.
"""

from skep.core.orchestrate import changed
from skep.core.orchestrate.replicated import open_slot
from skep.core.orchestrate.roster import Roster
from skep.model.lifecycle import TaskState
from skep.model.node import Availability, Node, NodeState


def cover(roster: Roster) -> None:
    """Give every eligible node its task, and take it from those that may not have one."""
    for key in roster.restless_keys():
        node = roster.view.nodes.get(str(key))
        may_stay = node is not None and may_keep(roster, node)
        for task in roster.live(key):
            if node is None:
                roster.stop(task, TaskState.REMOVE)
            elif (not may_stay or task.move) and not roster.has_completed(task):
                roster.stop(task)
    for node in roster.view.nodes.values():
        is_taken = roster.live(node.id) or roster.is_settled(node.id) or roster.is_done(node.id)
        if not is_taken and is_eligible(roster, node):
            open_slot(roster, node.id, must_wait=True)


def is_eligible(roster: Roster, node: Node) -> bool:
    """Whether a node gets new tasks of a per-node service."""
    is_open = node.status.state == NodeState.READY and node.spec.availability == Availability.ACTIVE
    return is_open and changed.satisfies(roster.service.spec.task_template.placement, node)


def may_keep(roster: Roster, node: Node) -> bool:
    """Whether a node keeps the task it has."""
    is_drained = node.spec.availability == Availability.DRAIN
    return not is_drained and changed.satisfies(roster.service.spec.task_template.placement, node)
