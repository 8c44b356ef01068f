"""Decides while this manager leads, and only then.

Edge: asyncio; the leadership port and the replica. A new leader first waits until its copy of the state holds whatever
earlier leaders wrote: numbers in use are counted from that copy. When the term ends, deciding stops in the same
instant; a write under way is refused by the store, by its lease.
"""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from skep.manager.replica import Replica
from skep.ports.leadership import Candidate, Term
from skep.ports.store import LeaseLost

log = structlog.get_logger(__name__)


class Reign:
    """This manager's turns at leading.

    Attributes:
        lease: What a write of this manager carries while it leads, a user's as well as a decision's; None while it
            does not lead: then its users' writes are the leader's to make.
    """

    def __init__(self, candidate: Candidate, replica: Replica, decide: Callable[[str], Awaitable[None]]) -> None:
        """Prepare; nothing happens before `run`.

        Args:
            decide: Decides under a lease until cancelled, or raises `LeaseLost`; called once for each term.
        """
        self._candidate = candidate
        self._replica = replica
        self._decide = decide
        self.lease: str | None = None

    async def run(self) -> None:
        """Stand for leader and lead, turn after turn, until cancelled."""
        while True:
            term = await self._candidate.win()
            try:
                await self._lead(term)
            finally:
                self.lease = None
                await term.resign()

    async def _lead(self, term: Term) -> None:
        """Lead until the term ends."""
        lost = asyncio.ensure_future(term.wait_lost())
        work = asyncio.ensure_future(self._work(term))
        try:
            await asyncio.wait({lost, work}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.lease = None
            lost.cancel()
            work.cancel()
            await asyncio.gather(lost, work, return_exceptions=True)
        if not work.cancelled() and (error := work.exception()) is not None and not isinstance(error, LeaseLost):
            raise error

    async def _work(self, term: Term) -> None:
        await self._replica.wait_revision(term.revision)
        self.lease = term.lease
        log.info("this manager decides", revision=self._replica.view.revision)
        await self._decide(term.lease)
