"""Who leads the swarm and where, and whether its store still answers, as far as this manager knows.

Edge: asyncio; the leadership port, the replica's view. Whoever leads is asked of the store, which more than half of
the managers must answer for; so while it answers, what this manager shows of the state is current.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from skep.core.quorum import NO_LEADER
from skep.lib.durations import MILLISECOND, SECOND
from skep.manager.sessions import manager_addresses
from skep.model.base import Nanoseconds
from skep.model.errors import Unavailable
from skep.model.session import ManagerAddress
from skep.ports.clock import Clock
from skep.ports.leadership import Candidate, Leader
from skep.ports.store import StoreUnavailable
from skep.store.state import View

PERIOD: Final[Nanoseconds] = SECOND
FRESH: Final[Nanoseconds] = 200 * MILLISECOND
"""An answer that is no older serves everyone who asks: when a leader is gone, all nodes ask at once."""
STALE_AFTER: Final[Nanoseconds] = 3 * SECOND
LIMIT_S: Final = 1.5
PATIENCE: Final[Nanoseconds] = 3 * SECOND
"""So long someone is kept waiting where nobody leads yet: soon somebody will."""
LOOK_AGAIN: Final[Nanoseconds] = 100 * MILLISECOND


class Standing:
    """What this manager knows of who leads. Attributes: own_node_id: this manager's node."""

    def __init__(
        self, candidate: Callable[[], Candidate], view: Callable[[], View], clock: Clock, *, own_node_id: str
    ) -> None:
        """Prepare. `candidate`: what this manager stands as now."""
        self._candidate = candidate
        self._view = view
        self._clock = clock
        self.own_node_id = own_node_id
        self._leader: Leader | None = None
        self._asked_at: Nanoseconds = 0
        self._answered_at: Nanoseconds = clock.now()
        self._is_failing = False
        self._asking: asyncio.Task[None] | None = None

    @property
    def is_stale(self) -> bool:
        """Whether the store was asked and has not answered for a while: what is shown may be out of date."""
        return self._is_failing and self._clock.now() - self._answered_at > STALE_AFTER

    @property
    def known(self) -> Leader | None:
        """Who led when that was asked last; None as of `leader`."""
        return self._leader

    async def leader(self) -> Leader | None:
        """Who leads; None if nobody does, or the store cannot tell at present."""
        if self._asking is None and self._clock.now() - self._asked_at > FRESH:
            self._asking = asyncio.create_task(self._ask())
        if self._asking is not None:
            await asyncio.wait([self._asking])
        return self._leader

    async def elsewhere(self) -> list[ManagerAddress]:
        """All managers, the leader first; empty where it is not known that another one leads, and where."""
        leader = await self.leader()
        if leader is None or leader.node_id == self.own_node_id:
            return []
        managers = manager_addresses(self._view())
        first = [manager for manager in managers if manager.node_id == leader.node_id]
        return first and [*first, *(manager for manager in managers if manager.node_id != leader.node_id)]

    async def leader_address(self) -> str:
        """Where the leader listens, this manager included; waits for one to be elected.

        Raises:
            Unavailable: For a while there was none.
        """
        until = self._clock.now() + PATIENCE
        while True:
            leader = await self.leader()
            for manager in manager_addresses(self._view()):
                if leader is not None and manager.node_id == leader.node_id:
                    return manager.addr
            if self._clock.now() >= until:
                raise Unavailable(NO_LEADER)
            await self._clock.sleep(LOOK_AGAIN)

    async def run(self) -> None:
        """Keep an eye on the store until cancelled."""
        try:
            while True:
                await self.leader()
                await self._clock.sleep(PERIOD)
        finally:
            if self._asking is not None:
                self._asking.cancel()

    async def _ask(self) -> None:
        try:
            async with asyncio.timeout(LIMIT_S):
                self._leader = await self._candidate().leader()
            self._answered_at = self._clock.now()
            self._is_failing = False
        except (StoreUnavailable, TimeoutError):
            self._leader = None
            self._is_failing = True  # Rather than that it was not asked: this daemon may be busy.
        finally:
            self._asked_at = self._clock.now()
            self._asking = None
