"""What every channel of a session must do, at both ends: in memory, and a WebSocket over mutual TLS.

And what managers ask of each other beside such channels, in memory and over HTTPS.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from tests.identities import CLUSTER_ID, Authorities

from skep.edge.control import ControlListener
from skep.edge.control_client import HttpControlPort
from skep.edge.loopback import Switchboard, memory_channels
from skep.model.council import Entry, EntryRequest, Progress
from skep.model.errors import Forbidden, SkepError, Unavailable
from skep.model.identity import Credentials, Identity, Issued, JoinRequest, RenewRequest
from skep.model.node import Role
from skep.ports.transport import (
    Channel,
    ChannelClosed,
    ControlService,
    CouncilPort,
    Declined,
    TransportError,
    Unreachable,
)

pytestmark = pytest.mark.anyio
SOON_S = 5.0


@dataclass
class Ends:
    """A channel's dialling and accepting end."""

    dialled: Channel
    accepted: Channel


@dataclass
class Accepting:
    """A control service that hands every session's channel over and holds it until told."""

    channels: asyncio.Queue[tuple[Identity, Channel]] = field(default_factory=asyncio.Queue)
    is_over: asyncio.Event = field(default_factory=asyncio.Event)

    def root(self) -> str:
        raise NotImplementedError

    def is_removed(self, node_id: str) -> bool:
        return False

    def is_demoted(self, node_id: str) -> bool:
        return False

    async def join(self, request: JoinRequest, *, address: str) -> Issued:
        raise NotImplementedError

    async def renew(self, identity: Identity, request: RenewRequest, *, address: str = "") -> Issued:
        raise NotImplementedError

    async def serve(self, identity: Identity, channel: Channel) -> None:
        self.channels.put_nowait((identity, channel))
        await self.is_over.wait()

    async def revive(self, request: RenewRequest, *, address: str = "") -> Issued:
        raise NotImplementedError

    async def relay(self, identity: Identity, channel: Channel) -> None:
        await self.serve(identity, channel)

    async def enter(self, identity: Identity, request: EntryRequest) -> Entry:
        raise NotImplementedError

    async def vote(self, identity: Identity, request: EntryRequest) -> None:
        raise NotImplementedError

    async def progress(self, identity: Identity) -> Progress:
        raise NotImplementedError


@contextlib.asynccontextmanager
async def over_control_port(
    node_id: str, role: Role, ask: Callable[[str, Credentials], Awaitable[Channel]]
) -> AsyncIterator[Ends]:
    """The two ends of a channel that a node of that role asks a manager for."""
    authorities, service = Authorities(), Accepting()
    own = authorities.make("manager1", Role.MANAGER)
    listener = ControlListener(service, lambda: own, CLUSTER_ID)
    port = await listener.start("127.0.0.1", 0)
    try:
        dialled = await ask(f"127.0.0.1:{port}", authorities.make(node_id, role))
        identity, accepted = await asyncio.wait_for(service.channels.get(), SOON_S)
        assert identity.node_id == node_id
        try:
            yield Ends(dialled, accepted)
        finally:
            await asyncio.gather(dialled.close(), accepted.close())
    finally:
        service.is_over.set()
        await listener.close()


def over_websocket() -> contextlib.AbstractAsyncContextManager[Ends]:
    return over_control_port("worker1", Role.WORKER, HttpControlPort().dial)


def over_relay() -> contextlib.AbstractAsyncContextManager[Ends]:
    """The same between two managers; being the same code, it is tried once and not with everything."""
    return over_control_port("manager2", Role.MANAGER, HttpControlPort().relay)


@contextlib.asynccontextmanager
async def in_memory() -> AsyncIterator[Ends]:
    yield Ends(*memory_channels())


@pytest.fixture(params=[in_memory, over_websocket], ids=["memory", "websocket"])
async def ends(request: pytest.FixtureRequest) -> AsyncIterator[Ends]:
    make: Callable[[], contextlib.AbstractAsyncContextManager[Ends]] = request.param
    async with make() as made:
        yield made


@pytest.fixture(params=["outward", "inward"])
def way(request: pytest.FixtureRequest, ends: Ends) -> tuple[Channel, Channel]:
    """A sender and its receiver, in either direction."""
    pair = (ends.dialled, ends.accepted)
    return pair if request.param == "outward" else pair[::-1]


async def received(channel: Channel) -> bytes:
    return await asyncio.wait_for(channel.receive(), SOON_S)


async def test_messages_come_whole_and_in_order(way: tuple[Channel, Channel]) -> None:
    sender, receiver = way
    messages = [b"", b"\x00", b"x" * 70_000, b"last"]
    for message in messages:
        await sender.send(message)
    assert [await received(receiver) for _ in messages] == messages


