"""What every adapter of the leadership port keeps to, and what fencing means on etcd."""

import asyncio
import itertools
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager

import pytest
from tests.etcd_members import BRISK, CALM, Members, running

from skep.edge.etcd.election import EtcdCandidate, EtcdTerm
from skep.edge.etcd.gateway import Patience
from skep.edge.etcd.store import EtcdStore
from skep.edge.sole_leadership import SoleCandidate
from skep.ports.leadership import Candidate, Leader
from skep.ports.store import LeaseLost, Write

pytestmark = pytest.mark.anyio

LIMIT_S = 60
_clusters = itertools.count()


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Members]]:
    with ExitStack() as stack:
        started: list[Members] = []

        def members() -> Members:
            if not started:
                started.append(stack.enter_context(running(tmp_path_factory.mktemp("etcd"), 3)))
            return started[0]

        yield members


class Election:
    """Makes candidates of one swarm."""

    def __init__(self, members: Members | None) -> None:
        self.members = members
        self.cluster_id = f"cluster-{next(_clusters)}"
        self._stack = AsyncExitStack()

    async def candidate(self, name: str, *at: int, patience: Patience = CALM, lease_s: int = 2) -> Candidate:
        made: Candidate
        if self.members is None:
            made = SoleCandidate(name)
        else:
            target = self.members.target(*at, patience=patience)
            made = EtcdCandidate(target, self.cluster_id, name, lease_s=lease_s, fraction=random.Random(name).random)
        self._stack.push_async_callback(made.close)
        return made

    async def store(self, name: str, *, patience: Patience = CALM) -> EtcdStore:
        assert self.members is not None
        store = await EtcdStore.open(self.members.target(patience=patience), self.cluster_id, name)
        self._stack.push_async_callback(store.close)
        return store

    async def close(self) -> None:
        await self._stack.aclose()


@asynccontextmanager
async def _closing(election: Election) -> AsyncIterator[Election]:
    try:
        yield election
    finally:
        await election.close()


@pytest.fixture(params=["sole", "etcd"])
async def election(request: pytest.FixtureRequest, etcd: Callable[[], Members]) -> AsyncIterator[Election]:
    async with _closing(Election(etcd() if request.param == "etcd" else None)) as made:
        yield made


@pytest.fixture
async def contest(etcd: Callable[[], Members]) -> AsyncIterator[Election]:
    """Where several can stand."""
    async with _closing(Election(etcd())) as made:
        yield made


def put(id: str, at: int = 0) -> Write:
    return Write("task", id, b"v", at)


# --- every adapter ---------------------------------------------------------------


async def test_the_only_candidate_wins_and_is_known(election: Election) -> None:
    candidate = await election.candidate("one")
    assert await candidate.leader() is None
    async with asyncio.timeout(LIMIT_S):
        await candidate.win()
    leader = await candidate.leader()
    assert leader is not None
    assert leader.node_id == "one"


async def test_a_term_lasts_until_it_is_resigned(election: Election) -> None:
    candidate = await election.candidate("one")
    async with asyncio.timeout(LIMIT_S):
        term = await candidate.win()
        lost = asyncio.ensure_future(term.wait_lost())
        longer_than_a_lease_s = 3 if election.members else 0.1
        await asyncio.wait([lost], timeout=longer_than_a_lease_s)
        assert not lost.done()
        await term.resign()
        await term.resign()
        await lost
    assert await candidate.leader() is None


async def test_who_wins_again_has_a_later_term_and_ended_the_first(election: Election) -> None:
    candidate = await election.candidate("one")
    async with asyncio.timeout(LIMIT_S):
        first = await candidate.win()
        before = await candidate.leader()
        second = await candidate.win()
        after = await candidate.leader()
        await first.wait_lost()
    assert isinstance(before, Leader)
    assert isinstance(after, Leader)
    assert before.term < after.term
    assert first.revision <= second.revision


async def test_a_term_that_is_held_longer_is_the_same_term(election: Election) -> None:
    candidate = await election.candidate("one")
    async with asyncio.timeout(LIMIT_S):
        term = await candidate.win()
        before = (term.lease, term.revision, await candidate.leader())
        for length_s in (6.5, 20, 0, 0):
            await term.hold(length_s)
            assert (term.lease, term.revision, await candidate.leader()) == before
        lost = asyncio.ensure_future(term.wait_lost())
        longer_than_a_lease_s = 3 if election.members else 0.1
        await asyncio.wait([lost], timeout=longer_than_a_lease_s)
        assert not lost.done()
        await term.resign()
        await term.hold(20)
        await lost
    assert await candidate.leader() is None


async def test_a_closed_candidates_term_is_over(election: Election) -> None:
    candidate = await election.candidate("one")
    async with asyncio.timeout(LIMIT_S):
        term = await candidate.win()
        await candidate.close()
        await term.wait_lost()


# --- several candidates ----------------------------------------------------------


async def test_one_of_several_leads_and_the_next_follows_at_once(contest: Election) -> None:
    candidates = [await contest.candidate(f"m{n}") for n in range(3)]
    standing = {asyncio.ensure_future(each.win()) for each in candidates}
    terms = []
    try:
        async with asyncio.timeout(LIMIT_S):
            for _ in range(3):
                done, standing = await asyncio.wait(standing, return_when=asyncio.FIRST_COMPLETED)
                assert len(done) == 1
                more, _ = await asyncio.wait(standing, timeout=0.2) if standing else (set(), set())
                assert not more, "two lead at once"
                terms.append(done.pop().result())
                await terms[-1].resign()
    finally:
        for each in standing:
            each.cancel()
    assert sorted(term.revision for term in terms) == [term.revision for term in terms]
    assert len({term.lease for term in terms}) == 3


