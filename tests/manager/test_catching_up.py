"""What was acknowledged at one manager is there at the others for whoever asks afterwards."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from tests.factories import a_service
from tests.sessions import until

from skep.edge.clock import SystemClock
from skep.edge.memory import MemoryStore
from skep.manager import replica as replicas
from skep.manager.catching_up import CatchingUp
from skep.manager.replica import Replica
from skep.ports.store import RowBatch, StoreUnavailable, Write
from skep.store.changes import Put

pytestmark = pytest.mark.anyio
LONG_S = 30.0


class Lagging(MemoryStore):
    """A store whose watches wait for a gate. Attributes: asked: how often a version was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.may_tell = asyncio.Event()
        self.may_tell.set()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.asked = 0
        self.is_away = False

    async def version(self, kind: str, id: str) -> int:
        self.asked += 1
        if self.is_away:
            raise StoreUnavailable("too few members answer")
        found = await super().version(kind, id)
        await self.may_answer.wait()
        return found

    async def watch(self, after: int) -> AsyncIterator[RowBatch]:  # type: ignore[override] # a generator is an iterator
        async for batch in super().watch(after):
            await self.may_tell.wait()
            yield batch


@pytest.fixture
async def store() -> Lagging:
    return Lagging()


@pytest.fixture
async def replica(store: Lagging) -> AsyncIterator[Replica]:
    opened = Replica(store, SystemClock(), is_shared=True)
    await opened.open()
    yield opened
    await opened.close()


async def create(store: MemoryStore) -> None:
    """As another manager does."""
    await store.commit([Write("turn", "api", b"", 0), replicas._write(Put(a_service("web")), 1)])


async def test_it_waits_for_what_another_manager_has_acknowledged(store: Lagging, replica: Replica) -> None:
    store.may_tell.clear()
    await create(store)
    waiting = asyncio.ensure_future(CatchingUp(replica, LONG_S).wait())
    await asyncio.sleep(0.02)
    assert not waiting.done()
    store.may_tell.set()
    await asyncio.wait_for(waiting, LONG_S)
    assert "web" in replica.view.services


async def test_who_asks_while_a_question_is_out_waits_for_the_next_one(store: Lagging, replica: Replica) -> None:
    catching_up = CatchingUp(replica, LONG_S)
    store.may_answer.clear()
    early = asyncio.ensure_future(catching_up.wait())
    await until(lambda: store.asked == 1)
    await create(store)
    late = [asyncio.ensure_future(catching_up.wait()) for _ in range(50)]
    store.may_answer.set()
    await asyncio.wait_for(asyncio.gather(early, *late), LONG_S)
    assert "web" in replica.view.services
    assert store.asked == 2, "one question serves all who ask meanwhile"


async def test_a_store_that_does_not_answer_is_not_waited_for_long(store: Lagging, replica: Replica) -> None:
    store.may_answer.clear()
    began = time.monotonic()
    await asyncio.wait_for(CatchingUp(replica, 0.05).wait(), LONG_S)
    assert time.monotonic() - began >= 0.05
    store.may_answer.set()
    store.is_away = True
    await asyncio.wait_for(CatchingUp(replica, LONG_S).wait(), LONG_S)


async def test_the_only_manager_asks_nothing() -> None:
    store = Lagging()
    replica = Replica(store, SystemClock())
    await replica.open()
    await CatchingUp(replica).wait()
    assert store.asked == 0
    await replica.close()
