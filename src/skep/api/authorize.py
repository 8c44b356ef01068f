"""Who is calling, and who may call a route.

Pure. A caller is known by how it reached us: through the socket file, whose permissions did the asking, or by a
client certificate. Every route names the callers it serves; a route that names none stops the daemon from starting.
"""

import enum
from dataclasses import dataclass

from skep.model.errors import Forbidden
from skep.model.identity import Identity, Operator
from skep.model.node import Role


class CallerKind(enum.Enum):
    LOCAL = "a local user"
    OPERATOR = "an operator"
    MANAGER = "a manager"
    WORKER = "a worker"
    NOBODY = "a caller without a certificate"


@dataclass(frozen=True, slots=True)
class Caller:
    """Attributes: name: of the certificate; empty for a local user."""

    kind: CallerKind
    name: str = ""


LOCAL = Caller(CallerKind.LOCAL)

Access = frozenset[CallerKind]
EVERYONE: Access = frozenset(CallerKind) - {CallerKind.NOBODY}
"""Tells nothing about the swarm: is the daemon there, which versions does it speak."""
SWARM: Access = frozenset({CallerKind.LOCAL, CallerKind.OPERATOR, CallerKind.MANAGER})
"""Reads or changes the swarm; other managers may pass on what they were asked."""
ENGINE: Access = frozenset({CallerKind.LOCAL, CallerKind.OPERATOR, CallerKind.MANAGER})
"""Commands this machine's engine, which is as good as root on it; so is a manager, who decides what runs here."""

KEYS: Access = frozenset({CallerKind.LOCAL, CallerKind.OPERATOR})
"""Takes away all that the swarm keeps secret: for people only."""


def check(caller: Caller, access: Access) -> None:
    """Let the caller pass, or not.

    Raises:
        Forbidden: The route is not for such callers.
    """
    if caller.kind not in access:
        raise Forbidden(f"{caller.kind.value} may not do this; use the node's own socket or an operator's certificate")


def of_peer(peer: Identity | Operator | None) -> Caller:
    """The caller behind a verified certificate; None is nobody."""
    if peer is None:
        return Caller(CallerKind.NOBODY)
    if isinstance(peer, Operator):
        return Caller(CallerKind.OPERATOR, peer.name)
    return Caller(CallerKind.MANAGER if peer.role is Role.MANAGER else CallerKind.WORKER, peer.node_id)
