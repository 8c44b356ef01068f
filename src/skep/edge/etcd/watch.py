"""Follows what is written, over one stream that moves to another endpoint when its own falls silent.

Edge: asyncio, the gateway. It resumes behind the last revision it told, so nothing is left out or told twice. A member
that hangs, or is cut off from the others, keeps a stream open and says nothing; so in quiet times it is asked for a
read that needs a quorum, and left if it cannot answer.
"""

import asyncio
import weakref
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Final

from skep.edge.etcd import wire
from skep.edge.etcd.gateway import Away, Gateway, Refusal
from skep.edge.etcd.keys import Keys
from skep.ports.store import Compacted, RowBatch, RowEvent, StoreError, StoreUnavailable

QUIET_S: Final = 1.0
"""After so long without a word the endpoint has to show that it is alive."""
GIVE_UP_S: Final = 3.0
"""After so long without any endpoint the watch ends; its reader says so and begins again."""
MAX_WAITING: Final = 1_024
WATCH: Final = "/v3/watch"
RANGE: Final = "/v3/kv/range"
OUT_OF_RANGE: Final = 11


class Watch(AsyncIterator[RowBatch]):
    """The batches after a revision. Follows from its making on, whether it is read or not; ends when dropped."""

    def __init__(self, gateway: Gateway, keys: Keys, after: int) -> None:
        self._feed = _Feed(gateway, keys, after)
        self._end: StoreError | None = None
        self._following = asyncio.create_task(self._feed.run(), name="etcd watch")
        weakref.finalize(self, self._following.cancel)

    async def __anext__(self) -> RowBatch:
        if self._end is not None:
            raise self._end
        found = await self._feed.told.get()
        if isinstance(found, StoreError):
            self._end = found
            raise found
        return found

    async def close(self, last: int) -> None:
        """End it behind revision `last`, or after a moment."""
        told = asyncio.ensure_future(self._feed.wait_told(last))
        await asyncio.wait({told, self._following}, timeout=QUIET_S, return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        self._following.cancel()
        await asyncio.gather(self._following, return_exceptions=True)
        self._feed.end(StoreUnavailable("the store is closed"))


class _Feed:
    """Fills a queue. Knows nothing of its `Watch`, so that one nobody reads any more can go."""

    def __init__(self, gateway: Gateway, keys: Keys, after: int) -> None:
        self.told: asyncio.Queue[RowBatch | StoreError] = asyncio.Queue(MAX_WAITING)
        self._gateway = gateway
        self._keys = keys
        self._after = after
        self._moved = asyncio.Event()

    async def wait_told(self, revision: int) -> None:
        while self._after < revision:
            self._moved.clear()
            await self._moved.wait()

    def end(self, error: StoreError) -> None:
        """Let the reader have what is waiting, then the error."""
        if self.told.full():
            self.told.get_nowait()
            error = Compacted("the reader is too slow: load again")
        self.told.put_nowait(error)

    async def run(self) -> None:
        try:
            await self._follow()
        except StoreError as error:
            await self.told.put(error)

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        heard_at = loop.time()
        while True:
            if self._after < 0:
                raise Compacted("no store keeps what was before its first revision")
            endpoint = self._gateway.endpoint
            try:
                async for answer in self._answers(endpoint):
                    heard_at = loop.time()
                    await self._tell(answer)
            except Away as error:
                self._gateway.avoid(endpoint)
                if loop.time() - heard_at > GIVE_UP_S:
                    raise StoreUnavailable(f"no member of etcd answers ({error})") from error
                await asyncio.sleep(0.05)
            except Refusal as error:
                if error.code == OUT_OF_RANGE:
                    raise Compacted(str(error)) from error
                raise StoreUnavailable(f"etcd refuses a watch ({error})") from error

    async def _tell(self, answer: wire.WatchAnswer) -> None:
        if answer.compact_revision:
            raise Compacted(f"revision {self._after + 1} is no longer kept, only {answer.compact_revision} and later")
        if answer.canceled:
            raise Away(f"the watch was ended: {answer.cancel_reason or 'no reason given'}", was_heard=True)
        batches = list(_batches(self._keys, answer.events))
        if not batches and not answer.created and answer.header.revision > self._after:
            batches = [RowBatch(answer.header.revision, ())]  # etcd says of itself how far it has come.
        for batch in batches:
            await self.told.put(batch)
            self._after = batch.revision
            self._moved.set()

    async def _answers(self, endpoint: str) -> AsyncIterator[wire.WatchAnswer]:
        """The stream of one endpoint, for as long as that endpoint is of use."""
        keys = self._keys
        request = wire.WatchRequest(
            wire.WatchCreate(keys.watched, keys.watched_end, start_revision=self._after + 1, progress_notify=True)
        )
        lines = self._gateway.lines(endpoint, WATCH, request)
        coming: asyncio.Future[bytes] | None = None
        try:
            while True:
                coming = asyncio.ensure_future(anext(lines))
                while not (await asyncio.wait({coming}, timeout=QUIET_S))[0]:
                    await self._check(endpoint)
                yield _answer(endpoint, coming.result())
        finally:
            if coming is not None:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)
            await lines.aclose()

    async def _check(self, endpoint: str) -> None:
        """Raises: Away: the endpoint is of no use. Compacted: it has gone back in time, as after a restore."""
        request = wire.encode(wire.Range(self._keys.leader, count_only=True))
        limit_s = self._gateway.patience.attempt_s
        try:
            answer = await self._gateway.attempt(endpoint, RANGE, request, wire.RangeAnswer, limit_s=limit_s)
        except Refusal as refusal:
            raise Away(f"{endpoint}: {refusal}", was_heard=True) from refusal
        if answer.header.revision < self._after:
            raise Compacted(f"etcd is at revision {answer.header.revision} and was at {self._after}: it was restored")


def _answer(endpoint: str, line: bytes) -> wire.WatchAnswer:
    try:
        told = wire.decode(line, wire.WatchLine)
    except wire.MALFORMED as error:
        raise Away(f"{endpoint} answered what no etcd answers: {error}", was_heard=True) from error
    if told.result is None:
        raise Away(f"{endpoint} ended the watch: {told.error}", was_heard=True)
    return told.result


def _batches(keys: Keys, events: Sequence[wire.KeyEvent]) -> Iterator[RowBatch]:
    """Gather events by revision; etcd sends all of a revision together and in order."""
    start = 0
    for n, event in enumerate(events):
        if n + 1 == len(events) or events[n + 1].kv.mod_revision != event.kv.mod_revision:
            part = events[start : n + 1]
            yield RowBatch(event.kv.mod_revision, [row for one in part if (row := _row(keys, one)) is not None])
            start = n + 1


def _row(keys: Keys, event: wire.KeyEvent) -> RowEvent | None:
    found = keys.row_of(event.kv.key)
    if found is None:
        return None  # Who leads is watched only for its revision.
    return RowEvent(*found, event.kv.value if event.type == "PUT" else None)
