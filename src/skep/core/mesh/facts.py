"""Single facts a node's kernel must hold, each under a key of its own.

Pure. A key says what and where, the value says how; a program is a mapping from keys to values, and a change is the
keys whose values differ. `space` is a namespace: empty for the node itself, `net-<id>` for an overlay's router.
"""

from collections.abc import Mapping
from dataclasses import dataclass

Space = str


@dataclass(frozen=True, slots=True)
class Skeleton:
    """The nft table of a space: sets, maps, base chains. Value: their text."""

    space: Space


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain of one service. Value: `Balance`."""

    space: Space
    name: str


@dataclass(frozen=True, slots=True)
class Element:
    """An element of a set or map of the skeleton. Value: empty in a set."""

    space: Space
    collection: str
    key: str


@dataclass(frozen=True, slots=True)
class Tunnel:
    """The VXLAN device of a space. Value: `TunnelSpec`."""

    space: Space
    device: str


@dataclass(frozen=True, slots=True)
class Cable:
    """A veth pair from a space into a sandbox. Value: `CableSpec`."""

    space: Space
    device: str


@dataclass(frozen=True, slots=True)
class Route:
    """Value: `Hop`. Attributes: destination: CIDR."""

    space: Space
    table: int
    destination: str


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A fixed neighbour entry. Value: the hardware address."""

    space: Space
    device: str
    address: str


@dataclass(frozen=True, slots=True)
class Forwarding:
    """Where a VXLAN device sends what is for a hardware address. Value: the peer's underlay address."""

    space: Space
    device: str
    mac: str


@dataclass(frozen=True, slots=True)
class Steering:
    """Packets with this mark use a table of their own. Value: the table's number."""

    space: Space
    mark: int


@dataclass(frozen=True, slots=True)
class Balance:
    """What a service's chain does with a new connection.

    Attributes:
        addresses: Backends in order; none refuses.
        protocol, port: Of the target, for published ports; empty and 0 translate the address only.
        policy: How a backend is chosen; the renderer knows the names.
    """

    addresses: tuple[str, ...]
    protocol: str = ""
    port: int = 0
    policy: str = "round-robin"


@dataclass(frozen=True, slots=True)
class TunnelSpec:
    """Attributes: local: underlay address; addresses: /32s the device carries; subnets: routed to it or unreachable."""

    vni: int
    port: int
    local: str
    mac: str
    mtu: int
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CableSpec:
    """Attributes: sandbox_device: the other end's name; address: with prefix; is_gateway: whether the default route
    of the sandbox leads here."""

    task_id: str
    sandbox_device: str
    address: str
    mtu: int
    is_gateway: bool


@dataclass(frozen=True, slots=True)
class Hop:
    """Attributes: device: empty for unreachable; via: a next hop on that link, empty for none."""

    device: str
    via: str = ""


Fact = Skeleton | Chain | Element | Tunnel | Cable | Route | Neighbour | Forwarding | Steering
Value = str | int | Balance | TunnelSpec | CableSpec | Hop
Facts = Mapping[Fact, Value]


@dataclass(frozen=True, slots=True)
class Edits:
    """The difference between two programs.

    Attributes:
        put: New and changed facts with their new values.
        remove: Facts that end, with the values they had.
    """

    put: dict[Fact, Value]
    remove: dict[Fact, Value]

    def __bool__(self) -> bool:
        return bool(self.put or self.remove)

    @property
    def spaces(self) -> frozenset[Space]:
        return frozenset(fact.space for fact in (*self.put, *self.remove))


def difference(before: Facts, after: Facts) -> Edits:
    """What leads from one program to another."""
    put = {fact: value for fact, value in after.items() if before.get(fact) != value}
    remove = {fact: value for fact, value in before.items() if fact not in after}
    return Edits(put, remove)
