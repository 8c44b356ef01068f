"""Links, addresses, routes, rules and neighbours as rtnetlink requests, and back.

Edge: builds and reads messages for `netlink.NetlinkSocket`. Source: rtnetlink(7), linux/if_link.h, linux/fib_rules.h,
linux/neighbour.h.
"""

import errno
import socket
import struct
import sys
from dataclasses import dataclass
from typing import Final

from skep.edge import netlink
from skep.edge.netlink import Reply, Request, attribute, attributes, mac_bytes, mac_text, text, u32

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34

RTNLGRP_LINK: Final = 1
RTNLGRP_NEIGH: Final = 3
RTNLGRP_IPV4_IFADDR: Final = 5
RTNLGRP_IPV4_ROUTE: Final = 7
RTNLGRP_IPV4_RULE: Final = 8

AF_BRIDGE: Final = 7
IFF_UP: Final = 1
IF_OPER_UP: Final = 6
NUD_PERMANENT: Final = 0x80
NTF_SELF: Final = 0x02
RTNH_F_ONLINK: Final = 4
RTN_UNICAST: Final = 1
RTN_UNREACHABLE: Final = 7
SCOPE_UNIVERSE: Final = 0
SCOPE_LINK: Final = 253
FR_ACT_TO_TBL: Final = 1

CREATE: Final = netlink.NLM_F_CREATE | netlink.NLM_F_EXCL
REPLACE: Final = netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE
EXISTS: Final = frozenset({errno.EEXIST})
GONE: Final = frozenset({errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EADDRNOTAVAIL})

_LINK: Final = struct.Struct("=BxHiII")
_ADDRESS: Final = struct.Struct("=BBBBI")
_ROUTE: Final = struct.Struct("=BBBBBBBBI")
_NEIGHBOUR: Final = struct.Struct("=BxxxiHBB")
_RULE: Final = struct.Struct("=BBBBBxxBI")


# --- links ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Link:
    """A link as the kernel reports it. Attributes: operating: RFC 2863 operational state."""

    index: int
    name: str
    mtu: int
    is_up: bool
    mac: str
    operating: int = 0


@dataclass(frozen=True, slots=True)
class VethEnd:
    """One end of a cable to be made. Attributes: namespace: descriptor of where it goes; index: 0 for any."""

    name: str
    mac: str
    mtu: int
    namespace: int
    index: int = 0


@dataclass(frozen=True, slots=True)
class Vxlan:
    """A tunnel device to be made. Attributes: namespace: where it goes; its underlay is where the request is made."""

    name: str
    vni: int
    port: int
    local: str
    mac: str
    mtu: int
    namespace: int = -1


def add_veth(end: VethEnd, peer: VethEnd) -> Request:
    """A pair; both ends are down. Only `end` can have an index of its own."""
    peer_body = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + _end_attributes(peer)
    details = attribute(1, text("veth")) + attribute(2 | netlink.NESTED, attribute(1 | netlink.NESTED, peer_body))
    header = _LINK.pack(socket.AF_UNSPEC, 0, end.index, 0, 0)
    body = header + _end_attributes(end) + attribute(18 | netlink.NESTED, details)
    return Request(RTM_NEWLINK, CREATE, body, f"make the cable {end.name}")


def add_vxlan(tunnel: Vxlan) -> Request:
    """A VXLAN device that learns nothing and floods nowhere."""
    options = b"".join(
        (
            attribute(1, u32(tunnel.vni)),
            attribute(4, socket.inet_aton(tunnel.local)),
            attribute(7, b"\0"),  # learning off
            attribute(15, tunnel.port.to_bytes(2, "big")),
        )
    )
    end = VethEnd(tunnel.name, tunnel.mac, tunnel.mtu, tunnel.namespace)
    details = attribute(1, text("vxlan")) + attribute(2 | netlink.NESTED, options)
    body = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + _end_attributes(end) + attribute(18 | netlink.NESTED, details)
    return Request(RTM_NEWLINK, CREATE, body, f"make the VXLAN device {tunnel.name} (vni {tunnel.vni})")


def set_up(index: int) -> Request:
    return Request(RTM_NEWLINK, 0, _LINK.pack(socket.AF_UNSPEC, 0, index, IFF_UP, IFF_UP), "set a link up")


def set_mtu(index: int, mtu: int) -> Request:
    body = _LINK.pack(socket.AF_UNSPEC, 0, index, 0, 0) + attribute(4, u32(mtu))
    return Request(RTM_NEWLINK, 0, body, f"set an MTU of {mtu}")


def delete_link(name: str) -> Request:
    body = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + attribute(3, text(name))
    return Request(RTM_DELLINK, 0, body, f"remove the link {name}", GONE)


def get_links() -> Request:
    return Request(RTM_GETLINK, 0, _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0), "list links")


def get_link(name: str) -> Request:
    body = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + attribute(3, text(name))
    return Request(RTM_GETLINK, 0, body, f"read the link {name}", GONE)


