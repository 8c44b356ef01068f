"""Forget connections that can only be lost: those to a backend that has left, or gone.

Edge: ctnetlink, on a thread of its own. Only single entries that were translated are deleted. Of a backend that left a
service these are UDP ones, and TCP ones that nobody answers, so that the client's own retransmission reaches a living
backend; established TCP is left to end by itself. Of one whose address is gone it is all that is open: the client's
next packet is then reset. Nothing is ever flushed. The kernel filters the dumps, so that entries of others are
not even copied. Source: linux/netfilter/nfnetlink_conntrack.h.
"""

import errno
import ipaddress
import os
import socket
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
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
FILTER_SOURCE: Final = 1 << 0
FILTER_PROTOCOL: Final = 1 << 3
IPS_SEEN_REPLY: Final = 1 << 1
IPS_DST_NAT: Final = 1 << 5
TCP_SYN_SENT, TCP_TIME_WAIT, TCP_CLOSE = 1, 7, 8
MAX_PAUSE_S: Final = 0.2
ANSWER_S: Final = 0.1
"""A backend that lives has answered an attempt by then; a client makes it again after a second."""
FAREWELL_S: Final = 1.0
"""What a task sent last may be under way when its address goes; it reaches its client only while it is followed."""
ASKED_SINGLY: Final = 8
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
    """Which backends are lost: these targets, in these subnets all but the living, and the addresses that are gone."""

    targets: frozenset[Target] = frozenset()
    alive: frozenset[Target] = frozenset()
    subnets: tuple[ipaddress.IPv4Network, ...] = ()
    gone: frozenset[str] = frozenset()

    def covers(self, flow: Flow) -> bool:
        """Whether the flow's backend has left."""
        names = {Target(flow.source), Target(flow.source, flow.protocol, flow.port)}
        if not names.isdisjoint(self.targets):
            return True
        address = ipaddress.IPv4Address(flow.source)
        return names.isdisjoint(self.alive) and any(address in subnet for subnet in self.subnets)


@dataclass(frozen=True, slots=True)
class _Gone:
    """Addresses to which the way went. Attributes: due: by the monotonic clock; is_back: whether it is there again."""

    due: float
    addresses: Collection[str]
    is_back: Callable[[str], bool]


