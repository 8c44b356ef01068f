"""A manager's own certificate, where it ended while the machine was off.

Edge: the control operations of the manager itself. Nobody else can be asked then: no node believes a manager whose
certificate has ended. Its own authority can certify it all the same, for it is in its own store.
"""

import structlog

from skep.agent.identity import NodeIdentity, accept_issued, new_key_request
from skep.manager.join import Admission
from skep.model.identity import RenewRequest

log = structlog.get_logger(__name__)


async def renew_ended(identity: NodeIdentity, admission: Admission, address: str) -> None:
    """Certify this manager anew if its certificate has ended; otherwise its agent renews it as any node's.

    Args:
        address: Where other nodes reach it.
    Raises:
        SkepError: The swarm refuses: it was removed, or the state cannot be written.
    """
    if admission.clock.now() < identity.identity.expires_at:
        return
    request = new_key_request()
    issued = await admission.renew(identity.identity, RenewRequest(csr=request.csr), address=address)
    identity.renewed(accept_issued(request, issued))
    log.warning("this manager's certificate had ended; it was renewed by the manager itself")
