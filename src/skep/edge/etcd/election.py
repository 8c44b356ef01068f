"""Which manager leads, by a key in etcd that lives as long as its holder's lease.

Edge: asyncio, the gateway. Who creates the key leads; its lease's number is in the comparison of every transaction of
the leader, so one that is late, or from a leader that does not know yet, is refused.
"""

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

import msgspec
import structlog

from skep.edge.etcd import wire
from skep.edge.etcd.gateway import Away, Gateway, GatewayError, Target
from skep.edge.etcd.keys import Keys
from skep.edge.etcd.lanes import TXN
from skep.edge.etcd.lease import Lease, LeaseThread, seconds
from skep.edge.etcd.watch import RANGE, WATCH
from skep.ports.leadership import Leader
from skep.ports.store import StoreUnavailable

T = TypeVar("T")

LEASE_S: Final = 1
"""So long nobody leads after a leader was killed. etcd makes it longer where its own election timeout asks for that."""
GRANT: Final = "/v3/lease/grant"
REVOKE: Final = "/v3/lease/revoke"
LOOK_AGAIN_S: Final = 1.0
"""A watch tells at once when the leader is gone; this is for a watch that hangs."""

log = structlog.get_logger(__name__)


class EtcdTerm:
    """Implements `ports.leadership.Term`."""

    def __init__(self, gateway: Gateway, target: Target, lease: Lease, revision: int) -> None:
        self.lease = str(lease.id)
        self.revision = revision
        self._gateway = gateway
        self._lease_id = lease.id
        self._over = asyncio.Event()
        self.keeper = LeaseThread(target, lease, self._over.set)
        self.keeper.start()

    async def wait_lost(self) -> None:
        await self._over.wait()

    async def resign(self) -> None:
        was_over = self._over.is_set()
        self._over.set()
        self.keeper.abandon()
        if not was_over:
            await _revoke(self._gateway, self._lease_id)
        await asyncio.to_thread(self.keeper.join)


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
        self._target = target
        self._gateway = Gateway(target)
        self._keys = Keys.of(cluster_id)
        self._node_id = node_id
        self._lease_s = lease_s
        self._fraction = fraction
        self._term: EtcdTerm | None = None
        self._awaited: wire.KeyValue | None = None

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

    async def depose(self, leader: Leader) -> None:
        holder = self._awaited
        if holder is not None and holder.create_revision == leader.term:
            log.info("the lease of a leader that is gone is given back for it", node=leader.node_id, term=leader.term)
            await _revoke(self._gateway, holder.lease, self._gateway.patience.commit_s)

    async def close(self) -> None:
        if self._term is not None:
            await self._term.resign()
        await self._gateway.close()

    async def _try(self) -> EtcdTerm | None:
        """Take the leadership if nobody has it; else wait until that may have changed. Raises: GatewayError."""
        holder = await self._holder()
        if holder is not None:
            self._awaited = holder
            await self._wait_gone(holder)
            return None
        asked_at = seconds()
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
        self._awaited = None
        log.info("this manager leads", term=holder.create_revision)
        lease = Lease(granted.ID, float(granted.TTL), asked_at)
        return EtcdTerm(self._gateway, self._target, lease, holder.create_revision)

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


async def _revoke(gateway: Gateway, lease_id: int, limit_s: float = 0) -> None:
    """Give a lease back early; if nobody answers it ends by itself."""
    try:
        await gateway.ask(REVOKE, wire.LeaseId(lease_id), wire.Nothing, limit_s=limit_s or gateway.patience.attempt_s)
    except GatewayError as error:
        log.info("a lease was not given back and will run out", reason=str(error))
