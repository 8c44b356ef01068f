"""A manager's turns at leading: when it decides, and when it stops."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from tests.factories import a_node

from skep.edge.clock import SystemClock
from skep.edge.memory import MemoryStore
from skep.manager.reign import Reign
from skep.manager.replica import Replica
from skep.ports.leadership import Leader
from skep.ports.store import LeaseLost
from skep.store.changes import Put

pytestmark = pytest.mark.anyio


class ScriptedTerm:
    """A term that ends when the test says so."""

    def __init__(self, lease: str, revision: int = 0) -> None:
        self.lease = lease
        self.revision = revision
        self.lost = asyncio.Event()
        self.is_resigned = False
        self.held_s: list[float] = []

    async def wait_lost(self) -> None:
        await self.lost.wait()

    async def hold(self, length_s: float) -> None:
        self.held_s.append(length_s)

    async def resign(self) -> None:
        self.is_resigned = True


class ScriptedCandidate:
    """Wins the terms that the test puts there."""

    def __init__(self) -> None:
        self.terms: asyncio.Queue[ScriptedTerm] = asyncio.Queue()

    async def win(self) -> ScriptedTerm:
        return await self.terms.get()

    async def leader(self) -> Leader | None:
        return None

    async def depose(self, leader: Leader) -> None: ...

    async def close(self) -> None:
        pass


class Setting:
    """A reign on a store in memory. Attributes: deciding: the leases decided under at this moment."""

    def __init__(self, decide: Callable[[str], Awaitable[None]] | None = None) -> None:
        self.store = MemoryStore()
        self.replica = Replica(self.store, SystemClock())
        self.candidate = ScriptedCandidate()
        self.deciding: list[str] = []
        self.changed = asyncio.Event()
        self.reign = Reign(self.candidate, self.replica, decide or self._decide)

    async def _decide(self, lease: str) -> None:
        self.deciding.append(lease)
        self.changed.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.deciding.remove(lease)

    async def __aenter__(self) -> "Setting":
        await self.replica.open()
        self.running = asyncio.ensure_future(self.reign.run())
        return self

    async def __aexit__(self, *error: object) -> None:
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)
        await self.replica.close()
        await self.store.close()

    async def wait(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not is_so():  # noqa: ASYNC110 — of things that tell nobody
                await asyncio.sleep(0.001)


async def test_it_decides_only_while_a_term_lasts() -> None:
    async with Setting() as setting:
        first, second = ScriptedTerm("one"), ScriptedTerm("two")
        assert setting.deciding == []
        setting.candidate.terms.put_nowait(first)
        await setting.wait(lambda: setting.deciding == ["one"])
        assert setting.reign.lease == "one"
        first.lost.set()
        await setting.wait(lambda: setting.deciding == [] and first.is_resigned)
        assert setting.reign.lease is None
        setting.candidate.terms.put_nowait(second)
        await setting.wait(lambda: setting.deciding == ["two"])


async def test_it_does_not_decide_before_it_has_what_earlier_leaders_wrote() -> None:
    async with Setting() as setting:
        setting.candidate.terms.put_nowait(ScriptedTerm("one", revision=2))
        await setting.replica.commit([Put(a_node("n1"))])
        assert setting.deciding == []
        await setting.replica.commit([Put(a_node("n2"))])
        await setting.wait(lambda: setting.deciding == ["one"])


async def test_a_term_lost_before_the_state_is_there_is_never_used() -> None:
    async with Setting() as setting:
        term = ScriptedTerm("one", revision=99)
        setting.candidate.terms.put_nowait(term)
        term.lost.set()
        await setting.wait(lambda: term.is_resigned)
        setting.candidate.terms.put_nowait(ScriptedTerm("two"))
        await setting.wait(lambda: setting.deciding == ["two"])


async def test_a_refused_lease_ends_the_term_and_it_stands_again() -> None:
    asked: list[str] = []

    async def decide(lease: str) -> None:
        asked.append(lease)
        raise LeaseLost("another leads")

    async with Setting(decide) as setting:
        for name in ("one", "two"):
            term = ScriptedTerm(name)
            setting.candidate.terms.put_nowait(term)
            await setting.wait(lambda term=term: term.is_resigned)
        assert asked == ["one", "two"]


async def test_any_other_failure_is_the_supervisors_and_gives_the_lease_back() -> None:
    async def decide(lease: str) -> None:
        raise RuntimeError("a mistake")

    async with Setting(decide) as setting:
        term = ScriptedTerm("one")
        setting.candidate.terms.put_nowait(term)
        await setting.wait(setting.running.done)
        assert isinstance(setting.running.exception(), RuntimeError)
        assert term.is_resigned


async def test_stopping_the_daemon_gives_the_lease_back() -> None:
    async with Setting() as setting:
        term = ScriptedTerm("one")
        setting.candidate.terms.put_nowait(term)
        await setting.wait(lambda: setting.deciding == ["one"])
    assert term.is_resigned
    assert setting.deciding == []


async def test_the_term_under_way_is_held_and_where_there_is_none_nothing_is() -> None:
    async with Setting() as setting:
        await setting.reign.hold(5)
        term = ScriptedTerm("one")
        setting.candidate.terms.put_nowait(term)
        await setting.wait(lambda: setting.deciding == ["one"])
        await setting.reign.hold(7)
        await setting.reign.hold(0)
        assert term.held_s == [7, 0]


async def test_a_term_goes_on_without_a_break_where_the_state_moves_to_another_store() -> None:
    async with Setting() as setting:
        sole, first, second = ScriptedTerm(""), ScriptedTerm("one"), ScriptedTerm("two")
        setting.candidate.terms.put_nowait(sole)
        await setting.wait(lambda: setting.deciding == [""])
        renewed: list[str] = []
        other = ScriptedCandidate()
        other.terms.put_nowait(first)
        await setting.reign.change(other, renewed.append)
        assert (renewed, setting.reign.lease, sole.is_resigned) == (["one"], "one", True)
        sole.lost.set()
        await asyncio.sleep(0.01)
        assert setting.deciding == [""], "who decides was stopped"
        first.lost.set()
        await setting.wait(lambda: setting.deciding == [] and first.is_resigned)
        other.terms.put_nowait(second)
        await setting.wait(lambda: setting.deciding == ["two"])


async def test_a_term_that_ends_while_it_is_to_go_on_is_stood_for_again() -> None:
    async with Setting() as setting:
        sole, first, second = ScriptedTerm(""), ScriptedTerm("one"), ScriptedTerm("two")
        setting.candidate.terms.put_nowait(sole)
        await setting.wait(lambda: setting.deciding == [""])
        other = ScriptedCandidate()
        changing = asyncio.ensure_future(setting.reign.change(other, lambda lease: None))
        sole.lost.set()
        await setting.wait(lambda: sole.is_resigned)
        other.terms.put_nowait(first)
        await setting.wait(lambda: first.is_resigned or setting.deciding == ["one"])
        if first.is_resigned:
            await changing
            other.terms.put_nowait(second)
            await setting.wait(lambda: setting.deciding == ["two"])
