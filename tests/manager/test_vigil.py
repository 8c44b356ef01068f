"""A leader whose machine says that its daemon is gone is deposed; one that is silent, or this manager, is not."""

from dataclasses import dataclass, field

import pytest
from tests.factories import a_node

from skep.edge.clock import SystemClock
from skep.manager.standing import Standing
from skep.manager.vigil import Vigil
from skep.model.node import ManagerStatus
from skep.ports.leadership import Leader, Term
from skep.ports.store import StoreUnavailable
from skep.store.changes import Put
from skep.store.state import State

pytestmark = pytest.mark.anyio


@dataclass
class Elsewhere:
    """A candidate that only looks on. Attributes: leads: None where the store cannot say."""

    leads: Leader | None
    deposed: list[Leader] = field(default_factory=list)

    async def win(self) -> Term:
        raise NotImplementedError

    async def leader(self) -> Leader | None:
        if self.leads is None:
            raise StoreUnavailable("no quorum")
        return self.leads

    async def depose(self, leader: Leader) -> None:
        self.deposed.append(leader)

    async def close(self) -> None: ...


class Place:
    """The manager m1, and m2 beside it. Attributes: refusing: addresses at which nothing listens."""

    def __init__(self, leads: Leader) -> None:
        state = State()
        for n in (1, 2):
            state.apply([Put(a_node(id=f"m{n}", manager_status=ManagerStatus(addr=f"192.0.2.{n}:2377")))], n)
        self.candidate = Elsewhere(leads)
        self.refusing: set[str] = set()
        clock = SystemClock()
        self.standing = Standing(lambda: self.candidate, lambda: state, clock, own_node_id="m1")
        self.vigil = Vigil(self.standing, lambda: self.candidate, lambda: state, clock, self._is_refused)

    async def _is_refused(self, addr: str) -> bool:
        return addr in self.refusing

    async def look(self) -> list[Leader]:
        await self.standing.leader()
        await self.vigil.look()
        return self.candidate.deposed


async def test_a_leader_whose_machine_refuses_is_deposed() -> None:
    place = Place(Leader("m2", 7))
    assert await place.look() == []
    place.refusing.add("192.0.2.2:2377")
    assert await place.look() == [Leader("m2", 7)]


async def test_who_led_last_is_deposed_while_the_store_cannot_say() -> None:
    place = Place(Leader("m2", 7))
    await place.look()
    place.candidate.leads = None
    place.standing._asked_at = 0
    place.refusing.add("192.0.2.2:2377")
    assert await place.look() == [Leader("m2", 7)]


async def test_this_manager_does_not_depose_itself() -> None:
    place = Place(Leader("m1", 7))
    place.refusing |= {"192.0.2.1:2377", "192.0.2.2:2377"}
    assert await place.look() == []