def read_vxlan(reply: Reply) -> Vxlan | None:
    """A VXLAN device's settings; None for another kind of link."""
    found = attributes(reply.body[_LINK.size :])
    details = attributes(found.get(18, b""))
    if _name(details.get(1, b"")) != "vxlan":
        return None
    options = attributes(details.get(2, b""))
    return Vxlan(
        name=_name(found.get(3, b"")),
        vni=int.from_bytes(options.get(1, b""), sys.byteorder),
        port=int.from_bytes(options.get(15, b""), "big"),
        local=_address(options.get(4)),
        mac=mac_text(found.get(1, b"")),
        mtu=int.from_bytes(found.get(4, b""), sys.byteorder),
    )


def read_link(reply: Reply) -> Link:
    _, _, index, flags, _ = _LINK.unpack_from(reply.body)
    found = attributes(reply.body[_LINK.size :])
    return Link(
        index=index,
        name=_name(found.get(3, b"")),
        mtu=int.from_bytes(found.get(4, b""), sys.byteorder),
        is_up=bool(flags & IFF_UP),
        mac=mac_text(found.get(1, b"")),
        operating=found.get(16, b"\0")[0],
    )


def _end_attributes(end: VethEnd) -> bytes:
    return b"".join(
        (
            attribute(3, text(end.name)),
            attribute(1, mac_bytes(end.mac)),
            attribute(4, u32(end.mtu)),
            attribute(28, u32(end.namespace)),
        )
    )


# --- addresses --------------------------------------------------------------------


def add_address(index: int, address: str) -> Request:
    """Args: address: with prefix."""
    bare, _, prefix = address.partition("/")
    packed = socket.inet_aton(bare)
    body = _ADDRESS.pack(socket.AF_INET, int(prefix), 0, SCOPE_UNIVERSE, index) + attribute(2, packed)
    return Request(RTM_NEWADDR, CREATE, body + attribute(1, packed), f"add the address {address}", EXISTS)


def delete_address(index: int, address: str) -> Request:
    bare, _, prefix = address.partition("/")
    body = _ADDRESS.pack(socket.AF_INET, int(prefix), 0, 0, index) + attribute(2, socket.inet_aton(bare))
    return Request(RTM_DELADDR, 0, body, f"remove the address {address}", GONE)


def get_addresses() -> Request:
    return Request(RTM_GETADDR, 0, _ADDRESS.pack(socket.AF_INET, 0, 0, 0, 0), "list addresses")


def read_address(reply: Reply) -> tuple[int, str]:
    """Index of the link and the address with prefix."""
    _, prefix, _, _, index = _ADDRESS.unpack_from(reply.body)
    found = attributes(reply.body[_ADDRESS.size :])
    return index, f"{socket.inet_ntoa(found.get(2, found.get(1, bytes(4))))}/{prefix}"


# --- routes -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KernelRoute:
    """Attributes: index: of the link out, 0 for unreachable; via, source: empty for none; destination: CIDR."""

    table: int
    destination: str
    index: int
    via: str = ""
    source: str = ""
    protocol: int = 0


def put_route(route: KernelRoute) -> Request:
    """Add it or replace what leads to the same destination."""
    doing = f"route {route.destination} (table {route.table})"
    return Request(RTM_NEWROUTE, REPLACE, _route_body(route), doing)


def delete_route(table: int, destination: str, protocol: int) -> Request:
    bare, _, prefix = destination.partition("/")
    header = _ROUTE.pack(socket.AF_INET, int(prefix), 0, 0, 0, protocol, 255, 0, 0)
    body = header + attribute(1, socket.inet_aton(bare)) + attribute(15, u32(table))
    return Request(RTM_DELROUTE, 0, body, f"remove the route to {destination}", GONE)


def get_routes(protocol: int) -> Request:
    """Args: protocol: Whose: a router of the internet has a million of others'."""
    return Request(RTM_GETROUTE, 0, _ROUTE.pack(socket.AF_INET, 0, 0, 0, 0, protocol, 0, 0, 0), "list routes")


def read_route(reply: Reply) -> KernelRoute:
    _, prefix, _, _, table, protocol, _, _, _ = _ROUTE.unpack_from(reply.body)
    found = attributes(reply.body[_ROUTE.size :])
    return KernelRoute(
        table=int.from_bytes(found[15], sys.byteorder) if 15 in found else table,
        destination=f"{socket.inet_ntoa(found.get(1, bytes(4)))}/{prefix}",
        index=int.from_bytes(found.get(4, b""), sys.byteorder),
        via=_address(found.get(5)),
        source=_address(found.get(7)),
        protocol=protocol,
    )


