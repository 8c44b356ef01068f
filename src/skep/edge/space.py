"""One network namespace of the mesh, and the facts of its kernel.

Edge: rtnetlink, nft and /proc/sys of a namespace, on the kernel thread. A space turns facts into requests; it does not
know why they are wanted. Everything it makes carries Skep's names, table or route protocol, so that what belongs to
others is never touched.
"""

import os
import time
from collections.abc import Iterable, Mapping
from typing import Final

from skep.core.mesh import facts as f
from skep.core.mesh import naming
from skep.core.mesh.facts import Fact, Value
from skep.edge import netlink, nft, rtnetlink
from skep.edge.namespaces import entered, read_sysctl, write_sysctl
from skep.edge.netlink import NetlinkSocket, NetlinkWatch, Request
from skep.edge.rtnetlink import KernelNeighbour, KernelRoute, KernelRule

ROUTE_GROUPS: Final = (
    rtnetlink.RTNLGRP_LINK,
    rtnetlink.RTNLGRP_NEIGH,
    rtnetlink.RTNLGRP_IPV4_IFADDR,
    rtnetlink.RTNLGRP_IPV4_ROUTE,
    rtnetlink.RTNLGRP_IPV4_RULE,
)


OPERATING_TIMEOUT_S: Final = 2.0


class LinkMissing(Exception):
    """A device that facts speak of is not there."""


