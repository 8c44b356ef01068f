"""Where the control port notes who is a node: newcomers and renewed certificates.

Edge: the replica. Implements `manager.join.Registry`.
"""

import msgspec

from skep.manager.control.writes import Writes
from skep.model.errors import Forbidden
from skep.model.identity import Identity, Newcomer
from skep.model.node import Availability, Node, NodeSpec, NodeStatus, Role
from skep.store.changes import Change, Put
from skep.store.state import View


class NodeRegistry:
    """Writes node objects."""

    def __init__(self, writes: Writes) -> None:
        self._writes = writes

    async def admit(self, newcomer: Newcomer) -> None:
        """Create the node; the same newcomer may come twice.

        Raises:
            Forbidden: It would be a second manager.
        """
        identity = newcomer.identity
        if identity.role == Role.MANAGER:
            raise Forbidden(
                "this swarm keeps its state on one manager and cannot take another yet; "
                "join with the worker token (docker swarm join-token worker)"
            )

        def operation(view: View) -> list[Change]:
            if identity.node_id in view.nodes:
                return []
            spec = NodeSpec(role=identity.role, availability=Availability(newcomer.availability))
            node = Node(
                id=identity.node_id,
                spec=spec,
                role=identity.role,
                status=NodeStatus(addr=newcomer.address),
                certificate_serial=identity.serial,
            )
            return [Put(node)]

        await self._writes.transact(operation)

    async def certify(self, identity: Identity) -> None:
        """Note the certificate a node now has."""

        def operation(view: View) -> list[Change]:
            node = view.nodes.get(identity.node_id)
            if node is None or (node.certificate_serial, node.role) == (identity.serial, identity.role):
                return []
            return [Put(msgspec.structs.replace(node, certificate_serial=identity.serial, role=identity.role))]

        await self._writes.transact(operation)