async def test_a_leader_that_renews_its_lease_is_followed_once_it_is_deposed(contest: Election) -> None:
    first, second = await contest.candidate("m0"), await contest.candidate("m1")
    store = await contest.store("m0")
    async with asyncio.timeout(LIMIT_S):
        old = await first.win()
        standing = asyncio.ensure_future(second.win())
        leader = await second.leader()
        assert leader is not None
        await second.depose(Leader("m0", leader.term - 1))  # Of another term: nobody is meant.
        assert not (await asyncio.wait([standing], timeout=0.5))[0]
        await second.depose(leader)
        await standing
        with pytest.raises(LeaseLost):
            await store.commit([put("late")], lease=old.lease)
        await old.wait_lost()


async def test_a_former_leaders_write_is_refused(contest: Election) -> None:
    first, second = await contest.candidate("m0"), await contest.candidate("m1")
    stores = [await contest.store("m0"), await contest.store("m1")]
    async with asyncio.timeout(LIMIT_S):
        old = await first.win()
        await stores[0].commit([put("a")], lease=old.lease)
        await old.resign()
        new = await second.win()
        with pytest.raises(LeaseLost):
            await stores[0].commit([put("b")], lease=old.lease)
        await stores[1].commit([put("c")], lease=new.lease)
        with pytest.raises(LeaseLost):
            await stores[1].commit([put("d")], lease="12345")
    rows = (await stores[1].load())[1]
    assert {row.id for row in rows} == {"a", "c"}


async def test_whatever_a_former_leader_wrote_is_in_its_successors_revision(contest: Election) -> None:
    first, second = await contest.candidate("m0"), await contest.candidate("m1")
    store, other = await contest.store("m0"), await contest.store("m1")
    async with asyncio.timeout(LIMIT_S):
        watch = other.watch((await other.load())[0])
        old = await first.win()
        standing = asyncio.ensure_future(second.win())
        last = [await store.commit([put(f"t{n}")], lease=old.lease) for n in range(20)][-1]
        await old.resign()
        new = await standing
        assert last < new.revision
        seen = []
        while not seen or seen[-1].revision < new.revision:  # The watch gets there, though no row has that revision.
            seen.append(await anext(watch))
    assert {event.id for batch in seen for event in batch.events} == {f"t{n}" for n in range(20)}


async def test_a_leader_that_holds_its_term_keeps_it_while_its_member_is_away(contest: Election) -> None:
    assert contest.members is not None
    first, second = await contest.candidate("m0", 0, patience=BRISK), await contest.candidate("m1", 1)
    store = await contest.store("m1")
    async with asyncio.timeout(LIMIT_S):
        term = await first.win()
        lost, standing = asyncio.ensure_future(term.wait_lost()), asyncio.ensure_future(second.win())
        await term.hold(30)
        contest.members.signal(0, signal.SIGSTOP)
        try:
            await asyncio.wait([lost, standing], timeout=4)  # Twice its usual lease.
            assert not lost.done()
            assert not standing.done()
        finally:
            contest.members.signal(0, signal.SIGCONT)
        await store.commit([put("a")], lease=term.lease)
        await term.hold(0)
        assert isinstance(term, EtcdTerm)
        began = asyncio.get_running_loop().time()
        term.keeper.abandon()  # Killed now, it is followed as soon as ever.
        await standing
        assert asyncio.get_running_loop().time() - began < 15


async def test_a_leader_that_can_reach_nobody_stops_before_another_begins(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with running(tmp_path_factory.mktemp("etcd"), 1) as members:
        async with _closing(Election(members)) as contest:
            candidate = await contest.candidate("m0", patience=BRISK)
            async with asyncio.timeout(LIMIT_S):
                term = await candidate.win()
                members.signal(0, signal.SIGSTOP)
                try:
                    frozen_at = asyncio.get_running_loop().time()
                    await term.wait_lost()
                    took_s = asyncio.get_running_loop().time() - frozen_at
                finally:
                    members.signal(0, signal.SIGCONT)
    assert took_s < 30  # The lease of 2 s, on however slow a machine.


@pytest.mark.soak
async def test_a_long_round_of_decisions_costs_no_leadership(contest: Election) -> None:
    candidate, other = await contest.candidate("m0"), await contest.candidate("m1")
    async with asyncio.timeout(LIMIT_S):
        term = await candidate.win()
        standing = asyncio.ensure_future(other.win())
        until = time.monotonic() + 3
        while time.monotonic() < until:
            sum(range(10_000))  # The event loop of both does not turn for longer than a lease.
        await asyncio.sleep(0.5)
        assert not standing.done()
        await term.resign()
        await standing


async def test_a_killed_leader_is_succeeded_once_its_lease_is_over(contest: Election) -> None:
    first, second = await contest.candidate("m0"), await contest.candidate("m1")
    async with asyncio.timeout(LIMIT_S):
        old = await first.win()
        standing = asyncio.ensure_future(second.win())
        # As a killed daemon leaves it: nobody renews, nobody gives back.
        assert isinstance(old, EtcdTerm)
        old.keeper.abandon()
        new = await standing
    assert new.lease != old.lease
