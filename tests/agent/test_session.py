"""The agent's session, against managers that come, go, refuse and forget, all in memory."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import msgspec
import pytest
from tests.factories import a_cluster, a_node, a_task
from tests.identities import CLUSTER_ID, Authorities
from tests.sessions import SOON_S, FakeDesk, FakeDispatch, FakeHandler, QuickClock, SystemDice, until

from skep.agent.managers import AddressBook
from skep.agent.session import LONGEST_PAUSE, SILENT_PAUSE, AgentSession, SessionPorts
from skep.edge.loopback import Switchboard
from skep.manager.gate import Gate
from skep.manager.join import Admission
from skep.manager.sessions import Sessions
from skep.model import session as protocol
from skep.model.assignment import Delta
from skep.model.errors import NotFound, Unavailable
from skep.model.identity import Credentials, Identity, Issued, Newcomer
from skep.model.lifecycle import TaskState
from skep.model.node import ManagerStatus, Node, Role
from skep.model.session import (
    INITIAL_CREDIT,
    MAX_PAYLOAD,
    LogRequest,
    ManagerAddress,
    Refused,
    StreamData,
    StreamRequest,
    TaskReport,
)
from skep.model.task import TaskStatus
from skep.ports.transport import Channel, Unreachable
from skep.store.changes import Batch, Put
from skep.store.state import State

pytestmark = pytest.mark.anyio


def a_report(state: TaskState = TaskState.RUNNING) -> TaskReport:
    return TaskReport(task_id="t1", status=TaskStatus(state=state))


@dataclass
class Noted:
    """A registry that only remembers."""

    certified: list[Identity] = field(default_factory=list)

    async def admit(self, newcomer: Newcomer) -> None: ...

    async def certify(self, identity: Identity) -> None:
        self.certified.append(identity)


@dataclass
class Manager:
    """One manager: everything real but what decides."""

    state: State
    authorities: Authorities
    clock: QuickClock
    epoch: str = "e1"
    desk: FakeDesk = field(default_factory=FakeDesk)
    dispatch: FakeDispatch = field(default_factory=FakeDispatch)
    registry: Noted = field(default_factory=Noted)

    def __post_init__(self) -> None:
        def view() -> State:
            return self.state

        self.sessions = Sessions(self.desk, self.dispatch, view, self.clock, epoch=self.epoch)
        authority = self.authorities.authority
        self.gate = Gate(Admission.over(view, lambda: authority, self.registry, self.clock), self.sessions)

    def push(self, delta: Delta, node_id: str = "n1") -> None:
        self.dispatch.pending = {node_id: delta}
        self.sessions.observe(Batch(self.state.revision, []))


@dataclass
class Rig:
    """Managers on a switchboard, and one node."""

    authorities: Authorities = field(default_factory=Authorities)
    state: State = field(default_factory=State)
    clock: QuickClock = field(default_factory=QuickClock)
    board: Switchboard = field(default_factory=Switchboard)
    handler: FakeHandler = field(default_factory=FakeHandler)

    def __post_init__(self) -> None:
        cluster = msgspec.structs.replace(a_cluster(), id=CLUSTER_ID)
        self.state.apply([Put(cluster), Put(a_node(id="n1")), Put(a_task(id="t1", node_id="n1"))], 1)
        self.identity = self.authorities.node("n1")
        known = [ManagerAddress(node_id="m1", addr="m1:2377"), ManagerAddress(node_id="m2", addr="m2:2377")]
        ports = SessionPorts(self.board, self.clock, SystemDice())
        self.session = AgentSession(self.identity, known, self.handler, ports)

    def manager(self, addr: str = "m1:2377", *, epoch: str = "e1") -> Manager:
        made = Manager(self.state, self.authorities, self.clock, epoch)
        self.board.plug(addr, made.gate)
        return made


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    running = asyncio.ensure_future(made.session.run())
    yield made
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    for addr in ("m1:2377", "m2:2377"):
        await made.board.unplug(addr)


async def test_it_waits_for_a_manager_and_takes_what_it_assigns(rig: Rig) -> None:
    await asyncio.sleep(0.05)
    assert not rig.session.is_connected
    manager = rig.manager()
    await asyncio.wait_for(rig.session.wait_connected(), SOON_S)
    await until(lambda: rig.handler.deltas == [("e1", Delta(base=0, version=1))])
    manager.push(Delta(base=1, version=2))
    await until(lambda: rig.handler.version == 2)
    await until(lambda: ("n1", 2) in manager.dispatch.acknowledged)


async def test_it_says_which_root_it_trusts(rig: Rig) -> None:
    manager = rig.manager()
    await until(lambda: manager.desk.registered)
    (_, hello) = manager.desk.registered[0]
    assert hello.description.hostname == "host"
    assert hello.description.tls_info == rig.authorities.authority.tls_facts


async def test_it_beats_at_the_period_it_is_given(rig: Rig) -> None:
    manager = rig.manager()
    await until(lambda: len(manager.desk.beats) >= 3)


async def test_reports_are_sent_until_they_are_stored(rig: Rig) -> None:
    manager = rig.manager()
    manager.desk.refusal = Unavailable("the store is away")
    await asyncio.sleep(0.02)
    manager.desk.refusal = None
    await asyncio.wait_for(rig.session.wait_connected(), SOON_S)
    manager.desk.refusal = Unavailable("the store is away")
    rig.handler.note(a_report())
    await asyncio.sleep(0.05)
    assert rig.handler.stored == []
    await rig.board.unplug("m1:2377")
    heir = rig.manager("m2:2377")
    await until(lambda: rig.handler.stored == [a_report()])
    assert heir.desk.reports == [("n1", [a_report()])]


async def test_a_manager_that_restarts_is_told_what_is_held_and_nothing_is_applied_before_it_answers(rig: Rig) -> None:
    rig.handler.epoch, rig.handler.version, rig.handler.applied_version = "e0", 57, 57
    first = rig.manager()
    await until(lambda: first.dispatch.acknowledged)
    assert first.dispatch.attached == {"n1": ("e0", 57)}
    assert first.dispatch.acknowledged == [("n1", 1)]
    await rig.board.unplug("m1:2377")
    second = rig.manager(epoch="e2")
    await until(lambda: second.dispatch.attached)
    assert second.dispatch.attached == {"n1": ("e1", 1)}


async def test_a_delta_that_does_not_follow_makes_it_say_hello_again(rig: Rig) -> None:
    manager = rig.manager()
    await until(lambda: rig.handler.version == 1)
    manager.push(Delta(base=7, version=8))
    await until(lambda: rig.handler.hellos == 2)
    await until(lambda: len(rig.handler.deltas) == 2)


async def test_it_goes_to_another_manager_when_one_dies(rig: Rig) -> None:
    rig.manager("m1:2377")
    await until(lambda: rig.session.manager_addr == "m1:2377")
    rig.manager("m2:2377")
    await rig.board.unplug("m1:2377")
    await until(lambda: rig.session.manager_addr == "m2:2377")


async def test_it_learns_of_managers_it_was_not_told_at_first(rig: Rig) -> None:
    rig.state.apply([Put(msgspec.structs.replace(a_node(id="m3"), manager_status=ManagerStatus(addr="m3:2377")))], 2)
    rig.manager("m1:2377")
    await until(lambda: rig.handler.managers)
    await rig.board.unplug("m1:2377")
    third = rig.manager("m3:2377")
    await until(lambda: rig.session.manager_addr == "m3:2377")
    assert third.desk.registered
    await rig.board.unplug("m3:2377")


async def test_a_refusal_that_may_pass_is_waited_out(rig: Rig) -> None:
    manager = rig.manager()
    manager.desk.refusal = Unavailable("not now")
    await until(lambda: rig.handler.hellos >= 3)
    manager.desk.refusal = None
    await asyncio.wait_for(rig.session.wait_connected(), SOON_S)


async def test_a_removed_node_cleans_up_and_does_not_come_back(rig: Rig) -> None:
    manager = rig.manager()
    await asyncio.wait_for(rig.session.wait_connected(), SOON_S)
    cluster = rig.state.cluster
    assert cluster is not None
    gone = msgspec.structs.replace(cluster, removed_nodes={"n1": 1})
    manager.sessions.observe(rig.state.apply([Put(gone)], 2))
    await until(lambda: rig.handler.removal)
    hellos = rig.handler.hellos
    await asyncio.sleep(0.1)
    assert rig.handler.hellos == hellos


async def test_the_certificate_is_renewed_beside_the_session(rig: Rig) -> None:
    manager = rig.manager()
    await asyncio.wait_for(rig.session.wait_connected(), SOON_S)
    before = rig.identity.identity
    wanted = rig.state.nodes.get("n1")
    assert wanted is not None
    promoted = msgspec.structs.replace(wanted, spec=msgspec.structs.replace(wanted.spec, role=Role.MANAGER))
    rig.state.apply([Put(promoted)], 2)
    rig.clock.ahead = rig.identity.renew_at - time.time_ns()
    await until(lambda: rig.identity.identity.serial != before.serial)
    assert rig.identity.identity.role is Role.MANAGER
    assert [identity.serial for identity in manager.registry.certified] == [rig.identity.identity.serial]
    assert rig.handler.hellos == 1


async def test_a_renewal_that_fails_is_tried_again(rig: Rig) -> None:
    manager = rig.manager()
    await asyncio.wait_for(rig.session.wait_connected(), SOON_S)
    node = rig.state.nodes.delete("n1")
    assert isinstance(node, Node)
    serial = rig.identity.identity.serial
    rig.clock.ahead = rig.identity.renew_at - time.time_ns()
    due = rig.identity.renew_at
    await until(lambda: rig.identity.renew_at > due)
    rig.state.nodes.put(node)
    rig.clock.ahead = rig.identity.renew_at - time.time_ns()
    await until(lambda: rig.identity.identity.serial != serial)
    assert manager.registry.certified


# --- streams -------------------------------------------------------------------------


def serving(*parts: bytes, error: Exception | None = None) -> Callable[[StreamRequest], AsyncIterator[StreamData]]:
    async def source(request: StreamRequest) -> AsyncIterator[StreamData]:
        for part in parts:
            yield StreamData(stream=0, payload=part)
        if error is not None:
            raise error

    return source


async def read(manager: Manager) -> list[bytes]:
    return [part.payload async for part in manager.sessions.open_stream("n1", LogRequest(task_id="t1"))]


async def test_more_than_the_credit_passes_while_someone_reads(rig: Rig) -> None:
    parts = [bytes([n]) * 100_000 for n in range(20)]
    rig.handler.source = serving(*parts)
    manager = rig.manager()
    await asyncio.wait_for(rig.session.wait_connected(), SOON_S)
    assert await asyncio.wait_for(read(manager), SOON_S) == parts


async def test_a_long_entry_comes_in_parts(rig: Rig) -> None:
    rig.handler.source = serving(bytes(MAX_PAYLOAD * 2 + 1), b"")
    manager = rig.manager()
    await asyncio.wait_for(rig.session.wait_connected(), SOON_S)
    assert [len(part) for part in await read(manager)] == [MAX_PAYLOAD, MAX_PAYLOAD, 1, 0]


async def test_the_source_waits_while_nobody_reads(rig: Rig) -> None:
    produced = 0
    is_closed = False

    async def endless(request: StreamRequest) -> AsyncIterator[StreamData]:
        nonlocal produced, is_closed
        try:
            while True:
                produced += 1000
                yield StreamData(stream=0, payload=bytes(1000))
        finally:
            is_closed = True

    rig.handler.source = endless
    manager = rig.manager()
    await asyncio.wait_for(rig.session.wait_connected(), SOON_S)
    stream = manager.sessions.open_stream("n1", LogRequest(task_id="t1"))
    await anext(stream)
    await until(lambda: produced > INITIAL_CREDIT)
    await asyncio.sleep(0.05)
    assert produced <= INITIAL_CREDIT + 3000
    await stream.aclose()  # type: ignore[attr-defined]  # It is a generator.
    await until(lambda: is_closed)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        pytest.param(NotFound("task t1 is not on this node"), "not on this node", id="refusal"),
        pytest.param(RuntimeError("a fault"), "a fault", id="fault"),
    ],
)
async def test_an_error_ends_its_stream_and_nothing_else(rig: Rig, error: Exception, text: str) -> None:
    rig.handler.source = serving(b"a", error=error)
    manager = rig.manager()
    await asyncio.wait_for(rig.session.wait_connected(), SOON_S)
    with pytest.raises(Unavailable, match=text):
        await read(manager)
    rig.handler.source = serving(b"b")
    assert await read(manager) == [b"b"]
    assert rig.handler.hellos == 1


# --- where to go ---------------------------------------------------------------------


class Fixed:
    """Dice that fall as told."""

    def __init__(self, *falls: float) -> None:
        self._falls = list(falls)

    def bytes(self, n: int, /) -> bytes:
        return bytes(n)

    def fraction(self) -> float:
        return self._falls.pop(0)


def test_the_last_good_manager_comes_first_and_the_others_by_the_dice() -> None:
    book = AddressBook(["a", "b", "c", "a"])
    assert book.order(Fixed(0.3, 0.2, 0.1)) == ["c", "b", "a"]
    book.praise("b")
    assert book.order(Fixed(0.9, 0.1)) == ["b", "c", "a"]
    book.learn([])
    book.learn(["d"])
    assert book.order(Fixed(0.5)) == ["b", "d"]
    book.doubt("d")
    assert book.order(Fixed(0.5)) == ["b", "d"]
    book.doubt("b")
    assert book.order(Fixed(0.5)) == ["d", "b"], "it may hang: the others are asked before it"
    book.praise("b")
    assert book.order(Fixed(0.5)) == ["b", "d"]
    book.learn(["b", "c", "d", "e"])
    assert book.order(Fixed(0.1, 0.2, 0.3), cut_off="c") == ["b", "d", "e", "c"], "it would only cost time"
    book.doubt("b")
    assert book.order(Fixed(0.1, 0.2, 0.3), cut_off="c") == ["d", "e", "c", "b"], "one that hangs costs more"


@dataclass
class Void:
    """A network in which no manager is reached."""

    is_silent: bool
    dialled: int = 0

    async def dial(self, addr: str, credentials: object) -> Channel:
        self.dialled += 1
        raise Unreachable("nobody is there", is_silent=self.is_silent)

    async def root(self, addr: str) -> str:
        raise Unreachable("nobody is there")

    async def join(self, addr: str, root_pem: str, request: object) -> Issued:
        raise Unreachable("nobody is there")

    async def renew(self, addr: str, credentials: object, request: object) -> Issued:
        raise Unreachable("nobody is there")


class NotedPauses(QuickClock):
    """Notes the session's pauses and lets none of them last; what is longer waits for the certificate's renewal."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[int] = []

    async def sleep(self, duration: int) -> None:
        if duration <= LONGEST_PAUSE:
            self.pauses.append(duration)
            await asyncio.sleep(0)
        else:
            await asyncio.Event().wait()


