"""Nodes that reach some manager but not the one that leads: their sessions are carried there, and come back."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from tests.factories import a_service
from tests.identities import CLUSTER_ID
from tests.manager.council import CLOCK, LONG_S, Council, Manager, convened
from tests.manager.test_relay import Echo
from tests.sessions import SOON_S, until

from skep.edge.loopback import MemoryChannel, memory_channels
from skep.manager.carrying import ENDED, MOVED, carry_session, first_message, wish_of
from skep.manager.reception import ELSEWHERE
from skep.manager.sessions import REMOVED, REPLACED
from skep.model import session as protocol
from skep.model.errors import Unavailable
from skep.model.identity import Identity
from skep.model.lifecycle import TaskState
from skep.model.node import NodeDescription, Role
from skep.model.session import (
    AttachmentStep,
    AttachmentWanted,
    CarryOpen,
    FileKind,
    FileWanted,
    Heartbeat,
    Hello,
    LogRequest,
    Refused,
    StreamData,
    StreamRequest,
    Welcome,
)
from skep.ports.transport import Channel, ChannelClosed, Declined
from skep.store.changes import Put

pytestmark = pytest.mark.anyio
HELLO = Hello(description=NodeDescription(hostname="w1"), underlay="192.0.2.1")


@pytest.fixture
async def council() -> AsyncIterator[Council]:
    """With workers w1, which cannot reach the leader, and w2, which can."""
    async with convened(2) as made:
        await cut_off(made)
        yield made


async def cut_off(council: Council) -> None:
    await council.reach["w1"].sever(council.leader.addr)
    await until(lambda: is_carried(council), LONG_S)


def is_carried(council: Council) -> bool:
    session = council.sessions["w1"]
    return session.is_carried and session.manager_addr not in ("", council.leader.addr)


def carrier(council: Council) -> Manager:
    return council.managers[council.sessions["w1"].manager_addr.partition(":")[0]]


def running(council: Council, node_id: str = "w1") -> set[str]:
    tasks = council.leader.replica.view.tasks.values()
    return {task.id for task in tasks if task.node_id == node_id and task.status.state == TaskState.RUNNING}


async def create(council: Council, id: str, replicas: int) -> None:
    service = a_service(id, replicas=replicas)
    await carrier(council).writes.transact(lambda view: [Put(service)])


def begun(council: Council) -> list[str]:
    return [task_id for worker in council.workers.values() for task_id in worker.begun]


async def said(channel: Channel) -> protocol.FromManager:
    found: protocol.FromManager = protocol.from_manager.decode(await asyncio.wait_for(channel.receive(), SOON_S))
    return found


async def carried_by(council: Council, by: str, node_id: str, hello: Hello = HELLO) -> Channel:
    """What a manager's carrying looks like to the leader."""
    credentials = council.authorities.make(by, Role.MANAGER)
    channel = await council.board.relay(council.leader.addr, credentials)
    await channel.send(protocol.encoder.encode(CarryOpen(node_id=node_id)))
    await channel.send(protocol.encoder.encode(hello))
    return channel


# --- what a carried session does ------------------------------------------------------


async def test_it_brings_assignments_and_stores_reports_and_the_node_stays_ready(council: Council) -> None:
    council.leader.replica.observers.append(council.watch)
    await create(council, "web", 4)
    await until(lambda: len(running(council)) == 2, LONG_S)
    sessions = council.leader.reception.sessions
    assert sessions is not None
    assert sessions.connected == {"w1", "w2"}
    assert len(begun(council)) == 4
    assert council.complaints == []
    assert not council.sessions["w2"].is_carried


