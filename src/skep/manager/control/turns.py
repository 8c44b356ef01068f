"""Users' operations where several managers write: whatever waits here goes in one transaction, which takes the turn.

Edge: asyncio, the replica. Another manager may have taken the turn first: then every operation runs again on the state
with the other's batch. Operations that went together saw each other's changes, as if they had come one after the other;
one that touches what an earlier one of them has changed waits for the next transaction, where versions tell. What an
operation refuses counts only once what it has seen is stored.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from skep.manager.replica import Replica
from skep.model import codec
from skep.model.errors import NoQuorum, OutOfDate, SkepError
from skep.ports.store import MAX_OPERATIONS
from skep.store.changes import Batch, Change, Put
from skep.store.state import Draft, View

PATIENCE_S: Final = 1.6
"""So long an operation may take; a user hears within two seconds that it was not done, and why. The rest of them is for
`manager.catching_up`."""
LOOK_AGAIN_S: Final = 0.05
MAX_TOGETHER: Final = 64
MAX_CHANGES: Final = MAX_OPERATIONS - 1
MAX_BYTES: Final = 500_000
"""Together they are one transaction of the store: what is cut in two could be stored by half and refuse itself."""
NOT_STORED: Final = (
    "The swarm cannot store changes at present: too few managers answer, or too many changes come at once; "
    "nothing was stored, try again"
)
PERHAPS_STORED: Final = (
    "The swarm cannot store changes at present: too few managers answer; "
    "this change may be stored yet, so look before you try again"
)

Operation = Callable[[View], Sequence[Change]]


@dataclass(slots=True, eq=False)
class _Waiting:
    """An operation and who waits for it. Attributes: is_sent: a transaction with it may be on its way."""

    operation: Operation
    until: float
    done: "asyncio.Future[Batch]"
    is_sent: bool = False

    def settle(self, outcome: Batch | SkepError) -> None:
        if self.done.done():
            return  # Nobody waits any more.
        if isinstance(outcome, SkepError):
            self.done.set_exception(outcome)
        else:
            self.done.set_result(outcome)


@dataclass(slots=True)
class _Fold:
    """Operations that go together. Attributes: refused: by what the others change as well as by the state."""

    draft: Draft
    accepted: list[_Waiting] = field(default_factory=list)
    refused: list[tuple[_Waiting, SkepError]] = field(default_factory=list)
    deferred: list[_Waiting] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    _n_bytes: int = 0
    _touched: set[tuple[str, str]] = field(default_factory=set)

    def take(self, waiting: _Waiting) -> None:
        """Run an operation on top of the others."""
        try:
            changes = waiting.operation(self.draft)
        except SkepError as refusal:
            self.refused.append((waiting, refusal))
            return
        touched = {(change.kind, change.id) for change in changes}
        n_bytes = sum(len(codec.encode(change.value)) for change in changes if isinstance(change, Put))
        is_too_much = len(self.changes) + len(changes) > MAX_CHANGES or self._n_bytes + n_bytes > MAX_BYTES
        if (is_too_much and self.changes) or not touched.isdisjoint(self._touched):
            self.deferred.append(waiting)
            return
        self.accepted.append(waiting)
        self.changes.extend(changes)
        self._touched |= touched
        self._n_bytes += n_bytes
        self.draft.lay(changes)


class Turns:
    """Commits operations; one transaction of this manager is under way at a time."""

    def __init__(self, replica: Replica, patience_s: float = PATIENCE_S) -> None:
        self._replica = replica
        self._patience_s = patience_s
        self._waiting: deque[_Waiting] = deque()
        self._working: asyncio.Task[None] | None = None

    async def run(self, operation: Operation) -> Batch:
        """Commit what an operation answers.

        Args:
            operation: Raises `SkepError` to refuse; may run several times, on a draft.
        Raises:
            NoQuorum: It took too long; it says whether the change may be stored all the same.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(operation, loop.time() + self._patience_s, loop.create_future())
        self._waiting.append(waiting)
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work(), name="turns")
        try:
            await asyncio.wait([waiting.done], timeout=self._patience_s)
        except asyncio.CancelledError:
            waiting.done.cancel()
            raise
        waiting.settle(NoQuorum(PERHAPS_STORED if waiting.is_sent else NOT_STORED))
        return waiting.done.result()

    async def _work(self) -> None:
        while self._waiting:
            together = [self._waiting.popleft() for _ in range(min(MAX_TOGETHER, len(self._waiting)))]
            fold = _Fold(Draft(self._replica.view))
            for waiting in together:
                if waiting.done.done():
                    continue
                try:
                    fold.take(waiting)
                except Exception as mistake:  # A supervisor: one operation's mistake is told to who asked for it.
                    waiting.done.set_exception(mistake)
            await self._commit(fold)

    async def _commit(self, fold: _Fold) -> None:
        revision = self._replica.view.revision
        for waiting in fold.accepted:
            waiting.is_sent = True
        refused = [waiting for waiting, _ in fold.refused]
        try:
            batch = await self._replica.commit(fold.changes, takes_turn=bool(fold.changes))
        except OutOfDate:
            for waiting in fold.accepted:
                waiting.is_sent = False
            self._waiting.extendleft(reversed([*fold.accepted, *refused, *fold.deferred]))
            await self._wait_newer(revision)
        except SkepError as failure:
            for waiting in fold.accepted:
                waiting.settle(failure)
            self._waiting.extendleft(reversed([*refused, *fold.deferred]))
        else:
            for waiting in fold.accepted:
                waiting.settle(batch)
            for waiting, refusal in fold.refused:
                waiting.settle(refusal)
            self._waiting.extendleft(reversed(fold.deferred))

    async def _wait_newer(self, revision: int) -> None:
        """Wait for the batch of who was quicker; it is on its way to the view."""
        try:
            async with asyncio.timeout(LOOK_AGAIN_S):
                await self._replica.wait_revision(revision + 1)
        except TimeoutError:
            pass  # It was the leader's, and perhaps one that was taken back: look again.
