"""Restarts this manager's etcd member when the swarm's roots have changed, never two managers' at once.

Edge: the etcd member. etcd reads its certificate anew for each connection, but the roots it trusts only when it starts.
There is no hurry: a certificate of the next root carries the way to the old one. So each manager waits for its turn,
which the wall clock gives, and for the others to be there; after a while it goes without those.
"""

from collections.abc import Callable
from typing import Final

import structlog

from skep.daemon.stores import OpenStore
from skep.model.base import Nanoseconds
from skep.model.errors import Unavailable
from skep.ports.clock import Clock
from skep.ports.store import StoreUnavailable

log = structlog.get_logger(__name__)

SECOND: Final = 1_000_000_000
LOOK: Final = SECOND
TURN: Final = 4 * SECOND
"""Longer than a member takes to be back."""
PATIENCE: Final = 30 * SECOND
"""With those that are away; a root that was dropped ought not to be trusted for long."""


class EtcdRoots:
    """Of one manager."""

    def __init__(self, opened: Callable[[], OpenStore], clock: Clock) -> None:
        """Prepare.

        Args:
            opened: The store as of now. Raises `Unavailable` while there is none.
        """
        self._opened = opened
        self._clock = clock
        self._since: Nanoseconds = 0

    async def run(self) -> None:
        """Follow the roots until cancelled."""
        while True:
            await self._clock.sleep(LOOK)
            try:
                await self._look()
            except (Unavailable, StoreUnavailable) as error:
                log.info("the etcd member cannot be restarted yet", reason=str(error))

    async def _look(self) -> None:
        opened = self._opened()
        member, members = opened.member, opened.members
        if member is None or members is None or not member.has_other_roots:
            self._since = 0
            return
        now = self._clock.now()
        self._since = self._since or now
        all_ids = [each.id for each in await members.members()]
        status = await members.status()
        has_company = status.reachable >= set(all_ids) or now - self._since > PATIENCE
        if has_company and is_turn(all_ids, status.id, now):
            log.info("the etcd member is restarted: the swarm's roots have changed")
            await member.restart()


def is_turn(member_ids: list[int], own: int, now: Nanoseconds) -> bool:
    """Whether a member may restart at this moment: in the first half of its turn, of turns that go round for ever.

    Args:
        member_ids: All of them, in the same order on every manager.
    """
    if own not in member_ids:
        return False
    turn, into = divmod(now, TURN)
    return turn % len(member_ids) == member_ids.index(own) and into < TURN // 2
