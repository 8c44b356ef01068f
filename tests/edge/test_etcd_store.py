"""What only etcd does to a store: break off amid a transaction, compact, lose members, have two daemons of one name."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.etcd_members import BRISK, CALM, Members, running

from skep.edge.etcd import wire
from skep.edge.etcd.gateway import Away, Gateway, Patience, Target
from skep.edge.etcd.store import EtcdStore
from skep.ports.store import (
    Compacted,
    LeaseLost,
    OutcomeUnknown,
    StaleVersion,
    StoreLocked,
    StoreUnavailable,
    Write,
)

pytestmark = pytest.mark.anyio
LIMIT_S = 60


def put(id: str, at: int = 0, value: bytes = b"v") -> Write:
    return Write("task", id, value, at)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Members]:
    with running(tmp_path_factory.mktemp("etcd"), 1, is_plain=True) as members:
        yield members


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Members]:
    with running(tmp_path_factory.mktemp("etcd"), 3) as members:
        yield members


class BreakingProxy:
    """Between a store and etcd: passes bytes on, or loses them.

    Attributes:
        loses_answers: Of that many requests to come, etcd does what is asked and the connection breaks.
        loses_requests: Of that many, nothing arrives.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self.loses_answers = 0
        self.loses_requests = 0
        self.n_lost = 0
        self.url = ""

    async def __aenter__(self) -> "BreakingProxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._port)
        back = asyncio.ensure_future(self._pass(up_reader, writer))
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 20):
                is_txn = b"/v3/kv/txn" in data
                if is_txn and self.loses_requests:
                    self.loses_requests -= 1
                    self.n_lost += 1
                    break
                if is_txn and self.loses_answers:
                    self.loses_answers -= 1
                    self.n_lost += 1
                    back.cancel()
                    await asyncio.gather(back, return_exceptions=True)
                    up_writer.write(data)
                    await up_writer.drain()
                    await up_reader.read(1)  # etcd has answered: it is done.
                    break
                up_writer.write(data)
                await up_writer.drain()
        back.cancel()
        writer.transport.abort()
        up_writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 20):
                writer.write(data)
                await writer.drain()
        writer.close()


@pytest.fixture
async def proxy(one: Members) -> AsyncIterator[BreakingProxy]:
    async with BreakingProxy(int(one.settings[0].client_url.rpartition(":")[2])) as made:
        yield made


_n = iter(range(1000))


@contextlib.asynccontextmanager
async def opened(target: Target, cluster_id: str = "", writer: str = "m0") -> AsyncIterator[EtcdStore]:
    store = await EtcdStore.open(target, cluster_id or f"cluster-{next(_n)}", writer)
    try:
        yield store
    finally:
        await store.close()


# --- breaks ----------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["answers", "requests"])
@pytest.mark.parametrize("n_times", [1, 3])
async def test_a_transaction_cut_off_takes_place_once(proxy: BreakingProxy, lost: str, n_times: int) -> None:
    async with opened(Target([proxy.url], patience=CALM)) as store:
        start = (await store.load())[0]
        first = await store.commit([put("a")])
        if lost == "answers":
            proxy.loses_answers = n_times
        else:
            proxy.loses_requests = n_times
        second = await store.commit([put("a", first, b"2"), put("b")])
        assert proxy.n_lost == n_times
        third = await store.commit([put("a", second, b"3")])
        watch = store.watch(start)
        async with asyncio.timeout(LIMIT_S):
            seen = [(await anext(watch)).revision for _ in range(3)]
    assert seen == [first, second, third]


async def test_a_refusal_cut_off_is_a_refusal(proxy: BreakingProxy) -> None:
    async with opened(Target([proxy.url], patience=CALM)) as store:
        await store.commit([put("a")])
        proxy.loses_answers = 2
        with pytest.raises(StaleVersion):
            await store.commit([put("a"), put("b")])
        assert {row.id for row in (await store.load())[1]} == {"a"}


