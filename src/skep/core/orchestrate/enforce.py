"""What a node's change does to the tasks on it, beyond what each service sees by itself.

Pure. Tasks of a node that was removed are ORPHANED; where a node shrank below what its tasks reserve, the newest are
marked to move.
"""

from collections.abc import Iterable, Mapping

import msgspec

from skep.core.orchestrate.roster import Roster, is_live
from skep.model.base import Nanoseconds
from skep.model.lifecycle import TaskState, is_active, is_terminal
from skep.model.node import Node
from skep.model.service import Resources, TaskSpec
from skep.model.task import Task, TaskStatus
from skep.store.state import View

SHRUNK = "its node no longer has the resources it reserves"


def orphan_tasks_of_removed_nodes(roster: Roster) -> None:
    """Nobody will ever report on a removed node's tasks: they count as ended."""
    restless = [task for key in roster.restless_keys() for task in roster.tasks(key)]
    for task in [task for task in restless if task.node_id and roster.node(task) is None]:
        if is_active(task.status.state):
            roster.put(task, status=orphaned(task, roster.now), ended_at=roster.now)
        elif not is_terminal(task.status.state):
            roster.delete(task)


def orphaned(task: Task, now: Nanoseconds) -> TaskStatus:
    """The status of a task that nobody will report on any more."""
    return msgspec.structs.replace(
        task.status, state=TaskState.ORPHANED, timestamp=now, err="its node was removed or is down for too long"
    )


def overfull(view: View, node_ids: Iterable[str]) -> Mapping[str, str]:
    """The newest tasks of nodes that reserve more than their node has, with why they must move."""
    marks: dict[str, str] = {}
    for node_id in node_ids:
        node = view.nodes.get(node_id)
        if node is not None:
            marks.update(_overfull_on(view, node))
    return marks


def _overfull_on(view: View, node: Node) -> dict[str, str]:
    has = node.description.resources
    cpus, memory = 0, 0
    marks: dict[str, str] = {}
    tasks = [task for task in view.tasks.where("node", node.id) if is_live(task) and is_active(task.status.state)]
    for task in sorted(tasks, key=lambda task: (task.created_at, task.id)):
        wants = reservation(task.spec)
        if _exceeds(cpus + wants.nano_cpus, has.nano_cpus) or _exceeds(memory + wants.memory_bytes, has.memory_bytes):
            if wants.nano_cpus or wants.memory_bytes:
                marks[task.id] = SHRUNK
        else:
            cpus, memory = cpus + wants.nano_cpus, memory + wants.memory_bytes
    return marks


def reservation(spec: TaskSpec) -> Resources:
    """What a task reserves on its node."""
    reserved = spec.resources.reservations if spec.resources else None
    return reserved or Resources()


def _exceeds(wanted: int, has: int) -> bool:
    return 0 < has < wanted
