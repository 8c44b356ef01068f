"""Numbers: subnets, addresses, VNIs, virtual IPs and published ports."""

from skep.core.allocate.checks import check_attachments, check_network, check_ports
from skep.core.allocate.ledger import Ledger
from skep.core.allocate.reconcile import reconcile
from skep.core.allocate.usage import Usage, check_room, usage_of

__all__ = [
    "Ledger",
    "Usage",
    "check_attachments",
    "check_network",
    "check_ports",
    "check_room",
    "reconcile",
    "usage_of",
]
