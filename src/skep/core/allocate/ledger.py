"""The numbers in use, and who uses each.

Pure. The ledger holds nothing that the stored objects do not say: it can be thrown away and built again from a view.
What a plan gives out is held at once, before the plan is committed, and every decision starts by comparing what was
given out with the view it is handed: if the plan never happened, its numbers are let go again.

Terminal tasks hold nothing, whatever is written on them: an address is free once its task was seen to have stopped.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from skep.core.allocate import ipam
from skep.core.allocate.pools import Pool
from skep.lib.ranges import RangeSet
from skep.model.base import Nanoseconds, Object
from skep.model.errors import SkepError
from skep.model.lifecycle import TaskState, is_terminal
from skep.model.network import Network
from skep.model.node import Node
from skep.model.service import Protocol, PublishMode, Service
from skep.model.task import Task
from skep.store.changes import Batch
from skep.store.state import Draft, View, committed

FIRST_VNI = 4096
LAST_VNI = (1 << 24) - 1
DYNAMIC_PORTS = (30000, 32767)

Space = tuple[str, str]
"""Which pool: `("vni", "")`, `("port", "tcp")` or `("address", <network id>)`."""
Owner = tuple[str, str]
"""Kind and id of an object."""
Claims = tuple[tuple[Space, int], ...]
Cause = tuple[str, ...]
"""What an object waits for: a space with room; `("network", id)`, `("service", id)`, `("ingress",)` to be allocated;
`("number", *space, number)` to be let go; `("subnet", mark)`: networks other than those the mark stands for."""

VNI: Space = ("vni", "")


def address_space(network_id: str) -> Space:
    return ("address", network_id)


def port_space(protocol: Protocol) -> Space:
    return ("port", str(protocol))


def claims_of(value: Object) -> Claims:
    """Which numbers an object holds according to what is stored on it."""
    match value:
        case Task():
            if is_terminal(value.status.state):
                return ()
            return tuple(_address(item.network_id, item.address) for item in value.attachments if item.address)
        case Service() if value.endpoint is not None:
            addresses = [_address(item.network_id, item.addr) for item in value.endpoint.virtual_ips or [] if item.addr]
            ports = [
                (port_space(port.protocol), port.published_port)
                for port in value.endpoint.ports or []
                if port.publish_mode == PublishMode.INGRESS and port.published_port
            ]
            return (*addresses, *ports)
        case Node() if value.ingress is not None and value.ingress.address:
            return (_address(value.ingress.network_id, value.ingress.address),)
        case Network() if value.vni:
            return ((VNI, value.vni),)
        case _:
            return ()


def _address(network_id: str, address: str) -> tuple[Space, int]:
    return address_space(network_id), ipam.number_of(address)


@dataclass(frozen=True, slots=True)
class Addressing:
    """An allocated network as the allocator needs it."""

    name: str
    subnets: tuple[ipam.Subnet, ...]

    def write(self, number: int) -> str:
        """An address of the network with the prefix length of its subnet."""
        return next(
            (subnet.write(number) for subnet in self.subnets if subnet.first <= number <= subnet.last),
            f"{ipam.address_text(number)}/32",
        )

    def __str__(self) -> str:
        blocks = ", ".join(f"{ipam.address_text(subnet.first)}/{subnet.prefix}" for subnet in self.subnets)
        return f'"{self.name}" ({blocks})'


class Ledger:
    """Every number in use. Build it with `Ledger.of`, keep it current with `observe`."""

    def __init__(self) -> None:
        self.pools: dict[Space, Pool] = {VNI: Pool([(FIRST_VNI, LAST_VNI)])}
        for protocol in Protocol:
            self.pools[port_space(protocol)] = Pool([DYNAMIC_PORTS])
        self.networks: dict[str, Addressing] = {}
        self.ingress_id = ""
        self.underlay: dict[str, int] = {}
        self.waiting: dict[Cause, dict[Owner, None]] = {}
        self.fresh: dict[Owner, None] = {}
        """What the next decision looks at whatever is dirty: from the first view, and from abandoned plans."""
        self._claims: dict[Owner, Claims] = {}
        self._tentative: dict[Owner, Object | None] = {}
        self._released: set[Space] = set()
        self._draft: Draft | None = None
        self._unheard: set[tuple[Space, int]] = set()
        """Chosen for this draft: they need not cool down if it gives them up again."""

    @classmethod
    def of(cls, view: View) -> "Ledger":
        """Read every number that stored objects hold."""
        ledger = cls()
        tables: tuple[tuple[str, Iterable[Object]], ...] = (
            ("network", view.networks.values()),
            ("node", view.nodes.values()),
            ("service", view.services.values()),
            ("task", view.tasks.values()),
        )
        for kind, values in tables:
            for value in values:
                ledger._take_in(kind, value.id, value)
                if not isinstance(value, Task) or value.status.state == TaskState.NEW:
                    ledger.fresh[kind, value.id] = None
        return ledger

    def observe(self, batch: Batch) -> None:
        """Take in a committed batch, in the order of revisions."""
        self._begin(None)
        for event in batch.events:
            if event.kind == "network":
                self._take_in("network", event.id, event.new)
        for event in batch.events:
            if event.kind in ("node", "service", "task"):
                self._take_in(event.kind, event.id, event.new)

    def compare(self, view: View) -> None:
        """Let go of what was given out in plans of which `view` knows nothing, and look at their objects again.

        What a draft says of them instead holds for no longer than the draft does.
        """
        self._begin(view if isinstance(view, Draft) else None)
        tentative, base = sorted(self._tentative.items(), key=lambda item: item[0][0] != "network"), committed(view)
        for (kind, id), proposed in tentative:
            value = _find(view, kind, id)
            if value is not proposed:
                self._take_in(kind, id, value)
                self.fresh[kind, id] = None
                if value is not _find(base, kind, id):
                    self._tentative[kind, id] = value

    def cool(self, now: Nanoseconds) -> None:
        """Let numbers released since the last call cool down from now on, whether or not anybody wants one."""
        for space in self._released & self.pools.keys():
            self.pools[space].settle(now)
        self._released.clear()

    def propose(self, value: Object, kind: str) -> None:
        """Hold what a plan writes on an object, until the plan is seen committed or is seen not to be."""
        self._take_in(kind, value.id, value)
        self._tentative[kind, value.id] = value

    def choose(self, space: Space, owner: Owner, now: Nanoseconds) -> int | None:
        """A number of a space for an owner; None when the space has none left at present."""
        number = self.pools[space].choose(owner[1], now)
        if number is not None:
            self._unheard.add((space, number))
        return number

    def take(self, space: Space, owner: Owner, number: int) -> bool:
        """Give an owner the number it asks for; False if it is another's or nobody's to have."""
        return self.pools[space].take(number, owner[1])

    def give_back(self, owner: Owner, claims: Iterable[tuple[Space, int]]) -> None:
        """Undo `choose` for numbers that are not used after all."""
        for space, number in claims:
            self.pools[space].give_back(number, owner[1])
            self._released.add(space)

    def holder(self, space: Space, number: int) -> str | None:
        """The id of the object that holds a number."""
        pool = self.pools.get(space)
        return pool.holders.get(number) if pool else None

    def subnets_taken(self, except_id: str = "") -> RangeSet:
        """All addresses that belong to networks."""
        return RangeSet(
            (subnet.first, subnet.last)
            for id, network in self.networks.items()
            if id != except_id
            for subnet in network.subnets
        )

    # --- waiting ---------------------------------------------------------------

    def wait(self, owner: Owner, cause: Cause) -> None:
        """Look at an object again when its cause may be gone."""
        self.waiting.setdefault(cause, {})[owner] = None

    def wake(self, cause: Cause, limit: int | None = None) -> Iterator[Owner]:
        """Take out those that wait for a cause, first come first, at most `limit`."""
        owners = self.waiting.get(cause, {})
        for owner in list(owners)[:limit]:
            del owners[owner]
            yield owner
        if not owners:
            self.waiting.pop(cause, None)

    # --- keeping current ---------------------------------------------------------

    def _begin(self, draft: Draft | None) -> None:
        """What was chosen for another draft may have been heard of."""
        if draft is None or draft is not self._draft:
            self._draft = draft
            self._unheard.clear()

    def _take_in(self, kind: str, id: str, value: Object | None) -> None:
        owner = (kind, id)
        self._tentative.pop(owner, None)
        if kind == "network":
            self._take_network(id, value if isinstance(value, Network) else None)
        elif kind == "node":
            self._take_underlay(id, value if isinstance(value, Node) else None)
        claims = claims_of(value) if value is not None else ()
        before = self._claims.get(owner, ())
        if claims == before:
            return
        for space, number in before:
            if (space, number) in claims or space not in self.pools:
                continue
            if (space, number) in self._unheard:
                self.pools[space].give_back(number, id)
            else:
                self.pools[space].release(number, id)
            self._released.add(space)
        for space, number in claims:
            if space in self.pools:
                self.pools[space].hold(number, id)
        if claims:
            self._claims[owner] = claims
        else:
            del self._claims[owner]

    def _take_underlay(self, id: str, node: Node | None) -> None:
        self.underlay.pop(id, None)
        if node is not None and node.status.addr:
            try:
                self.underlay[id] = ipam.number_of(node.status.addr)
            except ValueError:
                return  # An IPv6 or named underlay is in no IPv4 subnet's way.

    def _take_network(self, id: str, network: Network | None) -> None:
        subnets = _allocated_subnets(network) if network else ()
        if network is not None and network.spec.ingress:
            self.ingress_id = id
        elif self.ingress_id == id:
            self.ingress_id = ""
        if not subnets or network is None:
            self.networks.pop(id, None)
            self.pools.pop(address_space(id), None)
        elif id not in self.networks or self.networks[id].subnets != subnets:
            self.networks[id] = Addressing(network.spec.name, subnets)
            reserved = [number for subnet in subnets for number in subnet.reserved]
            self.pools[address_space(id)] = Pool([(subnet.low, subnet.high) for subnet in subnets], reserved)


def _allocated_subnets(network: Network) -> tuple[ipam.Subnet, ...]:
    if not network.vni:
        return ()
    try:
        return tuple(ipam.read_subnet(config) for config in network.subnets)
    except SkepError:
        return ()  # Not written by this allocator; its tasks wait, with the network's absence as reason.


def _find(view: View, kind: str, id: str) -> Object | None:
    match kind:
        case "network":
            return view.networks.get(id)
        case "node":
            return view.nodes.get(id)
        case "service":
            return view.services.get(id)
        case _:
            return view.tasks.get(id)
