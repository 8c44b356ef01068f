"""Which task a user means by what stands for a container in a command.

Pure. A task's container is known by its own id, by its task's id, by the name Docker gives it (`web.1.<task id>`), and
by the place it fills (`web.1`, or for a global service `web.<node id>` and `web.<host name>`).
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final

from skep.model.lifecycle import TaskState
from skep.model.task import Task
from skep.store.state import View

IDENTIFIER: Final = re.compile(r"[0-9a-z]{1,64}")


def container_of(task: Task) -> str:
    """The id of a task's container; empty where it has none (yet)."""
    return task.status.container.container_id if task.status.container else ""


def find_tasks(view: View, reference: str) -> Sequence[Task]:
    """The tasks that are meant.

    Args:
        reference: As a user writes it; a leading slash, as in a container's full name, is allowed.
    Returns:
        One, or none; several where a prefix fits several. A place that was filled by several tasks is the one that
        runs, or else the last.
    """
    reference = reference.removeprefix("/")
    named = view.tasks.get(reference) or _by_name(view, reference) or _by_place(view, reference)
    if named is not None:
        return (named,)
    return _by_prefix(view, reference) if IDENTIFIER.fullmatch(reference) else ()


def _by_name(view: View, reference: str) -> Task | None:
    task = view.tasks.get(reference.rpartition(".")[2])
    return task if task is not None and task.name == reference else None


def _by_place(view: View, reference: str) -> Task | None:
    name, _, place = reference.rpartition(".")
    found = [
        task
        for service in view.services.where("name", name)
        for slot in _slots(view, place)
        for task in view.tasks.where("slot", (service.id, slot))
    ]
    return max(found, key=_liveliness, default=None)


def _slots(view: View, place: str) -> Iterator[int | str]:
    if place.isascii() and place.isdecimal():
        yield int(place)
    yield place
    yield from (node.id for node in view.nodes.where("hostname", place))


def _liveliness(task: Task) -> tuple[bool, bool, int, int]:
    runs = task.status.state == TaskState.RUNNING and task.desired_state <= TaskState.RUNNING
    return runs, bool(container_of(task)), task.ordinal, task.created_at


def _by_prefix(view: View, reference: str) -> Sequence[Task]:
    found = [
        task
        for task in view.tasks.values()
        if task.id.startswith(reference) or container_of(task).startswith(reference)
    ]
    return [task for task in found if container_of(task) == reference] or found
