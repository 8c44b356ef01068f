"""Who leads and whether the store answers, as one manager knows it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from tests.factories import a_state
from tests.manager.council import a_manager

from skep.edge.clock import SystemClock
from skep.lib.durations import SECOND
from skep.manager.standing import STALE_AFTER, Standing
from skep.model.base import Nanoseconds
from skep.model.session import ManagerAddress
from skep.ports.leadership import Leader
from skep.ports.store import StoreUnavailable

pytestmark = pytest.mark.anyio


@dataclass
class Store:
    """What it says of who leads. Attributes: asked: how often it was."""

    leading: str = "m1"
    is_away: bool = False
    asked: int = 0

    async def leader(self) -> Leader | None:
        self.asked += 1
        await asyncio.sleep(0)
        if self.is_away:
            raise StoreUnavailable("too few members answer")
        return Leader(self.leading, 1) if self.leading else None


@dataclass
class Clock:
    moment: Nanoseconds = field(default_factory=lambda: SystemClock().now())

    def now(self) -> Nanoseconds:
        return self.moment

    async def sleep(self, length: Nanoseconds) -> None:
        self.moment += length
        await asyncio.sleep(0)


@dataclass
class Known:
    """What m2 knows."""

    store: Store = field(default_factory=Store)
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        state = a_state(*(a_manager(f"m{n}") for n in (1, 2, 3)))
        self.standing = Standing(lambda: self.store, lambda: state, self.clock, own_node_id="m2")  # type: ignore[arg-type, return-value] # it is asked only that

    async def later(self, seconds: float) -> None:
        self.clock.moment += int(seconds * SECOND)
        await self.standing.leader()


def names(managers: Sequence[ManagerAddress]) -> list[str]:
    return [manager.node_id for manager in managers]


async def test_many_who_ask_at_once_are_answered_with_one_question() -> None:
    known = Known()
    found = await asyncio.gather(*(known.standing.leader() for _ in range(200)))
    assert {leader.node_id for leader in found if leader is not None} == {"m1"}
    assert known.store.asked == 1
    await known.later(0.1)
    assert known.store.asked == 1
    await known.later(0.2)
    assert known.store.asked == 2


async def test_others_are_named_only_where_another_leads_at_a_known_address() -> None:
    for leading, expected in (("m1", ["m1", "m2", "m3"]), ("m3", ["m3", "m1", "m2"]), ("m2", []), ("", []), ("x", [])):
        assert names(await Known(Store(leading)).standing.elsewhere()) == expected


async def test_it_is_stale_once_the_store_has_not_answered_for_a_while_and_no_longer_when_it_does() -> None:
    known = Known()
    await known.standing.leader()
    known.store.is_away = True
    await known.later(1)
    assert not known.standing.is_stale
    assert known.standing.known is None
    await known.later(STALE_AFTER / SECOND)
    assert known.standing.is_stale
    known.store.is_away = False
    await known.later(1)
    assert not known.standing.is_stale


async def test_a_daemon_that_was_too_busy_to_ask_does_not_call_itself_stale() -> None:
    known = Known()
    await known.standing.leader()
    known.clock.moment += 60 * SECOND
    assert not known.standing.is_stale


async def test_a_leader_is_waited_for_where_a_stream_needs_one() -> None:
    known = Known(Store(""))
    waiting = asyncio.ensure_future(known.standing.leader_address())
    for _ in range(20):
        await asyncio.sleep(0)
    known.store.leading = "m3"
    assert await waiting == "m3:2377"
