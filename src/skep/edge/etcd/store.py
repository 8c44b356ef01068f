"""The store port on etcd: the store of a swarm with several managers.

Edge: the gateway. Reads are linearizable: what any manager's commit returned for is in every later load.
"""

import weakref
from collections.abc import AsyncIterator, Sequence
from typing import Final

import structlog

from skep.edge.etcd import transactions, wire
from skep.edge.etcd.gateway import Away, Gateway, GatewayError, Refusal, Target
from skep.edge.etcd.keys import Keys
from skep.edge.etcd.lanes import TXN, Lanes
from skep.edge.etcd.settings import version_warning
from skep.edge.etcd.transactions import Writer
from skep.edge.etcd.watch import OUT_OF_RANGE, RANGE, Watch
from skep.ports.store import LeaseLost, Row, RowBatch, StoreUnavailable, Write, check_legal

PAGE: Final = 500
CLOSED: Final = "the store is closed"

log = structlog.get_logger(__name__)


class EtcdStore:
    """Implements `ports.store.Store`. Made by `EtcdStore.open`."""

    def __init__(self, gateway: Gateway, writer: Writer) -> None:
        self._gateway = gateway
        self._keys = writer.keys
        self._lanes = Lanes(gateway, writer)
        self._watches: weakref.WeakSet[Watch] = weakref.WeakSet()
        self._written = 0
        self._is_closed = False

    @classmethod
    async def open(cls, target: Target, cluster_id: str, writer: str) -> "EtcdStore":
        """Reach etcd and take over a manager's writing.

        Args:
            writer: The manager's node id. Whatever an earlier daemon of it still has under way can land no more, and
                if it is alive, its writes are refused from now on.
        Raises:
            StoreUnavailable: No endpoint answers, or not with a quorum.
        """
        gateway = Gateway(target)
        keys = Keys.of(cluster_id)
        try:
            request = transactions.opening(keys, writer)
            opened = await gateway.ask(TXN, request, wire.TxnAnswer, limit_s=target.patience.load_s)
        except GatewayError as error:
            await gateway.close()
            raise StoreUnavailable(f"etcd cannot be used ({error}); see that its members run") from error
        except BaseException:
            await gateway.close()
            raise
        await _warn_of_version(gateway)
        return cls(gateway, Writer(keys, writer, opened.header.revision))

    async def load(self) -> tuple[int, Sequence[Row]]:
        """See `Store.load`. Read in pages, all as of the first one's revision."""
        while True:
            try:
                return await self._load()
            except Refusal as refusal:
                if refusal.code != OUT_OF_RANGE:
                    raise StoreUnavailable(f"etcd refuses to be read ({refusal})") from refusal
                # Compacted while we were reading: begin again.
            except Away as error:
                raise StoreUnavailable(f"etcd cannot be read ({error})") from error

    async def version(self, kind: str, id: str) -> int:
        self._check_open()
        request = wire.Range(self._keys.row(kind, id), keys_only=True)
        try:
            found = await self._gateway.ask(RANGE, request, wire.RangeAnswer, limit_s=self._gateway.patience.commit_s)
        except GatewayError as error:
            raise StoreUnavailable(f"etcd cannot be read ({error})") from error
        return found.kvs[0].mod_revision if found.kvs else 0

    async def commit(self, writes: Sequence[Write], *, lease: str = "") -> int:
        check_legal(writes)
        self._check_open()
        if lease and not lease.isdecimal():
            raise LeaseLost(f"{lease} is no term of a leader in etcd")
        revision = await self._lanes.run(writes, int(lease or 0))
        self._written = max(self._written, revision)
        return revision

    def watch(self, after: int) -> AsyncIterator[RowBatch]:
        """See `Store.watch`. Follows from this call on."""
        self._check_open()
        watch = Watch(self._gateway, self._keys, after)
        self._watches.add(watch)
        return watch

    async def close(self) -> None:
        """Finish what is under way, let watches have what was committed here, and hang up; idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        await self._lanes.close()
        for watch in list(self._watches):
            await watch.close(self._written)
        await self._gateway.close()

    def _check_open(self) -> None:
        if self._is_closed:
            raise StoreUnavailable(CLOSED)

    async def _load(self) -> tuple[int, Sequence[Row]]:
        """Raises: GatewayError, StoreUnavailable."""
        keys = self._keys
        rows: list[Row] = []
        start, revision = keys.watched, 0
        while True:
            self._check_open()
            request = wire.Range(start, keys.watched_end, limit=PAGE, revision=revision)
            page = await self._gateway.ask(RANGE, request, wire.RangeAnswer, limit_s=self._gateway.patience.load_s)
            revision = revision or page.header.revision
            for kv in page.kvs:
                if (found := keys.row_of(kv.key)) is not None:
                    rows.append(Row(*found, kv.value, kv.mod_revision))
            if not page.more:
                return revision, rows
            start = page.kvs[-1].key + b"\0"


async def _warn_of_version(gateway: Gateway) -> None:
    """Say so where this etcd has defects that a later one has not."""
    try:
        raw = await gateway.get(gateway.endpoint, "/version", limit_s=gateway.patience.attempt_s)
        warning = version_warning(wire.decode(raw, wire.Version).etcdserver)
    except (Away, *wire.MALFORMED):
        return  # The store works; its version is told another time.
    if warning:
        log.warning("this etcd should be replaced by a later one", reason=warning)
