"""The move between SQLite and etcd: ended anywhere, what was acknowledged is in the store that counts, once."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from tests.daemon.store_mover import KILLED, credentials_of, places_of
from tests.etcd_members import free_ports
from tests.factories import a_cluster, a_node
from tests.identities import CLUSTER_ID, Authorities

from skep.daemon import membership as memberships
from skep.daemon import stores
from skep.daemon.membership import EtcdPlace, Membership
from skep.daemon.store_switch import StoreSwitch
from skep.daemon.stores import StorePlaces
from skep.edge import keyfile
from skep.edge.clock import SystemClock
from skep.edge.sqlite import SqliteStore
from skep.manager.replica import Replica
from skep.model.errors import Unavailable
from skep.model.node import Role
from skep.store.changes import Put

pytestmark = pytest.mark.anyio
OBJECTS = 300
KILLS = 10


class Machine:
    """A manager's machine, with a state to move."""

    def __init__(self, directory: Path, endpoints: Sequence[str] = ()) -> None:
        """Args: endpoints: of an external etcd, to which to move instead; see `places_of`."""
        self.directory = directory
        self.endpoints = list(endpoints)
        self.peer, self.client = free_ports(2)
        self.places = places_of(directory, self.client, endpoints)
        self.places.swarm_dir.mkdir()
        held = Authorities().make("m0", Role.MANAGER, address="127.0.0.1")
        keyfile.save_credentials(self.places.swarm_dir, held)
        self.acknowledged = {f"n{number}" for number in range(OBJECTS)}
        member = Membership(cluster_id=CLUSTER_ID, node_id="m0", role=Role.MANAGER, underlay="127.0.0.1")
        memberships.save(self.places.swarm_dir, member)
        self.founded: dict[str, bytes] = {}

    @property
    def member(self) -> Membership:
        member = memberships.load(self.places.swarm_dir)
        assert member is not None
        return member

    @property
    def peer_url(self) -> str:
        return f"https://127.0.0.1:{self.peer}"

    async def found(self) -> None:
        store = await SqliteStore.open(self.places.store_file, begin_at=1_000)
        replica = Replica(store, SystemClock())
        await replica.open()
        await replica.commit([Put(a_cluster()), *(Put(a_node(id)) for id in sorted(self.acknowledged))])
        await replica.close()
        self.founded = {row.id: row.value for row in (await store.load())[1]}
        await store.close()

    def move(self, kill_at: str = "", *, kill_after_s: float = 0) -> list[str]:
        """Move in a process that ends at a step, or after a time; returns which steps it reached."""
        settings = {
            "directory": str(self.directory),
            "client_port": self.client,
            "endpoints": self.endpoints,
            "peer_url": self.peer_url,
            "kill_at": kill_at,
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.daemon.store_mover"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        try:
            out, err = process.communicate(json.dumps(settings) + "\n", timeout=kill_after_s or 120)
            assert process.returncode == (KILLED if kill_at else 0), err
        except subprocess.TimeoutExpired:
            assert kill_after_s
            process.kill()
            out, _ = process.communicate()
        words = [line.split() for line in out.splitlines(keepends=True) if line.endswith("\n")]
        self.acknowledged |= {rest[0] for word, *rest in words if word == "acknowledged"}
        return [" ".join(rest) for word, *rest in words if word == "reached"]

    async def check(self) -> int:
        """Open what the membership names, as the next daemon would; returns its revision."""
        held = credentials_of(self.directory)
        opened = await stores.open_store(self.places, self.member, lambda: held, random.random)
        try:
            revision, rows = await opened.store.load()
        finally:
            await opened.close()
        assert {row.id: row.value for row in rows if row.id in self.founded} == self.founded  # None lost or changed.
        found = [row.id for row in rows if row.kind == "node"]
        assert len(found) == len(set(found))
        # What was under way when the process ended may be there or not; what was acknowledged has to be.
        assert set(found) >= self.acknowledged
        assert [row.kind for row in rows if row.kind not in ("node", "turn")] == ["cluster"]
        self.acknowledged = set(found)
        return revision

    def close(self) -> None:
        for pid_file in self.places.run_dir.glob("*.pid"):
            os.kill(int(pid_file.read_text()), signal.SIGKILL)


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    made = Machine(tmp_path)
    await made.found()
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize(
    "step",
    [
        pytest.param("started", marks=pytest.mark.soak),
        pytest.param("copied early", marks=pytest.mark.soak),
        pytest.param("copied", marks=pytest.mark.soak),
        "recorded",
        pytest.param("closed", marks=pytest.mark.soak),
    ],
)
async def test_a_move_to_etcd_that_is_killed_loses_nothing_and_is_done_again(machine: Machine, step: str) -> None:
    before = await machine.check()
    machine.move(step)
    is_moved = step in ("recorded", "closed")
    assert (machine.member.etcd is not None) is is_moved
    assert await machine.check() >= before
    assert machine.places.etcd_dir.exists() is is_moved
    assert machine.places.store_file.exists() is not is_moved
    if not is_moved:
        assert machine.move()[-1] == "closed"
        assert machine.member.etcd is not None
        await machine.check()


@pytest.mark.parametrize(
    "step",
    [
        pytest.param("started", marks=pytest.mark.soak),
        pytest.param("copied", marks=pytest.mark.soak),
        pytest.param("renamed", marks=pytest.mark.soak),
        pytest.param("recorded", marks=pytest.mark.soak),
    ],
)
async def test_a_move_back_that_is_killed_loses_nothing_and_is_done_again(machine: Machine, step: str) -> None:
    machine.move()
    before = await machine.check()
    machine.move(step)
    is_moved = step == "recorded"
    assert (machine.member.etcd is None) is is_moved
    assert await machine.check() >= before
    if not is_moved:
        machine.move()
        assert machine.member.etcd is None
        assert await machine.check() >= before
    assert not machine.places.etcd_dir.exists()
    assert machine.places.store_file.exists()


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2))
async def test_moves_killed_at_any_moment_lose_and_change_nothing(machine: Machine, seed: int) -> None:
    """To and fro under writes, killed ten times on the way to each."""
    dice = random.Random(seed)
    n_kills = {True: 0, False: 0}
    revision = await machine.check()
    while min(n_kills.values()) < KILLS:
        was_etcd = machine.member.etcd is not None
        is_killed = n_kills[was_etcd] < KILLS
        length_s = dice.uniform(0.5, 4.0) if is_killed else 0
        machine.move(kill_after_s=length_s)
        if is_killed and dice.random() < 0.5:
            machine.close()  # Power takes etcd with it.
        n_kills[was_etcd] += is_killed
        before, revision = revision, await machine.check()
        assert revision >= before
    print(f"killed {n_kills}, {len(machine.acknowledged)} objects")


