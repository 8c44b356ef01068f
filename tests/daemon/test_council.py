"""Letting managers in and taking them out, on a real etcd member."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
from tests.etcd_members import CALM, running
from tests.etcd_members import Members as Running
from tests.factories import a_cluster, a_node
from tests.identities import CLUSTER_ID

from skep.core.quorum import Voter
from skep.daemon.council import UNUSED_S, Council
from skep.daemon.membership import Membership
from skep.daemon.stores import OpenStore
from skep.edge.clock import SystemClock, SystemDice
from skep.edge.etcd.gateway import Patience
from skep.edge.etcd.members import Membership as Members
from skep.edge.memory import MemoryStore
from skep.edge.sole_leadership import SoleCandidate
from skep.manager.control.writes import Writes
from skep.manager.replica import Replica
from skep.model.council import EntryRequest
from skep.model.errors import Forbidden, Unavailable
from skep.model.identity import Identity
from skep.model.node import ManagerStatus, Node, NodeSpec, Role
from skep.store.changes import Put

pytestmark = pytest.mark.anyio
KEY = b"k" * 32


class Home:
    """A manager that leads, with one of the members that run as its own."""

    def __init__(self, running: Running, n: int = 0, patience: Patience = CALM) -> None:
        id = f"m{n}"
        self.member = Membership(cluster_id=CLUSTER_ID, node_id=id, role=Role.MANAGER, underlay="127.0.0.1", base=7)
        self.members = Members(running.target(n, patience=patience))
        self.opened = OpenStore(MemoryStore(), SoleCandidate(id), members=self.members)
        self.is_leading = True
        self.is_standing = True
        self.n_widened = 0

    async def stand(self, *, is_wanted: bool) -> None:
        self.is_standing = is_wanted

    async def widen(self) -> None:
        self.n_widened += 1


class Circle:
    """A council and what it works on."""

    def __init__(self, home: Home, replica: Replica) -> None:
        self.home = home
        self.replica = replica
        self.moment = 0.0
        self.council = Council(home, Writes(replica, SystemClock(), SystemDice()), KEY, lambda: self.moment)
        replica.observers.append(self.council.observe)

    async def put(self, *nodes: Node) -> None:
        found = [(node, self.replica.view.nodes.get(node.id)) for node in nodes]
        await self.replica.commit(
            [Put(msgspec.structs.replace(node, version=old.version if old else 0)) for node, old in found]
        )

    def status(self, node_id: str) -> ManagerStatus | None:
        node = self.replica.view.nodes.get(node_id)
        return node.manager_status if node is not None else None


def a_manager(id: str, role: Role = Role.MANAGER) -> Node:
    return msgspec.structs.replace(a_node(id), spec=NodeSpec(role=role), role=Role.MANAGER)


def identity(node_id: str) -> Identity:
    return Identity(node_id=node_id, role=Role.MANAGER, cluster_id=CLUSTER_ID)


def asking(n: int, *, has_data: bool = False) -> EntryRequest:
    return EntryRequest(peer_url=f"https://127.0.0.{n}:2380", control_addr=f"127.0.0.{n}:2377", has_data=has_data)


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path, 1) as started:
        yield started


@pytest.fixture
async def circle(etcd: Running) -> AsyncIterator[Circle]:
    home = Home(etcd)
    replica = Replica(home.opened.store, SystemClock())
    await replica.open()
    made = Circle(home, replica)
    await replica.commit([Put(a_cluster())])
    await made.put(*(a_manager(f"m{n}") for n in range(4)))
    yield made
    await replica.close()
    await home.members.close()


async def test_a_manager_is_let_in_by_steps_that_may_be_asked_again(circle: Circle) -> None:
    council = circle.council
    with pytest.raises(Unavailable, match="was not let in yet"):
        await council.vote(identity("m1"), asking(11))
    for _ in range(2):  # The first answer may have been lost.
        entry = await council.enter(identity("m1"), asking(11, has_data=True))
        assert entry.initial["m1"] == "https://127.0.0.11:2380"
        assert set(entry.initial) == {"m0", "m1"}
        assert (entry.base, entry.data_key, entry.is_new) == (7, KEY, True)
        assert "kkkk" not in repr(entry)
    assert circle.status("m1") == ManagerStatus(addr="127.0.0.11:2377")  # Before it may lead.
    assert len(await circle.home.members.members()) == 2
    assert list(await council.voters()) == [Voter("m0")]  # Without a vote it endangers no quorum.
    with pytest.raises(Unavailable, match="cannot be changed at present"):
        await council.enter(identity("m2"), asking(12))  # etcd takes one at a time …
    circle.moment += UNUSED_S + 1
    await council.enter(identity("m2"), asking(12))  # … and one that never came makes room.
    assert {member.peer_url for member in await circle.home.members.members()} >= {"https://127.0.0.12:2380"}
    assert len(await circle.home.members.members()) == 2


async def test_who_is_to_be_no_manager_is_not_let_in(circle: Circle) -> None:
    await circle.put(a_manager("m1", Role.WORKER))
    with pytest.raises(Forbidden, match="promote it first"):
        await circle.council.enter(identity("m1"), asking(11))
    with pytest.raises(Forbidden, match="promote it first"):
        await circle.council.vote(identity("m1"), asking(11))
    with pytest.raises(Forbidden, match="promote it first"):
        await circle.council.progress(identity("m1"))
    with pytest.raises(Unavailable, match="does not know the node yet"):
        await circle.council.enter(identity("m9"), asking(19))
    with pytest.raises(Unavailable, match="does not know the node yet"):
        await circle.council.progress(identity("m9"))
    assert circle.home.n_widened == 0


async def test_a_manager_tells_how_far_its_member_is_while_it_has_one_that_answers(
    circle: Circle, etcd: Running
) -> None:
    found = await circle.council.progress(identity("m1"))
    assert found.committed >= found.applied > 0
    assert [member.id for member in await circle.home.members.members()] == [found.member_id]
    etcd.kill(0)
    with pytest.raises(Unavailable, match="does not say how far it is"):
        await circle.council.progress(identity("m1"))
    circle.home.opened.members = None  # As with a file.
    with pytest.raises(Unavailable, match="keeps the state alone"):
        await circle.council.progress(identity("m1"))


async def test_one_that_was_demoted_is_shown_as_a_manager_no_more_and_a_leader_steps_down(circle: Circle) -> None:
    kept = ManagerStatus(addr="127.0.0.11:2377")
    await circle.put(msgspec.structs.replace(a_manager("m1", Role.WORKER), manager_status=kept))
    tending = asyncio.create_task(circle.council.tend())
    try:
        async with asyncio.timeout(60):
            while circle.status("m1") is not None:  # noqa: ASYNC110 — the view tells nobody
                await asyncio.sleep(0.02)
            assert circle.home.is_standing
            await circle.put(a_manager("m0", Role.WORKER))
            while circle.home.is_standing:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    finally:
        tending.cancel()
        await asyncio.gather(tending, return_exceptions=True)
    assert [member.name for member in await circle.home.members.members()] == ["m0"]  # The last one stays.
