"""Nodes: what operators set, and taking one out of the swarm.

Edge: asyncio through `Writes`. Source: swarmkit/manager/controlapi/node.go.
"""

from collections.abc import Awaitable, Callable, Sequence

import msgspec

from skep.core import quorum, revocation
from skep.core.quorum import Voter
from skep.manager.control.find import find_node, the_cluster
from skep.manager.control.writes import Writes
from skep.model.base import Nanoseconds
from skep.model.cluster import Cluster
from skep.model.errors import Conflict, InUse, NotFound, Unavailable
from skep.model.node import ETCD_CAPABILITY, NO_ETCD, Node, NodeSpec, NodeState, Role
from skep.store.changes import Change, Delete, Put
from skep.store.state import View

Voters = Callable[[], Awaitable[Sequence[Voter]]]


class Nodes:
    """Operations on nodes."""

    def __init__(
        self, writes: Writes, voters: Voters | None = None, check_widening: Callable[[], None] | None = None
    ) -> None:
        """Args: as of `Surroundings`."""
        self._writes = writes
        self._voters = voters
        self._check_widening = check_widening

    async def update(self, reference: str, version: int, spec: NodeSpec) -> Node:
        """Replace the spec of the node as of `version`."""
        node = find_node(self._writes.view, reference)
        roles = (node.spec.role, spec.role)
        if roles == (Role.WORKER, Role.MANAGER) and self._check_widening is not None:
            self._check_widening()
        voters = await self._voters() if roles == (Role.MANAGER, Role.WORKER) and self._voters else None

        def operation(view: View) -> list[Change]:
            found = find_node(view, node.id)
            self._writes.revisions.check("node", found, version)
            return [Put(updated(view, found, spec, voters))]

        await self._writes.transact(operation)
        stored = self._writes.view.nodes.get(node.id)
        if stored is None:
            raise NotFound(f"node {node.id} not found")  # Removed by someone else this very moment.
        return stored

    async def remove(self, reference: str, *, is_forced: bool) -> None:
        """Take a node out: its certificate is refused from now on, its tasks are replaced."""
        node = find_node(self._writes.view, reference)
        now = self._writes.clock.now()
        await self._writes.transact(lambda view: removal(view, find_node(view, node.id), now, is_forced=is_forced))


def updated(view: View, node: Node, spec: NodeSpec, voters: Sequence[Voter] | None) -> Node:
    """A node with a new spec.

    Args:
        voters: Whose vote counts as of now; None for the managers the state tells of.
    Raises:
        InUse, Conflict, Unavailable.
    """
    if node.spec.role == Role.MANAGER and spec.role == Role.WORKER:
        _check_demotion(view, node, voters)
    if node.spec.role == Role.WORKER and spec.role == Role.MANAGER and ETCD_CAPABILITY not in node.capabilities:
        raise Unavailable(NO_ETCD.format(where=f"node {node.description.hostname or node.id}"))
    if spec.name and any(other.spec.name == spec.name and other.id != node.id for other in view.nodes.values()):
        raise Conflict(f"rpc error: code = AlreadyExists desc = node {spec.name} already exists")
    return msgspec.structs.replace(node, spec=spec)


def _check_demotion(view: View, node: Node, voters: Sequence[Voter] | None) -> None:
    """Raises: InUse: it is the last manager, or the others are too few without it."""
    managers = {other.id: other for other in view.nodes.values() if other.spec.role == Role.MANAGER}
    if len(managers) == 1:
        raise InUse(quorum.LAST_DEMOTED)
    if voters is None:
        voters = [Voter(id, _is_reachable(other)) for id, other in managers.items()]
    # Whoever was demoted already counts no more, though it may still have its vote for a moment.
    if why := quorum.refuse_demotion([voter for voter in voters if voter.node_id in managers], node.id):
        raise InUse(why)


def _is_reachable(node: Node) -> bool:
    return node.manager_status is not None and node.manager_status.reachability == "reachable"


def removal(view: View, node: Node, now: Nanoseconds, *, is_forced: bool) -> list[Change]:
    """What removing a node changes.

    Raises:
        InUse: It is a manager, or it is not down and nobody insists.
    """
    if node.spec.role == Role.MANAGER or node.manager_status is not None:
        raise InUse(quorum.NOT_DEMOTED.format(node_id=node.id))
    if node.status.state != NodeState.DOWN and not is_forced:
        raise InUse(f"rpc error: code = FailedPrecondition desc = node {node.id} is not down and can't be removed")
    attachments = [task for task in view.tasks.where("node", node.id) if task.is_attachment]
    return [
        Put(_without(revocation.revoked(the_cluster(view), node, now), node.id, now)),
        Delete("node", node.id, node.version),
        *(Delete("task", task.id, task.version) for task in attachments),
    ]


def _without(cluster: Cluster, node_id: str, now: Nanoseconds) -> Cluster:
    """The cluster that refuses a node's certificate until the last it can have has ended."""
    refused = {id: until for id, until in cluster.removed_nodes.items() if until > now}
    refused[node_id] = revocation.last_end(cluster, now)
    return msgspec.structs.replace(cluster, removed_nodes=refused)