@pytest.mark.soak
async def test_the_way_back_straight_after_a_move_that_was_killed(machine: Machine) -> None:
    machine.move("recorded")  # The file is still there, with its log, and counts for nothing.
    machine.move()
    assert machine.member.etcd is None
    await machine.check()


async def test_a_move_that_cannot_be_leaves_everything_as_it_was(machine: Machine) -> None:
    """Without etcd nothing begins; where etcd does not start, what it began is removed."""
    held = credentials_of(machine.directory)
    opened = await stores.open_store(machine.places, machine.member, lambda: held, random.random)
    replica = Replica(opened.store, SystemClock())
    await replica.open()
    for program, words in (("/nowhere/etcd", "install it there"), ("/bin/false", "stays where it is")):
        places = StorePlaces(machine.places.swarm_dir, machine.places.run_dir, Path(program), machine.client)
        switch = StoreSwitch(places, lambda: held, random.random, start_s=1)
        with pytest.raises(Unavailable, match=words):
            await switch.to_etcd(machine.member, opened, replica, machine.peer_url)
        await replica.commit([Put(a_node(program[1:4]))])
    assert machine.member.etcd is None
    await replica.close()
    await opened.close()
    assert not (machine.places.run_dir / "etcd.pid").exists()
    machine.acknowledged |= {"now", "bin"}
    await machine.check()


@pytest.mark.soak
async def test_etcd_begins_anew_from_one_members_data(machine: Machine) -> None:
    machine.move()
    held = credentials_of(machine.directory)
    before = machine.member
    assert before.etcd is not None
    place = EtcdPlace(peer_url=before.etcd.peer_url, initial=before.etcd.initial | {"m1": "https://127.0.0.1:1"})
    lonely = await stores.open_store(machine.places, before, lambda: held, random.random)
    assert lonely.members is not None
    await lonely.members.add("https://127.0.0.1:1")
    await lonely.close()
    after = await stores.begin_alone(machine.places, before, lambda: held)
    assert after.etcd is not None
    assert after.etcd.initial == {"m0": place.peer_url}
    assert machine.member == after
    opened = await stores.open_store(machine.places, after, lambda: held, random.random)
    assert opened.members is not None
    async with asyncio.timeout(60):
        assert [member.name for member in await opened.members.members()] == ["m0"]
    await opened.close()
    await machine.check()