@pytest.mark.parametrize("asked", ["leader", "carrier", "third"])
async def test_logs_and_engine_come_over_it_whichever_manager_is_asked(council: Council, asked: str) -> None:
    async def entries(request: StreamRequest) -> AsyncIterator[StreamData]:
        for number in range(600):  # More than a stream's first credit.
            yield StreamData(stream=0, timestamp=number, payload=b"x" * 1000)

    async def open_engine() -> Echo:
        return Echo()

    council.workers["w1"].source = entries
    council.workers["w1"].open_engine = open_engine  # type: ignore[attr-defined]
    third = next(manager for manager in council.others if manager is not carrier(council))
    at = {"leader": council.leader, "carrier": carrier(council), "third": third}[asked].reception
    parts = [part.timestamp async for part in at.open_stream("w1", LogRequest(task_id="t"))]
    assert parts == list(range(600))
    stream = at.open_engine("w1")
    await stream.send(b"hello")
    assert await asyncio.wait_for(stream.receive(), SOON_S) == b"hellohello"
    await stream.close()


async def test_the_certificate_is_renewed_by_the_manager_that_carries() -> None:
    async with convened(1, longest_s=0.2) as council:
        await cut_off(council)
        identity, hellos = council.identities["w1"], council.workers["w1"].hellos
        before = identity.identity.serial
        council.clocks["w1"].ahead = identity.renew_at - CLOCK.now()
        await until(lambda: identity.identity.serial != before, LONG_S)
        assert is_carried(council)
        assert council.workers["w1"].hellos == hellos, "the session stayed"


async def test_what_a_task_needs_is_asked_for_over_it(council: Council) -> None:
    wanted = FileWanted(task_id="t", kind=FileKind.SECRET, file_id="s")
    place = AttachmentWanted(step=AttachmentStep.CHECK, network="front")
    for question in (wanted, place):
        answer = await asyncio.wait_for(council.workers["w1"].wants.ask(question), SOON_S)
        assert answer.wanted == question
        assert "not found" in answer.error


async def test_a_node_that_is_removed_is_told_so_within_two_seconds(council: Council) -> None:
    cluster = council.leader.replica.view.cluster
    assert cluster is not None
    removed = msgspec.structs.replace(cluster, removed_nodes={"w1": CLOCK.now() + 10**18})
    await council.leader.writes.transact(lambda view: [Put(removed)])
    await until(lambda: council.workers["w1"].removal, 2)
    assert council.workers["w1"].removal == REMOVED


# --- how it ends ------------------------------------------------------------------------


async def test_the_manager_that_carries_dies_and_another_does(council: Council) -> None:
    await create(council, "web", 4)
    await until(lambda: len(running(council)) == 2, LONG_S)
    council.leader.replica.observers.append(council.watch)
    dead = carrier(council)
    del council.managers[dead.node_id]
    await dead.die()
    await until(lambda: is_carried(council) and carrier(council) is not dead, LONG_S)
    await create(council, "next", 4)
    await until(lambda: len(running(council)) == 4, LONG_S)
    assert len(begun(council)) == 8, "something was restarted"
    assert council.complaints == []


@pytest.mark.parametrize("reaches", ["one", "both"])
async def test_another_leads_and_the_session_goes_to_that_one(council: Council, reaches: str) -> None:
    """Directly where the node reaches it, else by way of whom it reaches; nothing restarts."""
    await create(council, "web", 4)
    await until(lambda: len(running(council)) == 2, LONG_S)
    reach, via = council.reach["w1"], carrier(council)
    reach.cut_off = {addr for addr in map(address, council.managers.values()) if addr != via.addr}
    if reaches == "both":
        reach.cut_off = {council.leader.addr}
    epochs = {worker.epoch for worker in council.workers.values()}
    await council.election.depose()
    await until(lambda: epochs.isdisjoint(worker.epoch for worker in council.workers.values()), LONG_S)
    for manager in council.managers.values():
        manager.replica.observers.append(council.watch)
    expected = council.leader.addr in reach.cut_off
    await until(lambda: council.sessions["w1"].manager_addr and council.sessions["w1"].is_carried == expected, LONG_S)
    await create(council, "next", 4)
    await until(lambda: len(running(council)) == 4, LONG_S)
    assert len(begun(council)) == 8, "something was restarted"


def address(manager: Manager) -> str:
    return manager.addr


