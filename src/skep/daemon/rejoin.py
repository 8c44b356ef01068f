"""Finds managers at addresses a user names, for a node whose own have all gone.

Edge: the control port. Only what proves to be a manager of the node's own swarm counts, by mutual TLS.
"""

import asyncio
from collections.abc import Sequence

from skep.daemon.config import CONTROL_PORT, split_address
from skep.edge.control_client import HttpControlPort
from skep.model.errors import InvalidSpec, Unavailable
from skep.model.identity import Credentials
from skep.model.session import ManagerAddress
from skep.ports.transport import TransportError


async def answering(addrs: Sequence[str], credentials: Credentials) -> list[ManagerAddress]:
    """Those of some addresses at which a manager of this swarm answers.

    Args:
        addrs: host or host:port.
    Returns:
        At least one, in the order given.
    Raises:
        InvalidSpec: None is given, or one is no address. Unavailable: none answers; the sentence says why of each.
    """
    if not addrs:
        raise InvalidSpec("at least one address of a manager is required, such as 192.168.1.10:2377")
    asked = [f"{host}:{port}" for host, port in (split_address(text, CONTROL_PORT) for text in addrs)]
    reasons = await asyncio.gather(*(_refusal(addr, credentials) for addr in asked))
    found = [ManagerAddress(node_id="", addr=addr) for addr, reason in zip(asked, reasons, strict=True) if not reason]
    if not found:
        raise Unavailable("; ".join(reasons))
    return found


async def _refusal(addr: str, credentials: Credentials) -> str:
    """Why this is no manager of the swarm; "" if it is one."""
    try:
        channel = await HttpControlPort().dial(addr, credentials)
    except TransportError as error:
        return str(error)
    await channel.close()
    return ""