@pytest.mark.parametrize(("is_silent", "longest"), [(True, SILENT_PAUSE), (False, LONGEST_PAUSE)])
async def test_a_network_that_is_cut_is_tried_often_and_a_manager_that_refuses_ever_more_seldom(
    is_silent: bool, longest: int
) -> None:
    authorities, clock, void = Authorities(), NotedPauses(), Void(is_silent)
    known = [ManagerAddress(node_id="m1", addr="m1:2377")]
    ports = SessionPorts(void, clock, SystemDice())
    session = AgentSession(authorities.node("n1"), known, FakeHandler(), ports)
    running = asyncio.ensure_future(session.run())
    await until(lambda: void.dialled > 20)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    assert longest / 2 <= max(clock.pauses) <= longest


@dataclass
class Pointing:
    """A manager that does not lead and says who does. Attributes: asked: how often."""

    leader: str
    authorities: Authorities
    asked: int = 0
    wishes: list[str] = field(default_factory=list)
    others: Sequence[str] = ()

    def root(self) -> str:
        return self.authorities.authority.root_pem

    def is_removed(self, node_id: str) -> bool:
        return False

    def is_demoted(self, node_id: str) -> bool:
        return False

    async def serve(self, identity: Identity, channel: Channel) -> None:
        self.asked += 1
        hello = protocol.from_agent.decode(await channel.receive())
        assert isinstance(hello, protocol.Hello)
        self.wishes.append(hello.carry_to)
        managers = [ManagerAddress(node_id=addr[:2], addr=addr) for addr in (self.leader, *self.others)]
        await channel.send(protocol.encoder.encode(Refused(reason="another leads", managers=managers)))
        await channel.close()