async def test_the_manager_that_carries_leads_next_and_holds_the_session_itself(council: Council) -> None:
    heir = carrier(council)
    for manager in list(council.managers.values()):
        if manager is not heir:
            await council.managers.pop(manager.node_id).die()
    await council.election.depose()
    await until(lambda: council.sessions["w1"].manager_addr == heir.addr, LONG_S)
    await until(lambda: heir.reception.sessions is not None and "w1" in heir.reception.sessions.connected, LONG_S)
    assert not council.sessions["w1"].is_carried


async def test_it_ends_as_soon_as_another_is_known_to_lead_though_the_former_says_nothing(council: Council) -> None:
    ended = asyncio.Event()
    council.workers["w1"].disconnected = ended.set  # type: ignore[method-assign]
    council.election.holder = "m9"
    await asyncio.wait_for(ended.wait(), LONG_S)


async def test_back_to_the_direct_way_once_there_is_one_and_not_amid_a_terminal() -> None:
    async with convened(2, longest_s=0.1) as council:
        await cut_off(council)
        await create(council, "web", 4)
        await until(lambda: len(running(council)) == 2, LONG_S)
        echo = Echo()

        async def open_engine() -> Echo:
            return echo

        council.workers["w1"].open_engine = open_engine  # type: ignore[attr-defined]
        terminal = council.leader.reception.open_engine("w1")
        await terminal.send(b"x")
        assert await asyncio.wait_for(terminal.receive(), SOON_S) == b"xx"
        council.leader.replica.observers.append(council.watch)
        hellos = council.workers["w1"].hellos
        council.reach["w1"].cut_off.clear()
        await asyncio.sleep(0.5)  # Five looks would have been made.
        assert (is_carried(council), council.workers["w1"].hellos) == (True, hellos)
        await terminal.close()
        await until(lambda: council.sessions["w1"].manager_addr == council.leader.addr, LONG_S)
        assert not council.sessions["w1"].is_carried
        assert council.workers["w1"].hellos == hellos + 1, "it was dialled and then used"
        await create(council, "next", 4)
        await until(lambda: len(running(council)) == 4, LONG_S)
        assert len(begun(council)) == 8, "something was restarted"
        assert council.complaints == []


async def test_the_leader_is_looked_for_and_nothing_breaks_while_it_is_not_there() -> None:
    async with convened(1, longest_s=0.05) as council:
        await cut_off(council)
        hellos = council.workers["w1"].hellos
        await asyncio.sleep(0.5)  # Ten looks.
        assert (is_carried(council), council.workers["w1"].hellos) == (True, hellos)


async def test_no_manager_that_reaches_the_leader_is_found_and_all_are_asked() -> None:
    async with convened(1, longest_s=0.1) as council:
        reach = council.reach["w1"]
        asked_before = len(reach.dialled)
        leader = council.leader
        relays: list[str] = []

        async def unreachable(addr: str, credentials: object) -> Channel:
            relays.append(addr)
            raise Declined("the way is cut")

        relay = council.board.relay
        council.board.relay = unreachable  # type: ignore[method-assign]
        await reach.sever(leader.addr)
        others = {manager.addr for manager in council.others}
        await until(lambda: others <= set(reach.dialled[asked_before:]) and len(relays) > 2, LONG_S)
        await asyncio.sleep(0.5)
        assert len(reach.dialled) < asked_before + 100, "they are asked with pauses"
        council.board.relay = relay  # type: ignore[method-assign]
        await until(lambda: is_carried(council), LONG_S)


# --- who may, and what is refused ---------------------------------------------------------


async def test_without_the_wish_or_with_another_a_node_is_sent_to_the_leader(council: Council) -> None:
    for wish in ("", "m9:2377"):
        channel = await council.board.dial(carrier(council).addr, council.authorities.make("w2"))
        await channel.send(protocol.encoder.encode(msgspec.structs.replace(HELLO, carry_to=wish)))
        refused = await said(channel)
        assert isinstance(refused, Refused)
        assert refused.reason == ELSEWHERE
        assert refused.managers[0].node_id == council.leader.node_id


