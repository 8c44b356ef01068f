"""Keeps a node's certificate fresh and of the issuer the swarm wants, beside whatever session there is.

Edge: asyncio; managers are asked through the control port. A renewal is due at a share of the certificate's life, or at
once when the swarm changes its root. Where the certificate has ended already, or no manager would even talk to this
node (its clock may be slow), the request carries a proof that it holds its key instead; a manager decides whether that
is still good enough.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from skep.agent.identity import NodeIdentity, accept_issued, new_key_request
from skep.agent.waiting import wait_event
from skep.core import trust
from skep.model.base import Nanoseconds
from skep.model.errors import Unauthenticated
from skep.model.identity import RenewRequest
from skep.model.node import Role, TLSInfo
from skep.model.session import CertificateHeld
from skep.ports.clock import Clock, Dice
from skep.ports.transport import ControlPort, Declined, TransportError

log = structlog.get_logger(__name__)

SECOND: Final = 1_000_000_000
LONGEST_NAP: Final = 3600 * SECOND
SPREAD: Final = SECOND // 2
"""When the root changes every node asks within so long, not all at the same moment."""
ASK_AGAIN: Final = SECOND
"""A manager may not have heard of the new root yet, or be away."""


class CertificateKeeper:
    """Of one node. Implements `conversation.Papers`.

    Attributes:
        dismissal: What a manager said if it removed this node; empty while it did not.
        trouble: Why this node cannot come back by itself, as a manager said last; empty if nothing is in the way.
    """

    def __init__(
        self,
        identity: NodeIdentity,
        addresses: Callable[[], Sequence[str]],
        control: ControlPort,
        clock: Clock,
        dice: Dice,
    ) -> None:
        """Prepare; `run` does the work.

        Args:
            addresses: Managers to ask, the best first.
        """
        self._identity = identity
        self._addresses = addresses
        self._control = control
        self._clock = clock
        self._dice = dice
        self._wanted: TLSInfo | None = None
        self._role: Role | None = None
        self._ask_at: Nanoseconds = 0
        self._is_refused = False
        self._look = asyncio.Event()
        self._changed = asyncio.Event()
        self.held = identity.held
        self.dismissal = ""
        self.trouble = ""

    async def wait_other(self, told: CertificateHeld) -> CertificateHeld:
        while self.held == told:
            self._changed.clear()
            await self._changed.wait()
        return self.held

    def follow(self, wanted: TLSInfo, role: Role | None) -> None:
        """Trust these roots from now on; a certificate of another issuer or role than this is renewed soon."""
        self._wanted, self._role = wanted, role
        try:
            if wanted.trust_root != self.held.trust.trust_root:
                self._identity.retrust(wanted.trust_root)
                self._note()
        except (Unauthenticated, OSError) as error:
            log.warning("the swarm's roots cannot be taken over; asking for a certificate", reason=str(error))
        self._ask_at = self._clock.now()
        if not self._is_as_wanted():
            self._ask_at += int(SPREAD * self._dice.fraction())
        self._look.set()

    async def run(self) -> None:
        """Renew the certificate whenever it is time, until cancelled."""
        while True:
            self._look.clear()
            wait = self._due_at() - self._clock.now()
            if wait > 0:
                await wait_event(self._look, self._clock, min(wait, LONGEST_NAP))
                continue
            is_renewed = await self._renew()
            now = self._clock.now()
            self._ask_at = now + ASK_AGAIN
            if not is_renewed:
                self._identity.postpone(now)

    def _due_at(self) -> Nanoseconds:
        due_at = self._identity.renew_at
        return due_at if self._is_as_wanted() else min(due_at, self._ask_at)

    def _is_as_wanted(self) -> bool:
        if self._role is not None and self._role != self._identity.identity.role:
            return False
        wanted, held = self._wanted, self.held.trust
        return wanted is None or (held.trust_root == wanted.trust_root and trust.is_same_issuer(held, wanted))

    def _note(self) -> None:
        self.held = self._identity.held
        self._changed.set()

    async def _renew(self) -> bool:
        needs_proof = self._is_refused or self._clock.now() >= self._identity.identity.expires_at
        self._is_refused = False
        for address in self._addresses():
            request = new_key_request()
            proof = self._identity.prove(request.csr) if needs_proof else None
            try:
                asked = RenewRequest(csr=request.csr, proof=proof)
                issued = await self._control.renew(address, self._identity.credentials, asked)
                self._identity.renewed(accept_issued(request, issued))
            except (TransportError, Unauthenticated, OSError) as error:
                log.warning("the certificate could not be renewed", manager=address, reason=str(error))
                if isinstance(error, Declined):
                    self.dismissal = str(error) if error.is_removed else ""
                    self.trouble = str(error) if needs_proof and error.is_final else ""
                else:
                    self._is_refused = not needs_proof
            else:
                log.info("the certificate was renewed", manager=address)
                self.trouble = ""
                self._note()
                return True
        return False
