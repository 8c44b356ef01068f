"""Which manager leads, by a key in etcd that lives as long as its holder's lease.

Edge: asyncio, the gateway. Who creates the key leads; the revision at which it did is in the comparison of every
transaction of the leader, so one that is late, or from a leader that does not know yet, is refused. The key may change
to another lease meanwhile, as where its holder is to be silent for longer.
"""

import asyncio
import math
from collections.abc import Callable
from typing import Final, NamedTuple, TypeVar

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


class Holder(NamedTuple):
    """The leader's key as one manager has it. Attributes: revision: at which it was created."""

    key: bytes
    node_id: bytes
    revision: int


class EtcdTerm:
    """Implements `ports.leadership.Term`."""

    def __init__(self, gateway: Gateway, target: Target, lease: Lease, holder: Holder) -> None:
        self.lease = str(holder.revision)
        self.revision = holder.revision
        self._gateway = gateway
        self._target = target
        self._holder = holder
        self._usual_s = lease.length_s
        self._lease = lease
        self._over = asyncio.Event()
        self.keeper = self._keep(lease)

    async def wait_lost(self) -> None:
        await self._over.wait()

    async def hold(self, length_s: float) -> None:
        length_s = max(length_s, self._usual_s)
        if length_s == self._lease.length_s or self._over.is_set():
            return
        try:
            lease = await _grant(self._gateway, math.ceil(length_s))
            if not await self._move(lease):
                return  # Whoever keeps the lease of before finds out.
        except GatewayError as error:
            raise StoreUnavailable(f"the leader's lease could not be made {length_s:.0f} s ({error})") from error
        before, self.keeper = self.keeper, self._keep(lease)
        self._lease = lease
        before.abandon()  # No key has it any more: it may run out.

    async def resign(self) -> None:
        was_over = self._over.is_set()
        self._over.set()
        self.keeper.abandon()
        if not was_over:
            await _revoke(self._gateway, self._lease.id)
        await asyncio.to_thread(self.keeper.join)

    def _keep(self, lease: Lease) -> LeaseThread:
        def over() -> None:
            if self.keeper is keeper:
                self._over.set()

        keeper = LeaseThread(self._target, lease, over)
        keeper.start()
        return keeper

    async def _move(self, lease: Lease) -> bool:
        """Put the leader's key under another lease; False if it is not the leader's any more.

        It must be known: kept under a lease that the key has not, the leader would take itself for one for ever.

        Raises:
            GatewayError: It was refused.
        """
        key, node_id, revision = self._holder
        request = wire.Txn(
            compare=[wire.Compare(key, "CREATE", create_revision=revision)],
            success=[wire.RequestOp(request_put=wire.Put(key, node_id, lease=lease.id))],
        )
        while seconds() < lease.asked_at + lease.length_s:
            try:
                answer = await _ask(self._gateway, TXN, request, wire.TxnAnswer)
            except Away:
                await asyncio.sleep(LOOK_AGAIN_S / 10)
            else:
                return answer.succeeded
        self._over.set()  # The key may have had that lease, and be gone with it.
        return False


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
        lease = await _grant(self._gateway, self._lease_s)
        request = wire.Txn(
            compare=[wire.Compare(self._keys.leader, "CREATE", create_revision=0)],
            success=[wire.RequestOp(request_put=wire.Put(self._keys.leader, self._node_id.encode(), lease=lease.id))],
        )
        try:
            # Asked twice after a break it fails the second time; who holds the key tells.
            await self._ask(TXN, request, wire.TxnAnswer)
            holder = await self._holder()
        except GatewayError:
            await _revoke(self._gateway, lease.id)
            raise
        if holder is None or holder.lease != lease.id:
            await _revoke(self._gateway, lease.id)
            return None
        self._awaited = None
        log.info("this manager leads", term=holder.create_revision)
        held = Holder(self._keys.leader, self._node_id.encode(), holder.create_revision)
        return EtcdTerm(self._gateway, self._target, lease, held)

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
        return await _ask(self._gateway, path, request, answer)


async def _ask(gateway: Gateway, path: str, request: msgspec.Struct, answer: type[T]) -> T:
    return await gateway.ask(path, request, answer, limit_s=gateway.patience.commit_s)


async def _grant(gateway: Gateway, length_s: int) -> Lease:
    asked_at = seconds()
    granted = await _ask(gateway, GRANT, wire.LeaseGrant(length_s), wire.LeaseGranted)
    return Lease(granted.ID, float(granted.TTL), asked_at)


async def _revoke(gateway: Gateway, lease_id: int, limit_s: float = 0) -> None:
    """Give a lease back early; if nobody answers it ends by itself."""
    try:
        await gateway.ask(REVOKE, wire.LeaseId(lease_id), wire.Nothing, limit_s=limit_s or gateway.patience.attempt_s)
    except GatewayError as error:
        log.info("a lease was not given back and will run out", reason=str(error))