async def test_it_goes_at_once_where_a_manager_that_does_not_lead_points(rig: Rig) -> None:
    """Also where it was never told of."""
    rig.manager("m3:2377", epoch="e3")
    pointing = Pointing("m3:2377", rig.authorities)
    rig.board.plug("m1:2377", pointing)  # type: ignore[arg-type]  # what is asked of it
    rig.board.plug("m2:2377", pointing)  # type: ignore[arg-type]  # what is asked of it
    await asyncio.wait_for(rig.session.wait_connected(), SOON_S)
    assert (rig.session.manager_addr, pointing.asked) == ("m3:2377", 1)
    await until(lambda: rig.handler.deltas == [("e3", Delta(base=0, version=1))])
    await rig.board.unplug("m3:2377")


async def test_managers_that_point_at_each_other_are_not_asked_in_a_tight_loop(rig: Rig) -> None:
    first, second = Pointing("m2:2377", rig.authorities), Pointing("m1:2377", rig.authorities)
    rig.clock.longest_s = 0.2
    rig.board.plug("m1:2377", first)  # type: ignore[arg-type]  # what is asked of it
    rig.board.plug("m2:2377", second)  # type: ignore[arg-type]  # what is asked of it
    await until(lambda: first.asked)
    before = first.asked + second.asked
    await asyncio.sleep(1)
    assert first.asked + second.asked - before < 200
    rig.manager("m2:2377")
    await asyncio.wait_for(rig.session.wait_connected(), SOON_S)


