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

Decide = Callable[[str], Awaitable[None]]


class Reign:
    """This manager's turns at leading.

    Attributes:
        candidate: What it stands as.
        lease: What its decisions carry while it leads; None while it does not. What users ask is written by whichever
            manager they ask, without it.
    """

    def __init__(self, candidate: Candidate, replica: Replica, decide: Decide) -> None:
        """Prepare; nothing happens before `run`.

        Args:
            decide: Decides under a lease until cancelled, or raises `LeaseLost`; called once for each term.
        """
        self.candidate = candidate
        self.lease: str | None = None
        self._replica = replica
        self._decide = decide
        self._term: Term | None = None
        self._is_renewed = asyncio.Event()

    async def run(self) -> None:
        """Stand for leader and lead, turn after turn, until cancelled."""
        while True:
            self._term = await self.candidate.win()
            try:
                await self._lead(self._term)
            finally:
                self.lease = None
                ended, self._term = self._term, None
                await ended.resign()

    async def change(self, candidate: Candidate, renew: Callable[[str], None]) -> None:
        """Stand as another candidate from now on, as where the state has moved to another store.

        A term under way goes on under the other candidate's, without a break in deciding. The caller sees to it that
        nobody else can be leading, and closes the candidate of before.

        Args:
            renew: Tells who decides of the new lease.
        """
        self.candidate = candidate
        if self._term is None:
            return
        term = await candidate.win()
        await self._replica.wait_revision(term.revision)
        await self._go_on(term, renew)

    async def hold(self, length_s: float) -> None:
        """As `Term.hold`, of the term under way; nothing where there is none.

        Raises:
            StoreUnavailable: It could not be had.
        """
        if self._term is not None:
            await self._term.hold(length_s)

    async def _go_on(self, term: Term, renew: Callable[[str], None]) -> None:
        if self._term is None:  # It ended meanwhile: stand again.
            await term.resign()
            return
        before, self._term = self._term, term
        self.lease = term.lease
        renew(term.lease)
        self._is_renewed.set()
        await before.resign()

    async def _lead(self, term: Term) -> None:
        """Lead until the term ends, and on under one that takes its place."""
        work = asyncio.ensure_future(self._work(term))
        try:
            while await self._wait_over(work):
                pass
        finally:
            self.lease = None
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        if not work.cancelled() and (error := work.exception()) is not None and not isinstance(error, LeaseLost):
            raise error

    async def _wait_over(self, work: "asyncio.Future[None]") -> bool:
        """Wait until the term is over; returns whether another has taken its place."""
        term = self._term
        if term is None:
            return False
        self._is_renewed.clear()
        lost = asyncio.ensure_future(term.wait_lost())
        renewed = asyncio.ensure_future(self._wait_renewed())
        try:
            await asyncio.wait({lost, renewed, work}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            lost.cancel()
            renewed.cancel()
            await asyncio.gather(lost, renewed, return_exceptions=True)
        return not work.done() and self._term is not term

    async def _wait_renewed(self) -> None:
        await self._is_renewed.wait()

    async def _work(self, term: Term) -> None:
        await self._replica.wait_revision(term.revision)
        self.lease = term.lease
        log.info("this manager decides", revision=self._replica.view.revision)
        await self._decide(term.lease)
