"""What nodes say about themselves and their tasks, folded into the state.

Pure. A node speaks for its own tasks only, and observed state never goes back; whatever else is reported is left
out with a note. Moments that decisions compare (`started_at`, `ended_at`, a node's `since`) are the manager's, because
clocks of nodes differ. A report that came twice changes nothing.
"""

from collections.abc import Sequence

import msgspec

from skep.core.plan import NOTHING, Plan
from skep.model.base import Nanoseconds
from skep.model.lifecycle import TaskState, is_progress, is_terminal
from skep.model.node import Node, NodeDescription, NodeState
from skep.model.session import CertificateHeld, TaskReport
from skep.model.task import Task, TaskStatus
from skep.store.changes import Change, Put
from skep.store.state import View

FIRST_REPORTABLE = TaskState.ACCEPTED
LAST_REPORTABLE = TaskState.REJECTED


def fold(view: View, node_id: str, reports: Sequence[TaskReport], now: Nanoseconds) -> Plan:
    """Take in what a node observed of its tasks.

    Args:
        node_id: Who reports, from its certificate.
        reports: The newest per task; older ones of the same task may come before it.
    Returns:
        Puts of the tasks that changed; a note for each report left out.
    """
    changed: dict[str, Task] = {}
    notes: list[str] = []
    for report in reports:
        task = changed.get(report.task_id) or view.tasks.get(report.task_id)
        reason = _objection(task, node_id, report.status.state)
        if task is None or reason:
            notes.append(f"node {node_id} reported task {report.task_id} as {report.status.state.label}: {reason}")
            continue
        observed = _observed(task, report.status, now)
        if observed is not None:
            changed[task.id] = observed
    changes: tuple[Change, ...] = tuple(Put(task) for task in changed.values())
    return Plan(changes, None, tuple(notes)) if changes or notes else NOTHING


def _objection(task: Task | None, node_id: str, state: TaskState) -> str:
    """Why a report is left out; empty if it counts."""
    if task is None:
        return "there is no such task"
    if task.node_id != node_id:
        return "it is not that node's task"
    if task.status.state < TaskState.ASSIGNED:
        return "it has not been assigned yet"
    if not FIRST_REPORTABLE <= state <= LAST_REPORTABLE:
        return "a node has no say in that state"
    return ""


def _observed(task: Task, status: TaskStatus, now: Nanoseconds) -> Task | None:
    """The task after a report; None if it changes nothing, as a late or repeated one."""
    old = task.status
    if not is_progress(old.state, status.state) or (is_terminal(old.state) and status.state != old.state):
        return None
    moment = old.timestamp if status.state == old.state else status.timestamp or now
    new = msgspec.structs.replace(status, timestamp=moment)
    if new == old:
        return None
    is_started = status.state == TaskState.RUNNING and not task.started_at
    is_ended = is_terminal(status.state) and not task.ended_at
    return msgspec.structs.replace(
        task,
        status=new,
        updated_at=now,
        started_at=now if is_started else task.started_at,
        ended_at=now if is_ended else task.ended_at,
        look_at=0 if status.state >= TaskState.RUNNING else task.look_at,
    )


def register(
    view: View,
    node_id: str,
    description: NodeDescription,
    underlay: str,
    capabilities: Sequence[str],
    now: Nanoseconds,
    *,
    serial: str = "",
) -> Plan:
    """Take in a node's hello.

    Args:
        underlay: Its underlay address.
        serial: Of the certificate it holds; empty if it did not say.
    Returns:
        A put of the node, if anything is new. A node that is not in the swarm is noted, not created: joining does that.
    """
    node = view.nodes.get(node_id)
    if node is None:
        return Plan(notes=(f"node {node_id} said hello and is not in the swarm",))
    new = returned(node, now)
    new = msgspec.structs.replace(
        new,
        description=_keep_known(node, _keep_trust(node, description)),
        status=msgspec.structs.replace(new.status, addr=underlay or node.status.addr),
        capabilities=sorted(capabilities),
        held_serial=serial or node.held_serial,
    )
    if new == node:
        return NOTHING
    return Plan((Put(msgspec.structs.replace(new, updated_at=now)),))


def holds(view: View, node_id: str, held: CertificateHeld, now: Nanoseconds) -> Plan:
    """Take in which certificate a node has come to use, and what it trusts."""
    node = view.nodes.get(node_id)
    if node is None:
        return NOTHING
    description = msgspec.structs.replace(node.description, tls_info=held.trust)
    new = msgspec.structs.replace(node, description=description, held_serial=held.serial)
    return Plan((Put(msgspec.structs.replace(new, updated_at=now)),)) if new != node else NOTHING


def returned(node: Node, now: Nanoseconds) -> Node:
    """A node that is heard: ready, and in balancing again."""
    status = node.status
    if status.state != NodeState.READY:
        status = msgspec.structs.replace(status, state=NodeState.READY, message="", since=now)
    return msgspec.structs.replace(node, status=status, balanced=True)


def _keep_trust(node: Node, description: NodeDescription) -> NodeDescription:
    """An agent that does not say what it trusts leaves what is known."""
    if description.tls_info is None and node.description.tls_info is not None:
        return msgspec.structs.replace(description, tls_info=node.description.tls_info)
    return description


def _keep_known(node: Node, description: NodeDescription) -> NodeDescription:
    """What an agent cannot say while its engine is away stays as it was: its machine has not shrunk."""
    if description.resources.nano_cpus:
        return description
    return msgspec.structs.replace(description, resources=node.description.resources, engine=node.description.engine)