async def test_a_node_is_carried_as_whom_its_certificate_says(council: Council) -> None:
    carried = msgspec.structs.replace(HELLO, carry_to=council.leader.addr)
    channel = await council.board.dial(carrier(council).addr, council.authorities.make("w9"))
    await channel.send(protocol.encoder.encode(carried))
    refused = await said(channel)
    assert isinstance(refused, Refused)
    assert "does not know the node" in refused.reason


async def test_a_worker_can_carry_nobody(council: Council) -> None:
    with pytest.raises(Declined):
        await council.board.relay(council.leader.addr, council.authorities.make("w2"))
    for role in Role:  # Even with a certificate that it should not have, or a role that its certificate does not say.
        for node_id in ("w2", council.others[0].node_id) if role is Role.WORKER else ("w2",):
            ours, theirs = memory_channels()
            await ours.send(protocol.encoder.encode(CarryOpen(node_id="w1")))
            claimed = Identity(node_id=node_id, role=role, cluster_id=CLUSTER_ID)
            await asyncio.wait_for(council.leader.reception.carry(claimed, theirs), SOON_S)
            with pytest.raises(ChannelClosed):
                await said(ours)
    assert is_carried(council)


async def test_a_manager_that_is_demoted_carries_no_more(council: Council) -> None:
    council.leader.replica.observers.append(council.watch)
    demoted = carrier(council)
    node = council.leader.replica.view.nodes.get(demoted.node_id)
    assert node is not None
    spec = msgspec.structs.replace(node.spec, role=Role.WORKER)
    await council.leader.writes.transact(lambda view: [Put(msgspec.structs.replace(node, spec=spec))])
    await until(lambda: is_carried(council) and carrier(council) is not demoted, LONG_S)


async def test_a_newer_session_takes_the_place_of_the_older_carried_or_not(council: Council) -> None:
    by = carrier(council).node_id
    older = await council.board.dial(council.leader.addr, council.authorities.make("w2"))
    await older.send(protocol.encoder.encode(HELLO))
    welcome = await said(older)
    assert isinstance(welcome, Welcome)
    assert not welcome.is_carried
    newer = await carried_by(council, by, "w2")
    welcome = await said(newer)
    assert isinstance(welcome, Welcome)
    assert welcome.is_carried
    assert await farewell(older) == REPLACED
    newest = await council.board.dial(council.leader.addr, council.authorities.make("w2"))
    await newest.send(protocol.encoder.encode(HELLO))
    assert await farewell(newer) == REPLACED


async def farewell(channel: Channel) -> str:
    while not isinstance(message := await said(channel), Refused):
        pass
    return message.reason


async def test_one_that_does_not_lead_carries_no_further_and_names_who_leads(council: Council) -> None:
    credentials = council.authorities.make(council.others[0].node_id, Role.MANAGER)
    channel = await council.board.relay(council.others[1].addr, credentials)
    await channel.send(protocol.encoder.encode(CarryOpen(node_id="w1")))
    refused = await said(channel)
    assert isinstance(refused, Refused)
    assert refused.managers[0].node_id == council.leader.node_id


# --- the carrying itself --------------------------------------------------------------------


class Carrying:
    """A session being carried between a node and a leader that the test plays both."""

    def __init__(self) -> None:
        self.node, near = memory_channels()
        far, self.leader = memory_channels()
        self.moved = asyncio.Event()

        async def opening() -> Channel:
            return far

        async def moved() -> None:
            await self.moved.wait()

        self.near = near
        self.task = asyncio.ensure_future(carry_session(near, b"hello", opening(), moved()))

    async def over(self) -> str:
        return await asyncio.wait_for(self.task, SOON_S)


async def test_messages_go_both_ways_as_they_are_and_the_last_words_arrive() -> None:
    carrying = Carrying()
    assert await carrying.leader.receive() == b"hello"
    await carrying.node.send(b"\xc1 no message")
    assert await carrying.leader.receive() == b"\xc1 no message"
    for number in range(10):
        await carrying.leader.send(bytes([number]))
    await carrying.leader.close()
    assert [await carrying.node.receive() for _ in range(10)] == [bytes([number]) for number in range(10)]
    assert await carrying.over() == ENDED


