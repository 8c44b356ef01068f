"""Networks: overlays, their subnets and the attachments of tasks to them.

Pure. Source: Docker API 1.51, definitions Network, IPAM, NetworkAttachmentConfig.
"""

from skep.model.base import Labels, Object, Record, Wire


class NetworkAttachmentConfig(Wire, frozen=True, kw_only=True):
    """Attributes: target: a network's id or name as a client sent it, its id once stored."""

    target: str = ""
    aliases: list[str] | None = None
    driver_opts: Labels | None = None


class IPAMConfig(Wire, frozen=True, kw_only=True):
    """Attributes: subnet, ip_range: CIDR text or empty; gateway: an address or empty."""

    subnet: str = ""
    ip_range: str = ""
    gateway: str = ""
    auxiliary_addresses: Labels | None = None


class IPAM(Wire, frozen=True, kw_only=True):
    driver: str = "default"
    options: Labels | None = None
    config: list[IPAMConfig] | None = None


class NetworkSpec(Record, frozen=True, kw_only=True):
    """What a user asked for."""

    name: str
    labels: Labels = {}
    driver: str = "overlay"
    options: Labels = {}
    ipam: IPAM = IPAM()
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    enable_ipv6: bool = False


class Network(Object, frozen=True, kw_only=True):
    """A network as stored.

    Attributes:
        vni: VXLAN network identifier, from 4096 up; 0 until allocated.
        subnets: What was allocated, each with subnet and gateway; empty until then.
        reason: Why allocation is not possible; empty when it is or was.
    """

    spec: NetworkSpec
    vni: int = 0
    subnets: list[IPAMConfig] = []
    reason: str = ""


class Attachment(Record, frozen=True, kw_only=True):
    """One address of a task (or, on ingress, of a node) on one network.

    Attributes:
        address: With prefix length: 10.0.1.5/24.
        aliases: Extra DNS names on that network.
    """

    network_id: str
    address: str = ""
    aliases: list[str] = []
    driver_opts: Labels = {}
