"""Carries transactions to etcd so that each takes place at most once and its outcome gets known.

Edge: asyncio, the gateway. Each runs in a lane, one at a time; while its outcome is in doubt it keeps its lane, whoever
asked for it has gone or not. Past its limit it is voided instead of repeated, and what comes later waits for that.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog

from skep.edge.etcd import transactions, wire
from skep.edge.etcd.gateway import Away, Gateway, Refusal
from skep.edge.etcd.transactions import Moved, Receipt, Writer
from skep.ports.store import OutcomeUnknown, StoreDamaged, StoreError, StoreLocked, StoreUnavailable, Write

N_LANES: Final = 64
GRACE_S: Final = 0.1
"""So much longer than the last attempt a caller waits: for a refusal that says more than a limit does."""
TXN: Final = "/v3/kv/txn"
DATA_LOSS: Final = 15
RESOURCE_EXHAUSTED: Final = 8
AWAY: Final = "too few members of etcd answer ({reason})"

log = structlog.get_logger(__name__)


class Lanes:
    """The transactions of one writer."""

    def __init__(self, gateway: Gateway, writer: Writer) -> None:
        self._gateway = gateway
        self._writer = writer
        # The lane used last comes first, so that a doubt in it is settled soon.
        self._free: asyncio.LifoQueue[int] = asyncio.LifoQueue()
        for number in reversed(range(N_LANES)):
            self._free.put_nowait(number)
        self._known = dict.fromkeys(range(N_LANES), 0)
        self._n_sent = 0
        self._running: set[asyncio.Task[int]] = set()
        self._doubtful: set[asyncio.Task[int]] = set()

    async def run(self, writes: Sequence[Write], term: int) -> int:
        """Carry out a transaction.

        Args:
            writes: Legal ones.
            term: The leader's; with one it waits for the outcome for as long as it takes. 0 for none.
        Returns:
            Its revision.
        Raises:
            StoreError: As `Store.commit`.
        """
        loop = asyncio.get_running_loop()
        until = None if term else loop.time() + self._gateway.patience.commit_s + GRACE_S
        try:
            async with asyncio.timeout_at(until):
                while self._doubtful:
                    await asyncio.wait(self._doubtful)
                lane = await self._free.get()
        except TimeoutError as error:
            raise StoreUnavailable("etcd has yet to say whether earlier transactions were written") from error
        # A task of its own: a caller who goes away must not leave a transaction of unknown outcome behind.
        work = asyncio.create_task(self._carry(lane, writes, term))
        self._running.add(work)
        work.add_done_callback(self._ended)
        done, _ = await asyncio.wait([work], timeout=None if until is None else max(0.0, until - loop.time()))
        if not done:
            self._doubtful.add(work)
            raise OutcomeUnknown("too few members of etcd answer; the change may or may not be stored yet")
        return work.result()

    async def close(self) -> None:
        """Give what is under way a moment, then let go of it."""
        if self._running:
            await asyncio.wait(self._running, timeout=self._gateway.patience.attempt_s)
        for work in self._running:
            work.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _ended(self, work: "asyncio.Task[int]") -> None:
        self._running.discard(work)
        self._doubtful.discard(work)
        if not work.cancelled():
            work.exception()  # Seen: whoever asked may have gone.

    async def _carry(self, lane: int, writes: Sequence[Write], term: int) -> int:
        try:
            return await self._decide(lane, writes, term)
        finally:
            self._free.put_nowait(lane)

    async def _decide(self, lane: int, writes: Sequence[Write], term: int) -> int:
        """Ask until the outcome is known."""
        self._n_sent += 1
        token = f"{self._writer.epoch}.{self._n_sent}".encode()
        key = self._writer.keys.receipt(self._writer.name, lane)
        doubts: list[str] = []
        failure: StoreError
        while True:
            receipt = Receipt(key, self._known[lane], token)
            request = transactions.transaction(self._writer, writes, term, receipt)
            try:
                answer = await self._ask(request, doubts)
            except Away as error:
                failure = StoreUnavailable(AWAY.format(reason=error))
                break
            except Refusal as refusal:
                failure = _translated(refusal)
                break
            outcome = transactions.outcome(self._writer, writes, term, receipt, answer)
            if isinstance(outcome, int):
                self._known[lane] = outcome
                return outcome
            if not isinstance(outcome, Moved):
                failure = outcome
                break
            self._known[lane] = outcome.known
        if doubts and (revision := await self._void(lane, receipt)) is not None:
            return revision
        raise failure

    async def _ask(self, request: wire.Txn, doubts: list[str]) -> wire.TxnAnswer:
        limit_s = self._gateway.patience.commit_s
        return await self._gateway.ask(TXN, request, wire.TxnAnswer, limit_s=limit_s, doubts=doubts)

    async def _void(self, lane: int, receipt: Receipt) -> int | None:
        """Rule out that a transaction takes place later; its revision if it has already."""
        while True:
            try:
                answer = await self._ask(transactions.void(self._writer, receipt), [])
            except Away as error:
                log.warning("a transaction's outcome is not known yet", reason=str(error))
                continue
            except Refusal as refusal:
                raise _translated(refusal) from refusal
            found = transactions.voided(self._writer, receipt, answer)
            if isinstance(found, StoreLocked):
                raise found
            self._known[lane] = found or answer.header.revision
            return found


def _translated(refusal: Refusal) -> StoreError:
    if refusal.code == DATA_LOSS:
        return StoreDamaged(f"etcd says that its data is damaged ({refusal}); replace this member")
    if refusal.code == RESOURCE_EXHAUSTED:
        return StoreUnavailable(f"etcd has no space left ({refusal}): compact and defragment it, then clear its alarm")
    return StoreUnavailable(f"etcd refuses ({refusal})")
