"""A swarm's state in an etcd that is not the managers' own: moved there and back, shared, renewed, looked at."""

import asyncio
import dataclasses
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
from tests.daemon.store_mover import credentials_of
from tests.daemon.test_council import KEY as DATA_KEY
from tests.daemon.test_council import Circle, Home, a_manager, identity
from tests.daemon.test_store_switch import Machine
from tests.etcd_members import Members as Running
from tests.etcd_members import free_ports, running
from tests.factories import a_cluster
from tests.identities import CLUSTER_ID, Authorities

from skep.core.quorum import Voter
from skep.daemon import stores
from skep.daemon.config import external_etcd
from skep.daemon.store_commands import to_sqlite
from skep.daemon.store_status import Others, look
from skep.daemon.store_switch import StoreSwitch
from skep.daemon.stores import OpenStore, StorePlaces
from skep.edge.clock import SystemClock
from skep.edge.control_client import HttpControlPort
from skep.edge.etcd.external import StateMark, external_target
from skep.edge.etcd.settings import CERTIFICATE, KEY, ROOT
from skep.edge.memory import MemoryStore
from skep.edge.sole_leadership import SoleCandidate
from skep.manager.replica import Replica
from skep.model.council import EntryRequest
from skep.model.errors import Conflict, InvalidSpec, Unavailable
from skep.model.identity import Credentials
from skep.model.node import ManagerStatus, Role
from skep.model.store_status import StoreMember
from skep.store.changes import Put

pytestmark = pytest.mark.anyio
LONG_S = 60.0


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("etcd"), 1) as started:
        yield started


def write(directory: Path, held: Credentials) -> None:
    for name, text in ((ROOT, held.root), (CERTIFICATE, held.certificate), (KEY, held.key)):
        (directory / name).write_text(text)


def endpoints(etcd: Running) -> list[str]:
    return [settings.client_url for settings in etcd.settings]


@pytest.fixture
async def machine(etcd: Running, tmp_path: Path) -> AsyncIterator[Machine]:
    write(tmp_path, etcd.credentials[0])
    made = Machine(tmp_path, endpoints(etcd))
    await made.found()
    try:
        yield made
    finally:
        made.close()
        await forget(etcd)


async def forget(etcd: Running) -> None:
    """Begin the next test with nothing."""
    mark = StateMark(etcd.target(), CLUSTER_ID)
    await mark.forget_state()
    await mark.close()


async def is_marked(etcd: Running) -> bool:
    mark = StateMark(etcd.target(), CLUSTER_ID)
    try:
        return await mark.is_set()
    finally:
        await mark.close()


@pytest.mark.parametrize(
    "step",
    [
        pytest.param("copied early", marks=pytest.mark.soak),
        "copied",
        "recorded",
        pytest.param("closed", marks=pytest.mark.soak),
    ],
)
async def test_a_move_there_that_is_killed_loses_nothing_and_is_done_again(
    machine: Machine, etcd: Running, step: str
) -> None:
    before = await machine.check()
    machine.move(step)
    is_moved = step in ("recorded", "closed")
    assert machine.member.is_external is is_moved
    assert await machine.check() >= before
    assert machine.places.store_file.exists() is not is_moved
    if not is_moved:
        assert machine.move()[-1] == "closed"
        await machine.check()
    assert machine.member.is_external
    assert await is_marked(etcd)
    assert not machine.places.etcd_dir.exists()


@pytest.mark.parametrize("step", ["", pytest.param("copied", marks=pytest.mark.soak), "renamed"])
async def test_and_back_again_after_which_nothing_is_left_there(machine: Machine, etcd: Running, step: str) -> None:
    machine.move()
    before = await machine.check()
    machine.move(step)
    if step:
        assert machine.member.is_external
        assert await machine.check() >= before
        machine.move()
    assert not machine.member.is_external
    assert await machine.check() >= before
    assert not await is_marked(etcd)
    machine.move()
    assert machine.member.is_external


