"""Notices that the leader's daemon is gone before its lease has run out, so that another manager leads sooner.

Edge: asyncio, the leadership port, a way to knock at another manager's control port. A machine whose daemon was killed
refuses connections at once; one that is frozen or cut off says nothing, and its lease has to run out. A leader that is
deposed by mistake loses its leadership, and nothing that was acknowledged: every write carries its lease.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from skep.lib.durations import MILLISECOND
from skep.manager.sessions import manager_addresses
from skep.manager.standing import Standing
from skep.model.base import Nanoseconds
from skep.ports.clock import Clock
from skep.ports.leadership import Candidate, Leader
from skep.store.state import View

PERIOD: Final[Nanoseconds] = 200 * MILLISECOND

log = structlog.get_logger(__name__)


class Vigil:
    """One manager's eye on whoever leads."""

    def __init__(
        self,
        standing: Standing,
        candidate: Callable[[], Candidate],
        view: Callable[[], View],
        clock: Clock,
        is_refused: Callable[[str], Awaitable[bool]],
    ) -> None:
        """Prepare.

        Args:
            candidate: What this manager stands as now.
            is_refused: Whether nothing listens at an address, which its machine has to say itself.
        """
        self._standing = standing
        self._candidate = candidate
        self._view = view
        self._clock = clock
        self._is_refused = is_refused
        self._leader: Leader | None = None

    async def run(self) -> None:
        """Keep it until cancelled."""
        while True:
            await self._clock.sleep(PERIOD)
            await self.look()

    async def look(self) -> None:
        """Knock at the leader's once. While the store cannot say who leads, it is who led last."""
        self._leader = self._standing.known or self._leader
        if self._leader is None or self._leader.node_id == self._standing.own_node_id:
            return
        for manager in manager_addresses(self._view()):
            if manager.node_id == self._leader.node_id and await self._is_refused(manager.addr):
                log.debug("the leader's daemon is gone", node=manager.node_id)
                await self._candidate().depose(self._leader)
