"""The TLS front: who gets through, as whom, for how long, and that bytes pass whole in both directions."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from tests.identities import CLUSTER_ID, Authorities

from skep.edge import tls, tls_context
from skep.edge.tls import FrontLimits, TlsFront, Trust
from skep.model.identity import MANAGER_NAME, Credentials
from skep.model.node import Role

pytestmark = pytest.mark.anyio
SOON_S = 5.0


@pytest.fixture(scope="module")
def authorities() -> Authorities:
    return Authorities()


class Echo(asyncio.Protocol):
    """Sends back what it got, but only after the peer's half-close: what comes then was carried past it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.received = bytearray()

    def data_received(self, data: bytes) -> None:
        self.received += data

    def eof_received(self) -> bool:
        self.transport.write(bytes(self.received))
        self.transport.write_eof()
        return True


@dataclass
class Listening:
    authorities: Authorities
    front: TlsFront
    port: int
    removed: set[str] = field(default_factory=set)

    def client(self, credentials: Credentials | None = None, root: str | None = None) -> ssl.SSLContext:
        return tls_context.client_context(root or self.authorities.authority.root_pem, credentials)

    async def open(self, context: ssl.SSLContext | None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        name = MANAGER_NAME if context is not None else None
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=context, server_hostname=name)

    async def get(self, context: ssl.SSLContext, path: str = "/") -> str:
        """The body of an answer; empty if the front closed the connection instead."""
        reader, writer = await self.open(context)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            answer = await asyncio.wait_for(reader.read(), SOON_S)
        except (ssl.SSLError, ConnectionError):
            return ""
        finally:
            writer.close()
        return answer.partition(b"\r\n\r\n")[2].decode()


async def who(request: web.BaseRequest) -> web.Response:
    identity, removed = tls.peer_of(request), tls.removed_peer_of(request)
    name = f"{identity.node_id} {identity.role} {identity.cluster_id}" if identity else "nobody"
    return web.Response(text=f"{name} from {tls.address_of(request)}{' removed' if removed else ''}")


@contextlib.asynccontextmanager
async def listening(
    authorities: Authorities,
    server: Callable[[], asyncio.Protocol],
    *,
    limits: FrontLimits | None = None,
    admits_removed: bool = False,
    credentials: Callable[[], Credentials] | None = None,
    oldest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> AsyncIterator[Listening]:
    removed: set[str] = set()
    own = authorities.make("manager1", Role.MANAGER)
    context = tls_context.LiveContext(
        credentials or (lambda: own), lambda held: tls_context.server_context(held, oldest=oldest)
    )
    front = TlsFront(server, context, Trust(CLUSTER_ID, removed.__contains__, admits_removed), limits)
    port = await front.start("127.0.0.1", 0)
    try:
        yield Listening(authorities, front, port, removed)
    finally:
        await front.close()


@pytest.fixture
async def http(authorities: Authorities) -> AsyncIterator[Listening]:
    async with listening(authorities, web.Server(who)) as up:
        yield up


async def test_a_handler_knows_its_peer_by_the_certificate(http: Listening) -> None:
    answer = await http.get(http.client(http.authorities.make("worker1")))
    assert answer == f"worker1 worker {CLUSTER_ID} from 127.0.0.1"


async def test_a_peer_without_a_certificate_is_nobody(http: Listening) -> None:
    assert await http.get(http.client()) == "nobody from 127.0.0.1"


async def test_a_request_that_came_through_no_front_is_nobodys() -> None:
    from aiohttp.test_utils import make_mocked_request

    request = make_mocked_request("GET", "/")
    assert tls.peer_of(request) is None
    assert tls.address_of(request) == ""


@pytest.mark.parametrize("case", ["other-authority", "expired", "other-cluster", "no-node"])
async def test_other_certificates_do_not_get_in(http: Listening, case: str) -> None:
    root = http.authorities.authority.root_pem
    match case:
        case "other-authority":
            credentials = Authorities().make("worker1")
        case "expired":
            credentials = http.authorities.make("worker1", life_s=-60)
        case "other-cluster":
            credentials = http.authorities.make("worker1", cluster_id="another")
        case _:
            credentials = http.authorities.make(" ", cluster_id=" ")
    assert await http.get(http.client(credentials, root)) == ""


async def test_a_removed_node_does_not_get_in(http: Listening) -> None:
    credentials = http.authorities.make("worker1")
    http.removed.add("worker1")
    assert await http.get(http.client(credentials)) == ""
    assert http.front.refusals == {"certificate of a removed node": 1}


async def test_a_node_removed_amid_a_connection_is_nobody_from_then_on(http: Listening) -> None:
    reader, writer = await http.open(http.client(http.authorities.make("worker1")))
    ask = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    writer.write(ask)
    assert b"worker1 worker" in await asyncio.wait_for(reader.readuntil(b"127.0.0.1"), SOON_S)
    http.removed.add("worker1")
    writer.write(ask)
    assert b"nobody from" in await asyncio.wait_for(reader.readuntil(b"removed"), SOON_S)
    writer.close()


async def test_what_a_removed_node_holds_open_ends_within_two_seconds_and_others_keep_theirs(
    authorities: Authorities,
) -> None:
    async with listening(authorities, Echo, admits_removed=True) as up:
        streams = {name: await up.open(up.client(authorities.make(name))) for name in ("worker1", "worker2")}
        nobody, unknown = await up.open(up.client())
        for _, writer in (*streams.values(), (nobody, unknown)):
            writer.write(b"\r\n\r\n")
        up.removed.add("worker1")
        assert await closed_after(streams["worker1"][0]) < 2
        for reader, writer in (streams["worker2"], (nobody, unknown)):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.read(), 0.1)
            writer.close()
        streams["worker1"][1].close()