class Space:
    """An open namespace.

    Attributes:
        name: Empty for the node itself.
        expected_generation: What the kernel's nft generation is as long as nobody else makes a transaction.
        innocent_generations: Those known not to be about our table.
    """

    def __init__(self, name: f.Space, descriptor: int) -> None:
        """Args: descriptor: of the namespace; owned by the space from now on."""
        self.name = name
        self.descriptor = descriptor
        with entered(descriptor):
            self.route = NetlinkSocket(netlink.NETLINK_ROUTE)
            self.generations = nft.Generations()
            self.nft_watch = nft.GenerationWatch()
            self.route_watch = NetlinkWatch(netlink.NETLINK_ROUTE, ROUTE_GROUPS)
        self.nft = nft.open_session(descriptor)
        self.expected_generation = -1
        self.innocent_generations: set[int] = set()
        self._indexes: dict[str, int] = {}

    def close(self) -> None:
        """Let go of sockets and descriptor; the namespace stays."""
        for part in (self.nft_watch, self.route_watch, self.generations, self.nft, self.route):
            part.close()
        os.close(self.descriptor)

    # --- nft -------------------------------------------------------------------

    def apply_nft(self, text: str) -> None:
        """Run a transaction and count it.

        Raises:
            nft.NftRefused
        """
        if text:
            self._pass_over_innocent()
            self.nft.apply(text)
            self.expected_generation += 1

    def is_untouched(self) -> bool:
        """Whether nobody else has touched our table since the last comparison."""
        self._pass_over_innocent()
        return self.generations.current() == self.expected_generation

    def _pass_over_innocent(self) -> None:
        self.innocent_generations |= self.nft_watch.innocent()
        while self.expected_generation + 1 in self.innocent_generations:
            self.expected_generation += 1
        self.innocent_generations -= {each for each in self.innocent_generations if each <= self.expected_generation}

    # --- links -----------------------------------------------------------------

    def links(self) -> dict[str, rtnetlink.Link]:
        """Every link by name, read now."""
        found = [rtnetlink.read_link(reply) for reply in self.route.dump(rtnetlink.get_links())]
        self._indexes = {link.name: link.index for link in found}
        return {link.name: link for link in found}

    def index(self, device: str) -> int:
        """Raises: LinkMissing."""
        if device not in self._indexes:
            for reply in self.route.ask(rtnetlink.get_link(device)):
                self._indexes[device] = rtnetlink.read_link(reply).index
        if device not in self._indexes:
            raise LinkMissing(f"there is no device {device} in {self.name or 'the node'}")
        return self._indexes[device]

    def make_tunnel(self, device: str, spec: f.TunnelSpec, root: "Space") -> None:
        """Make the VXLAN device here, with its underlay in the node's own namespace, and bring it up."""
        options = rtnetlink.Vxlan(device, spec.vni, spec.port, spec.local, spec.mac, spec.mtu, self.descriptor)
        root.route.send([rtnetlink.add_vxlan(options)])
        self.bring_up(device, spec.addresses)

    def bring_up(self, device: str, addresses: Iterable[str] = ()) -> None:
        """Configure a device that was just made and set it up."""
        self._indexes.pop(device, None)
        self.configure(device)
        index = self.index(device)
        requests = [rtnetlink.add_address(index, f"{address}/32") for address in addresses]
        self.route.send([*requests, rtnetlink.set_up(index)])

    def wait_operating(self, device: str) -> None:
        """Wait until a cable whose ends are both up carries packets: the kernel gets round to that a moment later, and
        drops what is sent before.

        Raises:
            LinkMissing: It did not within two seconds.
        """
        deadline = time.monotonic() + OPERATING_TIMEOUT_S
        while time.monotonic() < deadline:
            for reply in self.route.ask(rtnetlink.get_link(device)):
                if rtnetlink.read_link(reply).operating == rtnetlink.IF_OPER_UP:
                    return
            time.sleep(0.001)
        raise LinkMissing(f"the device {device} does not carry packets though both its ends are up")

    def tunnel_of(self, device: str) -> f.TunnelSpec | None:
        """What a VXLAN device is, read now; None if there is no such device or it is another kind."""
        if device not in self.links():
            return None
        [reply] = self.route.ask(rtnetlink.get_link(device))
        seen = rtnetlink.read_vxlan(reply)
        if seen is None:
            return None
        index = self.index(device)
        replies = self.route.dump(rtnetlink.get_addresses())
        addresses = [address for at, address in map(rtnetlink.read_address, replies) if at == index]
        bare = tuple(address.partition("/")[0] for address in addresses)
        return f.TunnelSpec(seen.vni, seen.port, seen.local, seen.mac, seen.mtu, bare)

    def configure(self, device: str) -> None:
        """Set a device's kernel parameters, before it is up."""
        with entered(self.descriptor):
            for name, value in device_sysctls(self.name, device).items():
                write_sysctl(name, value)

    def wrong_sysctls(self, devices: Iterable[str]) -> dict[str, str]:
        """Parameters of the space and of its devices that are not as they should be, with the right value."""
        with entered(self.descriptor):
            wanted = dict(space_sysctls(self.name))
            for device in devices:
                wanted |= device_sysctls(self.name, device)
            return {name: value for name, value in wanted.items() if read_sysctl(name) not in ("", value)}

    def delete_links(self, devices: Iterable[str]) -> None:
        self.route.send([rtnetlink.delete_link(device) for device in devices])
        for device in devices:
            self._indexes.pop(device, None)

    def our_indexes(self) -> set[int]:
        """Numbers of our devices, as far as they are known. From any thread."""
        return {index for name, index in dict(self._indexes).items() if naming.is_ours(self.name, name)}

    # --- facts -----------------------------------------------------------------

    def put_entries(self, entries: Mapping[Fact, Value]) -> None:
        """Write neighbours, forwarding, routes and rules, in the order in which they need each other.

        Raises:
            LinkMissing, netlink.NetlinkRefused
        """
        ordered = sorted(entries.items(), key=lambda entry: _order(entry[0]))
        self.route.send([request for fact, value in ordered for request in self._put(fact, value)])

    def remove_entries(self, entries: Mapping[Fact, Value]) -> None:
        """Remove what `put_entries` wrote; what is gone already is no error."""
        ordered = sorted(entries.items(), key=lambda entry: -_order(entry[0]))
        self.route.send([request for fact, value in ordered for request in self._remove(fact, value)])

    def _put(self, fact: Fact, value: Value) -> list[Request]:
        match fact, value:
            case f.Neighbour(_, device, address), str():
                return [rtnetlink.put_neighbour(KernelNeighbour(self.index(device), address, value))]
            case f.Forwarding(_, device, mac), str():
                return [rtnetlink.put_forwarding(KernelNeighbour(self.index(device), value, mac))]
            case f.Route(_, table, destination), f.Hop():
                return [rtnetlink.put_route(self.kernel_route(table, destination, value))]
            case f.Steering(_, mark), int():
                return [rtnetlink.add_rule(KernelRule(naming.RULE_PRIORITY, mark, value, naming.ROUTE_PROTOCOL))]
            case _:
                return []

    def _remove(self, fact: Fact, value: Value) -> list[Request]:
        try:
            match fact, value:
                case f.Neighbour(_, device, address), _:
                    return [rtnetlink.delete_neighbour(self.index(device), address)]
                case f.Forwarding(_, device, mac), str():
                    return [rtnetlink.delete_forwarding(KernelNeighbour(self.index(device), value, mac))]
                case f.Route(_, table, destination), _:
                    return [rtnetlink.delete_route(table, destination, naming.ROUTE_PROTOCOL)]
                case f.Steering(_, mark), int():
                    rule = KernelRule(naming.RULE_PRIORITY, mark, value, naming.ROUTE_PROTOCOL)
                    return [rtnetlink.delete_rule(rule)]
                case _:
                    return []
        except LinkMissing:
            return []  # Entries go with their device.

    def kernel_route(self, table: int, destination: str, hop: f.Hop) -> KernelRoute:
        index = self.index(hop.device) if hop.device else 0
        return KernelRoute(table, destination, index, hop.via, protocol=naming.ROUTE_PROTOCOL)

    def read_entries(self, names: Mapping[int, str]) -> dict[Fact, Value]:
        """What the kernel holds of ours, as facts: our routes and rules, and fixed entries on our devices.

        Args:
            names: Our devices by index.
        """
        found: dict[Fact, Value] = {}
        for reply in self.route.dump(rtnetlink.get_routes(naming.ROUTE_PROTOCOL)):
            route = rtnetlink.read_route(reply)
            if route.protocol == naming.ROUTE_PROTOCOL:
                hop = f.Hop(names.get(route.index, f"#{route.index}") if route.index else "", route.via)
                found[f.Route(self.name, route.table, route.destination)] = hop
        for reply in self.route.dump(rtnetlink.get_rules()):
            rule = rtnetlink.read_rule(reply)
            if rule.protocol == naming.ROUTE_PROTOCOL:
                found[f.Steering(self.name, rule.mark)] = rule.table
        for reply in self.route.dump(rtnetlink.get_neighbours()):
            entry = rtnetlink.read_neighbour(reply)
            if entry.index in names and entry.is_permanent and entry.address:
                found[f.Neighbour(self.name, names[entry.index], entry.address)] = entry.mac
        for reply in self.route.dump(rtnetlink.get_neighbours(family=rtnetlink.AF_BRIDGE)):
            entry = rtnetlink.read_neighbour(reply)
            if entry.index in names and entry.address:
                found[f.Forwarding(self.name, names[entry.index], entry.mac)] = entry.address
        return found


