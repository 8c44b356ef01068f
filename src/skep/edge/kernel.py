"""Bring a node's kernel to its intent and keep it there.

Edge: everything here runs on the kernel thread, one call after the other, and blocks. `known` is what the kernel should
hold; it is updated before the kernel is, and the spaces being worked on are suspect until all of it succeeded, so that
after any failure the next call compares those with the kernel instead of trusting it. The daemon may die between any
two lines: what it leaves is compared and completed by the next one's first `program`.
"""

import ipaddress
import os
import socket
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from skep.core.mesh import facts as f
from skep.core.mesh import naming, program
from skep.core.mesh import nft as nft_text
from skep.core.mesh.facts import Edits, Fact, Value
from skep.core.mesh.intent import NodeIntent
from skep.core.mesh.program import Sandbox, Station
from skep.edge import comparison, conntrack, rtnetlink, sandboxes
from skep.edge.comparison import Finding
from skep.edge.namespaces import NamespaceDirectory
from skep.edge.rtnetlink import VethEnd
from skep.edge.space import Space
from skep.ports.dataplane import DataPlaneFailure, Drift, SandboxConfig

NODE = naming.root_space()
INSIDE_INDEX = 500_000


class Kernel:
    """One node's kernel.

    Attributes:
        spaces: Open namespaces by name, the node's own under the empty name.
        retired: Spaces whose namespace is gone; whoever watches their sockets closes them.
        known: Every fact the kernel should hold.
        intent: The last one programmed; None before the first.
    """

    def __init__(self, station: Station, run_dir: Path, root: Space, mirror: comparison.Mirror) -> None:
        self._station = station
        self._mirror = mirror
        self._records = sandboxes.RecordBook(run_dir / "sandboxes")
        self._namespaces = NamespaceDirectory(run_dir / "netns")
        self.spaces: dict[f.Space, Space] = {NODE: root}
        self.retired: list[Space] = []
        self.known: dict[Fact, Value] = {}
        self.intent: NodeIntent | None = None
        self._suspects: set[f.Space] = set()
        self._sweeper = conntrack.Sweeper()
        self._sandboxes = self._read_records()

    def _read_records(self) -> dict[str, Sandbox]:
        """Take over the sandboxes an earlier daemon left; records without a namespace are of an earlier boot."""
        existing = set(self._namespaces.names())
        records = self._records.read_all()
        for task_id in records.keys() - existing:
            self._records.remove(task_id)
        return {task_id: record for task_id, record in records.items() if task_id in existing}

    def close(self) -> None:
        """Close every descriptor; the kernel keeps what it holds."""
        self._sweeper.close()
        for space in (*self.spaces.values(), *self.retired):
            space.close()
        self._mirror.close()

    # --- intent -----------------------------------------------------------------------

    def program(self, intent: NodeIntent) -> None:
        """Bring the kernel to the intent; the first one of this daemon is compared with all the kernel holds."""
        before, self.intent = self.intent, intent
        if before is None:
            self.known = program.facts_of(intent, self._station, self._sandboxes)
            wanted = self._wanted_spaces()
            self._suspects.update(wanted)
            self._drop([name for name in self._namespaces.names() if naming.is_router(name) and name not in wanted])
        else:
            self._carry_out(program.revise(self.known, before, intent, self._station, self._sandboxes))
        self._mend_suspects()

    def _mend_suspects(self) -> None:
        for name in sorted(self._suspects):
            self.reconcile(name)

    # --- sandboxes ----------------------------------------------------------------------

    def prepare(self, config: SandboxConfig) -> Path:
        """Make a sandbox and connect it; one that exists is completed."""
        if self.intent is None:
            raise DataPlaneFailure(f"task {config.task_id} cannot have a network before the node has its assignments")
        for interface in config.interfaces:
            if interface.network_id and f.Skeleton(naming.router_space(interface.network_id)) not in self.known:
                raise DataPlaneFailure(
                    f"network {interface.network_id} is not programmed on this node: assign it before its tasks"
                )
        old = self._sandboxes.get(config.task_id)
        new = self._record_of(config, old)
        self._records.write(new)
        self._sandboxes[config.task_id] = new
        sandboxes.make_inside(self._namespaces, config.task_id, config.namespace)
        self._carry_out(program.sandbox_edits(self.known, self.intent, self._station, old, new))
        self._mend_suspects()
        return self._namespaces.path(config.task_id)

    def release(self, task_id: str) -> None:
        """Remove a sandbox and every trace of it."""
        old = self._sandboxes.pop(task_id, None)
        if old is not None and self.intent is not None:
            self._carry_out(program.sandbox_edits(self.known, self.intent, self._station, old, None))
        else:
            self._delete_cables(task_id)
        self._namespaces.remove(task_id)
        self._records.remove(task_id)

    def sandbox_names(self) -> list[str]:
        """Task ids of the sandboxes that exist, sorted."""
        return [name for name in self._namespaces.names() if not naming.is_router(name)]

    def open_name_sockets(self, task_id: str) -> tuple[socket.socket, socket.socket]:
        """Sockets in a sandbox at which names are asked: UDP, and TCP listening."""
        descriptor = self._namespaces.open(task_id)
        try:
            return sandboxes.open_name_sockets(descriptor)
        finally:
            os.close(descriptor)

    def _record_of(self, config: SandboxConfig, old: Sandbox | None) -> Sandbox:
        gateway = config.ingress_address.partition("/")[0]
        if config.gateway and not gateway:
            kept = old.gateway_address if old is not None else ""
            taken = (sandbox.gateway_address for sandbox in self._sandboxes.values())
            gateway = kept if naming.is_local(kept) else sandboxes.free_gateway_address(taken)
        return Sandbox(
            task_id=config.task_id,
            interfaces=tuple((interface.network_id, interface.address) for interface in config.interfaces),
            gateway_address=gateway,
            has_exit=config.gateway,
        )

    def _delete_cables(self, task_id: str) -> None:
        """Remove a sandbox's cables by name alone, wherever they are."""
        self.spaces[NODE].delete_links([naming.gateway_device(task_id)])
        for name in self._namespaces.names():
            if naming.is_router(name):
                self._space(name).delete_links([naming.port_device(task_id)])

    # --- carrying out ---------------------------------------------------------------------

    def _carry_out(self, edits: Edits) -> None:
        touched = edits.spaces
        before = {fact: self.known[fact] for fact in chain(edits.put, edits.remove) if fact in self.known}
        self._suspects |= touched
        for fact in edits.remove:
            self.known.pop(fact, None)
        self.known |= edits.put
        dropped = {name for name in touched if f.Skeleton(name) not in self.known}
        for name in sorted(touched - dropped):
            if _is_restructured(name, edits):
                self.reconcile(name)
            else:
                self._amend(name, edits, before)
        self._drop(dropped)
        self._suspects -= touched

    def _amend(self, name: f.Space, edits: Edits, before: dict[Fact, Value]) -> None:
        """Write one space's difference: what forbids comes first, what others need before them."""
        space = self._space(name)
        put = {fact: value for fact, value in edits.put.items() if fact.space == name}
        gone = {fact: value for fact, value in edits.remove.items() if fact.space == name}
        space.apply_nft(nft_text.amend(name, edits, before))
        self._sweeper.leave(space.descriptor, _left_behind(put, gone, before))
        space.remove_entries(gone)
        self._leave_gone(space, gone)
        old_cables = [fact.device for fact in (*put, *gone) if isinstance(fact, f.Cable) and fact in before]
        space.delete_links(old_cables)
        for fact, value in put.items():
            if isinstance(fact, f.Cable) and isinstance(value, f.CableSpec):
                self._make_device(space, fact.device, value)
        space.put_entries(put)
        self.check_nft(name)

    def _leave_gone(self, space: Space, gone: dict[Fact, Value]) -> None:
        """Let go of what is open to addresses to which the way has gone, unless somebody else has them."""

        def is_back(address: str) -> bool:
            return not self.known.keys().isdisjoint(program.ways_to(space.name, address))

        lost = {fact.address for fact in gone if isinstance(fact, f.Neighbour)}
        self._sweeper.leave_gone(space.descriptor, lost, is_back)

    def _make_device(self, space: Space, device: str, spec: f.TunnelSpec | f.CableSpec) -> None:
        if isinstance(spec, f.TunnelSpec):
            space.make_tunnel(device, spec, self.spaces[NODE])
            return
        inside = self._namespaces.open(spec.task_id)
        try:
            mac = naming.address_mac(spec.address.partition("/")[0])
            end = VethEnd(spec.sandbox_device, mac, spec.mtu, inside, _inside_index(spec))
            peer = VethEnd(device, naming.ROUTER_MAC, spec.mtu, space.descriptor)
            self.spaces[NODE].route.send([rtnetlink.add_veth(end, peer)])
            space.bring_up(device)
            sandboxes.connect_inside(inside, spec)
            space.wait_operating(device)
        finally:
            os.close(inside)

    # --- comparing and mending ----------------------------------------------------------------

    def audit(self) -> list[Drift]:
        """Compare everything, change nothing."""
        drift: list[Drift] = []
        for name in self._wanted_spaces():
            if name and not self._namespaces.exists(name):
                drift.append(Drift(name, "the namespace is gone"))
                continue
            space = self._space(name)
            findings = chain(comparison.nft_findings(space, self.known, self._mirror), self._findings(space))
            drift += [Drift(name or "node", finding.what) for finding in findings]
        return drift

    def repair(self) -> list[Drift]:
        """Compare everything and mend what differs; tables nobody else has touched are not read again."""
        return [
            drift
            for name in self._wanted_spaces()
            for drift in self.reconcile(name, trust_generation=name not in self._suspects)
        ]

    def reconcile(self, name: f.Space, *, trust_generation: bool = False) -> list[Drift]:
        """Compare one space and mend what differs; returns what that was."""
        mended: list[str] = []
        if name and not self._namespaces.exists(name):
            mended.append("the namespace is gone")
            self._retire(name)
        space = self._space(name)
        drift = [Drift(name or "node", what) for what in mended]
        if not (trust_generation and space.is_untouched()):
            drift += self._mend_nft(space)
        drift += self._mend(space, self._findings(space))
        self._suspects.discard(name)
        return drift

    def check_nft(self, name: f.Space) -> list[Drift]:
        """Mend a space's table if anyone else has made a transaction in its namespace."""
        space = self.spaces.get(name)
        if space is None or self.intent is None or f.Skeleton(name) not in self.known or space.is_untouched():
            return []
        return self._mend_nft(space)

    def check_entries(self, name: f.Space) -> list[Drift]:
        """Mend a space's devices, routes and neighbours if they differ."""
        if self.intent is None or f.Skeleton(name) not in self.known:
            return []
        return self.reconcile(name, trust_generation=True)

    def _mend_nft(self, space: Space) -> list[Drift]:
        space.expected_generation = space.generations.current()
        mended = self._mend(space, iter(comparison.nft_findings(space, self.known, self._mirror)))
        if mended:
            # Backends may have gone while no daemon saw it.
            self._sweeper.leave_all_but(space.descriptor, _alive(space.name, self.known), self._subnets)
        return mended

    @property
    def _subnets(self) -> tuple[ipaddress.IPv4Network, ...]:
        """Where backends have their addresses."""
        networks = self.intent.networks.values() if self.intent is not None else ()
        subnets = (ipaddress.IPv4Network(subnet.subnet) for network in networks for subnet in network.subnets)
        return (naming.LOCAL_POOL, *subnets)

    def _findings(self, space: Space) -> Iterator[Finding]:
        """Lazily, so that what depends on devices is compared after those were mended."""
        yield from comparison.device_findings(space, self.known, self._make_device)
        yield from comparison.sysctl_findings(space, self.known)
        yield from comparison.entry_findings(space, self.known)

    def _mend(self, space: Space, findings: Iterator[Finding]) -> list[Drift]:
        mended = []
        for finding in findings:
            finding.mend()
            mended.append(Drift(space.name or "node", finding.what))
        return mended

    # --- spaces -------------------------------------------------------------------------------

    def _wanted_spaces(self) -> list[f.Space]:
        return sorted(fact.space for fact in self.known if isinstance(fact, f.Skeleton))

    def _space(self, name: f.Space) -> Space:
        """An open space; a router's namespace is made if it is not there."""
        if name not in self.spaces:
            self._namespaces.make(name)
            self.spaces[name] = Space(name, self._namespaces.open(name))
        return self.spaces[name]

    def _retire(self, name: f.Space) -> None:
        """Empty a router and let go of it.

        Its devices go first: the kernel frees a namespace in its own time, and until then its tunnel's number is taken.
        """
        if name not in self.spaces and self._namespaces.exists(name):
            self._space(name)
        space = self.spaces.pop(name, None)
        if space is not None:
            space.delete_links([device for device in space.links() if naming.is_ours(name, device)])
            self.retired.append(space)

    def _drop(self, names: Iterable[f.Space]) -> None:
        for name in sorted(names):
            self._retire(name)
            self._namespaces.remove(name)

    def clear(self) -> None:
        """Remove everything of Skep from this node's kernel."""
        for name in self._namespaces.names():
            if naming.is_router(name):
                self._drop([name])
            else:
                self._namespaces.remove(name)
                self._records.remove(name)
        root = self.spaces[NODE]
        root.apply_nft(nft_text.removal())
        ours = {link.index: name for name, link in root.links().items() if naming.is_ours(NODE, name)}
        root.remove_entries(root.read_entries(ours))
        root.delete_links(list(ours.values()))
        self._sandboxes.clear()
        self.known.clear()
        self._suspects.clear()
        self.intent = None