class Sweeper:
    """Forgets flows on threads of its own.

    Reading the kernel's table takes as long as the table is large, however little of it is ours (18 ms at 262,144
    buckets), so what comes in meanwhile is done together, and nobody waits for it: new connections have
    their living backend already.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="skep-conntrack")
        self._late_executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="skep-conntrack-late")
        self._lock = threading.Lock()
        self._waiting: dict[int, Lost] = {}
        self._gone: dict[int, _Gone] = {}
        self._is_closing = threading.Event()

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

    def leave_gone(self, descriptor: int, addresses: Collection[str], is_back: Callable[[str], bool]) -> None:
        """Forget, once what is under way has arrived, all that is open towards addresses to which the way went.

        Args:
            descriptor: As for `leave`.
            is_back: Asked then, on another thread: whether somebody has such an address again.
        """
        if addresses:
            with self._lock:
                self._gone[os.dup(descriptor)] = _Gone(time.monotonic() + FAREWELL_S, addresses, is_back)
            self._late_executor.submit(self._sweep_gone)

    def _add(self, descriptor: int, lost: Lost) -> None:
        with self._lock:
            self._waiting[os.dup(descriptor)] = lost
        self._executor.submit(self._sweep)

    def close(self) -> None:
        """Finish what was left to do."""
        self._is_closing.set()
        self._executor.shutdown(wait=True)
        self._late_executor.shutdown(wait=True)

    def _sweep(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        _forget_in_each(waiting)

    def _sweep_gone(self) -> None:
        with self._lock:
            first = next(iter(self._gone.values()), None)  # Later ones are due later.
        if first is None:
            return  # An earlier sweep did it with its own.
        self._is_closing.wait(max(0.0, first.due - time.monotonic()))
        now = time.monotonic()
        with self._lock:
            due = {at: gone for at, gone in self._gone.items() if gone.due <= now or self._is_closing.is_set()}
            for descriptor in due:
                del self._gone[descriptor]
        _forget_in_each(
            {
                descriptor: Lost(gone=frozenset(address for address in gone.addresses if not gone.is_back(address)))
                for descriptor, gone in due.items()
            }
        )


def _forget_in_each(waiting: Mapping[int, Lost]) -> None:
    """Forget what is lost in each of these namespaces, and close their descriptors."""
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


def forget(descriptor: int, lost: Sequence[Lost], sleep: Callable[[float], None] = time.sleep) -> int:
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
        flows = _open_to_gone(connection, {address for each in lost for address in each.gone})
        flows += _covered(_dump(connection, protocol=socket.IPPROTO_UDP), lost)
        count = _delete(connection, flows)
        waiting = _attempts(connection, lost)
        if waiting:
            sleep(ANSWER_S)  # One that is just being answered must not lose its answer.
            still = {flow.handle for flow in _attempts(connection, lost)}
            count += _delete(connection, [flow for flow in waiting if flow.handle in still])
        return count
    finally:
        connection.close()


def _attempts(connection: NetlinkSocket, lost: Sequence[Lost]) -> list[Flow]:
    """TCP connections that are not made yet."""
    found = _dump(connection, protocol=socket.IPPROTO_TCP, unreplied_only=True)
    return [flow for flow in _covered(found, lost) if flow.tcp_state == TCP_SYN_SENT]


def _covered(flows: Iterable[Flow], lost: Sequence[Lost]) -> list[Flow]:
    return [flow for flow in flows if any(each.covers(flow) for each in lost)]


def _open_to_gone(connection: NetlinkSocket, gone: Collection[str]) -> list[Flow]:
    """What is open towards these addresses; the kernel looks for a few, and many are looked for here in one reading.

    A client may take the port of a connection that is over at any moment, and the kernel may name the new one as it
    named that: those are left to time out.
    """
    if len(gone) <= ASKED_SINGLY:
        found = [flow for address in sorted(gone) for flow in _dump(connection, source=address)]
    else:
        found = [flow for flow in _dump(connection) if flow.source in gone]
    return [flow for flow in found if flow.tcp_state not in (TCP_TIME_WAIT, TCP_CLOSE)]


def _delete(connection: NetlinkSocket, flows: Iterable[Flow]) -> int:
    body, ended_meanwhile = _HEADER.pack(socket.AF_INET, 0, 0), frozenset({errno.ENOENT})
    handles = {flow.handle for flow in flows if flow.status & IPS_DST_NAT}
    connection.send([Request(CT_DELETE, 0, body + handle, "forget a flow", ended_meanwhile) for handle in handles])
    return len(handles)


def _dump(
    connection: NetlinkSocket, *, protocol: int = 0, source: str = "", unreplied_only: bool = False
) -> Iterator[Flow]:
    """Flows that were translated; the kernel leaves out the others, and those of other protocols and sources."""
    mask = IPS_DST_NAT | (IPS_SEEN_REPLY if unreplied_only else 0)
    parts = [
        _HEADER.pack(socket.AF_INET, 0, 0),
        attribute(CTA_STATUS, IPS_DST_NAT.to_bytes(4, "big")),
        attribute(CTA_STATUS_MASK, mask.to_bytes(4, "big")),
    ]
    wanted, flags = b"", 0
    if source:
        wanted += attribute(1 | _NESTED, attribute(1, socket.inet_aton(source)))
        flags |= FILTER_SOURCE
    if protocol:
        wanted += attribute(2 | _NESTED, attribute(1, bytes([protocol])))
        flags |= FILTER_PROTOCOL
    if flags:
        parts.append(attribute(CTA_TUPLE_REPLY | _NESTED, wanted))
        parts.append(attribute(CTA_FILTER | _NESTED, attribute(CTA_FILTER_REPLY_FLAGS, struct.pack("=I", flags))))
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
