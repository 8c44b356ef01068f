"""Why a service's tasks do not do their work: what each of those waits for, and the nodes against the filters.

Pure. A value for people. Tasks that ask for the same share one table.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from skep.core.orchestrate.modes import mode_of, waits_for_accepting
from skep.core.schedule.demand import demand_of, demand_of_spec
from skep.core.schedule.explain import Explanation, explain
from skep.core.schedule.inventory import GroupKey, Inventory, group_of
from skep.model.lifecycle import TaskState, is_terminal
from skep.model.service import Service
from skep.model.task import Task
from skep.store.state import View


@dataclass(frozen=True, slots=True)
class Obstacle:
    """A task that is wanted and does not do its work. Attributes: cause: one sentence."""

    task: Task
    cause: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The whole answer.

    Attributes:
        n_fine: Tasks that do their work.
        obstacles: The others, by slot.
        reasons: What the service itself lacks, such as a free port.
        tables: One for each kind of task that waits for a node.
    """

    n_fine: int
    obstacles: tuple[Obstacle, ...]
    reasons: tuple[str, ...] = ()
    tables: tuple[Explanation, ...] = ()


def why_service(view: View, service: Service) -> Answer:
    """Look at all tasks of a service."""
    return _answer(view, service, view.tasks.where("service", service.id))


def why_task(view: View, task: Task) -> Answer:
    """Look at one task; it may have ended, then its end is the answer."""
    service = view.services.get(task.service_id)
    if is_terminal(task.status.state):
        return Answer(0, (Obstacle(task, _end(task)),))
    return _answer(view, service, [task])


def _answer(view: View, service: Service | None, tasks: Iterable[Task]) -> Answer:
    wanted = [task for task in tasks if task.desired_state <= TaskState.COMPLETE]
    stuck = [task for task in wanted if not _is_fine(service, task)]
    stuck.sort(key=lambda task: (task.slot, task.node_id, task.ordinal))
    homeless = {group_of(task): task for task in stuck if _waits_for_node(task)}
    tables = _tables(view, homeless)
    if service is not None and not wanted and not tables:  # Nothing was made yet: what would happen to a task?
        tables = (explain(demand_of_spec(service.spec, service.id), Inventory.of(view).sites.values()),)
    obstacles = tuple(Obstacle(task, _cause(view, task)) for task in stuck)
    return Answer(len(wanted) - len(stuck), obstacles, tuple(service.reasons) if service else (), tables)


def _tables(view: View, homeless: dict[GroupKey, Task]) -> tuple[Explanation, ...]:
    if not homeless:
        return ()
    sites = Inventory.of(view).sites
    return tuple(explain(demand_of(task), sites.values()) for task in homeless.values())


def _is_fine(service: Service | None, task: Task) -> bool:
    if task.status.state == TaskState.COMPLETE:
        return task.desired_state == TaskState.COMPLETE
    if task.status.state != TaskState.RUNNING:
        return False
    return task.status.is_accepting or service is None or not waits_for_accepting(service)


def _waits_for_node(task: Task) -> bool:
    return not task.node_id and task.status.state == TaskState.PENDING


def _end(task: Task) -> str:
    status = task.status
    return f"it ended as {status.state.label}: {status.err or status.message}"


def _cause(view: View, task: Task) -> str:
    status = task.status
    if is_terminal(status.state):
        return _end(task)
    if status.err:
        return status.err
    if task.node_id and view.nodes.get(task.node_id) is None:
        return "its node was removed"
    if task.desired_state == TaskState.READY:
        return _turn(view, task)
    if status.state == TaskState.RUNNING:
        return status.message if status.message != "started" else "it does not accept on its published ports yet"
    return f"it is {status.state.label}: {status.message}"


def _turn(view: View, task: Task) -> str:
    """A task that is held back, with what became of the one before it."""
    siblings = [each for each in view.tasks.where("service", task.service_id) if _is_earlier(view, each, task)]
    last = max(siblings, key=lambda each: each.ordinal, default=None)
    if last is not None and last.yielding and task.status.state < TaskState.READY:
        return f"it is {task.status.state.label}: {task.status.message}; task {last.id} serves until it is prepared"
    if last is not None and not is_terminal(last.status.state):
        return f"it waits until task {last.id} has stopped"
    before = f"; the one before it: {_end(last)}" if last is not None else ""
    return f"it waits for its restart delay{before}"


def _is_earlier(view: View, other: Task, task: Task) -> bool:
    service = view.services.get(task.service_id)
    is_same_slot = other.slot == task.slot
    if service is not None and mode_of(service.spec).value.startswith("global"):
        is_same_slot = other.node_id == task.node_id
    return is_same_slot and other.ordinal < task.ordinal
