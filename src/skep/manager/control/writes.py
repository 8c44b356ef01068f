"""How a user's operation becomes a transaction.

Edge: asyncio, the replica. An operation checks everything on the view and answers its changes; it runs again if
somebody else wrote what it had read. One at a time: what one checked (a free name, a network nobody uses) still holds
when it is committed, because everyone else who could take it waits; where several managers write, see `turns`.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from skep.lib.ids import new_id
from skep.manager.control.checks import OUT_OF_SEQUENCE, SpecRevisions
from skep.manager.control.turns import Turns
from skep.manager.replica import Replica
from skep.model.base import Nanoseconds
from skep.model.errors import OutOfDate
from skep.ports.clock import Clock, Dice
from skep.store.changes import Batch, Change
from skep.store.state import View

ATTEMPTS: Final = 20
PAUSE: Final[Nanoseconds] = 1_000_000


class Writes:
    """Commits operations.

    Attributes:
        revisions: See `SpecRevisions`; current with the view.
    """

    def __init__(self, replica: Replica, clock: Clock, dice: Dice) -> None:
        """Take up an opened replica."""
        self.revisions = SpecRevisions(replica.view.revision)
        self.clock = clock
        self._replica = replica
        self._dice = dice
        self._turn = asyncio.Lock()
        self._turns = Turns(replica)
        replica.observers.insert(0, self.revisions.observe)

    @property
    def view(self) -> View:
        return self._replica.view

    def new_id(self) -> str:
        return new_id(self._dice.bytes)

    def random_bytes(self, n: int) -> bytes:
        return self._dice.bytes(n)

    async def transact(self, operation: Callable[[View], Sequence[Change]]) -> Batch:
        """Run an operation and commit what it answers.

        Args:
            operation: Raises `SkepError` to refuse; may run several times.
        Raises:
            OutOfDate: What it writes keeps changing under it.
            NoQuorum, Unavailable: It cannot be stored at present.
        """
        for _ in range(ATTEMPTS):
            async with self._turn:
                if self._replica.is_shared:
                    break
                changes = operation(self._replica.view)
                try:
                    return await self._replica.commit(changes)
                except OutOfDate:
                    await self.clock.sleep(PAUSE)  # The batch of who was quicker is on its way to the view.
        else:
            raise OutOfDate(OUT_OF_SEQUENCE)
        return await self._turns.run(operation)
