"""Which addresses this machine has.

Edge: netlink, two short questions.
"""

from dataclasses import dataclass
from ipaddress import IPv4Interface

from skep.edge import rtnetlink
from skep.edge.netlink import NetlinkSocket


@dataclass(frozen=True, slots=True)
class InterfaceAddress:
    """An IPv4 address that others can reach. Attributes: device: name of its interface."""

    device: str
    address: str


def list_addresses() -> list[InterfaceAddress]:
    """IPv4 addresses without loopback and link-local ones, in the kernel's order."""
    netlink = NetlinkSocket()
    try:
        links = [rtnetlink.read_link(reply) for reply in netlink.dump(rtnetlink.get_links())]
        read = [rtnetlink.read_address(reply) for reply in netlink.dump(rtnetlink.get_addresses())]
    finally:
        netlink.close()
    names = {link.index: link.name for link in links}
    found: list[InterfaceAddress] = []
    for index, text in read:
        address = IPv4Interface(text).ip
        if not (address.is_loopback or address.is_link_local):
            found.append(InterfaceAddress(names.get(index, ""), str(address)))
    return found
