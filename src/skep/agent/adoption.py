"""Tell what became of a task while no daemon watched.

Pure: a function of the assignment, the task's record, the engine's container and whether the sandbox is there. Every
point at which a daemon can be killed leaves one of these combinations, and each leads on without starting anything
twice.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from skep.agent.container import NODE_ID_LABEL, TASK_ID_LABEL
from skep.agent.executor import PHASES, Found
from skep.agent.records import TaskRecord
from skep.core.task_steps import Observed, Phase
from skep.model.assignment import AssignedTask
from skep.model.lifecycle import TaskState, is_terminal
from skep.model.task import TaskStatus
from skep.ports.runtime import Container


@dataclass(frozen=True, slots=True)
class Inventory:
    """What an earlier daemon left on the node.

    Attributes:
        containers: By task id. sandboxes, records: task ids. boot_id: of this boot.
    """

    containers: Mapping[str, Container]
    sandboxes: Collection[str]
    boot_id: str
    records: Collection[str] = ()

    @property
    def task_ids(self) -> set[str]:
        """Tasks of which anything was left."""
        return {*self.containers, *self.sandboxes, *self.records}

    def without(self, task_id: str) -> "Inventory":
        """The same with nothing of that task."""
        containers = {key: container for key, container in self.containers.items() if key != task_id}
        rest = {task_id}
        sandboxes, records = frozenset(self.sandboxes) - rest, frozenset(self.records) - rest
        return Inventory(containers, sandboxes, self.boot_id, records)


def own_containers(found: Iterable[Container], node_id: str, known: Collection[str]) -> Mapping[str, Container]:
    """The containers that are this node's, by task id.

    An engine may hold another swarm's containers under the same labels (a Docker Engine in swarm mode of its own): only
    those of this node's id, or of tasks of which something else is kept here, are ours.
    """
    by_task = {container.labels.get(TASK_ID_LABEL, ""): container for container in found}
    return {
        task_id: container
        for task_id, container in by_task.items()
        if task_id and (container.labels.get(NODE_ID_LABEL) == node_id or task_id in known)
    }


def adopt(assigned: AssignedTask, record: TaskRecord | None, inventory: Inventory) -> Found:
    """Work out where a task stands."""
    task = assigned.task
    container = inventory.containers.get(task.id)
    has_sandbox = task.id in inventory.sandboxes
    phase = PHASES[container.state] if container else Phase.ABSENT
    status = _status(task.status, record)
    if phase in (Phase.RUNNING, Phase.EXITED) and status.state < TaskState.STARTING:
        status = TaskStatus(timestamp=status.timestamp, state=TaskState.STARTING, message="starting")
    is_same_boot = record is None or record.boot_id == inventory.boot_id
    was_started = TaskState.STARTING <= status.state <= TaskState.RUNNING
    observed = Observed(
        state=status.state,
        phase=phase,
        is_prepared=False,  # Half-made or complete, going through it again is idempotent.
        is_stopping=record.is_stopping if record else False,
        exit_code=container.exit_code if container else None,
        cause=_cause(container),
        # After a reboot podman shows what ran as merely created, so the container's own state cannot be trusted here.
        is_lost=was_started and not (has_sandbox and is_same_boot),
    )
    return Found(
        observed=observed,
        status=status,
        container=container,
        has_sandbox=has_sandbox,
        is_of_now=has_sandbox or (record is not None and is_same_boot),
    )


def _status(told: TaskStatus, record: TaskRecord | None) -> TaskStatus:
    """The farthest of what this node recorded and what the manager knows (from before, if the disk was lost)."""
    if record is not None and record.status.state >= told.state:
        return record.status
    if told.state > TaskState.ASSIGNED or is_terminal(told.state):
        return told
    return record.status if record is not None else TaskStatus(timestamp=told.timestamp, state=TaskState.ASSIGNED)


def _cause(container: Container | None) -> str:
    if container is None:
        return ""
    return container.error or ("out of memory" if container.is_oom_killed else "")