async def test_a_large_message_passes(way: tuple[Channel, Channel]) -> None:
    sender, receiver = way
    large = bytes(range(256)) * 4096 * 8  # 8 MiB
    sending = asyncio.ensure_future(sender.send(large))
    assert await received(receiver) == large
    await sending


async def test_several_may_send_at_once(way: tuple[Channel, Channel]) -> None:
    sender, receiver = way
    sending = asyncio.gather(*(sender.send(bytes([n]) * 20_000) for n in range(20)))
    messages = [await received(receiver) for _ in range(20)]
    await sending
    assert sorted({message[:1] * 20_000 for message in messages}) == sorted(messages)


async def test_what_was_sent_before_a_close_arrives(way: tuple[Channel, Channel]) -> None:
    sender, receiver = way
    await sender.send(b"farewell")
    closing = asyncio.ensure_future(sender.close())
    assert await received(receiver) == b"farewell"
    with pytest.raises(ChannelClosed):
        await received(receiver)
    await asyncio.wait_for(closing, SOON_S)


async def test_a_closed_channel_sends_and_receives_no_more(way: tuple[Channel, Channel]) -> None:
    ended, _ = way
    await ended.close()
    await ended.close()
    with pytest.raises(ChannelClosed):
        await ended.send(b"late")
    with pytest.raises(ChannelClosed):
        await received(ended)


async def test_closing_wakes_a_receiver_at_the_same_end(way: tuple[Channel, Channel]) -> None:
    ended, _ = way
    waiting = asyncio.ensure_future(ended.receive())
    await asyncio.sleep(0)
    await ended.close()
    with pytest.raises(ChannelClosed):
        await asyncio.wait_for(waiting, SOON_S)


async def test_a_sender_waits_for_a_slow_receiver(way: tuple[Channel, Channel]) -> None:
    """64 MiB nobody reads must not pile up in memory: sooner or later a send has to wait."""
    sender, _ = way

    async def flood() -> None:
        for _ in range(64):
            await sender.send(bytes(1024 * 1024))

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(flood(), 0.5)


async def test_a_manager_that_vanished_is_noticed_by_the_dialling_end() -> None:
    """A relay that stops carrying stands for a machine that is switched off."""
    authorities, service = Authorities(), Accepting()
    own = authorities.make("manager1", Role.MANAGER)
    listener = ControlListener(service, lambda: own, CLUSTER_ID)
    port = await listener.start("127.0.0.1", 0)
    carrying = asyncio.Event()
    carrying.set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while chunk := await reader.read(65_536):
                await carrying.wait()
                writer.write(chunk)
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(carry(reader, onward[1]), carry(onward[0], writer))

    server = await asyncio.start_server(relay, "127.0.0.1", 0, family=socket.AF_INET)
    try:
        where = server.sockets[0].getsockname()[1]
        channel = await HttpControlPort().dial(f"127.0.0.1:{where}", authorities.make("worker1"))
        carrying.clear()
        with pytest.raises(ChannelClosed):
            await asyncio.wait_for(channel.receive(), 3.0)
        await channel.close()
    finally:
        carrying.set()
        server.close()
        service.is_over.set()
        await listener.close()


async def test_a_sender_that_gives_up_takes_no_other_with_it(way: tuple[Channel, Channel]) -> None:
    sender, receiver = way
    sending = [asyncio.ensure_future(sender.send(bytes(1024 * 1024))) for _ in range(40)]
    done, waiting = await asyncio.wait(sending, timeout=0.5)
    assert waiting
    waiting.pop().cancel()
    await asyncio.sleep(0)
    got = 0
    while any(not task.done() for task in waiting):
        assert len(await received(receiver)) == 1024 * 1024
        got += 1
    assert not any(task.cancelled() for task in waiting)
    for task in (*done, *waiting):
        task.result()


async def test_managers_have_such_a_channel_between_them_too() -> None:
    async with over_relay() as ends:
        for sender, receiver in ((ends.dialled, ends.accepted), (ends.accepted, ends.dialled)):
            await sender.send(b"x" * 70_000)
            assert await received(receiver) == b"x" * 70_000


WANTED = EntryRequest(peer_url="https://127.0.0.2:2380", control_addr="127.0.0.2:2377", has_data=True)
LET_IN = Entry(initial={"manager2": WANTED.peer_url}, base=7, data_key=b"\x00k", is_new=True)
FAR = Progress(member_id=2**64 - 1, committed=2**40, applied=2**40 - 3)


