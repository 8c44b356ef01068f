"""Keeps the port on which managers' etcd members talk to each other to the managers' addresses.

Edge: one nft table of its own in the network namespace the process is in; a thread, a netlink socket. etcd asks for a
manager's certificate there; the guard keeps everyone else from asking at all, and ends what a removed manager still has
open. The rules stay when the daemon dies, as the member does. Another program that reloads the machine's rules removes
ours, too: the kernel's count of transactions tells that something happened, and they are put back.
Source: nft(8), "REJECT STATEMENT".
"""

import asyncio
import contextlib
import ipaddress
import os
from collections.abc import Collection
from pathlib import Path
from typing import Final

import structlog

from skep.edge import nft
from skep.edge.namespaces import KernelThread, open_own
from skep.edge.netlink import NetlinkRefused
from skep.ports.dataplane import DataPlaneFailure

log = structlog.get_logger(__name__)

TABLE: Final = "skep_peers"
LOOK_S: Final = 5.0
"""How long the port may stay open, or the rules of before in force, after another program removed ours."""
REMOVAL: Final = f"table inet {TABLE}\ndelete table inet {TABLE}\n"


def rules(port: int, addresses: Collection[str]) -> str:
    """The transaction that lets these in, and this machine itself, instead of whoever was let in before.

    Args:
        addresses: IP addresses of either version; may be empty.
    Raises:
        ValueError: One is no address.
    """
    found = sorted({ipaddress.ip_address(address) for address in addresses}, key=str)
    sets = "".join(
        f"  set managers{version} {{ type ipv{version}_addr;{_elements(found, version)} }}\n" for version in (4, 6)
    )
    return f"""{REMOVAL}table inet {TABLE} {{
{sets}  chain guard {{
    type filter hook input priority -350;
    tcp dport != {port} return
    iifname "lo" return
    ip saddr @managers4 return
    ip6 saddr @managers6 return
    meta l4proto tcp reject with tcp reset
  }}
}}
"""


def _elements(addresses: list[ipaddress.IPv4Address | ipaddress.IPv6Address], version: int) -> str:
    chosen = ", ".join(str(address) for address in addresses if address.version == version)
    return f" elements = {{ {chosen} }};" if chosen else ""


class PeerGuard:
    """The guard of one port. Made in a running event loop; nothing happens before the first `allow`."""

    def __init__(self, port: int, *, namespace: Path | None = None, look_s: float = LOOK_S) -> None:
        """Args: namespace: the node's network namespace; the process's own if None. look_s: between looks."""
        self._port = port
        self._look_s = look_s
        self._thread = KernelThread(namespace)
        self._kernel: _Kernel | None = None
        self._changing = asyncio.Lock()
        self._rules = ""
        self._is_closed = False
        self._watch: asyncio.Task[None] | None = None

    async def allow(self, addresses: Collection[str]) -> None:
        """Let these managers in, this one's own address included, and nobody else; again at every change of them.

        Raises:
            DataPlaneFailure: The kernel or nft cannot; who was let in before still is.
        """
        async with self._changing:
            wanted = rules(self._port, addresses)
            await self._apply(wanted)
            self._rules = wanted
        if self._watch is None:
            self._watch = asyncio.create_task(self._look_after())

    async def close(self, *, is_port_free: bool = False) -> None:
        """Stop looking after the rules; idempotent.

        Args:
            is_port_free: No member listens any more: remove the rules as well.
        """
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
            self._watch = None
        async with self._changing:
            if self._is_closed:
                return
            self._is_closed = True
            try:
                if is_port_free:
                    await self._apply(REMOVAL)
            finally:
                kernel, self._kernel = self._kernel, None
                if kernel is not None:
                    await self._thread.run(kernel.close)
                self._thread.close()

    async def _look_after(self) -> None:
        while True:
            await asyncio.sleep(self._look_s)
            async with self._changing:
                try:
                    if await self._thread.run(self._opened.has_changed):
                        await self._apply(self._rules)
                except (DataPlaneFailure, NetlinkRefused, OSError) as failure:
                    log.warning("the rules of the managers' port could not be looked after", reason=str(failure))

    async def _apply(self, text: str) -> None:
        try:
            if self._kernel is None:
                self._kernel = await self._thread.run(_Kernel)
            await self._thread.run(self._kernel.apply, text)
        except (nft.NftRefused, NetlinkRefused, OSError) as error:
            raise DataPlaneFailure(
                f"port {self._port} cannot be kept to managers, which needs nftables in this machine's kernel "
                f"(CONFIG_NF_TABLES_INET, CONFIG_NFT_REJECT_INET): {error}"
            ) from error

    @property
    def _opened(self) -> "_Kernel":
        if self._kernel is None:
            raise DataPlaneFailure("the guard of the managers' port is closed")
        return self._kernel


class _Kernel:
    """This namespace's nft, on the kernel thread."""

    def __init__(self) -> None:
        self._namespace = open_own()
        self._session = nft.open_session(self._namespace)
        self._generations = nft.Generations()
        self._seen = -1

    def apply(self, text: str) -> None:
        before = self._generations.current()
        self._session.apply(text)
        # Another transaction that came in between makes the numbers differ, so that the rules are put once more.
        self._seen = before + 1

    def has_changed(self) -> bool:
        """Whether there was any transaction since the last of ours."""
        return self._generations.current() != self._seen

    def close(self) -> None:
        self._session.close()
        self._generations.close()
        os.close(self._namespace)
