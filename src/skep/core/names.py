"""What a task's question for a name is answered.

Pure. The zone holds every name of the networks this node takes part in, indexed so that a change of one item costs that
item only. Who asks sees the networks it is attached to and no others. A name of ours is never foreign: it is answered
or denied here, so no upstream resolver decides about it and none learns of it.
"""

import ipaddress
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from skep.model.assignment import BalancedService, ItemKey, NetworkEndpoint, OverlayNetwork

TTL_S = 5
TASKS_PREFIX = "tasks."
REVERSE_SUFFIX = ".in-addr.arpa"
REVERSE_SUFFIX_IPV6 = ".ip6.arpa"

ZoneItem = BalancedService | NetworkEndpoint | OverlayNetwork


@dataclass(frozen=True, slots=True)
class Addresses:
    """The name is one of ours. Attributes: addresses: IPv4, ordered by task; may be empty (dnsrr with no task)."""

    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pointer:
    """The address is one of ours. Attributes: name: without the final dot."""

    name: str


@dataclass(frozen=True, slots=True)
class NoSuchName:
    """It is in our zone, but not for this asker, or not at all."""


@dataclass(frozen=True, slots=True)
class Foreign:
    """Not ours: others may know it."""


Answer = Addresses | Pointer | NoSuchName | Foreign


class Zone:
    """The names a node knows. Attributes: generation: grows with every change, so that encoded answers can be kept."""

    def __init__(self) -> None:
        self.generation = 0
        self._items: dict[ItemKey, ZoneItem] = {}
        self._named: dict[tuple[str, str], dict[ItemKey, None]] = {}
        self._addressed: dict[tuple[str, str], dict[ItemKey, None]] = {}
        self._names: Counter[str] = Counter()
        self._networks: dict[str, OverlayNetwork] = {}

    def change(self, put: Mapping[ItemKey, ZoneItem], remove: Collection[ItemKey]) -> None:
        """Replace some items and drop others; keys that are not here are ignored."""
        for key in (*remove, *put):
            self._drop(key)
        for key, item in put.items():
            self._add(key, item)
        self.generation += 1

    def _drop(self, key: ItemKey) -> None:
        item = self._items.pop(key, None)
        if item is None:
            return
        if isinstance(item, OverlayNetwork):
            self._networks.pop(item.network_id, None)
            return
        for name in _names(item):
            _discard(self._named, (item.network_id, name), key)
            self._names[name] -= 1
            if not self._names[name]:
                del self._names[name]
        for address in _own_addresses(item):
            _discard(self._addressed, (item.network_id, address), key)

    def _add(self, key: ItemKey, item: ZoneItem) -> None:
        self._items[key] = item
        if isinstance(item, OverlayNetwork):
            self._networks[item.network_id] = item
            return
        for name in _names(item):
            self._named.setdefault((item.network_id, name), {})[key] = None
            self._names[name] += 1
        for address in _own_addresses(item):
            self._addressed.setdefault((item.network_id, address), {})[key] = None

    def answer(self, name: str, networks: Sequence[str]) -> Answer:
        """Look a name up.

        Args:
            name: As asked, in any case, with or without the final dot; a reverse name asks for a pointer.
            networks: Ids of the networks the asker is attached to, the preferred first.
        """
        name = name.rstrip(".").lower()
        if name.endswith((REVERSE_SUFFIX, REVERSE_SUFFIX_IPV6)):
            return self._reverse(name, networks)
        for network_id in networks:
            found = self._find(network_id, name)
            if found is not None:
                return found
        is_ours = name in self._names or name.startswith(TASKS_PREFIX)
        return NoSuchName() if is_ours else Foreign()

    def _find(self, network_id: str, name: str) -> Addresses | None:
        """A name, plain or followed by the network's own name, as Docker allows."""
        items = self._at(network_id, name)
        network = self._networks.get(network_id)
        if not items and network is not None:
            suffix = f".{network.name.lower()}"
            items = self._at(network_id, name.removesuffix(suffix)) if name.endswith(suffix) else []
            name = name.removesuffix(suffix)
        if not items:
            return None
        services = [item for item in items if isinstance(item, BalancedService)]
        if services:  # A service's name beats a task that happens to have it as hostname.
            return Addresses(_service_addresses(services[0], name))
        return Addresses(tuple(item.address for item in items if isinstance(item, NetworkEndpoint)))

    def _at(self, network_id: str, name: str) -> list[BalancedService | NetworkEndpoint]:
        keys = self._named.get((network_id, name), {})
        items = [self._items[key] for key in sorted(keys)]
        return [item for item in items if not isinstance(item, OverlayNetwork)]

    def _reverse(self, name: str, networks: Sequence[str]) -> Answer:
        labels = name.removesuffix(REVERSE_SUFFIX).split(".")
        try:
            address = ipaddress.IPv4Address(".".join(reversed(labels)))
        except ValueError:
            return Foreign()
        for network_id in networks:
            for key in sorted(self._addressed.get((network_id, str(address)), {})):
                pointer = self._pointer(self._items[key])
                if pointer is not None:
                    return pointer
        return NoSuchName() if self._has_subnet_with(address) else Foreign()

    def _pointer(self, item: ZoneItem) -> Pointer | None:
        if isinstance(item, OverlayNetwork) or not item.names:
            return None
        network = self._networks.get(item.network_id)
        return Pointer(f"{item.names[0]}.{network.name}" if network else item.names[0])

    def _has_subnet_with(self, address: ipaddress.IPv4Address) -> bool:
        subnets = (config.subnet for network in self._networks.values() for config in network.subnets)
        return any(address in ipaddress.ip_network(subnet, strict=False) for subnet in subnets if subnet)


def _names(item: BalancedService | NetworkEndpoint) -> Iterator[str]:
    """Every name an item answers to, once each."""
    names = dict.fromkeys(name.lower() for name in item.names if name)
    yield from names
    if isinstance(item, BalancedService):
        yield from (TASKS_PREFIX + name for name in names)


def _own_addresses(item: BalancedService | NetworkEndpoint) -> tuple[str, ...]:
    address = item.virtual_ip if isinstance(item, BalancedService) else item.address
    return (address,) if address else ()


def _service_addresses(service: BalancedService, name: str) -> tuple[str, ...]:
    if service.virtual_ip and not name.startswith(TASKS_PREFIX):
        return (service.virtual_ip,)
    return tuple(backend.address for backend in service.backends)


def _discard(index: dict[tuple[str, str], dict[ItemKey, None]], at: tuple[str, str], key: ItemKey) -> None:
    keys = index.get(at, {})
    keys.pop(key, None)
    if not keys:
        index.pop(at, None)
