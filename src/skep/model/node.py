"""Nodes: what a machine is, what it offers and how it is doing.

Pure. Source: Docker API 1.51, definitions NodeSpec, NodeDescription, Node.
"""

import enum

from skep.model.base import Labels, Nanoseconds, Object, Record, Wire, always, present_labels
from skep.model.network import Attachment
from skep.model.service import Platform, Resources

ETCD_CAPABILITY = "etcd"
"""A node's that can be one of several managers."""
NO_ETCD = (
    "several managers keep a swarm's state in etcd, and {where} has none; install it there "
    "(apt-get install etcd-server; its own service need not run), restart skepd and try again"
)


class Role(enum.StrEnum):
    WORKER = "worker"
    MANAGER = "manager"


class Availability(enum.StrEnum):
    ACTIVE = "active"
    PAUSE = "pause"
    DRAIN = "drain"


class NodeState(enum.StrEnum):
    UNKNOWN = "unknown"
    DOWN = "down"
    READY = "ready"
    DISCONNECTED = "disconnected"


class NodeSpec(Wire, frozen=True, kw_only=True):
    name: str = ""
    labels: Labels = present_labels()
    role: Role = always(Role.WORKER)
    availability: Availability = always(Availability.ACTIVE)


class PluginDescription(Wire, frozen=True, kw_only=True):
    type: str = ""
    name: str = ""


class EngineDescription(Wire, frozen=True, kw_only=True):
    engine_version: str = always("")
    labels: Labels | None = None
    plugins: list[PluginDescription] | None = None


class TLSInfo(Wire, frozen=True, kw_only=True):
    """Attributes: trust_root: PEM; the other two base64 of DER, as Go encodes bytes."""

    trust_root: str = ""
    cert_issuer_subject: str = ""
    cert_issuer_public_key: str = ""


class NodeDescription(Wire, frozen=True, kw_only=True):
    hostname: str = always("")
    platform: Platform = always(Platform())
    resources: Resources = always(Resources())
    engine: EngineDescription = always(EngineDescription())
    tls_info: TLSInfo | None = None


class NodeStatus(Record, frozen=True, kw_only=True):
    """Attributes: addr: the node's underlay address; since: when `state` last changed."""

    state: NodeState = NodeState.UNKNOWN
    message: str = ""
    addr: str = ""
    since: Nanoseconds = 0


class ManagerStatus(Record, frozen=True, kw_only=True):
    """Attributes: reachability: unknown, unreachable, reachable; addr: host:port of its control listener."""

    leader: bool = False
    reachability: str = "reachable"
    addr: str = ""


class Node(Object, frozen=True, kw_only=True):
    """A node as stored.

    Attributes:
        role: What its certificate says; `spec.role` is what was asked for.
        balanced: False while its endpoints are out of everyone's balancing because it is silent.
        ingress: Its own address in the ingress network, the node's mesh address.
        capabilities: Names of kernel and engine features it reported, such as `encryption`.
        certificate_serial: Serial number, as text, of the certificate it was issued last.
        manager_serials: Of those it was issued last as a manager, the newest at the end.
        held_serial: Of the one it said last that it holds: the same, unless the answer to its renewal was lost.
    """

    spec: NodeSpec
    description: NodeDescription = NodeDescription()
    status: NodeStatus = NodeStatus()
    manager_status: ManagerStatus | None = None
    role: Role = Role.WORKER
    balanced: bool = True
    ingress: Attachment | None = None
    capabilities: list[str] = []
    certificate_serial: str = ""
    held_serial: str = ""
    manager_serials: list[str] = []