def _inside_index(cable: f.CableSpec) -> int:
    """A device number that the other end will not have: for a veth with its peer's number the kernel puts off by up to
    a second the moment it lets packets out."""
    place = 0 if cable.is_gateway else 1 + int(cable.sandbox_device.removeprefix("eth"))
    return INSIDE_INDEX + place


def _is_restructured(name: f.Space, edits: Edits) -> bool:
    structures = (f.Skeleton(name), f.Tunnel(name, naming.INGRESS_DEVICE), f.Tunnel(name, naming.TUNNEL_DEVICE))
    return any(fact in edits.put or fact in edits.remove for fact in structures)


def _alive(space: f.Space, known: f.Facts) -> set[conntrack.Target]:
    """Every backend a space's chains lead to."""
    return {
        conntrack.Target(address, value.protocol, value.port)
        for fact, value in known.items()
        if isinstance(fact, f.Chain) and fact.space == space and isinstance(value, f.Balance)
        for address in value.addresses
    }


def _left_behind(
    put: dict[Fact, Value], gone: dict[Fact, Value], before: dict[Fact, Value]
) -> Iterator[conntrack.Target]:
    """Backends that a service's chain led to and leads to no more."""
    for fact in (*put, *gone):
        old, new = before.get(fact), put.get(fact)
        if isinstance(fact, f.Chain) and isinstance(old, f.Balance):
            staying = new.addresses if isinstance(new, f.Balance) else ()
            for address in old.addresses:
                if address not in staying:
                    yield conntrack.Target(address, old.protocol, old.port)