async def test_another_state_of_the_same_swarm_is_not_written_over(machine: Machine, etcd: Running) -> None:
    mark = StateMark(etcd.target(), CLUSTER_ID)
    await mark.set()
    await mark.close()
    held = credentials_of(machine.directory)
    opened = await stores.open_store(machine.places, machine.member, lambda: held, random.random)
    replica = Replica(opened.store, SystemClock())
    await replica.open()
    switch = StoreSwitch(machine.places, lambda: held, random.random)
    try:
        with pytest.raises(Conflict, match=f"etcdctl del --prefix /skep/{CLUSTER_ID}/"):
            await switch.to_external(machine.member, opened, replica)
    finally:
        await replica.close()
        await opened.close()
    assert not machine.member.is_external
    await machine.check()


async def test_the_way_back_waits_for_the_other_managers_to_go(machine: Machine) -> None:
    machine.move()
    held = credentials_of(machine.directory)
    opened = await stores.open_store(machine.places, machine.member, lambda: held, random.random)
    replica = Replica(opened.store, SystemClock(), is_shared=True)
    await replica.open()
    await replica.commit([Put(a_manager("one")), Put(a_manager("two"))])
    await replica.close()
    await opened.close()
    with pytest.raises(Conflict, match="has 2 managers"):
        await StoreSwitch(machine.places, lambda: held, random.random).to_sqlite(machine.member)
    assert machine.member.is_external


async def test_the_offline_command_needs_to_be_told_where(machine: Machine) -> None:
    machine.move()
    await machine.check()
    where = machine.directory, machine.places.run_dir.parent, machine.client
    with pytest.raises(Unavailable, match="--etcd"):
        await asyncio.to_thread(to_sqlite, *where)
    assert machine.member.is_external
    assert "every object checked" in await asyncio.to_thread(to_sqlite, *where, machine.places.external)
    assert not machine.member.is_external
    await machine.check()


async def test_a_daemon_that_was_not_told_where_says_so(machine: Machine) -> None:
    machine.move()
    held = credentials_of(machine.directory)
    untold = StorePlaces(machine.places.swarm_dir, machine.places.run_dir)
    with pytest.raises(Unavailable, match="start it with --etcd"):
        await stores.open_store(untold, machine.member, lambda: held, random.random)


# --- several managers ----------------------------------------------------------------


@pytest.fixture
async def circle(etcd: Running) -> AsyncIterator[Circle]:
    home = Home(etcd)
    mark = StateMark(etcd.target(), CLUSTER_ID)
    home.opened = OpenStore(MemoryStore(), SoleCandidate("m0"), mark=mark)
    replica = Replica(home.opened.store, SystemClock())
    await replica.open()
    made = Circle(home, replica)
    await replica.commit([Put(a_cluster())])
    own = msgspec.structs.replace(a_manager("m0"), manager_status=ManagerStatus(addr="127.0.0.10:2377"))
    await made.put(own, a_manager("m1"))
    yield made
    await replica.close()
    await home.members.close()
    await mark.close()


async def test_managers_are_let_in_without_a_member_and_taken_out_again(circle: Circle) -> None:
    request = EntryRequest(peer_url="", control_addr="127.0.0.11:2377")
    for _ in range(2):  # The first answer may have been lost.
        entry = await circle.council.enter(identity("m1"), request)
        assert (entry.is_external, entry.is_new, entry.base, entry.initial) == (True, False, 7, {})
        assert entry.data_key == DATA_KEY
    assert circle.status("m1") is None, "perhaps it cannot use that etcd"
    assert list(await circle.council.voters()) == [Voter("m0")]
    await circle.council.vote(identity("m1"), request)
    assert circle.status("m1") == ManagerStatus(addr="127.0.0.11:2377")
    assert list(await circle.council.voters()) == [Voter("m0"), Voter("m1")]
    await circle.put(a_manager("m1", Role.WORKER))
    tending = asyncio.create_task(circle.council.tend())
    try:
        async with asyncio.timeout(LONG_S):
            while circle.status("m1") is not None:  # noqa: ASYNC110 — the view tells nobody
                await asyncio.sleep(0.02)
        assert circle.status("m0") is not None
        assert circle.home.is_standing
        await circle.put(a_manager("m0", Role.WORKER), a_manager("m1"))
        async with asyncio.timeout(LONG_S):
            while circle.home.is_standing:  # noqa: ASYNC110 — it leaves the rest to another
                await asyncio.sleep(0.02)
    finally:
        tending.cancel()
        await asyncio.gather(tending, return_exceptions=True)


