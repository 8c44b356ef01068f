"""How far every manager's member is, as one manager hears it: real members, asked through real control ports."""

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from tests.daemon.test_council import KEY, Home, a_manager
from tests.etcd_members import Members as Running
from tests.etcd_members import running
from tests.factories import a_cluster
from tests.identities import CLUSTER_ID

from skep.daemon import store_status
from skep.daemon.council import Council
from skep.daemon.store_status import PROGRESS_S, Others
from skep.daemon.stores import StorePlaces
from skep.edge.clock import SystemClock, SystemDice
from skep.edge.control import ControlListener
from skep.edge.control_client import HttpControlPort
from skep.edge.etcd import wire
from skep.edge.etcd.gateway import Gateway, Patience
from skep.edge.memory import MemoryStore
from skep.manager.control.writes import Writes
from skep.manager.gate import Gate
from skep.manager.join import Admission
from skep.manager.registry import NodeRegistry
from skep.manager.replica import Replica
from skep.model.council import Entry, EntryRequest, Progress
from skep.model.identity import Credentials, Identity
from skep.model.node import ManagerStatus, Role
from skep.model.store_status import StoreStatus
from skep.ports.transport import Channel, CouncilPort, Declined, TransportError
from skep.store.changes import Put

pytestmark = pytest.mark.anyio
CLOCK = SystemClock()
PLACES = StorePlaces(Path("/nowhere"), Path("/nowhere"))
SLACK_S = 10.0
"""What a busy machine takes beside a limit."""
LONG_S = 60.0


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("etcd"), 3) as started:
        yield started


class NoSessions:
    async def serve(self, identity: Identity, channel: Channel) -> None:
        raise NotImplementedError


@dataclass
class Managers:
    """m0 to m2: each has a member of its own, and a control port that the others know."""

    etcd: Running
    replica: Replica = field(default_factory=lambda: Replica(MemoryStore(), CLOCK))
    homes: list[Home] = field(default_factory=list)

    async def start(self, closing: AsyncExitStack) -> None:
        await self.replica.open()
        closing.push_async_callback(self.replica.close)
        await self.replica.commit([Put(msgspec.structs.replace(a_cluster(), id=CLUSTER_ID))])
        for n in range(3):
            home = Home(self.etcd, n, Patience())
            closing.push_async_callback(home.members.close)
            self.homes.append(home)
            writes = Writes(self.replica, CLOCK, SystemDice())
            council = Council(home, writes, KEY, time.monotonic)
            admission = Admission.over(
                lambda: self.replica.view, lambda: self.etcd.authorities.authority, NodeRegistry(writes), CLOCK
            )
            held = self.etcd.credentials[n]
            gate = Gate(admission, NoSessions(), council=council)
            listener = ControlListener(gate, lambda held=held: held, CLUSTER_ID)
            port = await listener.start("127.0.0.1", 0)
            closing.push_async_callback(listener.close)
            await self.listed(n, f"127.0.0.1:{port}")

    async def listed(self, n: int, addr: str, role: Role = Role.MANAGER) -> None:
        """Have a manager known to listen there, and to be asked to have that role."""
        node = msgspec.structs.replace(a_manager(f"m{n}", role), manager_status=ManagerStatus(addr=addr))
        old = self.replica.view.nodes.get(node.id)
        await self.replica.commit([Put(msgspec.structs.replace(node, version=old.version if old else 0))])

    async def seen_by(self, n: int, port: CouncilPort | None = None) -> StoreStatus:
        held = self.etcd.credentials[n]
        others = Others(port or HttpControlPort(), lambda: held, lambda: self.replica.view)
        return await store_status.look(self.homes[n].opened, PLACES, others)

    async def lags(self, n: int, port: CouncilPort | None = None) -> Mapping[str, int | None]:
        async with asyncio.timeout(LONG_S):
            while (found := await self.seen_by(n, port)).failure:  # A busy machine: its own member was too slow.
                pass
        return {member.node_id: member.lag for member in found.members}

    async def wait_lags(self, n: int, *, zero: set[str]) -> None:
        """Wait until these, and nobody else, are shown to have taken in everything."""
        async with asyncio.timeout(LONG_S):
            while {id for id, lag in (await self.lags(n)).items() if lag == 0} != zero:  # noqa: ASYNC110 — etcd tells nobody
                await asyncio.sleep(0.05)

    async def write(self, n: int, count: int) -> None:
        gateway = Gateway(self.etcd.target(n))
        try:
            for _ in range(count):
                await gateway.ask("/v3/kv/put", wire.Put(key=b"k", value=b"v"), wire.Nothing, limit_s=LONG_S)
        finally:
            await gateway.close()


