"""Numbers for everything that lacks some: networks, nodes, services and new tasks, in this order.

Pure. Each step needs the one before it: an address needs a subnet, a task its service's endpoint. What cannot be
given becomes the object's reason, and the object is looked at again when that cause changes; nothing is polled.
"""

from collections.abc import Iterable

import msgspec

from skep.core.allocate import ipam
from skep.core.allocate.endpoints import (
    Refusal,
    Takings,
    allocate_endpoint,
    has_ingress_ports,
    is_allocated,
    overlays,
    ready_network,
)
from skep.core.allocate.ledger import VNI, Cause, Ledger, Owner, address_space
from skep.core.plan import NOTHING, Dirty, Plan, earliest
from skep.model.base import Nanoseconds, Object
from skep.model.codec import KIND_OF
from skep.model.errors import SkepError
from skep.model.lifecycle import TaskState
from skep.model.network import Attachment, IPAMConfig, Network
from skep.model.service import EndpointSpec, Service
from skep.model.task import Task
from skep.store.changes import Change, Put
from skep.store.state import Draft, View

ALLOCATED_MESSAGE = "pending task scheduling"
ATTACHED_MESSAGE = "address allocated"


def reconcile(view: View, dirty: Dirty, ledger: Ledger, now: Nanoseconds) -> Plan:
    """Give numbers to what is dirty, to what waited for a cause that is gone, and to nothing else.

    Args:
        ledger: Current as of the view's base; holds what this plan gives out until the plan is seen committed or not.
    Returns:
        Puts of networks, nodes, services and tasks; `wake_at` when a number someone waits for has cooled down.
    """
    ledger.compare(view)
    ledger.cool(now)
    is_asked = dirty.networks or dirty.nodes or dirty.services or dirty.tasks
    if not (is_asked or ledger.fresh or ledger.waiting):
        return NOTHING
    return _Allocation(view, ledger, now).run(dirty)


