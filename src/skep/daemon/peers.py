"""Keeps the port of this manager's etcd member open to the other managers, whoever they are at present.

Edge: the guard of the port. etcd itself asks for a manager's certificate there; so where the kernel cannot guard the
port, the manager says so and goes on.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

import structlog

from skep.daemon.config import CONTROL_PORT, is_address, split_address
from skep.edge.etcd.members import Membership as Members
from skep.edge.etcd.settings import PEER_PORT
from skep.edge.peer_guard import PeerGuard
from skep.model.node import Node, Role
from skep.ports.dataplane import DataPlaneFailure
from skep.ports.store import StoreUnavailable
from skep.store.changes import Batch
from skep.store.state import View

log = structlog.get_logger(__name__)

AGAIN_S: Final = 5.0


class PeerDoor:
    """Of one manager whose state is in etcd."""

    def __init__(self, view: Callable[[], View], own_host: str, members: Members | None) -> None:
        self._view = view
        self._own_host = own_host
        self._members = members
        self._member_hosts: frozenset[str] = frozenset()
        self._changed = asyncio.Event()

    def observe(self, batch: Batch) -> None:
        """Take in a committed batch: give it to `Replica.observers`."""
        if any(event.kind == "node" for event in batch.events):
            self._changed.set()

    async def run(self) -> None:
        """Follow the managers until cancelled; the rules stay, as the member does."""
        guard = PeerGuard(PEER_PORT)
        let_in: frozenset[str] = frozenset()
        try:
            while True:
                self._changed.clear()
                wanted = manager_hosts(self._view()) | await self._known_members() | {self._own_host}
                if wanted != let_in:
                    try:
                        await guard.allow(wanted)
                        let_in = wanted
                    except DataPlaneFailure as failure:
                        log.error("the managers' port is not guarded", reason=str(failure))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(AGAIN_S):
                        await self._changed.wait()
        finally:
            await guard.close()

    async def _known_members(self) -> frozenset[str]:
        """Where etcd's members are: a machine with several addresses may come from another one than it advertises."""
        try:
            found = await self._members.members() if self._members is not None else []
        except StoreUnavailable:
            return self._member_hosts
        hosts = (urlsplit(member.peer_url).hostname or "" for member in found)
        self._member_hosts = frozenset(host for host in hosts if is_address(host))
        return self._member_hosts


async def open_port() -> None:
    """Remove the guard: no member listens here any more."""
    with contextlib.suppress(DataPlaneFailure):
        await PeerGuard(PEER_PORT).close(is_port_free=True)


def manager_hosts(view: View) -> frozenset[str]:
    """Addresses of every node that is a manager, or is to be one."""
    return frozenset(host for node in view.nodes.values() for host in _hosts(node) if is_address(host))


def _hosts(node: Node) -> list[str]:
    hosts = [split_address(node.manager_status.addr, CONTROL_PORT)[0]] if node.manager_status is not None else []
    return [*hosts, node.status.addr] if hosts or node.spec.role == Role.MANAGER else []