async def test_a_front_may_let_removed_nodes_in_to_tell_them(authorities: Authorities) -> None:
    async with listening(authorities, web.Server(who), admits_removed=True) as up:
        up.removed.add("worker1")
        assert await up.get(up.client(authorities.make("worker1"))) == "nobody from 127.0.0.1 removed"


async def test_a_client_refuses_a_worker_in_a_managers_place(authorities: Authorities) -> None:
    posing = authorities.make("worker1", Role.WORKER)
    async with listening(authorities, web.Server(who), credentials=lambda: posing) as up:
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            await up.get(up.client())


async def test_tls_1_2_is_refused_unless_asked_for(authorities: Authorities) -> None:
    old = tls_context.client_context(authorities.authority.root_pem)
    old.minimum_version = ssl.TLSVersion.TLSv1_2
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    async with listening(authorities, web.Server(who)) as up:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await up.open(old)
    async with listening(authorities, web.Server(who), oldest=ssl.TLSVersion.TLSv1_2) as up:
        assert await up.get(old) == "nobody from 127.0.0.1"


async def test_renewed_credentials_serve_new_connections_and_disturb_none(authorities: Authorities) -> None:
    held = [authorities.make("manager1", Role.MANAGER)]
    async with listening(authorities, web.Server(who), credentials=lambda: held[0]) as up:

        async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
            reader, writer = await up.open(up.client())
            shown = writer.get_extra_info("ssl_object").getpeercert(True)
            return reader, writer, shown

        reader, writer, old = await connect()
        held[0] = authorities.make("manager1", Role.MANAGER)
        _, other, new = await connect()
        assert new != old
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await asyncio.wait_for(reader.readuntil(b"127.0.0.1"), SOON_S)
        writer.close()
        other.close()


async def test_a_half_close_is_carried_through_and_the_answer_comes_whole(authorities: Authorities) -> None:
    """The client side is OpenSSL by hand: asyncio's TLS has no half-close, which is why the front exists."""
    sent = b"GET\r\n\r\n" + bytes(range(256)) * 4096  # 1 MiB
    async with listening(authorities, Echo) as up:
        assert await asyncio.to_thread(_converse, up.client(), up.port, sent) == sent


def _converse(context: ssl.SSLContext, port: int, sent: bytes) -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(incoming, outgoing, server_hostname=MANAGER_NAME)
    with socket.create_connection(("127.0.0.1", port), timeout=SOON_S) as connection:

        def exchange() -> None:
            connection.sendall(outgoing.read())
            if raw := connection.recv(65536):
                incoming.write(raw)
            else:
                incoming.write_eof()

        while True:
            try:
                session.do_handshake()
                break
            except ssl.SSLWantReadError:
                exchange()
        session.write(sent)
        with contextlib.suppress(ssl.SSLWantReadError):
            session.unwrap()  # Says close_notify; what the peer still sends is read below.
        connection.sendall(outgoing.read())
        received = bytearray()
        while True:
            try:
                chunk = session.read(65536)
            except ssl.SSLWantReadError:
                exchange()
                continue
            except ssl.SSLZeroReturnError:
                return bytes(received)
            if not chunk:
                return bytes(received)
            received += chunk


