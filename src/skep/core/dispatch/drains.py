"""Which nodes may still send traffic to a task that was taken out of balancing.

Pure. A departure starts when a task leaves a service's backends for whatever reason, and is over when every node that
could send to it has applied the removal, or is itself out of balancing, or the limit has passed. A node without a
session at the moment still forwards packets: it is waited for like the others, until it has come back and applied the
removal.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from skep.lib.durations import SECOND
from skep.model.base import Nanoseconds

DRAIN_LIMIT = 2 * SECOND
"""A node that hangs must not keep a task from being stopped."""

NOT_SENT: int = 1 << 62
"""Stands for the version of a node that has not been sent the removal yet."""


@dataclass(slots=True)
class Departure:
    """Attributes: waiting: the version each node must have applied; deadline: when it is over anyway."""

    deadline: Nanoseconds
    waiting: dict[str, int] = field(default_factory=dict)


class Drains:
    """Departures under way, by task and by node."""

    def __init__(self) -> None:
        self.departures: dict[str, Departure] = {}
        self._by_node: dict[str, set[str]] = {}

    def __contains__(self, task_id: str) -> bool:
        return task_id in self.departures

    def start(self, task_id: str, nodes: Iterable[str], now: Nanoseconds) -> None:
        """The task left backends that these nodes know; does nothing if there are no such nodes."""
        for node_id in nodes:
            departure = self.departures.setdefault(task_id, Departure(now + DRAIN_LIMIT))
            departure.waiting[node_id] = NOT_SENT
            self._by_node.setdefault(node_id, set()).add(task_id)

    def sent(self, node_id: str, version: int) -> None:
        """Everything written so far is in this version of the node's set."""
        for task_id in self._by_node.get(node_id, ()):
            waiting = self.departures[task_id].waiting
            waiting[node_id] = min(waiting[node_id], version)

    def lost(self, node_id: str) -> None:
        """The node's session ended: it is not known whether what was sent arrived."""
        for task_id in self._by_node.get(node_id, ()):
            self.departures[task_id].waiting[node_id] = NOT_SENT

    def applied(self, node_id: str, version: int) -> list[str]:
        """A node has that version in force; returns the tasks whose departure is over."""
        done = [id for id in self._by_node.get(node_id, ()) if self.departures[id].waiting[node_id] <= version]
        return self._release(node_id, done)

    def skip(self, node_id: str) -> list[str]:
        """The node is out of balancing or gone; returns the tasks whose departure is over."""
        return self._release(node_id, list(self._by_node.get(node_id, ())))

    def cancel(self, task_id: str) -> None:
        """The task is gone, or takes traffic again."""
        departure = self.departures.pop(task_id, None)
        for node_id in departure.waiting if departure else ():
            self._unlink(node_id, task_id)

    def expire(self, now: Nanoseconds) -> list[str]:
        """Give up on departures whose limit has passed; returns their tasks."""
        late: list[str] = []
        for task_id, departure in self.departures.items():
            if departure.deadline > now:
                break  # Later ones have later deadlines.
            late.append(task_id)
        for task_id in late:
            self.cancel(task_id)
        return late

    @property
    def wake_at(self) -> Nanoseconds | None:
        """When the first limit passes."""
        return next((departure.deadline for departure in self.departures.values()), None)

    def _release(self, node_id: str, task_ids: list[str]) -> list[str]:
        over: list[str] = []
        for task_id in sorted(task_ids):
            self._unlink(node_id, task_id)
            departure = self.departures[task_id]
            del departure.waiting[node_id]
            if not departure.waiting:
                del self.departures[task_id]
                over.append(task_id)
        return over

    def _unlink(self, node_id: str, task_id: str) -> None:
        tasks = self._by_node.get(node_id, set())
        tasks.discard(task_id)
        if not tasks:
            self._by_node.pop(node_id, None)