@pytest.fixture
async def managers(etcd: Running) -> AsyncIterator[Managers]:
    async with AsyncExitStack() as closing:
        made = Managers(etcd)
        await made.start(closing)
        await made.wait_lags(0, zero={"m0", "m1", "m2"})  # The members are connected.
        yield made


@contextlib.contextmanager
def frozen(etcd: Running, n: int) -> Iterator[None]:
    etcd.signal(n, signal.SIGSTOP)
    try:
        yield
    finally:
        etcd.signal(n, signal.SIGCONT)


async def test_every_manager_sees_how_far_all_of_them_are(managers: Managers) -> None:
    for n in range(3):
        await managers.wait_lags(n, zero={"m0", "m1", "m2"})


async def test_one_that_cannot_say_holds_nobody_up_and_is_seen_again_once_it_can(managers: Managers) -> None:
    asked = managers.etcd.leader()  # That there is an election, too, is no matter here.
    ice = (asked + 1) % 3
    with frozen(managers.etcd, ice):
        await managers.write(asked, 20)
        await managers.wait_lags(asked, zero={"m0", "m1", "m2"} - {f"m{ice}"})
        began = time.monotonic()
        assert (await managers.lags(asked))[f"m{ice}"] is None
        assert time.monotonic() - began < PROGRESS_S + SLACK_S
    await managers.wait_lags(asked, zero={"m0", "m1", "m2"})


async def test_one_whose_daemon_hangs_or_is_unknown_is_shown_without_a_number(managers: Managers) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # The kernel connects, and nobody answers.
        await managers.listed(1, f"127.0.0.1:{silent.getsockname()[1]}")
        await managers.listed(2, "")
        began = time.monotonic()
        await managers.wait_lags(0, zero={"m0"})
        assert time.monotonic() - began < PROGRESS_S + SLACK_S


async def test_one_that_was_demoted_hears_of_itself_only(managers: Managers) -> None:
    node = managers.replica.view.nodes.get("m1")
    assert node is not None
    assert node.manager_status is not None
    await managers.listed(1, node.manager_status.addr, Role.WORKER)
    await managers.wait_lags(1, zero={"m1"})
    await managers.wait_lags(0, zero={"m0", "m1", "m2"})


@dataclass
class Scripted:
    """A port at which everyone is asked before anyone answers."""

    answers: Mapping[str, Progress | TransportError]

    def __post_init__(self) -> None:
        self._all_asked = asyncio.Barrier(len(self.answers))

    async def progress(self, addr: str, credentials: Credentials) -> Progress:
        await self._all_asked.wait()
        answer = self.answers[addr]
        if isinstance(answer, TransportError):
            raise answer
        return answer

    async def enter(self, addr: str, credentials: Credentials, request: EntryRequest) -> Entry:
        raise NotImplementedError

    async def vote(self, addr: str, credentials: Credentials, request: EntryRequest) -> None:
        raise NotImplementedError


async def test_all_are_asked_at_once_and_measured_by_the_newest(managers: Managers) -> None:
    for n in (1, 2):
        await managers.listed(n, f"m{n}")
    ids = {member.name: member.id for member in await managers.homes[0].members.members()}
    own = await managers.homes[0].members.progress()
    ahead, late = own.applied + 1_000_000, own.applied - 1
    far = Progress(member_id=ids["m1"], committed=ahead, applied=ahead - 5)
    for n_tries in range(5):  # A busy machine may answer too late.
        behind = Progress(member_id=ids["m2"], committed=late, applied=late - n_tries)
        found = await managers.lags(0, Scripted({"m1": far, "m2": behind}))
        if None not in found.values():
            break
    assert found["m1"] == 5
    assert found["m2"] == 1_000_001 + n_tries
    assert found["m0"] is not None
    assert 900_000 < found["m0"] <= 1_000_000


@pytest.mark.parametrize("is_refused", [True, False], ids=["refused", "another-member"])
async def test_what_is_no_answer_of_that_member_counts_for_nothing(managers: Managers, is_refused: bool) -> None:
    for n in (1, 2):
        await managers.listed(n, f"m{n}")
    stranger = Progress(member_id=1, committed=2**60, applied=2**60)
    answer = Declined("no") if is_refused else stranger
    found = await managers.lags(0, Scripted({"m1": answer, "m2": answer}))
    assert (found["m1"], found["m2"]) == (None, None)
    assert found["m0"] is None or found["m0"] < 1000