async def test_how_it_fares_is_asked_at_every_endpoint(circle: Circle, etcd: Running) -> None:
    (gone,) = free_ports(1)
    target = dataclasses.replace(etcd.target(), endpoints=[*endpoints(etcd), f"https://127.0.0.1:{gone}"])
    mark = StateMark(target, CLUSTER_ID)
    opened = OpenStore(MemoryStore(), SoleCandidate("m0"), mark=mark)
    others = Others(HttpControlPort(), lambda: etcd.credentials[0], lambda: circle.replica.view)
    found = await look(opened, StorePlaces(Path("/nowhere"), Path("/nowhere")), others)
    await mark.close()
    assert (found.kind, found.failure, found.members) == ("external etcd", "", [StoreMember(node_id="m0")])
    assert found.version.startswith("3.")
    assert found.size_bytes > 0
    there, away = found.endpoints
    assert there.failure == ""
    assert "cannot be reached" in away.failure


# --- certificates ----------------------------------------------------------------------


async def test_renewed_certificates_are_used_once_they_fit_together(etcd: Running, tmp_path: Path) -> None:
    write(tmp_path, etcd.credentials[0])
    files = [tmp_path / name for name in (ROOT, CERTIFICATE, KEY)]
    target = external_target(endpoints(etcd), *files)
    assert target.context is not None
    first = target.context()
    assert target.context() is first
    renewed = etcd.authorities.make("m7", Role.MANAGER)
    (tmp_path / CERTIFICATE).write_text(renewed.certificate)
    assert target.context() is first, "the key is not renewed yet"
    (tmp_path / KEY).write_text(renewed.key)
    assert target.context() is not first
    mark = StateMark(target, CLUSTER_ID)
    assert not await mark.is_set()
    await mark.close()


@pytest.mark.parametrize(("name", "text"), [(KEY, None), (CERTIFICATE, "nothing"), (ROOT, "")])
def test_certificates_that_cannot_be_used_are_refused(tmp_path: Path, name: str, text: str | None) -> None:
    write(tmp_path, Authorities().make("m0", Role.MANAGER))
    (tmp_path / name).unlink() if text is None else (tmp_path / name).write_text(text)
    with pytest.raises(InvalidSpec, match="certificates for the external etcd cannot be used"):
        external_target(["https://127.0.0.1:1"], *(tmp_path / each for each in (ROOT, CERTIFICATE, KEY)))


@pytest.mark.parametrize(
    ("named", "n_files", "words"),
    [
        pytest.param(["http://127.0.0.1:2379"], 3, "write https://HOST:2379", id="without TLS"),
        pytest.param(["127.0.0.1:2379"], 3, "write https://HOST:2379", id="no scheme"),
        pytest.param(["https://one:2379,"], 3, "write https://HOST:2379", id="empty"),
        pytest.param(["https://one:port"], 3, "no valid port", id="port"),
        pytest.param(["https://one"], 2, "--etcd-key", id="no key"),
        pytest.param([], 3, "need its endpoints", id="no endpoint"),
    ],
)
def test_what_is_no_external_etcd_is_refused(tmp_path: Path, named: list[str], n_files: int, words: str) -> None:
    files = [tmp_path / "file" if n < n_files else None for n in range(3)]
    with pytest.raises(InvalidSpec, match=words):
        external_etcd(named, *files)


def test_endpoints_may_be_named_apart_or_together(tmp_path: Path) -> None:
    found = external_etcd(["https://one:2379/, https://two:2379", "https://three"], tmp_path, tmp_path, tmp_path)
    assert found is not None
    assert found.endpoints == ("https://one:2379", "https://two:2379", "https://three:2379")
