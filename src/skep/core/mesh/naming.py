"""The names and numbers Skep gives to things in a node's kernel.

Pure. All of them follow from ids and addresses, so that every node (and the same node after a restart) arrives at the
same ones without asking. Fixed names are per network namespace: several nodes can share one kernel.
"""

import hashlib
import ipaddress
from typing import Final

TABLE: Final = "skep"
"""Name of the mesh's nft table, in every namespace; no other is touched but the one that guards managers' port."""

INGRESS_DEVICE: Final = "vx-ingress"
TUNNEL_DEVICE: Final = "vx"
GATEWAY_PREFIX: Final = "skg"
PORT_PREFIX: Final = "skt"
SANDBOX_GATEWAY_DEVICE: Final = "gw"

ROUTER_PREFIX: Final = "net-"
PLAIN_PREFIX: Final = "plain-"
GATEWAY_NEXT_HOP: Final = "169.254.1.1"
"""What a sandbox's default route points at. No interface carries it: both ends have fixed neighbour entries."""

LOCAL_POOL: Final = ipaddress.IPv4Network("169.254.64.0/18")
"""Gateway addresses of tasks without an ingress address. Seen by this node only: what leaves is translated."""

ROUTER_MAC: Final = "02:5e:00:00:00:01"
"""The router's end of every cable; each cable is a link of its own, so one address serves all."""

DNS_ADDRESS: Final = "127.0.0.11"
DNS_PORT: Final = 61053
"""Where the agent's DNS server listens in a sandbox: above the ephemeral ports; a task may have port 53 itself."""

MARK_TAG: Final = 0x5E000000
MARK_MASK: Final = 0xFF000000
"""Packet and conntrack marks of ours carry the tag; the low 16 bits name the peer a connection came in through."""

ROUTE_PROTOCOL: Final = 83
"""Owner of our routes and rules in the kernel's tables (an unassigned number of rtnetlink's rtm_protocol)."""

RULE_PRIORITY: Final = 900
VXLAN_OVERHEAD: Final = 50


def root_space() -> str:
    """The space (namespace) of the node itself: its underlay, and the router of the ingress network."""
    return ""


def router_space(network_id: str) -> str:
    """The space that routes one overlay network; also the name of its namespace file."""
    return f"{ROUTER_PREFIX}{network_id}"


def is_router(namespace: str) -> bool:
    """Whether a namespace is a router's; the others are tasks' and plain containers'."""
    return namespace.startswith(ROUTER_PREFIX)


def plain_sandbox(id: str) -> str:
    """The name of a plain container's sandbox. Args: id: its own, of no other thing."""
    return f"{PLAIN_PREFIX}{id}"


def is_plain(name: str) -> bool:
    """Whether a sandbox, or a record of that name, is of a plain container; the others are tasks'."""
    return name.startswith(PLAIN_PREFIX)


def is_local(address: str) -> bool:
    """Whether an address is of the node-local pool; empty is not."""
    return bool(address) and ipaddress.IPv4Address(address) in LOCAL_POOL


def gateway_device(task_id: str) -> str:
    """The node's end of a task's way out."""
    return GATEWAY_PREFIX + _digest(task_id)[:11]


def port_device(task_id: str) -> str:
    """A router's end of a task's cable; a task is at most once on a network."""
    return PORT_PREFIX + _digest(task_id)[:11]


def is_ours(space: str, device: str) -> bool:
    """Whether a device's name says that Skep made it, in this space."""
    if space == root_space():
        return device == INGRESS_DEVICE or device.startswith(GATEWAY_PREFIX)
    return device == TUNNEL_DEVICE or device.startswith(PORT_PREFIX)


def node_mac(node_id: str) -> str:
    """The address of a node's VXLAN devices, by which its peers send to it and know it as sender."""
    digits = _digest(node_id)[:10]
    return ":".join(["02", *(digits[at : at + 2] for at in range(0, 10, 2))])


def address_mac(address: str) -> str:
    """The hardware address of a task's interface, as Docker derives it from the IPv4 address."""
    return ":".join(["02", "42", *(f"{byte:02x}" for byte in ipaddress.IPv4Address(address).packed)])


def peer_number(mesh_address: str) -> int:
    """A peer's number on every node: its address's place in the ingress subnet.

    Used as conntrack zone and in marks, so it must not change while connections live; zones have 16 bits, so subnets
    larger than /16 fold.
    """
    interface = ipaddress.IPv4Interface(mesh_address)
    return (int(interface.ip) - int(interface.network.network_address)) & 0xFFFF


def peer_mark(number: int) -> int:
    """The mark, and the number of the routing table, that leads back to a peer."""
    return MARK_TAG | number


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