def space_sysctls(space: f.Space) -> dict[str, str]:
    """Kernel parameters of a whole space. The node's own namespace belongs to its owner: only forwarding is set."""
    if not space:
        return {"net/ipv4/ip_forward": "1"}
    return {
        "net/ipv4/ip_forward": "1",
        "net/ipv4/conf/all/rp_filter": "0",
        "net/ipv4/conf/all/send_redirects": "0",
        "net/ipv4/conf/default/send_redirects": "0",
        "net/ipv6/conf/all/disable_ipv6": "1",
        "net/ipv6/conf/default/disable_ipv6": "1",
    }


def device_sysctls(space: f.Space, device: str) -> dict[str, str]:
    """Kernel parameters of one of our devices. Read in the namespace: strict filtering for all of it is softened.

    route_localnet is on where a node's own `localhost:PORT` leaves and comes back; a rule drops 127/8 from outside
    (CVE-2020-8558).
    """
    ipv4, neighbours, ipv6 = f"net/ipv4/conf/{device}", f"net/ipv4/neigh/{device}", f"net/ipv6/conf/{device}"
    is_tunnel = device in (naming.INGRESS_DEVICE, naming.TUNNEL_DEVICE)
    # A peer hands over clients' packets, whose sources are routed elsewhere. The kernel takes the greater of this
    # and the value for all: where that is strict, 2 (loose) is as far as it goes.
    tunnel_filter = "0" if read_sysctl("net/ipv4/conf/all/rp_filter") in ("", "0") else "2"
    wanted = {
        f"{ipv6}/disable_ipv6": "1",
        f"{ipv6}/accept_ra": "0",
        f"{ipv4}/rp_filter": tunnel_filter if is_tunnel else "1",
        f"{ipv4}/send_redirects": "0",
        f"{ipv4}/accept_redirects": "0",
        f"{ipv4}/forwarding": "1",
    }
    if not space:
        wanted[f"{ipv4}/route_localnet"] = "1"
    elif not is_tunnel:
        wanted[f"{ipv4}/proxy_arp"] = "1"
        # Otherwise a proxy answers after a random delay of up to 0.8 s.
        wanted[f"{neighbours}/proxy_delay"] = "0"
    return wanted


def is_entry(fact: Fact) -> bool:
    """Whether `put_entries` writes it."""
    return isinstance(fact, f.Neighbour | f.Forwarding | f.Route | f.Steering)


def _order(fact: Fact) -> int:
    match fact:
        case f.Route(_, _, destination):
            return 2 if destination == "0.0.0.0/0" else 1  # A next hop must be routed first.
        case f.Steering():
            return 3
        case _:
            return 0
