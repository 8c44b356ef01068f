"""The data plane of a Linux node: the asynchronous face of `kernel.Kernel`, and the watch over what it programmed.

Edge: asyncio; all kernel work happens on one thread of its own, since only a thread can visit another namespace.
Changes by others are noticed as they happen (nftables and rtnetlink notifications) and mended 50 ms later; the
agent's periodic `repair` finds what no notification told.
"""

import asyncio
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

import structlog

from skep.core.mesh import facts as f
from skep.core.mesh import naming
from skep.core.mesh import nft as nft_text
from skep.core.mesh.intent import NodeIntent
from skep.core.mesh.program import Station
from skep.edge import comparison, netlink, nft, notice, rtnetlink
from skep.edge.kernel import Kernel
from skep.edge.namespaces import KernelThread, NamespaceFailure, entered, open_own
from skep.edge.netlink import NetlinkRefused
from skep.edge.space import LinkMissing, Space
from skep.ports.dataplane import DataPlaneFailure, Drift, SandboxConfig

P = ParamSpec("P")
R = TypeVar("R")

CHECK_DELAY_S: Final = 0.05
MIN_MTU: Final = 1280

log = structlog.get_logger(__name__)


class LinuxDataPlane:
    """`ports.dataplane.DataPlane` on the kernel of the network namespace this process is in. One event loop."""

    def __init__(
        self,
        *,
        self_node_id: str,
        run_dir: Path,
        underlay_address: str,
        underlay_device: str | None = None,
        namespace: Path | None = None,
    ) -> None:
        """Nothing happens before `start`.

        Args:
            self_node_id: This node.
            run_dir: Absolute, private to this daemon; namespaces live in `netns/` below it.
            underlay_address: Where other nodes reach this one.
            underlay_device: The device that carries it; found by the address if None.
            namespace: The network namespace that is the node; the process's own if None.
        """
        self._node_id = self_node_id
        self._run_dir = run_dir
        self._underlay = underlay_address
        self._underlay_device = underlay_device
        self._namespace = namespace
        self._thread: KernelThread | None = None
        self._kernel: Kernel | None = None
        self._watched: dict[f.Space, Space] = {}
        self._suspects: dict[f.Space, set[str]] = {}
        self._check: asyncio.Task[None] | None = None
        self._mended: list[Drift] = []

    async def start(self) -> None:
        """See `DataPlane.start`; also begins to watch."""
        if self._kernel is not None:
            return
        self._thread = KernelThread(self._namespace)
        try:
            self._kernel = await self._call(self._open)
        except DataPlaneFailure:
            self._thread.close()
            self._thread = None
            raise
        self._watch()

    async def close(self) -> None:
        """See `DataPlane.close`."""
        kernel, thread = self._kernel, self._thread
        self._kernel = self._thread = None
        if self._check is not None:
            self._check.cancel()
            self._check = None
        for space in self._watched.values():
            self._unwatch(space)
        self._watched.clear()
        if kernel is not None and thread is not None:
            await thread.run(kernel.close)
            thread.close()

    async def program(self, intent: NodeIntent) -> None:
        """See `DataPlane.program`."""
        await self._on_kernel(self._opened.program, intent)

    async def prepare(self, config: SandboxConfig) -> Path:
        """See `DataPlane.prepare`."""
        return await self._on_kernel(self._opened.prepare, config)

    async def release(self, task_id: str) -> None:
        """See `DataPlane.release`."""
        await self._on_kernel(self._opened.release, task_id)

    async def sandboxes(self) -> Sequence[str]:
        """See `DataPlane.sandboxes`."""
        return await self._on_kernel(self._opened.sandbox_names)

    async def audit(self) -> Sequence[Drift]:
        """See `DataPlane.audit`."""
        return await self._on_kernel(self._opened.audit)

    async def repair(self) -> Sequence[Drift]:
        """See `DataPlane.repair`; what the watch mended since the last call is included."""
        mended = list(await self._on_kernel(self._opened.repair))
        mended[:0], self._mended = self._mended, []
        return mended

    async def clear(self) -> None:
        """See `DataPlane.clear`."""
        await self._on_kernel(self._opened.clear)

    async def open_dns_sockets(self, task_id: str) -> tuple[socket.socket, socket.socket]:
        """Sockets inside a sandbox to which its queries to 127.0.0.11:53 come: UDP, and TCP listening.

        Both are non-blocking and the caller's to close.

        Raises:
            DataPlaneFailure: There is no such sandbox, or something listens there already.
        """
        return await self._on_kernel(self._opened.open_name_sockets, task_id)

    # --- on the kernel thread ------------------------------------------------------

    def _open(self) -> Kernel:
        root, mirror = Space(naming.root_space(), open_own()), comparison.Mirror()
        try:
            _check_features(mirror)
            mtu = _underlay_mtu(root, self._underlay, self._underlay_device) - naming.VXLAN_OVERHEAD
            if mtu < MIN_MTU:
                raise DataPlaneFailure(
                    f"the underlay's MTU leaves {mtu} bytes inside VXLAN: raise it by {MIN_MTU - mtu}"
                )
            return Kernel(Station(self._node_id, self._underlay, mtu), self._run_dir, root, mirror)
        except BaseException:
            root.close()
            mirror.close()
            raise

    @property
    def _opened(self) -> Kernel:
        if self._kernel is None:
            raise DataPlaneFailure("the data plane is not started")
        return self._kernel

    async def _on_kernel(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await self._call(call, *args, **kwargs)
        finally:
            if self._kernel is not None:
                self._watch()

    async def _call(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        if self._thread is None:
            raise DataPlaneFailure("the data plane is not started")
        try:
            return await self._thread.run(call, *args, **kwargs)
        except (NetlinkRefused, nft.NftRefused, NamespaceFailure, LinkMissing, OSError) as error:
            raise DataPlaneFailure(f"the kernel could not be programmed: {error}") from error

    # --- the watch ------------------------------------------------------------------

    def _watch(self) -> None:
        """Watch the spaces that are open now, and no others."""
        kernel, loop = self._opened, asyncio.get_running_loop()
        for name, space in list(self._watched.items()):
            if kernel.spaces.get(name) is not space:
                self._unwatch(space)
                del self._watched[name]
        while kernel.retired:
            kernel.retired.pop().close()
        for name, space in list(kernel.spaces.items()):
            if name not in self._watched:
                self._watched[name] = space
                loop.add_reader(space.nft_watch.socket, self._notice_nft, space)
                loop.add_reader(space.route_watch.socket, self._notice_route, space)

    def _unwatch(self, space: Space) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(space.nft_watch.socket)
        loop.remove_reader(space.route_watch.socket)

    def _notice_nft(self, space: Space) -> None:
        # What happened is read on the kernel thread, which knows what was its own; until then, do not tell again.
        asyncio.get_running_loop().remove_reader(space.nft_watch.socket)
        self._suspect(space, "nft")

    def _notice_route(self, space: Space) -> None:
        seen = space.route_watch.drain()
        own = {each.route.port for each in self._watched.values()}
        known = self._opened.known
        if seen is None or any(reply.port not in own and notice.concerns(reply, space, known) for reply in seen):
            self._suspect(space, "route")

    def _suspect(self, space: Space, kind: str) -> None:
        self._suspects.setdefault(space.name, set()).add(kind)
        if self._check is None or self._check.done():
            self._check = asyncio.get_running_loop().create_task(self._check_suspects())

    async def _check_suspects(self) -> None:
        while self._suspects:
            await asyncio.sleep(CHECK_DELAY_S)
            suspects, self._suspects = self._suspects, {}
            for name, kinds in suspects.items():
                try:
                    await self._check_space(name, kinds)
                except DataPlaneFailure as failure:
                    log.warning("the kernel could not be mended", place=name or "node", error=str(failure))
                space = self._watched.get(name)
                if space is not None:
                    asyncio.get_running_loop().add_reader(space.nft_watch.socket, self._notice_nft, space)

    async def _check_space(self, name: f.Space, kinds: set[str]) -> None:
        kernel = self._opened
        mended = list(await self._on_kernel(kernel.check_nft, name)) if "nft" in kinds else []
        if "route" in kinds:
            mended += await self._on_kernel(kernel.check_entries, name)
        for drift in mended:
            log.warning("kernel repaired", place=drift.place, what=drift.what)
        self._mended += mended


def _underlay_mtu(root: Space, address: str, device: str | None) -> int:
    links = {link.index: link for link in root.links().values()}
    for index, found in map(rtnetlink.read_address, root.route.dump(rtnetlink.get_addresses())):
        link = links.get(index)
        if link is not None and found.partition("/")[0] == address and device in (None, link.name):
            return link.mtu
    where = f"on {device}" if device else "on any device"
    raise DataPlaneFailure(f"the underlay address {address} is not {where} of this node: give one that is")


def _check_features(mirror: comparison.Mirror) -> None:
    """Load what will be programmed into a scratch namespace.

    Raises:
        DataPlaneFailure: Naming what the kernel lacks.
    """
    skeletons = (
        nft_text.node_skeleton(port=4789, mesh="10.0.0.1", ingress_subnets=("10.0.0.0/24",)),
        nft_text.router_skeleton((("10.0.1.0/24", "10.0.1.1"),)),
    )
    try:
        for skeleton in skeletons:
            facts: dict[f.Fact, f.Value] = {
                f.Skeleton(""): skeleton,
                f.Chain("", "probe"): f.Balance(("10.0.0.2", "10.0.0.3"), "tcp", 80),
                f.Chain("", "probe_none"): f.Balance((), "tcp", 80),
            }
            mirror.index(nft_text.reload("", facts))
    except nft.NftRefused as error:
        raise DataPlaneFailure(f"the kernel's nftables cannot do what the mesh needs: {error}") from error
    with entered(mirror.descriptor):
        connection = netlink.NetlinkSocket()
    tunnel = rtnetlink.Vxlan("probe", 1, 4789, "127.0.0.1", "02:5e:00:00:00:02", 1450, mirror.descriptor)
    try:
        connection.send([rtnetlink.add_vxlan(tunnel), rtnetlink.delete_link("probe")])
    except NetlinkRefused as error:
        raise DataPlaneFailure(f"the kernel has no VXLAN (CONFIG_VXLAN, module vxlan): {error}") from error
    finally:
        connection.close()
