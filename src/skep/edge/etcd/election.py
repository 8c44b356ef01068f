"""Which manager leads, by a key in etcd that lives as long as its holder's lease.

Edge: asyncio, the gateway. Who creates the key leads; its lease's number is in the comparison of every transaction of
the leader, so one that is late, or from a leader that does not know yet, is refused. The holder counts its lease from
when it last *asked* for more, by a clock that also runs while a machine sleeps: it stops deciding before etcd gives the
lease up.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final, TypeVar

import msgspec
import structlog

from skep.edge.etcd import wire
from skep.edge.etcd.gateway import Away, Gateway, GatewayError, Refusal, Target
from skep.edge.etcd.keys import Keys
from skep.edge.etcd.lanes import TXN
from skep.edge.etcd.watch import RANGE, WATCH
from skep.ports.leadership import Leader
from skep.ports.store import StoreUnavailable

T = TypeVar("T")

LEASE_S: Final = 2
"""As short as etcd allows by its usual timing: so long nobody leads after a leader was killed."""
GRANT: Final = "/v3/lease/grant"
KEEP: Final = "/v3/lease/keepalive"
REVOKE: Final = "/v3/lease/revoke"
LEASE_TASK: Final = "leader's lease"
LOOK_AGAIN_S: Final = 1.0
"""A watch tells at once when the leader is gone; this is for a watch that hangs."""

log = structlog.get_logger(__name__)


def _seconds() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class EtcdTerm:
    """Implements `ports.leadership.Term`."""

    def __init__(self, gateway: Gateway, lease_id: int, revision: int, ends_at: float, length_s: float) -> None:
        self.lease = str(lease_id)
        self.revision = revision
        self._gateway = gateway
        self._lease_id = lease_id
        self._ends_at = ends_at
        self._length_s = length_s
        self._over = asyncio.Event()
        self._keeping = asyncio.create_task(self._keep(), name=LEASE_TASK)

    async def wait_lost(self) -> None:
        await self._over.wait()

    async def resign(self) -> None:
        was_over = self._over.is_set()
        self._over.set()
        self._keeping.cancel()
        await asyncio.gather(self._keeping, return_exceptions=True)
        if not was_over:
            await _revoke(self._gateway, self._lease_id)

    async def _keep(self) -> None:
        """Renew the lease three times in its life; end the term when that fails for all of it."""
        try:
            while (left_s := self._ends_at - _seconds()) > 0:
                asked_at = _seconds()
                if not await self._renew(min(left_s, self._length_s / 3)):
                    log.warning("this manager leads no more: its lease is gone")
                    return
                await asyncio.sleep(max(0.05, asked_at + self._length_s / 3 - _seconds()))
            log.warning("this manager leads no more: it could not renew its lease in time")
        finally:
            self._over.set()

    async def _renew(self, limit_s: float) -> bool:
        """Ask for a full length again; False once the lease is gone for good."""
        asked_at = _seconds()
        try:
            answer = await self._gateway.ask(KEEP, wire.LeaseId(self._lease_id), wire.KeptAlive, limit_s=limit_s)
        except Away:
            return True  # Perhaps the next time; `_ends_at` stays.
        except Refusal:
            return False
        if not answer.result.TTL:
            return False
        self._ends_at = asked_at + min(self._length_s, answer.result.TTL)
        return True


class EtcdCandidate:
    """Implements `ports.leadership.Candidate`. Made in a running event loop."""

    def __init__(
        self, target: Target, cluster_id: str, node_id: str, *, lease_s: int = LEASE_S, fraction: Callable[[], float]
    ) -> None:
        """Stand for a swarm's leadership; nothing happens before `win`.

        Args:
            lease_s: How long a leader may be silent; etcd raises it to one and a half of its election timeouts.
            fraction: Dice, 0 to 1: so that candidates do not all ask at once.
        """
        self._gateway = Gateway(target)
        self._keys = Keys.of(cluster_id)
        self._node_id = node_id
        self._lease_s = lease_s
        self._fraction = fraction
        self._term: EtcdTerm | None = None

    async def win(self) -> EtcdTerm:
        if self._term is not None:
            await self._term.resign()
        while True:
            try:
                self._term = await self._try()
                if self._term is not None:
                    return self._term
            except GatewayError as error:
                log.warning("standing for leader waits for etcd", reason=str(error))
                await asyncio.sleep(0.1 + 0.2 * self._fraction())

    async def leader(self) -> Leader | None:
        try:
            found = await self._holder()
        except GatewayError as error:
            raise StoreUnavailable(f"etcd cannot say who leads ({error})") from error
        return Leader(found.value.decode(), found.create_revision) if found is not None else None

    async def close(self) -> None:
        if self._term is not None:
            await self._term.resign()
        await self._gateway.close()

    async def _try(self) -> EtcdTerm | None:
        """Take the leadership if nobody has it; else wait until that may have changed. Raises: GatewayError."""
        holder = await self._holder()
        if holder is not None:
            await self._wait_gone(holder)
            return None
        asked_at = _seconds()
        granted = await self._ask(GRANT, wire.LeaseGrant(self._lease_s), wire.LeaseGranted)
        request = wire.Txn(
            compare=[wire.Compare(self._keys.leader, "CREATE", create_revision=0)],
            success=[wire.RequestOp(request_put=wire.Put(self._keys.leader, self._node_id.encode(), lease=granted.ID))],
        )
        try:
            # Asked twice after a break it fails the second time; who holds the key tells.
            await self._ask(TXN, request, wire.TxnAnswer)
            holder = await self._holder()
        except GatewayError:
            await _revoke(self._gateway, granted.ID)
            raise
        if holder is None or holder.lease != granted.ID:
            await _revoke(self._gateway, granted.ID)
            return None
        log.info("this manager leads", term=holder.create_revision)
        length_s = float(granted.TTL)
        return EtcdTerm(self._gateway, granted.ID, holder.create_revision, asked_at + length_s, length_s)

    async def _holder(self) -> wire.KeyValue | None:
        answer = await self._ask(RANGE, wire.Range(self._keys.leader), wire.RangeAnswer)
        return next(iter(answer.kvs), None)

    async def _wait_gone(self, holder: wire.KeyValue) -> None:
        request = wire.WatchRequest(wire.WatchCreate(self._keys.leader, start_revision=holder.mod_revision + 1))
        lines = self._gateway.lines(self._gateway.endpoint, WATCH, request)
        try:
            async with asyncio.timeout(LOOK_AGAIN_S * (1 + self._fraction())):
                async for line in lines:
                    told = wire.decode(line, wire.WatchLine).result
                    if told is None or told.canceled or told.events:
                        return
        except (TimeoutError, *wire.MALFORMED):
            pass
        except Away:
            await asyncio.sleep(0.1)
        finally:
            await lines.aclose()

    async def _ask(self, path: str, request: msgspec.Struct, answer: type[T]) -> T:
        return await self._gateway.ask(path, request, answer, limit_s=self._gateway.patience.commit_s)


async def _revoke(gateway: Gateway, lease_id: int) -> None:
    """Give a lease back early; if nobody answers it ends by itself."""
    try:
        await gateway.ask(REVOKE, wire.LeaseId(lease_id), wire.Nothing, limit_s=gateway.patience.attempt_s)
    except GatewayError as error:
        log.info("a lease was not given back and will run out", reason=str(error))
