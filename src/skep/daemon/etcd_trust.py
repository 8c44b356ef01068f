"""Has this manager's etcd member believe whom the swarm believes: its roots, and no manager that is one no more.

Edge: the etcd member. It looks up revoked certificates, and its own, for each connection, but it reads its roots only
when it starts. There is no hurry: a certificate of the next root carries the way to the old one. So each manager
restarts its member in its turn, which the wall clock gives, and once the others are there; after a while without those.
A leader whose member is away for that moment stays the leader.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from skep.daemon.stores import OpenStore
from skep.model.base import Nanoseconds
from skep.model.errors import Unavailable
from skep.ports.clock import Clock
from skep.ports.store import StoreUnavailable
from skep.store.state import View

log = structlog.get_logger(__name__)

SECOND: Final = 1_000_000_000
LOOK: Final = SECOND
TURN: Final = 4 * SECOND
"""Longer than a member takes to be back."""
PATIENCE: Final = 30 * SECOND
"""With those that are away; a root that was dropped ought not to be trusted for long."""
AWAY_S: Final = 10.0
"""For so long a leader may be silent while its member restarts, on however slow a machine."""


class EtcdTrust:
    """Of one manager."""

    def __init__(
        self,
        opened: Callable[[], OpenStore],
        view: Callable[[], View],
        clock: Clock,
        hold: Callable[[float], Awaitable[None]],
    ) -> None:
        """Prepare.

        Args:
            opened: The store as of now. Raises `Unavailable` while there is none.
            view: The state as of the last commit.
            hold: Keeps a leadership under way through so many seconds of silence; see `ports.leadership.Term`.
        """
        self._hold = hold
        self._opened = opened
        self._view = view
        self._clock = clock
        self._since: Nanoseconds = 0

    async def run(self) -> None:
        """Follow the swarm's trust until cancelled."""
        while True:
            await self._clock.sleep(LOOK)
            try:
                await self._look()
            except (Unavailable, StoreUnavailable) as error:
                log.info("the etcd member cannot be restarted yet", reason=str(error))

    async def _look(self) -> None:
        opened = self._opened()
        member, members = opened.member, opened.members
        cluster = self._view().cluster
        if member is not None and cluster is not None:
            member.revoke(cluster.revoked_certificates.keys())
        if member is None or members is None or not member.has_other_roots:
            self._since = 0
            await self._hold(0)  # It was held through a restart, perhaps.
            return
        now = self._clock.now()
        self._since = self._since or now
        all_ids = [each.id for each in await members.members()]
        status = await members.status()
        has_company = status.reachable >= set(all_ids) or now - self._since > PATIENCE
        if has_company and is_turn(all_ids, status.id, now):
            log.info("the etcd member is restarted: the swarm's roots have changed")
            await self._hold(AWAY_S)
            await member.restart()
            await member.wait_ready()


def is_turn(member_ids: list[int], own: int, now: Nanoseconds) -> bool:
    """Whether a member may restart at this moment: in the first half of its turn, of turns that go round for ever.

    Args:
        member_ids: All of them, in the same order on every manager.
    """
    if own not in member_ids:
        return False
    turn, into = divmod(now, TURN)
    return turn % len(member_ids) == member_ids.index(own) and into < TURN // 2
