"""The one loop of decisions.

Edge: asyncio, the replica. Store changes, what agents observe and alarms are gathered for a moment (a burst is one
round), decided on together by `manager.decide`, and committed together. What an agent reported is part of the same
transaction as what follows from it, so nothing is acknowledged that is not stored, and the two never conflict.

Killed at any moment it leaves a legal state: the next leader marks everything dirty and decides again. Delays are
moments written on objects, not timers.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog

from skep.core.plan import NOTHING, Dirty, Plan
from skep.manager.decide import Decision, decide
from skep.manager.replica import Replica
from skep.model.base import Nanoseconds
from skep.model.errors import NoQuorum, OutOfDate, SkepError, Unavailable
from skep.ports.clock import Clock
from skep.store.changes import Batch
from skep.store.state import View

MILLISECOND: Final = 1_000_000
PROMPT: Final = 2 * MILLISECOND
"""A change that comes alone waits so long for company …"""
QUIET: Final = 10 * MILLISECOND
"""… and in a burst, a round begins once nothing has happened for so long …"""
PATIENCE: Final = 100 * MILLISECOND
"""… or so long after the first thing that happened."""
RETRY: Final = 250 * MILLISECOND
START_S: Final = 1.0
"""A loop that is about to run is waited for so long, one that does not run no longer."""
NOT_DECIDING: Final = "this manager does not decide; turn to the one that leads"

log = structlog.get_logger(__name__)


class _Observation:
    """Something an agent told, waiting to be stored: a decision with one who waits for it."""

    def __init__(self, fold: Decision) -> None:
        self.stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._fold = fold
        self._refusal: SkepError | None = None

    def __call__(self, view: View, dirty: Dirty, now: Nanoseconds, /) -> Plan:
        """Fold it in; what is refused, such as the report of a removed node, changes nothing."""
        self._refusal = None
        try:
            return self._fold(view, dirty, now)
        except SkepError as refusal:
            self._refusal = refusal
            return NOTHING

    def settle(self, failure: SkepError | None = None) -> None:
        if self.stored.done():
            return  # Who waited has gone; it is stored all the same.
        if failure := failure or self._refusal:
            self.stored.set_exception(failure)
        else:
            self.stored.set_result(None)


class DecisionLoop:
    """Runs decisions whenever something asks for them. Attributes: lease: the leader's, which every write carries."""

    def __init__(self, replica: Replica, clock: Clock, decisions: Sequence[Decision]) -> None:
        """Prepare a loop; nothing happens before `run`.

        Args:
            decisions: In the order in which they build on one another.
        """
        self._replica = replica
        self._clock = clock
        self._decisions = decisions
        self.lease = ""
        self._is_running = asyncio.Event()
        self._dirty = Dirty()
        self._inbox: list[_Observation] = []
        self._stirred = asyncio.Event()
        self._decided_at: Nanoseconds = 0

    async def run(self, lease: str = "") -> None:
        """Decide until cancelled.

        Args:
            lease: The leader's, which every write carries.
        Raises:
            LeaseLost: Another manager leads now.
        """
        self.lease = lease
        self._is_running.set()
        self._dirty = Dirty.everything(self._replica.view)
        self._replica.observers.append(self._note)
        wake_at: Nanoseconds | None = self._clock.now()
        try:
            while True:
                await self._wait(wake_at)
                wake_at = await self.step()
        finally:
            self._is_running.clear()
            self._replica.observers.remove(self._note)
            gone = Unavailable(NOT_DECIDING)
            for observation in self._inbox:
                observation.settle(gone)
            self._inbox.clear()

    async def observe(self, fold: Decision) -> None:
        """Have something folded in with the next round; returns once it is stored.

        Raises:
            SkepError: What `fold` raised.
            Unavailable: No decisions are made here.
        """
        await self._wait_running()
        observation = _Observation(fold)
        self._inbox.append(observation)
        self._stirred.set()
        await observation.stored

    async def _wait_running(self) -> None:
        if self._is_running.is_set():
            return
        try:
            async with asyncio.timeout(START_S):
                await self._is_running.wait()
        except TimeoutError as error:
            raise Unavailable(NOT_DECIDING) from error

    def mark(self, dirty: Dirty) -> None:
        """Have objects looked at in the next round, though the store has not changed."""
        self._dirty.merge(dirty)
        self._stirred.set()

    async def step(self) -> Nanoseconds | None:
        """Decide once and commit.

        Returns:
            When to decide again even if nothing happens; None for never.
        """
        dirty, self._dirty = self._dirty, Dirty()
        observations, self._inbox = self._inbox, []
        try:
            plan = decide(self._replica.view, dirty, (*observations, *self._decisions), self._clock.now())
            await self._replica.commit(plan.changes, lease=self.lease)
        except BaseException as error:
            self._dirty.merge(dirty)
            self._inbox[:0] = observations
            if not isinstance(error, OutOfDate | NoQuorum | Unavailable):
                raise
            await self._back_off(error)
            return self._clock.now()
        for observation in observations:
            observation.settle()
        for note in plan.notes:
            log.info("decided", why=note)
        return plan.wake_at

    async def _back_off(self, error: SkepError) -> None:
        if isinstance(error, OutOfDate):
            await self._clock.sleep(MILLISECOND)  # Someone wrote what we were about to; its batch is on its way.
            return
        log.warning("decisions wait for the store", reason=str(error))
        await self._clock.sleep(RETRY)

    def _note(self, batch: Batch) -> None:
        self._dirty.note(batch)
        self._stirred.set()

    async def _wait(self, wake_at: Nanoseconds | None) -> None:
        """Wait for something to happen, then for it to calm down."""
        if not self._stirred.is_set():
            await self._wait_stirred(wake_at)
        began = self._clock.now()
        quiet = PROMPT if began - self._decided_at > PATIENCE else QUIET
        while self._stirred.is_set() and self._clock.now() < began + PATIENCE:
            self._stirred.clear()
            await self._clock.sleep(quiet)
            quiet = QUIET
        self._stirred.clear()
        self._decided_at = self._clock.now()

    async def _wait_stirred(self, wake_at: Nanoseconds | None) -> None:
        if wake_at is None:
            await self._stirred.wait()
            return
        alarm = asyncio.ensure_future(self._clock.sleep(max(0, wake_at - self._clock.now())))
        stirred = asyncio.ensure_future(self._stirred.wait())
        try:
            await asyncio.wait({alarm, stirred}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            alarm.cancel()
            stirred.cancel()