async def test_the_leaders_last_words_arrive_though_the_node_goes_on_speaking() -> None:
    carrying = Carrying()
    await carrying.leader.receive()
    await carrying.leader.send(b"removed")
    await carrying.leader.close()
    await carrying.node.send(b"beat")
    assert await asyncio.wait_for(carrying.node.receive(), SOON_S) == b"removed"
    assert await carrying.over() == ENDED


async def test_the_leader_is_let_go_when_the_node_goes() -> None:
    carrying = Carrying()
    await carrying.leader.receive()
    await carrying.node.close()
    assert await carrying.over() == ENDED
    with pytest.raises(ChannelClosed):
        await asyncio.wait_for(carrying.leader.receive(), SOON_S)


async def test_it_ends_when_another_leads_and_the_node_can_still_be_told() -> None:
    carrying = Carrying()
    await carrying.leader.receive()
    carrying.moved.set()
    assert await carrying.over() == MOVED
    with pytest.raises(ChannelClosed):
        await asyncio.wait_for(carrying.leader.receive(), SOON_S)
    await carrying.near.send(b"why")
    assert await carrying.node.receive() == b"why"


@pytest.mark.parametrize("way", ["up", "down"])
async def test_a_slow_side_slows_the_other_and_nothing_piles_up(way: str) -> None:
    carrying = Carrying()
    await carrying.leader.receive()
    source: MemoryChannel = carrying.node if way == "up" else carrying.leader
    sink: MemoryChannel = carrying.leader if way == "up" else carrying.node
    n_sent = 0

    async def flood() -> None:
        nonlocal n_sent
        while True:
            await source.send(n_sent.to_bytes(4, "big"))
            n_sent += 1

    flooding = asyncio.ensure_future(flood())
    await asyncio.sleep(0.3)
    stuck_at = n_sent
    await asyncio.sleep(0.2)
    assert n_sent == stuck_at < 100, "two connections' worth and one in the hand"
    got = [int.from_bytes(await asyncio.wait_for(sink.receive(), SOON_S), "big") for _ in range(500)]
    assert got == list(range(500))
    flooding.cancel()
    await sink.close()
    await carrying.over()


async def test_a_leader_that_is_not_reached_is_said_not_to_be() -> None:
    _, near = memory_channels()

    async def opening() -> Channel:
        raise Unavailable("nobody listens there")

    over = await asyncio.wait_for(carry_session(near, b"hello", opening(), asyncio.Event().wait()), SOON_S)  # type: ignore[arg-type]
    assert "ask another: nobody listens there" in over


@pytest.mark.parametrize(
    "first",
    [b"", b"\xc1", protocol.encoder.encode(Heartbeat()), protocol.encoder.encode(HELLO)],
    ids=["nothing", "nonsense", "no hello", "no wish"],
)
async def test_what_asks_for_nothing_is_not_carried(first: bytes) -> None:
    assert wish_of(first) == ""


async def test_one_that_says_nothing_is_not_waited_for_once_it_is_gone() -> None:
    node, near = memory_channels()
    await node.close()
    assert await asyncio.wait_for(first_message(near), SOON_S) == b""


def test_both_versions_of_the_hello_and_the_welcome_are_understood() -> None:
    """Who knows nothing of carrying leaves the fields out, and overlooks them."""
    welcome = Welcome(epoch="e", heartbeat_period=1)
    assert protocol.from_agent.decode(without_news(HELLO)) == HELLO
    assert protocol.from_manager.decode(without_news(welcome)) == welcome
    newer = {**msgspec.to_builtins(HELLO), "not_yet_known": "x"}
    assert protocol.from_agent.decode(protocol.encoder.encode(newer)) == HELLO


def without_news(message: object) -> bytes:
    built = msgspec.to_builtins(message)
    return protocol.encoder.encode({name: built[name] for name in built if name not in ("carry_to", "is_carried")})
