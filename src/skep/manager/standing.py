"""Who leads the swarm, and whether its store still answers, as far as this manager knows.

Edge: asyncio; the leadership port. Whoever leads is asked of the store, which more than half of the managers must
answer for; so while it answers, what this manager shows of the state is current.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from skep.lib.durations import MILLISECOND, SECOND
from skep.model.base import Nanoseconds
from skep.ports.clock import Clock
from skep.ports.leadership import Candidate, Leader
from skep.ports.store import StoreUnavailable

PERIOD: Final[Nanoseconds] = SECOND
FRESH: Final[Nanoseconds] = 200 * MILLISECOND
"""An answer that is no older serves everyone who asks: when a leader is gone, all nodes ask at once."""
STALE_AFTER: Final[Nanoseconds] = 3 * SECOND
LIMIT_S: Final = 1.5


class Standing:
    """What this manager knows of who leads."""

    def __init__(self, candidate: Callable[[], Candidate], clock: Clock) -> None:
        """Prepare. `candidate`: what this manager stands as now."""
        self._candidate = candidate
        self._clock = clock
        self._leader: Leader | None = None
        self._asked_at: Nanoseconds = 0
        self._answered_at: Nanoseconds = clock.now()
        self._asking: asyncio.Task[None] | None = None

    @property
    def is_stale(self) -> bool:
        """Whether the store has not answered for a while: what is shown may be out of date."""
        return self._clock.now() - self._answered_at > STALE_AFTER

    async def leader(self) -> Leader | None:
        """Who leads; None if nobody does, or the store cannot tell at present."""
        if self._asking is None and self._clock.now() - self._asked_at > FRESH:
            self._asking = asyncio.create_task(self._ask())
        if self._asking is not None:
            await asyncio.wait([self._asking])
        return self._leader

    async def run(self) -> None:
        """Keep an eye on the store until cancelled."""
        while True:
            await self.leader()
            await self._clock.sleep(PERIOD)

    async def _ask(self) -> None:
        try:
            async with asyncio.timeout(LIMIT_S):
                self._leader = await self._candidate().leader()
            self._answered_at = self._clock.now()
        except (StoreUnavailable, TimeoutError):
            self._leader = None
        finally:
            self._asked_at = self._clock.now()
            self._asking = None