async def closed_after(reader: asyncio.StreamReader) -> float:
    started = asyncio.get_running_loop().time()
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        await asyncio.wait_for(reader.read(), SOON_S)
    return asyncio.get_running_loop().time() - started


async def test_a_handshake_that_never_ends_is_cut_off(authorities: Authorities) -> None:
    async with listening(authorities, web.Server(who), limits=FrontLimits(handshake_s=0.2)) as up:
        reader, writer = await up.open(None)
        writer.write(b"\x16\x03\x01")
        assert 0.1 < await closed_after(reader) < 2
        assert up.front.refusals == {"handshake too slow": 1}
        writer.close()


async def test_a_header_that_never_ends_is_cut_off(authorities: Authorities) -> None:
    async with listening(authorities, web.Server(who), limits=FrontLimits(header_s=0.2)) as up:
        reader, writer = await up.open(up.client())
        writer.write(b"GET / HTTP/1.1\r\nHost:")
        assert await closed_after(reader) < 2
        assert up.front.refusals == {"header too slow": 1}
        writer.close()


async def test_bytes_that_are_no_tls_end_the_connection(http: Listening) -> None:
    reader, writer = await http.open(None)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert await closed_after(reader) < 2
    assert http.front.refusals == {"handshake failed": 1}
    writer.close()


async def test_idle_strangers_cannot_keep_a_node_out_of_its_own_session(authorities: Authorities) -> None:
    limits = FrontLimits(anonymous_per_address=3, per_node=1)
    async with listening(authorities, web.Server(who), limits=limits) as up:
        node = up.client(authorities.make("worker1"))
        kept = await up.open(node)
        kept[1].write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.wait_for(kept[0].readuntil(b"127.0.0.1"), SOON_S)
        idle = [await up.open(None) for _ in range(3)]
        fourth, writer = await up.open(None)
        assert await closed_after(fourth) < 2
        assert up.front.refusals["too many connections of one address"] == 1
        kept[1].write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await asyncio.wait_for(kept[0].readuntil(b"127.0.0.1"), SOON_S)
        for _, stream in (*idle, kept, (fourth, writer)):
            stream.close()


async def test_one_node_has_only_so_many_connections(authorities: Authorities) -> None:
    async with listening(authorities, web.Server(who), limits=FrontLimits(per_node=1)) as up:
        node = up.client(authorities.make("worker1"))
        reader, writer = await up.open(node)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(b"127.0.0.1"), SOON_S)
        assert await up.get(node) == ""
        writer.close()
        await closed_after(reader)


async def test_a_manager_has_more_since_it_carries_other_nodes_sessions(authorities: Authorities) -> None:
    async with listening(authorities, web.Server(who), limits=FrontLimits(per_node=0, per_manager=1)) as up:
        assert await up.get(up.client(authorities.make("manager2", Role.MANAGER))) != ""
        assert await up.get(up.client(authorities.make("worker1"))) == ""


async def test_a_flood_of_new_connections_is_turned_away_before_the_handshake(authorities: Authorities) -> None:
    limits = FrontLimits(handshakes_per_second=0.001, handshake_burst=2)
    async with listening(authorities, web.Server(who), limits=limits) as up:
        assert await up.get(up.client()) != ""
        assert await up.get(up.client()) != ""
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await up.open(up.client())
        assert up.front.refusals == {"too many new connections of one address": 1}


async def test_an_address_in_use_is_named(http: Listening) -> None:
    from skep.ports.transport import ListenFailed

    with pytest.raises(ListenFailed, match=rf"127\.0\.0\.1:{http.port}: Address already in use"):
        await TlsFront(Echo, http.client, Trust("x", lambda _: False)).start("127.0.0.1", http.port)


async def test_closing_the_front_ends_every_connection(authorities: Authorities) -> None:
    async with listening(authorities, web.Server(who)) as up:
        reader, writer = await up.open(up.client())
    assert await closed_after(reader) < 2
    writer.close()
