"""Numbers: subnets, addresses, VNIs, virtual IPs and published ports."""

from skep.core.allocate.checks import check_attachments, check_network, check_ports
from skep.core.allocate.ledger import Ledger
from skep.core.allocate.reconcile import reconcile

__all__ = ["Ledger", "check_attachments", "check_network", "check_ports", "reconcile"]
