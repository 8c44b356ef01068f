"""Nodes: what operators set, and taking one out of the swarm.

Edge: asyncio through `Writes`. Source: swarmkit/manager/controlapi/node.go.
"""

import msgspec

from skep.core import quorum
from skep.core.identity import BACKDATE
from skep.lib.durations import DAY
from skep.manager.control.checks import SpecRevisions
from skep.manager.control.find import find_node, the_cluster
from skep.manager.control.writes import Writes
from skep.model.base import Nanoseconds
from skep.model.cluster import Cluster
from skep.model.errors import Conflict, InUse, NotFound, Unsupported
from skep.model.node import Node, NodeSpec, NodeState, Role
from skep.store.changes import Change, Delete, Put
from skep.store.state import View

DEFAULT_CERTIFICATE_LIFE = 90 * DAY


class Nodes:
    """Operations on nodes."""

    def __init__(self, writes: Writes) -> None:
        self._writes = writes

    async def update(self, reference: str, version: int, spec: NodeSpec) -> Node:
        """Replace the spec of the node as of `version`."""
        node = find_node(self._writes.view, reference)
        await self._writes.transact(
            lambda view: [Put(updated(view, find_node(view, node.id), version, spec, self._writes.revisions))]
        )
        stored = self._writes.view.nodes.get(node.id)
        if stored is None:
            raise NotFound(f"node {node.id} not found")  # Removed by someone else this very moment.
        return stored

    async def remove(self, reference: str, *, is_forced: bool) -> None:
        """Take a node out: its certificate is refused from now on, its tasks are replaced."""
        node = find_node(self._writes.view, reference)
        now = self._writes.clock.now()
        await self._writes.transact(lambda view: removal(view, find_node(view, node.id), now, is_forced=is_forced))


def updated(view: View, node: Node, version: int, spec: NodeSpec, revisions: SpecRevisions) -> Node:
    """A node with a new spec.

    Raises:
        OutOfDate, InUse, Conflict, Unsupported.
    """
    revisions.check("node", node, version)
    if node.spec.role == Role.MANAGER and spec.role == Role.WORKER:
        managers = [other for other in view.nodes.values() if other.spec.role == Role.MANAGER]
        if len(managers) == 1:
            raise InUse(quorum.LAST_DEMOTED)
    if spec.role != node.spec.role:
        raise Unsupported("this swarm has one manager; promoting and demoting nodes is not possible yet")
    if spec.name and any(other.spec.name == spec.name and other.id != node.id for other in view.nodes.values()):
        raise Conflict(f"rpc error: code = AlreadyExists desc = node {spec.name} already exists")
    return msgspec.structs.replace(node, spec=spec)


def removal(view: View, node: Node, now: Nanoseconds, *, is_forced: bool) -> list[Change]:
    """What removing a node changes.

    Raises:
        InUse: It is a manager, or it is not down and nobody insists.
    """
    if node.spec.role == Role.MANAGER:
        raise InUse(quorum.NOT_DEMOTED.format(node_id=node.id))
    if node.status.state != NodeState.DOWN and not is_forced:
        raise InUse(f"rpc error: code = FailedPrecondition desc = node {node.id} is not down and can't be removed")
    attachments = [task for task in view.tasks.where("node", node.id) if task.is_attachment]
    return [
        Put(_without(the_cluster(view), node.id, now)),
        Delete("node", node.id, node.version),
        *(Delete("task", task.id, task.version) for task in attachments),
    ]


def _without(cluster: Cluster, node_id: str, now: Nanoseconds) -> Cluster:
    """The cluster that refuses a node's certificate until the last it can have has ended."""
    life = cluster.spec.ca_config.node_cert_expiry or DEFAULT_CERTIFICATE_LIFE
    refused = {id: until for id, until in cluster.removed_nodes.items() if until > now}
    refused[node_id] = now + max(life, DEFAULT_CERTIFICATE_LIFE) + BACKDATE
    return msgspec.structs.replace(cluster, removed_nodes=refused)