@dataclass
class Sitting(Accepting):
    """A manager that holds the state, or refuses for a reason; keeps who asked what."""

    authorities: Authorities = field(default_factory=Authorities)
    removed: set[str] = field(default_factory=set)
    demoted: set[str] = field(default_factory=set)
    refusal: SkepError | None = None
    asked: list[tuple[str, object]] = field(default_factory=list)

    def root(self) -> str:
        return self.authorities.authority.root_pem

    def is_removed(self, node_id: str) -> bool:
        return node_id in self.removed

    def is_demoted(self, node_id: str) -> bool:
        return node_id in self.demoted

    async def enter(self, identity: Identity, request: EntryRequest) -> Entry:
        self._hear(identity, request)
        return LET_IN

    async def vote(self, identity: Identity, request: EntryRequest) -> None:
        self._hear(identity, request)

    async def progress(self, identity: Identity) -> Progress:
        self._hear(identity, None)
        return FAR

    def _hear(self, identity: Identity, request: object) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.asked.append((identity.node_id, request))


@dataclass
class Asking:
    """One manager that is asked, and how; `nobody` is an address where nobody listens."""

    port: CouncilPort
    addr: str
    service: Sitting
    nobody: str

    def ask(self, question: str, credentials: Credentials, addr: str = "") -> Awaitable[object]:
        addr = addr or self.addr
        if question == "progress":
            return self.port.progress(addr, credentials)
        return getattr(self.port, question)(addr, credentials, WANTED)


@contextlib.asynccontextmanager
async def asking_in_memory(service: Sitting) -> AsyncIterator[Asking]:
    board = Switchboard()
    plugged: ControlService = service
    board.plug("manager1:2377", plugged)
    yield Asking(board, "manager1:2377", service, "manager9:2377")


@contextlib.asynccontextmanager
async def asking_over_https(service: Sitting) -> AsyncIterator[Asking]:
    own = service.authorities.make("manager1", Role.MANAGER)
    listener = ControlListener(service, lambda: own, CLUSTER_ID)
    with socket.socket() as bound:  # Nobody else gets its port, and nobody listens there.
        bound.bind(("127.0.0.1", 0))
        addr = f"127.0.0.1:{await listener.start('127.0.0.1', 0)}"
        try:
            yield Asking(HttpControlPort(), addr, service, f"127.0.0.1:{bound.getsockname()[1]}")
        finally:
            await listener.close()


@pytest.fixture(params=[asking_in_memory, asking_over_https], ids=["memory", "https"])
async def asking(request: pytest.FixtureRequest) -> AsyncIterator[Asking]:
    make: Callable[[Sitting], contextlib.AbstractAsyncContextManager[Asking]] = request.param
    async with make(Sitting()) as made:
        yield made


QUESTIONS = pytest.mark.parametrize("question", ["enter", "vote", "progress"])


async def test_a_manager_answers_another(asking: Asking) -> None:
    credentials = asking.service.authorities.make("manager2", Role.MANAGER)
    assert await asking.port.enter(asking.addr, credentials, WANTED) == LET_IN
    await asking.port.vote(asking.addr, credentials, WANTED)
    assert await asking.port.progress(asking.addr, credentials) == FAR
    assert asking.service.asked == [("manager2", WANTED), ("manager2", WANTED), ("manager2", None)]


@QUESTIONS
async def test_who_is_no_manager_is_not_heard(asking: Asking, question: str) -> None:
    make = asking.service.authorities.make
    asking.service.demoted.add("demoted")
    asking.service.removed.add("removed")
    for node_id, role in (("worker1", Role.WORKER), ("demoted", Role.MANAGER), ("removed", Role.MANAGER)):
        with pytest.raises(Declined) as refused:
            await asking.ask(question, make(node_id, role))
        assert refused.value.is_final
        assert refused.value.is_removed is (node_id == "removed")
    with pytest.raises(TransportError):
        await asking.ask(question, Authorities().make("manager2", Role.MANAGER))
    assert asking.service.asked == []


@QUESTIONS
@pytest.mark.parametrize("refusal", [Forbidden("not you"), Unavailable("not now")], ids=["final", "for-now"])
async def test_a_refusal_comes_in_its_words(asking: Asking, question: str, refusal: SkepError) -> None:
    asking.service.refusal = refusal
    with pytest.raises(Declined, match=str(refusal)) as refused:
        await asking.ask(question, asking.service.authorities.make("manager2", Role.MANAGER))
    assert refused.value.is_final is isinstance(refusal, Forbidden)
    assert not refused.value.is_removed


@QUESTIONS
async def test_where_nobody_listens_it_is_said(asking: Asking, question: str) -> None:
    with pytest.raises(Unreachable):
        await asking.ask(question, asking.service.authorities.make("manager2", Role.MANAGER), asking.nobody)
