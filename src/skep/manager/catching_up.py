"""Brings this manager's copy of the state as far as what any manager has acknowledged to a user.

Edge: asyncio, the replica. A user who creates something at one manager and at once uses it at another finds it there.
Costs one question to the store, which serves everyone who asks meanwhile, and never more than a moment: where the store
does not answer, what there is has to do.
"""

import asyncio
from typing import Final

from skep.manager.replica import Replica
from skep.ports.store import StoreError

LIMIT_S: Final = 0.3


class CatchingUp:
    """Asks how far the others are, one question at a time."""

    def __init__(self, replica: Replica, limit_s: float = LIMIT_S) -> None:
        self._replica = replica
        self._limit_s = limit_s
        self._n_begun = 0
        self._n_ended = 0
        self._asking: asyncio.Task[None] | None = None

    async def wait(self) -> None:
        """Wait until the view holds every user's change that was acknowledged before this call, if that can be known.

        Where no other manager writes there is nothing to wait for.
        """
        if not self._replica.is_shared:
            return
        number = self._n_begun + 1  # A question that was put before this call may have been answered too early.
        while self._n_ended < number:
            if self._asking is None:
                self._n_begun += 1
                self._asking = asyncio.create_task(self._ask(self._n_begun), name="catching up")
            await asyncio.wait([self._asking])

    async def _ask(self, number: int) -> None:
        try:
            async with asyncio.timeout(self._limit_s):
                await self._replica.wait_turns()
        except (StoreError, TimeoutError):
            pass
        finally:
            self._n_ended = number
            self._asking = None