class _Allocation:
    """One run over what needs numbers."""

    def __init__(self, view: View, ledger: Ledger, now: Nanoseconds) -> None:
        self.view = Draft(view)  # Networks and services of this plan are laid over it: later steps need them.
        self.ledger = ledger
        self.now = now
        self.changed: dict[Owner, Object] = {}
        self.notes: list[str] = []

    def run(self, dirty: Dirty) -> Plan:
        todo = self._todo(dirty)
        for id in self._networks_in_order(todo["network"]):
            self._network(id)
        for owner in self._woken_by_networks(todo["network"]):
            todo[owner[0]][owner[1]] = None
        for id in todo["node"]:
            self._node(id)
        for id in todo["service"]:
            self._service(id)
            for _, task_id in self.ledger.wake(("service", id)):
                todo["task"][task_id] = None
        for id in todo["task"]:
            self._task(id)
        return Plan(self._changes(), self._wake_at(), tuple(self.notes))

    # --- what to look at ---------------------------------------------------------

    def _todo(self, dirty: Dirty) -> dict[str, dict[str, None]]:
        todo: dict[str, dict[str, None]] = {
            "network": dict.fromkeys(sorted(dirty.networks)),
            "node": dict.fromkeys(sorted(dirty.nodes)),
            "service": dict.fromkeys(sorted(dirty.services)),
            "task": dict.fromkeys(sorted(dirty.tasks)),
        }
        for kind, id in self.ledger.fresh:
            todo[kind][id] = None
        self.ledger.fresh.clear()
        for cause in list(self.ledger.waiting):
            for kind, id in self.ledger.wake(cause, self._room(cause)):
                todo[kind][id] = None
        if self.ledger.ingress_id in todo["network"]:
            todo["node"].update(dict.fromkeys(node.id for node in self.view.nodes.values()))
        return todo

    def _room(self, cause: Cause) -> int:
        """How many of those that wait for a cause can be served now."""
        match cause:
            case ("address" | "port" | "vni" as kind, name):
                pool = self.ledger.pools.get((kind, name))
                return pool.free_count(self.now) if pool else len(self.ledger.waiting[cause])
            case ("number", kind, name, number):
                return 0 if self.ledger.holder((kind, name), int(number)) else len(self.ledger.waiting[cause])
            case ("subnet", taken):
                return 0 if taken == self._subnet_mark() else len(self.ledger.waiting[cause])
            case _:
                return 0

    def _subnet_mark(self) -> str:
        """Changes with every network that comes or goes: then a subnet may have become free."""
        return str(hash(tuple(self.ledger.subnets_taken())))

    def _networks_in_order(self, ids: Iterable[str]) -> list[str]:
        networks = [network for network in map(self.view.networks.get, ids) if network is not None]
        networks.sort(key=lambda network: (not network.spec.ingress, network.created_at, network.id))
        return [network.id for network in networks]

    def _woken_by_networks(self, ids: Iterable[str]) -> Iterable[Owner]:
        for id in list(ids):
            yield from self.ledger.wake(("network", id))
            yield from self.ledger.wake(address_space(id))
        if self.ledger.ingress_id:
            yield from self.ledger.wake(("ingress",))

    # --- networks and nodes -------------------------------------------------------

    def _network(self, id: str) -> None:
        network = self.view.networks.get(id)
        if network is None or network.vni:
            return
        try:
            subnets = self._subnets(network)
            vni = self.ledger.choose(VNI, ("network", id), self.now)
            if vni is None:
                raise Refusal("every VXLAN network identifier is in use; remove networks", VNI)
        except Refusal as refusal:
            self.ledger.wait(("network", id), refusal.cause)
            self._put(network, msgspec.structs.replace(network, reason=str(refusal)))
        except SkepError as error:
            self._put(network, msgspec.structs.replace(network, reason=str(error)))
        else:
            self._put(network, msgspec.structs.replace(network, vni=vni, subnets=subnets, reason=""))

    def _subnets(self, network: Network) -> list[IPAMConfig]:
        taken = self.ledger.subnets_taken(network.id)
        asked = ipam.read_ipam(network.spec)
        for subnet in asked:
            if taken.overlap(subnet.first, subnet.last):
                other = self._overlapped(network.id, subnet)
                raise Refusal(f"its subnet overlaps with network {other}", ("subnet", self._subnet_mark()))
        if asked:
            configs = ipam.asked_subnets(network.spec)
            return [ipam.as_config(subnet, config) for subnet, config in zip(asked, configs, strict=True)]
        cluster = self.view.cluster
        pools = cluster.default_address_pools if cluster else ()
        size = cluster.subnet_size if cluster else 24
        free = ipam.next_subnet(pools, size, taken, self.ledger.underlay.values())
        if free is None:
            raise Refusal(
                f"no /{size} subnet is left in the address pools ({', '.join(pools) or 'none'}); "
                "remove networks or give this one a subnet",
                ("subnet", self._subnet_mark()),
            )
        return [ipam.as_config(free)]

    def _overlapped(self, network_id: str, subnet: ipam.Subnet) -> str:
        for id, other in self.ledger.networks.items():
            if id != network_id and any(s.first <= subnet.last and subnet.first <= s.last for s in other.subnets):
                return str(other)
        return "of another name"

    def _node(self, id: str) -> None:
        node = self.view.nodes.get(id)
        ingress_id = self.ledger.ingress_id
        if node is None:
            return
        if ingress_id not in self.ledger.networks:
            if node.ingress is not None and not ingress_id:
                self._put(node, msgspec.structs.replace(node, ingress=None))
            self.ledger.wait(("node", id), ("ingress",))
            return
        if node.ingress is not None and node.ingress.network_id == ingress_id and node.ingress.address:
            return
        try:
            address = Takings(self.ledger, ("node", id), self.now).address(ingress_id)
        except Refusal as refusal:
            self.notes.append(f"node {id} takes no part in the routing mesh: {refusal}")
            self.ledger.wait(("node", id), refusal.cause)
            return
        self._put(node, msgspec.structs.replace(node, ingress=Attachment(network_id=ingress_id, address=address)))

    # --- services and tasks -------------------------------------------------------

    def _service(self, id: str) -> None:
        service = self.view.services.get(id)
        if service is None or service.removing or is_allocated(service, self.ledger):
            return
        try:
            endpoint = allocate_endpoint(service, self.view, self.ledger, self.now)
        except Refusal as refusal:
            self.ledger.wait(("service", id), refusal.cause)
            self._put(service, msgspec.structs.replace(service, reasons=[str(refusal)]))
        else:
            self._put(service, msgspec.structs.replace(service, endpoint=endpoint, reasons=[]))

    def _task(self, id: str) -> None:
        task = self.view.tasks.get(id)
        if task is None or task.status.state != TaskState.NEW or task.desired_state > TaskState.COMPLETE:
            return
        takings = Takings(self.ledger, ("task", id), self.now)
        try:
            service = self._allocated_service(task)
            attachments = self._attachments(task, service, takings)
        except Refusal as refusal:
            takings.undo()
            self.ledger.wait(("task", id), refusal.cause)
            if task.status.err != str(refusal):
                status = msgspec.structs.replace(task.status, err=str(refusal), timestamp=self.now)
                self._put(task, msgspec.structs.replace(task, status=status))
            return
        # An attachment was made for its node, by that node: nothing is left to be decided.
        state, message = (
            (TaskState.ASSIGNED, ATTACHED_MESSAGE) if task.is_attachment else (TaskState.PENDING, ALLOCATED_MESSAGE)
        )
        status = msgspec.structs.replace(task.status, state=state, message=message, err="", timestamp=self.now)
        endpoint = service.endpoint if service else None
        self._put(task, msgspec.structs.replace(task, status=status, endpoint=endpoint, attachments=attachments))

    def _allocated_service(self, task: Task) -> Service | None:
        if not task.service_id:
            return None
        service = self.view.services.get(task.service_id)
        if service is None:
            raise Refusal("its service is gone", ("service", task.service_id))
        if not is_allocated(service, self.ledger):
            reason = service.reasons[0] if service.reasons else "it is being allocated"
            raise Refusal(f"service {service.spec.name} is not allocated: {reason}", ("service", service.id))
        return service

    def _attachments(self, task: Task, service: Service | None, takings: Takings) -> list[Attachment]:
        found: list[Attachment] = []
        spec = service.endpoint.spec if service and service.endpoint else EndpointSpec()
        if has_ingress_ports(spec):
            found.append(Attachment(network_id=self.ledger.ingress_id))
        for wanted in overlays(task.spec, service, self.ledger):
            aliases, options = list(wanted.aliases or []), dict(wanted.driver_opts or {})
            found.append(Attachment(network_id=wanted.target, aliases=aliases, driver_opts=options))
        for attachment in found:
            ready_network(self.view, self.ledger, attachment.network_id)
        asked = task.spec.network_attachment_spec.address if task.spec.network_attachment_spec else ""

        def choose(network_id: str) -> str:
            return takings.asked_address(network_id, asked) if asked else takings.address(network_id)

        return [msgspec.structs.replace(each, address=choose(each.network_id)) for each in found]

    # --- the plan --------------------------------------------------------------

    def _put(self, old: Object, new: Object) -> None:
        if new == old:
            return
        kind = KIND_OF[type(new)]
        self.changed[kind, new.id] = new
        if kind != "task":
            self.view.put(new)
        self.ledger.propose(new, kind)

    def _changes(self) -> tuple[Change, ...]:
        return tuple(Put(value) for value in self.changed.values())

    def _wake_at(self) -> Nanoseconds | None:
        moments: list[Nanoseconds | None] = []
        for cause in self.ledger.waiting:
            if len(cause) == 2 and cause in self.ledger.pools:
                moments.append(self.ledger.pools[cause].ready_at(self.now))
        return earliest(moments)
