"""Turns committed changes into what each node is to be told, and acknowledgements into drained tasks.

Pure: no clock, no sessions; the caller carries deltas to the nodes and their acknowledgements back. A task may be
stopped only when nobody sends to it any more: its item says `drained` from then on. Work per batch is that of the
objects in it.
"""

from collections.abc import Iterable

import msgspec

from skep.core.dispatch import items
from skep.core.dispatch.balancing import Balancing, keys_of, topic_of
from skep.core.dispatch.board import EVERYONE, Board, Topic, network_topic, node_topic
from skep.core.dispatch.drains import Drains
from skep.model.assignment import AssignedTask, Delta, ItemKey, Peer
from skep.model.base import Nanoseconds
from skep.model.lifecycle import TaskState
from skep.model.node import Node, NodeState
from skep.model.task import Task, TaskStatus
from skep.store.changes import Batch
from skep.store.state import View

_NO_STATUS = TaskStatus()


class Dispatcher:
    """What every node of the swarm has been told.

    Args:
        epoch: Names this numbering of versions; must differ from that of every dispatcher before.
        view: The state to begin with.
    """

    def __init__(self, epoch: str, view: View, now: Nanoseconds) -> None:
        self.epoch = epoch
        self._view = view
        self._board = Board(epoch)
        self._drains = Drains()
        self._balancing = Balancing()
        self._ingress_id = ""
        self._peers: dict[str, tuple[Peer | None, bool]] = {}
        self._endpoints: dict[str, dict[ItemKey, Topic]] = {}
        self._joined: dict[str, tuple[str, frozenset[str]]] = {}
        self._assigned: dict[str, str] = {}
        self._read_all(now)

    def attach(self, node_id: str, epoch: str, version: int) -> Delta:
        """A node opened a session.

        Args:
            epoch, version: What it says it holds; "" and 0 for nothing.
        Returns:
            The full set, or only what changed since where that is known; to be sent even when it is empty.
        """
        delta = self._board.attach(node_id, epoch, version)
        self._drains.sent(node_id, delta.version)
        return delta

    def detach(self, node_id: str) -> None:
        """The node's session ended; it goes on with what it holds."""
        self._board.detach(node_id)
        self._drains.lost(node_id)

    def observe(self, batch: Batch, view: View, now: Nanoseconds) -> dict[str, Delta]:
        """Take in a committed batch.

        Args:
            view: The state with the batch, perhaps with later ones too.
        Returns:
            By node id, for attached nodes that are to be told something.
        """
        self._view = view
        touched: dict[str, dict[str, None]] = {kind: {} for kind in ("network", "node", "service", "task", "cluster")}
        for event in batch.events:
            if event.kind in touched:
                touched[event.kind][event.id] = None
        for id in touched["network"]:
            self._read_network(id)
        if touched["cluster"] or touched["network"]:
            self._read_cluster()
        asked = dict(touched["task"])
        for id in touched["node"]:
            asked.update(dict.fromkeys(self._read_node(id)))
        for id in touched["service"]:
            self._balancing.set_service(id, view.services.get(id), self._ingress_id)
        for id in touched["task"]:
            self._read_task(id)
        return self._conclude(asked, now)

    def applied(self, node_id: str, version: int, now: Nanoseconds) -> dict[str, Delta]:
        """A node has a version in force in its kernel; may complete drains. Returns as `observe`."""
        over = self._drains.applied(node_id, version)
        return self._conclude(dict.fromkeys(over), now) if over else {}

    def tick(self, now: Nanoseconds) -> tuple[dict[str, Delta], Nanoseconds | None]:
        """Let limits pass.

        Returns:
            Deltas as `observe`, and when to call again; None for not before something else happens.
        """
        over = self._drains.expire(now)
        return (self._conclude(dict.fromkeys(over), now) if over else {}), self._drains.wake_at

    def _conclude(self, asked: dict[str, None], now: Nanoseconds) -> dict[str, Delta]:
        """Write what follows from what was read: balancing, departures, assignments; then make deltas of it."""
        came, left = self._balancing.write(self._board)
        for task_id in sorted(came):
            self._drains.cancel(task_id)
        for task_id in sorted(left):
            if task_id in self._view.tasks:
                self._drains.start(task_id, self._senders(left[task_id]), now)
        for task_id in asked:
            self._write_assignment(task_id)
        deltas = self._board.flush()
        for node_id, delta in deltas.items():
            self._drains.sent(node_id, delta.version)
        return deltas

    def _senders(self, topics: Iterable[Topic]) -> set[str]:
        """The nodes that may forward to a backend these topics told of; a silent node's users are out of reach."""
        found: set[str] = set()
        for topic in topics:
            if topic == EVERYONE:
                found.update(node.id for node in self._view.nodes.values() if self._may_send(node))
            else:
                found.update(id for id in self._board.followers(topic) if self._may_send(self._view.nodes.get(id)))
        return found

    def _may_send(self, node: Node | None) -> bool:
        if node is None or not items.is_serving(node):
            return False
        return node.status.state == NodeState.READY or self._board.is_attached(node.id)

    # --- reading objects -------------------------------------------------------------

    def _read_all(self, now: Nanoseconds) -> None:
        for network in self._view.networks.values():
            if network.spec.ingress:
                self._ingress_id = network.id
        for network in self._view.networks.values():
            self._read_network(network.id)
        self._read_cluster()
        for node in self._view.nodes.values():
            self._read_node(node.id)
        for service in self._view.services.values():
            self._balancing.set_service(service.id, service, self._ingress_id)
        assigned = [task.id for task in self._view.tasks.values() if task.node_id]
        for id in assigned:
            self._read_task(id)
        for id in assigned:
            self._resume_departure(id, now)
        self._conclude(dict.fromkeys(assigned), now)

    def _resume_departure(self, id: str, now: Nanoseconds) -> None:
        """A task was being stopped when another dispatcher decided: nodes may still send to it."""
        task = self._view.tasks.get(id)
        if task is None or items.is_wanted(task) or not task.status.is_accepting:
            return
        if task.status.state == TaskState.RUNNING:
            topics = {topic_of(key) for key, _ in keys_of(task, self._ingress_id)}
            self._drains.start(id, self._senders(topics), now)

    def _read_cluster(self) -> None:
        if self._view.cluster is None:
            self._board.remove(EVERYONE, "cluster")
        else:
            self._board.put(EVERYONE, items.cluster_facts(self._view.cluster, self._ingress_id))

    def _read_network(self, id: str) -> None:
        network = self._view.networks.get(id)
        if network is not None and network.spec.ingress:
            self._ingress_id = id
        item = items.overlay(network) if network else None
        if item is not None:
            self._board.put(self._network_topic(id), item)
        else:
            self._board.remove(self._network_topic(id), f"network/{id}")
        if network is None and self._ingress_id == id:
            self._ingress_id = ""

    def _network_topic(self, id: str) -> Topic:
        """Who hears of a network: of the ingress network everyone, of others those that take part."""
        return EVERYONE if id == self._ingress_id else network_topic(id)

    def _read_node(self, id: str) -> list[str]:
        """Take in a node; returns the tasks whose departure is over because of it."""
        node = self._view.nodes.get(id)
        item = items.peer(node, self._ingress_id) if node else None
        is_serving = items.is_serving(node)
        if item is None:
            self._board.remove(EVERYONE, f"peer/{id}")
        else:
            self._board.put(EVERYONE, item)
        if self._peers.get(id) != (item, is_serving):
            self._peers[id] = (item, is_serving)
            for task in self._view.tasks.where("node", id):
                self._read_task(task.id)
        if node is None:
            del self._peers[id]
            self._board.forget(id)
        return [] if is_serving else self._drains.skip(id)

    def _read_task(self, id: str) -> None:
        task = self._view.tasks.get(id)
        if task is None:
            self._drains.cancel(id)
        is_present = task is not None and items.is_present(task)
        self._read_attachments(id, task if is_present else None)
        node = self._view.nodes.get(task.node_id) if task else None
        if task is not None and is_present and items.takes_traffic(task) and items.is_serving(node):
            self._balancing.set_task(id, task.service_id, dict(keys_of(task, self._ingress_id)))
        else:
            self._balancing.set_task(id, "", {})

    def _read_attachments(self, id: str, task: Task | None) -> None:
        """Tell of a task's addresses and make its node take part in its networks; None when it has no sandbox."""
        before = self._endpoints.pop(id, {})
        after: dict[ItemKey, Topic] = {}
        networks: set[str] = set()
        if task is not None:
            node = self._view.nodes.get(task.node_id)
            for attachment in items.addressed(task):
                endpoint = items.endpoint(task, attachment, node)
                after[endpoint.key] = self._network_topic(attachment.network_id)
                self._board.put(after[endpoint.key], endpoint)
                networks.add(attachment.network_id)
        for key in before.keys() - after.keys():
            self._board.remove(before[key], key)
        if after:
            self._endpoints[id] = after
        self._take_part(id, task.node_id if task else "", frozenset(networks - {self._ingress_id}))

    def _take_part(self, task_id: str, node_id: str, networks: frozenset[str]) -> None:
        old_node, old_networks = self._joined.pop(task_id, ("", frozenset()))
        for network_id in sorted(networks):
            self._board.join(node_id, network_id, task_id)
        for network_id in sorted(old_networks - networks if node_id == old_node else old_networks):
            self._board.part(old_node, network_id, task_id)
        if networks:
            self._joined[task_id] = (node_id, networks)

    def _write_assignment(self, id: str) -> None:
        """Tell a task's node of it, from its assignment until the object is gone: until then its logs are kept."""
        task = self._view.tasks.get(id)
        node_id = task.node_id if task is not None and task.status.state >= TaskState.ASSIGNED else ""
        if self._assigned.get(id, node_id) != node_id:
            self._board.remove(node_topic(self._assigned.pop(id)), f"task/{id}")
        if task is None or not node_id:
            return
        self._assigned[id] = node_id
        is_drained = not items.is_wanted(task) and id not in self._drains
        topic = node_topic(node_id)
        shown = self._board.get(topic, f"task/{id}")
        if isinstance(shown, AssignedTask) and shown.drained == is_drained and _orders(shown.task) == _orders(task):
            return  # Only what the node itself reported is different.
        self._board.put(topic, AssignedTask(task=task, drained=is_drained))


def _orders(task: Task) -> Task:
    """A task without what is observed of it."""
    return msgspec.structs.replace(task, status=_NO_STATUS, version=0, updated_at=0)
