"""Forget connections that can only be lost: those to a backend that has gone.

Edge: ctnetlink, on the kernel thread. Only single entries that were translated are deleted: UDP ones, and TCP ones
still in SYN_SENT, so that the client's own retransmission reaches a living backend. Established TCP is left to end by
itself, and nothing is ever flushed. The kernel filters the dump, so that entries of others are not even copied.
Source: linux/netfilter/nfnetlink_conntrack.h.
"""

import errno
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from skep.edge import netlink
from skep.edge.namespaces import entered
from skep.edge.netlink import NetlinkSocket, Request, attribute, attributes

SUBSYSTEM: Final = 1 << 8
CT_GET: Final = SUBSYSTEM | 1
CT_DELETE: Final = SUBSYSTEM | 2

CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_STATUS, CTA_PROTOINFO, CTA_ID, CTA_ZONE = 1, 2, 3, 4, 12, 18
CTA_FILTER, CTA_STATUS_MASK = 25, 26
CTA_FILTER_REPLY_FLAGS: Final = 2
FILTER_SOURCE: Final = 1 << 0
FILTER_PROTOCOL: Final = 1 << 3
IPS_SEEN_REPLY: Final = 1 << 1
IPS_DST_NAT: Final = 1 << 5
TCP_SYN_SENT: Final = 1
PROTOCOLS: Final = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP, "sctp": socket.IPPROTO_SCTP}

_HEADER: Final = struct.Struct("=BBH")
_NESTED: Final = netlink.NESTED


@dataclass(frozen=True, slots=True)
class Target:
    """A backend that takes no more connections. Attributes: protocol, port: empty and 0 for any."""

    address: str
    protocol: str = ""
    port: int = 0


@dataclass(frozen=True, slots=True)
class Flow:
    """A connection the kernel follows. Attributes: source, port: whom replies come from; handle: how to name it."""

    protocol: int
    source: str
    port: int
    status: int
    tcp_state: int
    handle: bytes


def forget(descriptor: int, targets: Iterable[Target]) -> int:
    """Delete what can only be lost towards these backends.

    Args:
        descriptor: Of the namespace in which they were translated to.
    Returns:
        How many entries went.
    Raises:
        netlink.NetlinkRefused
    """
    wanted = list(targets)
    if not wanted:
        return 0
    with entered(descriptor):
        connection = NetlinkSocket(netlink.NETLINK_NETFILTER)
    try:
        handles = {flow.handle for target in wanted for flow in _lost(connection, target)}
        body = _HEADER.pack(socket.AF_INET, 0, 0)
        gone = frozenset({errno.ENOENT})
        connection.send([Request(CT_DELETE, 0, body + handle, "forget a flow", gone) for handle in handles])
        return len(handles)
    finally:
        connection.close()


def _lost(connection: NetlinkSocket, target: Target) -> Iterator[Flow]:
    seen = list(_dump(connection, target.address, unreplied_only=True))
    if target.protocol in ("", "udp"):
        seen += _dump(connection, target.address, protocol=socket.IPPROTO_UDP)
    for flow in seen:
        is_lost = flow.protocol == socket.IPPROTO_UDP or (
            flow.protocol == socket.IPPROTO_TCP and flow.tcp_state == TCP_SYN_SENT
        )
        is_ours = flow.source == target.address and bool(flow.status & IPS_DST_NAT)
        is_port = not target.port or flow.port == target.port
        is_protocol = not target.protocol or flow.protocol == PROTOCOLS[target.protocol]
        if is_lost and is_ours and is_port and is_protocol:
            yield flow


def _dump(connection: NetlinkSocket, source: str, *, protocol: int = 0, unreplied_only: bool = False) -> Iterator[Flow]:
    flags = FILTER_SOURCE | (FILTER_PROTOCOL if protocol else 0)
    tuple_parts = attribute(1 | _NESTED, attribute(1, socket.inet_aton(source)))
    if protocol:
        tuple_parts += attribute(2 | _NESTED, attribute(1, bytes([protocol])))
    mask = IPS_DST_NAT | (IPS_SEEN_REPLY if unreplied_only else 0)
    body = b"".join(
        (
            _HEADER.pack(socket.AF_INET, 0, 0),
            attribute(CTA_TUPLE_REPLY | _NESTED, tuple_parts),
            attribute(CTA_FILTER | _NESTED, attribute(CTA_FILTER_REPLY_FLAGS, struct.pack("=I", flags))),
            attribute(CTA_STATUS, IPS_DST_NAT.to_bytes(4, "big")),
            attribute(CTA_STATUS_MASK, mask.to_bytes(4, "big")),
        )
    )
    for reply in connection.dump(Request(CT_GET, 0, body, f"list flows to {source}")):
        flow = read_flow(reply.body)
        if flow is not None:
            yield flow


def read_flow(body: bytes) -> Flow | None:
    """Read one entry; None for one without IPv4 addresses."""
    found = attributes(body[_HEADER.size :])
    reply = attributes(found.get(CTA_TUPLE_REPLY, b""))
    addresses, ports = attributes(reply.get(1, b"")), attributes(reply.get(2, b""))
    if 1 not in addresses or 1 not in ports:
        return None
    tcp = attributes(attributes(found.get(CTA_PROTOINFO, b"")).get(1, b""))
    handle = attribute(CTA_TUPLE_ORIG | _NESTED, found[CTA_TUPLE_ORIG])
    for kind in (CTA_ID, CTA_ZONE):
        if kind in found:
            handle += attribute(kind, found[kind])
    return Flow(
        protocol=ports[1][0],
        source=socket.inet_ntoa(addresses[1]),
        port=int.from_bytes(ports.get(2, b""), "big"),
        status=int.from_bytes(found.get(CTA_STATUS, b""), "big"),
        tcp_state=tcp[1][0] if 1 in tcp else 0,
        handle=handle,
    )
