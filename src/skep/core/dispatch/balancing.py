"""Which tasks answer for which service, on each overlay network and in the routing mesh.

Pure. Services and tasks are told separately and in any order; an item is written once per batch however many of its
tasks changed, and writing says who came and who left: that is where departures begin.
"""

from collections.abc import Iterable, Mapping

import msgspec

from skep.core.dispatch import items
from skep.core.dispatch.board import EVERYONE, Board, Topic, network_topic
from skep.model.assignment import Backend, BalancedService, ItemKey, PublishedService
from skep.model.service import Service
from skep.model.task import Task


def topic_of(key: ItemKey) -> Topic:
    """Who hears of a balancing item."""
    return EVERYONE if key.startswith("published/") else network_topic(key.split("/")[1])


def keys_of(task: Task, ingress_id: str) -> Iterable[tuple[ItemKey, Backend]]:
    """The balancing items a task belongs to when it takes traffic."""
    for attachment in items.addressed(task) if task.service_id else ():
        backend = items.backend(task, attachment)
        if attachment.network_id == ingress_id:
            yield f"published/{task.service_id}", backend
        else:
            yield f"service/{attachment.network_id}/{task.service_id}", backend


class Balancing:
    """Services without backends, backends without services, and the items made of both."""

    def __init__(self) -> None:
        self._services: dict[str, dict[ItemKey, BalancedService | PublishedService]] = {}
        self._members: dict[ItemKey, dict[str, Backend]] = {}
        self._keys: dict[str, frozenset[ItemKey]] = {}
        self._listed: dict[ItemKey, frozenset[str]] = {}
        self._touched: dict[ItemKey, str] = {}

    def set_service(self, service_id: str, service: Service | None, ingress_id: str) -> None:
        """Take in a service as it is now; None when it is gone."""
        found: dict[ItemKey, BalancedService | PublishedService] = {}
        if service is not None:
            found = {item.key: item for item in items.balanced(service, ingress_id)}
            mesh = items.published(service)
            if mesh is not None:
                found[mesh.key] = mesh
        before = self._services.get(service_id, {})
        for key in before.keys() | found.keys():
            if before.get(key) != found.get(key):
                self._touched[key] = service_id
        if found:
            self._services[service_id] = found
        else:
            self._services.pop(service_id, None)

    def set_task(self, task_id: str, service_id: str, backends: Mapping[ItemKey, Backend]) -> None:
        """Take in where a task takes traffic now; nowhere when `backends` is empty."""
        before = self._keys.get(task_id, frozenset())
        for key in before - backends.keys():
            self._touched[key] = key.rpartition("/")[2]
            del self._members[key][task_id]
            if not self._members[key]:
                del self._members[key]
        for key, backend in backends.items():
            members = self._members.setdefault(key, {})
            if members.get(task_id) != backend:
                members[task_id] = backend
                self._touched[key] = service_id
        if backends:
            self._keys[task_id] = frozenset(backends)
        else:
            self._keys.pop(task_id, None)

    def write(self, board: Board) -> tuple[set[str], dict[str, set[Topic]]]:
        """Bring the board up to date.

        Returns:
            Tasks that came into an item's backends, and tasks that left one, with who had been told of them.
        """
        came: set[str] = set()
        left: dict[str, set[Topic]] = {}
        for key, service_id in sorted(self._touched.items()):
            before = self._listed.get(key, frozenset())
            after = self._write_item(key, service_id, board)
            came |= after - before
            for task_id in before - after:
                left.setdefault(task_id, set()).add(topic_of(key))
        self._touched.clear()
        return came, left

    def _write_item(self, key: ItemKey, service_id: str, board: Board) -> frozenset[str]:
        item = self._services.get(service_id, {}).get(key)
        if item is None:
            board.remove(topic_of(key), key)
            self._listed.pop(key, None)
            return frozenset()
        members = self._members.get(key, {})
        board.put(topic_of(key), msgspec.structs.replace(item, backends=[members[id] for id in sorted(members)]))
        self._listed[key] = frozenset(members)
        return self._listed[key]