def _route_body(route: KernelRoute) -> bytes:
    bare, _, prefix = route.destination.partition("/")
    kind = RTN_UNICAST if route.index else RTN_UNREACHABLE
    scope = SCOPE_LINK if route.index and not route.via else SCOPE_UNIVERSE
    flags = RTNH_F_ONLINK if route.via else 0
    parts = [
        _ROUTE.pack(socket.AF_INET, int(prefix), 0, 0, 0, route.protocol, scope, kind, flags),
        attribute(1, socket.inet_aton(bare)),
        attribute(15, u32(route.table)),
    ]
    if route.index:
        parts.append(attribute(4, u32(route.index)))
    if route.via:
        parts.append(attribute(5, socket.inet_aton(route.via)))
    if route.source:
        parts.append(attribute(7, socket.inet_aton(route.source)))
    return b"".join(parts)


# --- rules ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KernelRule:
    """Packets with a mark look up a table."""

    priority: int
    mark: int
    table: int
    protocol: int = 0


def add_rule(rule: KernelRule) -> Request:
    return Request(RTM_NEWRULE, CREATE, _rule_body(rule), f"steer mark {rule.mark:#x} to its table", EXISTS)


def delete_rule(rule: KernelRule) -> Request:
    return Request(RTM_DELRULE, 0, _rule_body(rule), f"stop steering mark {rule.mark:#x}", GONE)


def get_rules() -> Request:
    return Request(RTM_GETRULE, 0, _RULE.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0), "list rules")


def read_rule(reply: Reply) -> KernelRule:
    _, _, _, _, table, _, _ = _RULE.unpack_from(reply.body)
    found = attributes(reply.body[_RULE.size :])
    return KernelRule(
        priority=int.from_bytes(found.get(6, b""), sys.byteorder),
        mark=int.from_bytes(found.get(10, b""), sys.byteorder),
        table=int.from_bytes(found[15], sys.byteorder) if 15 in found else table,
        protocol=found.get(21, b"\0")[0],
    )


def _rule_body(rule: KernelRule) -> bytes:
    return b"".join(
        (
            _RULE.pack(socket.AF_INET, 0, 0, 0, 0, FR_ACT_TO_TBL, 0),
            attribute(6, u32(rule.priority)),
            attribute(10, u32(rule.mark)),
            attribute(16, u32(0xFFFFFFFF)),
            attribute(15, u32(rule.table)),
            attribute(21, bytes([rule.protocol])),
        )
    )


# --- neighbours and forwarding entries ----------------------------------------------------


@dataclass(frozen=True, slots=True)
class KernelNeighbour:
    """Attributes: address: of the protocol, or of the peer's underlay for a forwarding entry."""

    index: int
    address: str
    mac: str
    is_permanent: bool = True


def put_neighbour(neighbour: KernelNeighbour) -> Request:
    body = _NEIGHBOUR.pack(socket.AF_INET, neighbour.index, NUD_PERMANENT, 0, 0)
    body += attribute(1, socket.inet_aton(neighbour.address)) + attribute(2, mac_bytes(neighbour.mac))
    return Request(RTM_NEWNEIGH, REPLACE, body, f"fix the neighbour {neighbour.address}")


def delete_neighbour(index: int, address: str) -> Request:
    body = _NEIGHBOUR.pack(socket.AF_INET, index, 0, 0, 0) + attribute(1, socket.inet_aton(address))
    return Request(RTM_DELNEIGH, 0, body, f"forget the neighbour {address}", GONE)


def put_forwarding(entry: KernelNeighbour) -> Request:
    body = _NEIGHBOUR.pack(AF_BRIDGE, entry.index, NUD_PERMANENT, NTF_SELF, 0)
    body += attribute(2, mac_bytes(entry.mac)) + attribute(1, socket.inet_aton(entry.address))
    return Request(RTM_NEWNEIGH, REPLACE, body, f"forward {entry.mac} to {entry.address}")


def delete_forwarding(entry: KernelNeighbour) -> Request:
    body = _NEIGHBOUR.pack(AF_BRIDGE, entry.index, 0, NTF_SELF, 0)
    body += attribute(2, mac_bytes(entry.mac)) + attribute(1, socket.inet_aton(entry.address))
    return Request(RTM_DELNEIGH, 0, body, f"stop forwarding {entry.mac}", GONE)


def get_neighbours(*, family: int = socket.AF_INET) -> Request:
    """Args: family: AF_INET, or AF_BRIDGE for the forwarding entries of VXLAN devices."""
    return Request(RTM_GETNEIGH, 0, _NEIGHBOUR.pack(family, 0, 0, 0, 0), "list neighbours")


def read_neighbour(reply: Reply) -> KernelNeighbour:
    _, index, state, _, _ = _NEIGHBOUR.unpack_from(reply.body)
    found = attributes(reply.body[_NEIGHBOUR.size :])
    return KernelNeighbour(
        index=index,
        address=_address(found.get(1)),
        mac=mac_text(found.get(2, b"")),
        is_permanent=bool(state & NUD_PERMANENT),
    )


def _address(raw: bytes | None) -> str:
    return socket.inet_ntoa(raw) if raw is not None and len(raw) == 4 else ""


def _name(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode()