async def commit_once_it_can(store: EtcdStore, operation: Write) -> None:
    """Commit as soon as the store takes writes again."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            try:
                await store.commit([operation])
                break
            except StoreUnavailable:
                await asyncio.sleep(0.05)


async def test_what_may_be_written_is_said_to_be_unknown_and_later_known(proxy: BreakingProxy) -> None:
    patience = Patience(attempt_s=0.3, commit_s=0.5, load_s=30)
    async with opened(Target([proxy.url], patience=patience)) as store:
        proxy.loses_answers = 1_000_000
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(OutcomeUnknown):
            await store.commit([put("a")])
        assert loop.time() - began < 5  # Half a second on a machine with nothing else to do.
        with pytest.raises(StoreUnavailable, match="earlier transaction"):
            await store.commit([put("b")])
        proxy.loses_answers = 0
        await commit_once_it_can(store, put("b"))
        assert {row.id for row in (await store.load())[1]} == {"a", "b"}


async def test_what_never_arrived_is_never_written_later(proxy: BreakingProxy) -> None:
    patience = Patience(attempt_s=0.3, commit_s=0.5, load_s=30)
    async with opened(Target([proxy.url], patience=patience)) as store:
        proxy.loses_requests = 1_000_000
        with pytest.raises(StoreUnavailable):
            await store.commit([put("a")])
        proxy.loses_requests = 0
        await commit_once_it_can(store, put("b"))
        assert {row.id for row in (await store.load())[1]} == {"b"}


async def test_a_leader_waits_for_its_outcome(proxy: BreakingProxy) -> None:
    patience = Patience(attempt_s=0.3, commit_s=0.5, load_s=30)
    gateway = Gateway(Target([proxy.url], patience=CALM))
    try:
        granted = await gateway.ask("/v3/lease/grant", wire.LeaseGrant(600), wire.LeaseGranted, limit_s=30)
        key = b"/skep/waiting/o/leader"
        await gateway.ask("/v3/kv/put", wire.Put(key, b"m0", granted.ID), wire.Nothing, limit_s=30)
        (leader,) = (await gateway.ask("/v3/kv/range", wire.Range(key), wire.RangeAnswer, limit_s=30)).kvs
    finally:
        await gateway.close()
    async with opened(Target([proxy.url], patience=patience), "waiting") as store:
        proxy.loses_answers = 1_000_000
        writing = asyncio.ensure_future(store.commit([put("a")], lease=str(leader.create_revision)))
        await asyncio.wait([writing], timeout=1.5)
        assert not writing.done()
        proxy.loses_answers = 0
        async with asyncio.timeout(LIMIT_S):
            revision = await writing
        assert [row.version for row in (await store.load())[1]] == [revision]


async def test_a_cancelled_caller_leaves_nothing_half_known(proxy: BreakingProxy) -> None:
    async with opened(Target([proxy.url], patience=CALM)) as store:
        watch = store.watch((await store.load())[0])
        proxy.loses_answers = 1
        writing = asyncio.ensure_future(store.commit([put("a")]))
        await asyncio.sleep(0)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        async with asyncio.timeout(LIMIT_S):
            assert (await anext(watch)).events[0].id == "a"


# --- two daemons, two leaders ----------------------------------------------------


async def test_a_daemon_that_was_taken_over_writes_no_more(one: Members) -> None:
    async with opened(one.target(), "taken") as old:
        first = await old.commit([put("a")])
        async with opened(one.target(), "taken") as new:
            with pytest.raises(StoreLocked, match="stop one"):
                await old.commit([put("a", first, b"old")])
            await new.commit([put("a", first, b"new")])
            assert [row.value for row in (await new.load())[1]] == [b"new"]
        async with opened(one.target(), "taken", "m1") as other:
            assert len((await other.load())[1]) == 1


async def test_a_lease_that_is_no_leaders_writes_nothing(one: Members) -> None:
    async with opened(one.target()) as store:
        for lease in ("77", "not a number"):
            with pytest.raises(LeaseLost):
                await store.commit([put("a")], lease=lease)
        assert list((await store.load())[1]) == []


# --- compaction ------------------------------------------------------------------


async def _compact(members: Members, revision: int) -> None:
    gateway = Gateway(members.target())
    try:
        body = wire.encode(wire.Range(b"", revision=revision)).replace(b'"key":"",', b"")
        await gateway.attempt(gateway.endpoint, "/v3/kv/compaction", body, wire.Nothing, limit_s=30)
    finally:
        await gateway.close()


async def test_a_watch_from_before_a_compaction_is_told(one: Members) -> None:
    async with opened(one.target()) as store:
        start = (await store.load())[0]
        for n in range(5):
            last = await store.commit([put(f"t{n}")])
        await _compact(one, last)
        watch = store.watch(start)
        async with asyncio.timeout(LIMIT_S):
            with pytest.raises(Compacted):
                await anext(watch)
            assert (await anext(store.watch(last - 1))).revision == last


async def test_a_load_in_pages_is_of_one_revision(one: Members) -> None:
    async with opened(one.target()) as store:
        versions = {}
        for part in range(12):
            ids = [f"{part:02}-{n:03}" for n in range(100)]
            revision = await store.commit([put(id) for id in ids])
            versions |= dict.fromkeys(ids, revision)
        writing = asyncio.ensure_future(_rewrite_pairs(store, versions))
        try:
            for _ in range(5):
                _, rows = await store.load()
                assert len(rows) == 1200
                values = {row.id: row.value for row in rows}
                # Each transaction gives the first and the last row one value: a load that mixes revisions shows it.
                assert values["00-000"] == values["11-099"]
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)


async def _rewrite_pairs(store: EtcdStore, versions: dict[str, int]) -> None:
    at = [versions["00-000"], versions["11-099"]]
    for n in range(1_000_000):
        value = str(n).encode()
        revision = await store.commit([put("00-000", at[0], value), put("11-099", at[1], value)])
        at = [revision, revision]


# --- space -----------------------------------------------------------------------


async def test_an_etcd_without_space_refuses_in_a_sentence_and_is_read(tmp_path: Path) -> None:
    with running(tmp_path, 1, is_plain=True, flags=["--quota-backend-bytes=3000000"]) as members:
        async with opened(members.target()) as store:
            with pytest.raises(StoreUnavailable, match="no space left"):
                await _fill(store, 20)
            written = {row.id for row in (await store.load())[1]}
            assert "t0" in written
            assert written == {f"t{n}" for n in range(len(written))}


async def _fill(store: EtcdStore, n_rows: int) -> None:
    for n in range(n_rows):
        await store.commit([put(f"t{n}", value=b"x" * 1_000_000)])


# --- members that die, hang and are cut off --------------------------------------


async def test_a_dead_member_is_passed_over_and_the_watch_moves_on(three: Members) -> None:
    async with opened(three.target(0, 1, 2, patience=BRISK)) as store:
        start = (await store.load())[0]
        watch = store.watch(start)
        written = [await store.commit([put("before")])]
        three.kill(0)
        try:
            written += [await _insist(store, put(f"t{n}")) for n in range(10)]
            async with asyncio.timeout(LIMIT_S):
                assert [(await anext(watch)).revision for _ in range(11)] == written
        finally:
            three.launch(0)


async def test_a_member_that_hangs_is_passed_over_and_the_watch_moves_on(three: Members) -> None:
    async with opened(three.target(1, 2, 0, patience=BRISK)) as store:
        watch = store.watch((await store.load())[0])
        written = [await store.commit([put("before")])]
        three.signal(1, signal.SIGSTOP)
        try:
            written += [await _insist(store, put(f"t{n}")) for n in range(10)]
            async with asyncio.timeout(LIMIT_S):
                assert [(await anext(watch)).revision for _ in range(11)] == written
        finally:
            three.signal(1, signal.SIGCONT)


async def test_without_a_quorum_a_write_is_refused_within_two_seconds_and_heals(three: Members) -> None:
    target = replace(three.target(0, 1, 2), patience=Patience())
    async with opened(target) as store:
        await _insist(store, put("before"))
        for n in (1, 2):
            three.signal(n, signal.SIGSTOP)
        try:
            began = asyncio.get_running_loop().time()
            with pytest.raises(StoreUnavailable):
                await store.commit([put("amid")])
            took_s = asyncio.get_running_loop().time() - began
        finally:
            for n in (1, 2):
                three.signal(n, signal.SIGCONT)
        assert took_s < 4  # Two seconds, and as much again for a machine that has other things to do.
        await _insist(store, put("after"))
        assert {row.id for row in (await store.load())[1]} - {"amid"} == {"before", "after"}


async def _insist(store: EtcdStore, write: Write) -> int:
    """Write until it is known to be written."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            try:
                return await store.commit([write])
            except StaleVersion:
                # Unknown at first, and written after all.
                return next(row.version for row in (await store.load())[1] if row.id == write.id)
            except StoreUnavailable:
                await asyncio.sleep(0.05)


async def test_a_gateway_that_was_closed_says_so_at_once() -> None:
    gateway = Gateway(Target(["http://127.0.0.1:1"]))
    await gateway.close()
    with pytest.raises(Away, match="not asked any more"):
        await gateway.ask("/v3/kv/range", wire.Range(b"k"), wire.RangeAnswer, limit_s=60)
