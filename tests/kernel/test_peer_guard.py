"""etcd's peer port answers managers and nobody else; the guard outlives its daemon and whoever flushes the rules."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.kernel.rig import Place

from skep.edge.namespaces import NamespaceDirectory
from skep.edge.peer_guard import TABLE, PeerGuard
from skep.ports.dataplane import DataPlaneFailure

pytestmark = [pytest.mark.kernel, pytest.mark.anyio]
PORT, OTHER_PORT = 2380, 2381
FOUR, SIX = "192.168.78.{}", "fd00:78::{}"
LIMIT_S = 20.0


class Site:
    """A machine that listens, and a neighbour with three addresses of each version."""

    def __init__(self, directory: Path) -> None:
        self.namespaces = NamespaceDirectory(directory)
        self.namespaces.make("machine")
        self.namespaces.make("neighbour")
        self.machine = Place(self.namespaces.path("machine"))
        self.neighbour = Place(self.namespaces.path("neighbour"))
        end = ["type", "veth", "peer", "name", "eth0", "netns", str(self.neighbour.path)]
        self.machine.run("ip", "link", "add", "eth0", *end)
        for place, hosts in ((self.machine, (1,)), (self.neighbour, (2, 3, 4))):
            place.run("ip", "link", "set", "lo", "up")
            for host in hosts:
                place.run("ip", "address", "add", f"{FOUR.format(host)}/24", "dev", "eth0")
                place.run("ip", "address", "add", f"{SIX.format(host)}/64", "dev", "eth0", "nodad")
            place.run("ip", "link", "set", "eth0", "up")
        with self.machine.inside():
            self.listeners = [
                socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
                for port in (PORT, OTHER_PORT)
            ]

    def connect(self, source: str, port: int = PORT, *, place: Place | None = None) -> socket.socket:
        """An open connection. Raises: ConnectionRefusedError: The guard or the machine does not want it."""
        is_four = "." in source
        with (place or self.neighbour).inside():
            one = socket.socket(socket.AF_INET if is_four else socket.AF_INET6)
        try:
            one.settimeout(LIMIT_S)
            one.bind((source, 0))
            one.connect(((FOUR if is_four else SIX).format(1), port))
        except BaseException:
            one.close()
            raise
        return one

    def lets_in(self, source: str, port: int = PORT, *, place: Place | None = None) -> bool:
        try:
            self.connect(source, port, place=place).close()
        except ConnectionRefusedError:
            return False
        return True

    def close(self) -> None:
        for listener in self.listeners:
            listener.close()
        for name in self.namespaces.names():
            self.namespaces.remove(name)


@pytest.fixture
async def site(tmp_path: Path, anyio_backend: str) -> AsyncIterator[Site]:
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes network namespaces")
    made = Site(tmp_path / "hosts")
    try:
        yield made
    finally:
        made.close()


@contextlib.asynccontextmanager
async def guarding(site: Site, *addresses: str, look_s: float = 60.0) -> AsyncIterator[PeerGuard]:
    guard = PeerGuard(PORT, namespace=site.machine.path, look_s=look_s)
    try:
        await guard.allow(addresses)
        yield guard
    finally:
        await guard.close()


async def test_only_managers_are_let_in_by_either_version(site: Site) -> None:
    async with guarding(site, FOUR.format(1), FOUR.format(2), SIX.format(3)) as guard:
        let_in = {source for n in (2, 3, 4) for source in (FOUR.format(n), SIX.format(n)) if site.lets_in(source)}
        assert let_in == {FOUR.format(2), SIX.format(3)}
        assert site.lets_in(FOUR.format(4), OTHER_PORT)
        assert site.lets_in(FOUR.format(1), place=site.machine)
        await guard.allow([FOUR.format(4)])
        assert site.lets_in(FOUR.format(4))
        assert not site.lets_in(FOUR.format(2))


async def test_what_a_removed_manager_still_has_open_is_ended(site: Site) -> None:
    async with guarding(site, FOUR.format(2)) as guard:
        with site.connect(FOUR.format(2)) as open_still:
            await guard.allow([])
            open_still.send(b"?")
            with pytest.raises(ConnectionResetError):
                open_still.recv(1)


async def test_the_rules_stay_with_the_member_and_go_when_it_is_gone(site: Site) -> None:
    async with guarding(site, FOUR.format(2)):
        pass  # The daemon ends, its member does not.
    assert not site.lets_in(FOUR.format(3))
    async with guarding(site, FOUR.format(2), FOUR.format(3)) as next_one:
        assert site.lets_in(FOUR.format(3))
        await next_one.close(is_port_free=True)
    assert site.lets_in(FOUR.format(4))
    assert TABLE not in site.machine.run("nft", "list", "tables")


async def test_rules_that_another_program_removed_are_put_back(site: Site) -> None:
    async with guarding(site, FOUR.format(2), look_s=0.05):
        for _ in range(2):
            site.machine.run("nft", "flush", "ruleset")
            async with asyncio.timeout(LIMIT_S):
                while site.lets_in(FOUR.format(3)):  # noqa: ASYNC110 — the kernel's rules are no event of ours
                    await asyncio.sleep(0.02)
            assert site.lets_in(FOUR.format(2))


async def test_rules_that_nobody_touched_are_left_alone(site: Site) -> None:
    async with guarding(site, FOUR.format(2), look_s=0.02):
        before = site.machine.run("nft", "--handle", "list", "table", "inet", TABLE)
        await asyncio.sleep(0.2)  # Ten looks; a table that is made anew has other handles.
        assert site.machine.run("nft", "--handle", "list", "table", "inet", TABLE) == before


async def test_a_refusal_keeps_who_was_let_in_and_says_what_is_needed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with guarding(site, FOUR.format(2)) as guard:
        monkeypatch.setattr("skep.edge.peer_guard.TABLE", "no such name")
        with pytest.raises(DataPlaneFailure, match="port 2380 cannot be kept to managers, which needs nftables"):
            await guard.allow([FOUR.format(3)])
        assert site.lets_in(FOUR.format(2))
        assert not site.lets_in(FOUR.format(3))
