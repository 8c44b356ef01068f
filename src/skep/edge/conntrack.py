"""Forget connections that can only be lost: those to a backend that has gone.

Edge: ctnetlink, on a thread of its own. Only single entries that were translated are deleted: UDP ones, and TCP ones
still in SYN_SENT, so that the client's own retransmission reaches a living backend. Established TCP is left to end by
itself, and nothing is ever flushed. The kernel filters the dump, so that entries of others are not even copied.
Source: linux/netfilter/nfnetlink_conntrack.h.
"""

import errno
import ipaddress
import os
import socket
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import structlog

from skep.edge import netlink
from skep.edge.namespaces import NamespaceFailure, entered
from skep.edge.netlink import NetlinkSocket, Request, attribute, attributes

SUBSYSTEM: Final = 1 << 8
CT_GET: Final = SUBSYSTEM | 1
CT_DELETE: Final = SUBSYSTEM | 2

CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_STATUS, CTA_PROTOINFO, CTA_ID, CTA_ZONE = 1, 2, 3, 4, 12, 18
CTA_FILTER, CTA_STATUS_MASK = 25, 26
CTA_FILTER_REPLY_FLAGS: Final = 2
FILTER_PROTOCOL: Final = 1 << 3
IPS_SEEN_REPLY: Final = 1 << 1
IPS_DST_NAT: Final = 1 << 5
TCP_SYN_SENT: Final = 1
MAX_PAUSE_S: Final = 0.2
PROTOCOLS: Final = {socket.IPPROTO_TCP: "tcp", socket.IPPROTO_UDP: "udp", socket.IPPROTO_SCTP: "sctp"}

log = structlog.get_logger(__name__)

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

    protocol: str
    source: str
    port: int
    status: int
    tcp_state: int
    handle: bytes


@dataclass(frozen=True, slots=True)
class Lost:
    """Which backends are lost: these targets, and in these subnets all but the living."""

    targets: frozenset[Target] = frozenset()
    alive: frozenset[Target] = frozenset()
    subnets: tuple[ipaddress.IPv4Network, ...] = ()

    def covers(self, flow: Flow) -> bool:
        names = {Target(flow.source), Target(flow.source, flow.protocol, flow.port)}
        if not names.isdisjoint(self.targets):
            return True
        address = ipaddress.IPv4Address(flow.source)
        return names.isdisjoint(self.alive) and any(address in subnet for subnet in self.subnets)


class Sweeper:
    """Forgets flows on a thread of its own.

    Reading the kernel's table takes as long as the table is large, however little of it is ours (18 ms at 262,144
    buckets), so what comes in meanwhile is done together, and nobody waits for it: new connections have
    their living backend already.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="skep-conntrack")
        self._lock = threading.Lock()
        self._waiting: dict[int, Lost] = {}

    def leave(self, descriptor: int, targets: Iterable[Target]) -> None:
        """Forget, soon, what can only be lost towards these backends. From any thread.

        Args:
            descriptor: Of the namespace in which they were translated to; may be closed after the call.
        """
        wanted = frozenset(targets)
        if wanted:
            self._add(descriptor, Lost(targets=wanted))

    def leave_all_but(self, descriptor: int, alive: Iterable[Target], subnets: Sequence[ipaddress.IPv4Network]) -> None:
        """Forget, soon, what can only be lost towards any backend in these subnets that is not among the living."""
        self._add(descriptor, Lost(alive=frozenset(alive), subnets=tuple(subnets)))

    def _add(self, descriptor: int, lost: Lost) -> None:
        with self._lock:
            self._waiting[os.dup(descriptor)] = lost
        self._executor.submit(self._sweep)

    def close(self) -> None:
        """Finish what was left to do."""
        self._executor.shutdown(wait=True)

    def _sweep(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        if not waiting:
            return  # An earlier sweep did it with its own.
        started = time.monotonic()
        lost: dict[tuple[int, int], list[Lost]] = defaultdict(list)
        descriptors: dict[tuple[int, int], int] = {}
        for descriptor, each in waiting.items():
            status = os.fstat(descriptor)
            namespace = (status.st_dev, status.st_ino)
            lost[namespace].append(each)
            descriptors[namespace] = descriptor
        try:
            for namespace, wanted in lost.items():
                forget(descriptors[namespace], wanted)
        except (netlink.NetlinkRefused, NamespaceFailure, OSError) as error:
            # Flows that should be gone time out by themselves: slower, but nothing else depends on it.
            log.warning("flows to a lost backend could not be forgotten", error=str(error))
        finally:
            for descriptor in waiting:
                os.close(descriptor)
            # Under a stream of changes a quarter of one processor, no more; what comes in meanwhile is done together.
            time.sleep(min(3 * (time.monotonic() - started), MAX_PAUSE_S))


def forget(descriptor: int, lost: Sequence[Lost]) -> int:
    """Delete what can only be lost.

    Args:
        descriptor: Of the namespace in which it was translated.
        lost: Which backends are meant; any of these.
    Returns:
        How many entries went.
    Raises:
        netlink.NetlinkRefused
    """
    with entered(descriptor):
        connection = NetlinkSocket(netlink.NETLINK_NETFILTER)
    try:
        flows = [*_dump(connection, unreplied_only=True), *_dump(connection, protocol=socket.IPPROTO_UDP)]
        handles = {flow.handle for flow in flows if is_doomed(flow) and any(each.covers(flow) for each in lost)}
        body = _HEADER.pack(socket.AF_INET, 0, 0)
        gone = frozenset({errno.ENOENT})
        connection.send([Request(CT_DELETE, 0, body + handle, "forget a flow", gone) for handle in handles])
        return len(handles)
    finally:
        connection.close()


def is_doomed(flow: Flow) -> bool:
    """Whether a flow is lost if its backend is: it was translated, and it is UDP or a TCP connection not yet made."""
    is_unmade = flow.protocol == "udp" or (flow.protocol == "tcp" and flow.tcp_state == TCP_SYN_SENT)
    return is_unmade and bool(flow.status & IPS_DST_NAT)


def _dump(connection: NetlinkSocket, *, protocol: int = 0, unreplied_only: bool = False) -> Iterator[Flow]:
    """Flows that were translated; the kernel leaves out the others."""
    mask = IPS_DST_NAT | (IPS_SEEN_REPLY if unreplied_only else 0)
    parts = [
        _HEADER.pack(socket.AF_INET, 0, 0),
        attribute(CTA_STATUS, IPS_DST_NAT.to_bytes(4, "big")),
        attribute(CTA_STATUS_MASK, mask.to_bytes(4, "big")),
    ]
    if protocol:
        tuple_part = attribute(2 | _NESTED, attribute(1, bytes([protocol])))
        flags = struct.pack("=I", FILTER_PROTOCOL)
        parts.append(attribute(CTA_TUPLE_REPLY | _NESTED, tuple_part))
        parts.append(attribute(CTA_FILTER | _NESTED, attribute(CTA_FILTER_REPLY_FLAGS, flags)))
    for reply in connection.dump(Request(CT_GET, 0, b"".join(parts), "list flows")):
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
        protocol=PROTOCOLS.get(ports[1][0], ""),
        source=socket.inet_ntoa(addresses[1]),
        port=int.from_bytes(ports.get(2, b""), "big"),
        status=int.from_bytes(found.get(CTA_STATUS, b""), "big"),
        tcp_state=tcp[1][0] if 1 in tcp else 0,
        handle=handle,
    )