@pytest.mark.parametrize("is_silent", [True, False])
async def test_one_that_carries_nothing_is_asked_with_pauses_and_the_leader_dialled_meanwhile(
    rig: Rig, is_silent: bool
) -> None:
    """It may be of a version that knows nothing of carrying, and points where the node cannot go."""
    dial = rig.board.dial

    async def dial_in_vain(addr: str, credentials: Credentials) -> Channel:
        try:
            return await dial(addr, credentials)
        except Unreachable as error:
            raise Unreachable(str(error), is_silent=is_silent) from error

    rig.board.dial = dial_in_vain  # type: ignore[method-assign]
    others = ("m1:2377", "m2:2377")
    first, second = (Pointing("m3:2377", rig.authorities, others=others) for _ in others)
    rig.clock.longest_s = 0.2
    rig.board.plug("m1:2377", first)  # type: ignore[arg-type]  # what is asked of it
    rig.board.plug("m2:2377", second)  # type: ignore[arg-type]  # what is asked of it
    await until(lambda: first.asked and second.asked)
    before = first.asked + second.asked
    await asyncio.sleep(1)
    assert first.asked + second.asked - before < 100
    n_plain = (first.wishes + second.wishes).count("")
    assert n_plain == 1 if is_silent else n_plain > 1, "a leader that may be back is asked itself before anyone else"
    assert set(first.wishes + second.wishes) == {"", "m3:2377"}
    rig.manager("m3:2377", epoch="e3")
    await until(lambda: rig.session.manager_addr == "m3:2377")
    assert not rig.session.is_carried
    await rig.board.unplug("m3:2377")


async def test_a_session_that_ends_because_another_leads_now_is_taken_up_there(rig: Rig) -> None:
    first = rig.manager("m1:2377")
    await asyncio.wait_for(rig.session.wait_connected(), SOON_S)
    second = rig.manager("m2:2377", epoch="e2")
    rig.board.plug("m1:2377", Pointing("m2:2377", rig.authorities))  # type: ignore[arg-type]  # what is asked of it
    first.sessions.close("it leads no more")
    await until(lambda: second.desk.registered)
    await until(lambda: rig.handler.epoch == "e2")
