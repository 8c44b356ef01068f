"""Networks: create and remove.

Edge: asyncio through `Writes`. Source: swarmkit/manager/controlapi/network.go.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from skep.core import allocate
from skep.lib.durations import SECOND
from skep.manager.control.checks import check_name
from skep.manager.control.find import find_network
from skep.manager.control.writes import Writes
from skep.manager.replica import Subscription
from skep.model.errors import Conflict, Forbidden, InUse, InvalidSpec, NotFound, Unsupported
from skep.model.lifecycle import TaskState, is_terminal
from skep.model.network import Network, NetworkSpec
from skep.model.node import NodeState
from skep.model.service import PublishMode
from skep.ports.store import Compacted
from skep.store.changes import Delete, Put
from skep.store.state import View

PREDEFINED: Final = ("bridge", "host", "none", "default")
LINGER: Final = 20 * SECOND
"""How long a removal waits for tasks that are being stopped, so that they keep their network to the end."""


class Networks:
    """Operations on networks. Attributes: watch: batches from now on."""

    def __init__(self, writes: Writes, watch: Callable[[], Subscription]) -> None:
        self._writes = writes
        self._watch = watch

    async def create(self, spec: NetworkSpec) -> Network:
        """Store a new network; the leader gives it its numbers."""
        id = self._writes.new_id()

        def operation(view: View) -> list[Put]:
            check_network(view, spec)
            return [Put(Network(id=id, spec=spec))]

        await self._writes.transact(operation)
        network = self._writes.view.networks.get(id)
        if network is None:
            raise NotFound(f"network {id} not found")  # Removed by someone else this very moment.
        return network

    async def remove(self, reference: str) -> None:
        """Remove a network that no service uses."""
        if reference in PREDEFINED:
            raise Forbidden(f"{reference} is a pre-defined network and cannot be removed")
        network = find_network(self._writes.view, reference)
        check_unused(self._writes.view, network)
        await self._wait_stopped(network)

        def operation(view: View) -> list[Delete]:
            found = find_network(view, network.id)
            check_unused(view, found)
            return [Delete("network", found.id, found.version)]

        await self._writes.transact(operation)

    async def _wait_stopped(self, network: Network) -> None:
        """Let tasks end that are being stopped, such as those of a stack whose services were just removed."""
        watch = self._watch()
        alarm = asyncio.ensure_future(self._writes.clock.sleep(LINGER))
        try:
            while _is_occupied(self._writes.view, network.id) and not alarm.done():
                change = asyncio.ensure_future(anext(watch))
                await asyncio.wait({alarm, change}, return_when=asyncio.FIRST_COMPLETED)
                if change.done() and isinstance(change.exception(), Compacted):
                    watch = self._watch()
                change.cancel()
        finally:
            alarm.cancel()


def check_network(view: View, spec: NetworkSpec) -> None:
    """Check a spec in full.

    Raises:
        InvalidSpec, Conflict, Forbidden, Unsupported.
    """
    check_name(spec.name)
    if spec.name in PREDEFINED:
        raise Forbidden(f"operation is not permitted on predefined {spec.name} network")
    if view.networks.where("name", spec.name):
        raise Conflict(f"network with name {spec.name} already exists")
    if spec.ingress and (spec.attachable or spec.internal):
        raise InvalidSpec(f"ingress network cannot be {'attachable' if spec.attachable else 'internal'}")
    if spec.enable_ipv6:
        raise Unsupported("overlay networks are IPv4 only; leave --ipv6 away")
    if "encrypted" in spec.options and spec.options["encrypted"] != "false":
        raise Unsupported("encrypted overlay networks are not possible yet; leave --opt encrypted away")
    if spec.ipam.driver not in ("", "default"):
        raise InvalidSpec(f"IPAM driver {spec.ipam.driver} is not there; use default")
    allocate.check_network(view, spec)


def check_unused(view: View, network: Network) -> None:
    """Make sure that nobody needs a network.

    Raises:
        InUse: With Docker's sentence and who does.
    """
    for service in view.services.where("network", network.id):
        if not service.removing:
            raise InUse(
                f"rpc error: code = FailedPrecondition desc = network {network.id} is in use by service {service.id}"
            )
    if network.spec.ingress:
        for service in view.services.values():
            ports = service.spec.endpoint_spec.ports if service.spec.endpoint_spec else None
            if not service.removing and any(port.publish_mode == PublishMode.INGRESS for port in ports or []):
                raise InUse(
                    "rpc error: code = FailedPrecondition desc = ingress network cannot be removed because service "
                    f"{service.id} depends on it"
                )
    for task in view.tasks.where("network", network.id):
        if task.desired_state <= TaskState.RUNNING and task.status.state <= TaskState.RUNNING:
            service_of = view.services.get(task.service_id)
            if service_of is None or not service_of.removing:
                raise InUse(
                    f"rpc error: code = FailedPrecondition desc = network {network.id} is in use by task {task.id}"
                )


def _is_occupied(view: View, network_id: str) -> bool:
    """Whether a task that can still be heard of is stopping on it."""
    for task in view.tasks.where("network", network_id):
        node = view.nodes.get(task.node_id)
        if node is not None and node.status.state == NodeState.READY and not is_terminal(task.status.state):
            return True
    return False
