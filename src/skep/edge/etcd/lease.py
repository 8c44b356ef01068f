"""A leader's lease, renewed by a thread of its own: a long round of decisions must not cost the leadership.

Edge: a thread with an event loop, the gateway, the clock that also runs while a machine sleeps. The lease is counted
from when more of it was last *asked* for, so this end is over before etcd's is. A leader whose own loop shows no life
for long is not kept in office: it would neither decide nor let another.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from skep.edge.etcd import wire
from skep.edge.etcd.gateway import Away, Gateway, Refusal, Target

KEEP: Final = "/v3/lease/keepalive"
STALL_S: Final = 15.0
"""No decision takes so long; a loop that does not turn for so long hangs."""

log = structlog.get_logger(__name__)


def seconds() -> float:
    """The clock that leases are counted by."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class Lease:
    """Attributes: length_s: as etcd granted it; asked_at: of `seconds`, before it was asked for."""

    id: int
    length_s: float
    asked_at: float


class LeaseThread(threading.Thread):
    """Renews a lease three times in its life, until it is lost or `abandon` is called."""

    def __init__(self, target: Target, lease: Lease, on_over: Callable[[], None]) -> None:
        """Args: on_over: called once, in the event loop that made this, when the lease is no longer held."""
        super().__init__(name="leader's lease", daemon=True)
        self._target = target
        self._lease = lease
        self._ends_at = lease.asked_at + lease.length_s
        self._on_over = on_over
        self._owner = asyncio.get_running_loop()
        self._owner_seen_at = seconds()
        self._is_abandoned = threading.Event()

    def abandon(self) -> None:
        """Renew no more; the lease runs out, unless it is given back."""
        self._is_abandoned.set()

    def run(self) -> None:
        try:
            asyncio.run(self._keep())
        finally:
            self._tell(self._on_over)

    async def _keep(self) -> None:
        gateway = Gateway(self._target)
        pause_s = self._lease.length_s / 3
        try:
            while not self._is_abandoned.is_set():
                now = seconds()
                if now >= self._ends_at:
                    log.warning("this manager leads no more: it could not renew its lease in time")
                    return
                if now - self._owner_seen_at > STALL_S:
                    log.error("this manager leads no more: its decisions hang")
                    return
                if (
                    not await self._renew(gateway, min(self._ends_at - now, pause_s))
                    and not self._is_abandoned.is_set()
                ):
                    log.warning("this manager leads no more: its lease is gone")
                    return
                self._tell(self._see_owner)
                await asyncio.sleep(max(0.05, min(now + pause_s, self._ends_at) - seconds()))
        finally:
            await gateway.close()

    async def _renew(self, gateway: Gateway, limit_s: float) -> bool:
        """Ask for a full length again; False once the lease is gone for good."""
        asked_at = seconds()
        try:
            answer = await gateway.ask(KEEP, wire.LeaseId(self._lease.id), wire.KeptAlive, limit_s=limit_s)
        except Away:
            return True  # Perhaps the next time; `_ends_at` stays.
        except Refusal:
            return False
        if not answer.result.TTL:
            return False
        self._ends_at = asked_at + min(self._lease.length_s, answer.result.TTL)
        return True

    def _see_owner(self) -> None:
        self._owner_seen_at = seconds()

    def _tell(self, word: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # The loop was closed: nobody is left to tell.
            self._owner.call_soon_threadsafe(word)
