"""Where the control port notes who is a node: newcomers and renewed certificates.

Edge: the replica. Implements `manager.join.Registry`.
"""

from collections.abc import Callable

from skep.core import revocation
from skep.manager.control.find import the_cluster
from skep.manager.control.writes import Writes
from skep.manager.join_tokens import charged
from skep.model.errors import Forbidden
from skep.model.identity import Identity, Newcomer
from skep.model.node import NO_ETCD, Availability, Node, NodeSpec, NodeStatus, Role
from skep.store.changes import Change, Put
from skep.store.state import View


class NodeRegistry:
    """Writes node objects."""

    def __init__(self, writes: Writes, check_widening: Callable[[], None] = lambda: None) -> None:
        """Args: check_widening: raises `Unavailable` where this manager cannot share its state with another."""
        self._writes = writes
        self._check_widening = check_widening

    async def admit(self, newcomer: Newcomer) -> None:
        """Create the node; the same newcomer may come twice.

        Raises:
            InvalidSpec: Its token has ended meanwhile.
            Forbidden, Unavailable: It would be a manager, and cannot be; the sentence says what is missing.
        """
        identity = newcomer.identity
        if identity.role == Role.MANAGER:
            self._check_widening()
            if not newcomer.has_etcd:
                raise Forbidden(NO_ETCD.format(where="the machine that is to join"))

        def operation(view: View) -> list[Change]:
            if identity.node_id in view.nodes:
                return []
            spec = NodeSpec(role=identity.role, availability=Availability(newcomer.availability))
            node = Node(
                id=identity.node_id,
                spec=spec,
                role=identity.role,
                status=NodeStatus(addr=newcomer.address),
            )
            node = revocation.certified(node, identity)
            now = self._writes.clock.now()
            counted = charged(the_cluster(view), newcomer.token, now) if newcomer.token else None
            return [Put(node)] if counted is None else [Put(counted), Put(node)]

        await self._writes.transact(operation)

    async def certify(self, identity: Identity) -> None:
        """Note the certificate a node now has; a worker's makes those it had as a manager count no more."""

        def operation(view: View) -> list[Change]:
            node = view.nodes.get(identity.node_id)
            if node is None or (node.certificate_serial, node.role) == (identity.serial, identity.role):
                return []
            changes: list[Change] = [Put(revocation.certified(node, identity))]
            if node.role is Role.MANAGER and identity.role is not Role.MANAGER:
                changes.append(Put(revocation.revoked(the_cluster(view), node, self._writes.clock.now())))
            return changes

        await self._writes.transact(operation)
