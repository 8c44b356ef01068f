"""What a user may ask of a network's addressing, and the subnets that are cut when nothing is asked.

Pure. IPv4 only; addresses are integers inside and text with prefix length at the edges, as Docker writes them.
Source: moby api/types/network/ipam.go (ValidateIPAM) for rules and wording.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Network, NetmaskValueError, ip_network

from skep.lib.ranges import RangeSet
from skep.model.errors import InvalidSpec, Unsupported
from skep.model.network import IPAMConfig, NetworkSpec

SMALLEST_SUBNET = 30
"""Prefix length: a gateway and one task need four addresses with the two at the ends."""


def number_of(address: str) -> int:
    """Read `10.0.1.5` or `10.0.1.5/24`."""
    return int(IPv4Address(address.partition("/")[0]))


def address_text(number: int) -> str:
    """Write without prefix length."""
    return str(IPv4Address(number))


@dataclass(frozen=True, slots=True)
class Subnet:
    """One subnet of a network.

    Attributes:
        first, last: All of it, ends included.
        low, high: What may be given out: the ip_range, or all but the network's own and its broadcast address.
        gateway: Its address.
        reserved: Never given out: the gateway and the auxiliary addresses.
    """

    first: int
    last: int
    prefix: int
    low: int
    high: int
    gateway: int
    reserved: tuple[int, ...]

    def write(self, number: int) -> str:
        """An address of this subnet with its prefix length."""
        return f"{address_text(number)}/{self.prefix}"


def read_subnet(config: IPAMConfig) -> Subnet:
    """Read and check one IPAM entry that names a subnet; the gateway is its first address unless given.

    Raises:
        InvalidSpec, Unsupported: With Docker's wording where it has one.
    """
    block = _block("subnet", config.subnet)
    if block.prefixlen > SMALLEST_SUBNET:
        raise InvalidSpec(
            f"invalid subnet {block}: too small for a gateway and a task; use /{SMALLEST_SUBNET} or larger"
        )
    if block.is_multicast or block.is_loopback or block.is_link_local or int(block.network_address) == 0:
        raise InvalidSpec(f"invalid subnet {block}: these addresses cannot be given to tasks; use a private block")
    first, last = int(block.network_address), int(block.broadcast_address)
    low, high = first + 1, last - 1
    if config.ip_range:
        inner = _block("ip-range", config.ip_range)
        if inner.prefixlen < block.prefixlen:
            raise InvalidSpec(f"invalid ip-range {inner}: CIDR block is bigger than its parent subnet {block}")
        if not inner.overlaps(block):
            raise InvalidSpec(f"invalid ip-range {inner}: parent subnet {block} doesn't contain ip-range")
        low, high = max(low, int(inner.network_address)), min(high, int(inner.broadcast_address))
    gateway = _inside("gateway", config.gateway, block) if config.gateway else low
    auxiliary = [
        _inside(f"auxiliary address {name}", text, block) for name, text in (config.auxiliary_addresses or {}).items()
    ]
    return Subnet(first, last, block.prefixlen, low, high, gateway, (gateway, *auxiliary))


def _block(what: str, text: str) -> IPv4Network:
    try:
        block = ip_network(text, strict=False)
        is_bare = "/" not in text
    except ValueError as error:
        raise InvalidSpec(f"invalid {what} {text}: invalid CIDR block notation") from error
    if is_bare:
        raise InvalidSpec(f"invalid {what} {text}: invalid CIDR block notation")
    if isinstance(block, IPv6Network):
        raise Unsupported(f"invalid {what} {text}: overlay networks are IPv4 only; give an IPv4 block")
    if int(IPv4Address(text.partition("/")[0])) != int(block.network_address):
        raise InvalidSpec(f"invalid {what} {text}: it should be {block}")
    return block


def _inside(what: str, text: str, block: IPv4Network) -> int:
    try:
        address = IPv4Address(text)
    except (AddressValueError, NetmaskValueError) as error:
        raise InvalidSpec(f"invalid {what} {text}: invalid address") from error
    if address not in block:
        raise InvalidSpec(f"invalid {what} {text}: parent subnet {block} doesn't contain this address")
    if address in (block.network_address, block.broadcast_address):
        raise InvalidSpec(f"invalid {what} {text}: the first and last address of {block} cannot be used")
    return int(address)


def asked_subnets(spec: NetworkSpec) -> list[IPAMConfig]:
    """The entries of a network's addressing that say anything; empty when it leaves the choice to the swarm."""
    return [config for config in spec.ipam.config or [] if config != IPAMConfig()]


def read_ipam(spec: NetworkSpec) -> list[Subnet]:
    """Read and check the subnets a network asks for; empty when it leaves the choice to the swarm.

    Raises:
        InvalidSpec, Unsupported: An entry is wrong, or two of them overlap.
    """
    entries = asked_subnets(spec)
    for config in entries:
        if not config.subnet:
            raise InvalidSpec(
                "invalid network config: gateway, ip-range or auxiliary addresses need a subnet beside them"
            )
    subnets = [read_subnet(config) for config in entries]
    seen = RangeSet()
    for subnet, config in zip(subnets, entries, strict=True):
        if seen.overlap(subnet.first, subnet.last):
            raise InvalidSpec(f"invalid subnet {config.subnet}: it overlaps with another subnet of the same network")
        seen.add(subnet.first, subnet.last)
    return subnets


def as_config(subnet: Subnet, asked: IPAMConfig | None = None) -> IPAMConfig:
    """What is stored on the network: the subnet with its gateway filled in."""
    return IPAMConfig(
        subnet=f"{address_text(subnet.first)}/{subnet.prefix}",
        gateway=address_text(subnet.gateway),
        ip_range=asked.ip_range if asked else "",
        auxiliary_addresses=asked.auxiliary_addresses if asked else None,
    )


def next_subnet(pools: Sequence[str], prefix: int, taken: RangeSet, underlay: Iterable[int]) -> Subnet | None:
    """Cut the lowest free subnet from the cluster's address pools.

    Args:
        pools: CIDR texts, tried in order; a pool smaller than the subnet size is used as it is.
        taken: Addresses of other networks.
        underlay: Addresses of the nodes themselves: a subnet around one would make the node unreachable.
    Returns:
        None when every pool is used up.
    """
    blocked = RangeSet(taken)
    for number in underlay:
        blocked.add(number)
    for pool in pools:
        block = IPv4Network(pool, strict=False)
        bits = 32 - min(max(prefix, block.prefixlen), SMALLEST_SUBNET)
        start, end = int(block.network_address), int(block.broadcast_address)
        while start + (1 << bits) - 1 <= end:
            hit = blocked.overlap(start, start + (1 << bits) - 1)
            if hit is None:
                last = start + (1 << bits) - 1
                return Subnet(start, last, 32 - bits, start + 1, last - 1, start + 1, (start + 1,))
            start = ((hit[1] >> bits) + 1) << bits
    return None
