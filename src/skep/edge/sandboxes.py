"""Sandboxes on disk and in the kernel: a task's namespace, its inside, and the record of what it was asked for.

Edge: namespaces, netlink, nft, small files; on the kernel thread. The record is written before the namespace is made
and removed after it, so that whatever a killed daemon leaves behind has a record to finish or remove it by.
"""

import os
import socket
from collections.abc import Iterable
from pathlib import Path

import msgspec

from skep.core.mesh import naming
from skep.core.mesh import nft as nft_text
from skep.core.mesh.facts import CableSpec
from skep.core.mesh.program import Sandbox
from skep.edge import nft, rtnetlink
from skep.edge.namespaces import NamespaceDirectory, NamespaceFailure, entered, write_sysctl
from skep.edge.netlink import NetlinkSocket
from skep.edge.rtnetlink import KernelNeighbour, KernelRoute
from skep.model.codec import MALFORMED

SANDBOX_SYSCTLS = {
    "net/ipv4/conf/all/accept_redirects": "0",
    "net/ipv4/conf/default/accept_redirects": "0",
    "net/ipv6/conf/default/disable_ipv6": "1",
    "net/ipv6/conf/default/accept_ra": "0",
    # As Docker does: an unprivileged program in a container may bind any port and may ping.
    "net/ipv4/ip_unprivileged_port_start": "0",
    "net/ipv4/ping_group_range": "0 2147483647",
}
MAIN_TABLE = 254


class RecordBook:
    """The sandboxes' records, one file each."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def read_all(self) -> dict[str, Sandbox]:
        """Every readable record by task id; a file cut short by a crash is removed."""
        records: dict[str, Sandbox] = {}
        if not self._directory.is_dir():
            return records
        for path in sorted(self._directory.glob("*.json")):
            try:
                records[path.stem] = msgspec.json.decode(path.read_bytes(), type=Sandbox)
            except MALFORMED:
                path.unlink(missing_ok=True)
        return records

    def write(self, record: Sandbox) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = self._directory / f"{record.task_id}.draft"
        draft.write_bytes(msgspec.json.encode(record))
        draft.rename(self._directory / f"{record.task_id}.json")

    def remove(self, task_id: str) -> None:
        (self._directory / f"{task_id}.json").unlink(missing_ok=True)


def free_gateway_address(taken: Iterable[str]) -> str:
    """An address of the node-local pool that no sandbox has.

    Raises:
        NamespaceFailure: All 16,382 are taken.
    """
    used = set(taken)
    for address in naming.LOCAL_POOL.hosts():
        if str(address) not in used:
            return str(address)
    raise NamespaceFailure(f"every address of the node-local pool {naming.LOCAL_POOL} is taken: run fewer tasks here")


def make_inside(namespaces: NamespaceDirectory, task_id: str, existing: Path | None = None) -> None:
    """Make a task's namespace and set it up, but for its interfaces. Repeating it does no harm.

    Args:
        existing: A namespace to take over instead: it keeps what its maker set.
    """
    if existing is not None:
        namespaces.keep(task_id, existing)
    else:
        namespaces.make(task_id)
    descriptor = namespaces.open(task_id)
    try:
        with entered(descriptor):
            for name, value in SANDBOX_SYSCTLS.items() if existing is None else ():
                write_sysctl(name, value)
            route = NetlinkSocket()
        try:
            loopback = socket.if_nametoindex("lo")  # Number 1 in every namespace.
            route.send([rtnetlink.set_up(loopback)])
        finally:
            route.close()
        session = nft.open_session(descriptor)
        try:
            session.apply(nft_text.removal() + nft_text.sandbox_table())
        finally:
            session.close()
    finally:
        os.close(descriptor)


def connect_inside(descriptor: int, cable: CableSpec) -> None:
    """Give the sandbox's end of a cable its address and routes and bring it up."""
    with entered(descriptor):
        index = socket.if_nametoindex(cable.sandbox_device)
        route = NetlinkSocket()
    try:
        requests = [rtnetlink.add_address(index, cable.address), rtnetlink.set_up(index)]
        if cable.is_gateway:
            next_hop = naming.GATEWAY_NEXT_HOP
            source = cable.address.partition("/")[0]
            requests.append(rtnetlink.put_neighbour(KernelNeighbour(index, next_hop, naming.ROUTER_MAC)))
            requests.append(rtnetlink.put_route(KernelRoute(MAIN_TABLE, "0.0.0.0/0", index, next_hop, source)))
        route.send(requests)
    finally:
        route.close()


def open_name_sockets(descriptor: int) -> tuple[socket.socket, socket.socket]:
    """Sockets inside a sandbox at which names are asked: UDP, and TCP listening. Both non-blocking."""
    with entered(descriptor):
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        for one in (udp, tcp):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((naming.DNS_ADDRESS, naming.DNS_PORT))
        tcp.listen(128)
    except OSError as error:
        udp.close()
        tcp.close()
        raise NamespaceFailure(f"{naming.DNS_ADDRESS}:{naming.DNS_PORT} is taken in the sandbox") from error
    return udp, tcp
