"""The name server on loopback sockets, with resolvers of its own upstream."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import cast

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.agent.node import until

from skep.core.names import Zone
from skep.edge import dns_answer, dns_forward
from skep.edge.dns import Bucket, Limits, NameService
from skep.edge.dns_answer import Responder, parse
from skep.edge.dns_forward import Forwarder, NodeResolvers
from skep.model.assignment import Backend, BalancedService
from skep.ports.dataplane import DataPlaneFailure
from skep.ports.resolver import Asker, NameServiceFailure

ASKER = Asker(task_id="t1", networks=("n1",))
INTERNAL = Asker(task_id="t1", networks=("n1",), is_forwarding=False)


def a_service(name: str, vip: str = "10.0.1.2", n_backends: int = 3, net: str = "n1") -> BalancedService:
    backends = [
        Backend(task_id=f"t{n}", node_id="n", address=f"10.0.{n // 250}.{n % 250 + 5}") for n in range(n_backends)
    ]
    return BalancedService(network_id=net, service_id=name, names=[name], virtual_ip=vip, backends=backends)


def items(*services: BalancedService) -> dict[str, BalancedService]:
    return {service.key: service for service in services}


class Upstream(asyncio.DatagramProtocol):
    """A resolver that knows example.org, truncates big.example.org over UDP and is silent about silent.example.org."""

    def __init__(self) -> None:
        self.questions: list[str] = []
        self.source_ports: list[int] = []
        self.is_dead = False
        self.is_forging = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        answer = self.answer(data, is_tcp=False)
        self.source_ports.append(addr[1])
        if answer is None:
            return
        if self.is_forging:
            lie = dns.message.from_wire(answer)
            lie.id ^= 0xFF00
            lie.answer = [dns.rrset.from_text(lie.question[0].name, 60, "IN", "A", "203.0.113.66")]
            self.transport.sendto(lie.to_wire(), addr)
        self.transport.sendto(answer, addr)

    def answer(self, data: bytes, *, is_tcp: bool) -> bytes | None:
        query = dns.message.from_wire(data)
        name = query.question[0].name
        self.questions.append(name.to_text())
        if self.is_dead or name == dns.name.from_text("silent.example.org"):
            return None
        response = dns.message.make_response(query)
        if not name.is_subdomain(dns.name.from_text("example.org")):
            response.set_rcode(dns.rcode.NXDOMAIN)
        elif name == dns.name.from_text("big.example.org") and not is_tcp:
            response.flags |= dns.flags.TC
        else:
            n_addresses = 200 if name == dns.name.from_text("big.example.org") else 1
            texts = [f"192.0.2.{n % 250}" if n < 250 else "192.0.2.250" for n in range(1, n_addresses + 1)]
            response.answer = [dns.rrset.from_text_list(name, 60, "IN", "A", texts)]
        return response.to_wire(max_size=65_535)

    async def serve_stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        answer = self.answer(data, is_tcp=True) or b""
        writer.write(len(answer).to_bytes(2, "big") + answer)
        await writer.drain()
        writer.close()


class Bench:
    """A name service with one sandbox, whose sockets are on loopback."""

    def __init__(self, upstream: Upstream, upstream_port: int) -> None:
        self.upstream = upstream
        self.forwarder = Forwarder(lambda: ["127.0.0.1"], port=upstream_port)
        self.service = NameService(self.open_sockets, self.forwarder, Limits())
        self.port = 0

    async def open_sockets(self, task_id: str) -> tuple[socket.socket, socket.socket]:
        stream = socket.create_server(("127.0.0.1", 0))
        self.port = stream.getsockname()[1]
        datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagram.bind(("127.0.0.1", self.port))
        return datagram, stream

    async def ask(self, name: str, kind: str = "A", *, is_tcp: bool = False, edns: int = -1) -> dns.message.Message:
        query = dns.message.make_query(name, kind, use_edns=edns, payload=4096)
        via = dns.asyncquery.tcp if is_tcp else dns.asyncquery.udp
        return await via(query, "127.0.0.1", timeout=6, port=self.port)  # type: ignore[operator]  # two signatures

    async def addresses(self, name: str, **how: bool) -> list[str]:
        response = await self.ask(name, **how)  # type: ignore[arg-type]  # passed on
        return [rdata.to_text() for rrset in response.answer for rdata in rrset]


@contextlib.asynccontextmanager
async def a_bench() -> AsyncIterator[Bench]:
    upstream = Upstream()
    server = await asyncio.start_server(upstream.serve_stream, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: upstream, local_addr=("127.0.0.1", port)
    )
    bench = Bench(upstream, port)
    bench.service.change(items(a_service("web"), a_service("rr", vip=""), a_service("db", net="n2")), ())
    try:
        yield bench
    finally:
        await bench.service.shut_down()
        transport.close()
        server.close()


@pytest.mark.anyio
@pytest.mark.parametrize("is_tcp", [False, True], ids=["udp", "tcp"])
async def test_own_names_are_answered(is_tcp: bool) -> None:
    async with a_bench() as bench:
        await bench.service.open(ASKER)
        response = await bench.ask("WEB", is_tcp=is_tcp)
        assert response.answer[0].ttl == 5
        assert response.answer[0].name == dns.name.from_text("web")
        assert await bench.addresses("web", is_tcp=is_tcp) == ["10.0.1.2"]
        assert sorted(await bench.addresses("tasks.web", is_tcp=is_tcp)) == ["10.0.0.5", "10.0.0.6", "10.0.0.7"]
        pointer = await bench.ask("2.1.0.10.in-addr.arpa", "PTR", is_tcp=is_tcp)
        assert pointer.answer[0][0].to_text() == "web."
        assert bench.upstream.questions == []


@pytest.mark.anyio
async def test_no_record_of_that_type_is_no_error_and_empty() -> None:
    async with a_bench() as bench:
        await bench.service.open(ASKER)
        response = await bench.ask("web", "AAAA")
        assert response.rcode() == dns.rcode.NOERROR
        assert response.answer == []
        denied = await bench.ask("db")
        assert denied.rcode() == dns.rcode.NXDOMAIN
        assert bench.upstream.questions == []


@pytest.mark.anyio
async def test_addresses_rotate_from_answer_to_answer() -> None:
    async with a_bench() as bench:
        await bench.service.open(ASKER)
        first = [(await bench.addresses("rr"))[0] for _ in range(6)]
        assert sorted(first) == ["10.0.0.5"] * 2 + ["10.0.0.6"] * 2 + ["10.0.0.7"] * 2


@pytest.mark.anyio
async def test_a_change_is_in_the_next_answer() -> None:
    async with a_bench() as bench:
        await bench.service.open(ASKER)
        assert await bench.addresses("web") == ["10.0.1.2"]
        bench.service.change(items(a_service("web", vip="10.0.1.9")), ())
        assert await bench.addresses("web") == ["10.0.1.9"]
        bench.service.change({}, [a_service("web").key])
        assert (await bench.ask("web")).rcode() == dns.rcode.NXDOMAIN
        assert bench.upstream.questions == ["web."]


@pytest.mark.anyio
async def test_what_does_not_fit_is_truncated_then_whole_over_tcp() -> None:
    async with a_bench() as bench:
        await bench.service.open(ASKER)
        bench.service.change(items(a_service("many", vip="", n_backends=300)), ())
        short = await bench.ask("many")
        assert short.flags & dns.flags.TC
        assert len(short.to_wire()) <= 512
        assert len((await bench.ask("many", edns=0)).to_wire()) <= 1232
        assert len(await bench.addresses("many", is_tcp=True)) == 300


@pytest.mark.anyio
async def test_foreign_names_are_forwarded_once_and_kept() -> None:
    async with a_bench() as bench:
        await bench.service.open(ASKER)
        answers = await asyncio.gather(*(bench.addresses("www.example.org") for _ in range(20)))
        assert answers == [["192.0.2.1"]] * 20
        assert bench.upstream.questions == ["www.example.org."]
        assert (await bench.ask("nowhere.test")).rcode() == dns.rcode.NXDOMAIN


@pytest.mark.anyio
async def test_a_truncated_upstream_answer_is_fetched_over_tcp() -> None:
    async with a_bench() as bench:
        await bench.service.open(ASKER)
        assert len(await bench.addresses("big.example.org", is_tcp=True)) == 200
        assert (await bench.ask("big.example.org")).flags & dns.flags.TC


@pytest.mark.anyio
async def test_forged_answers_are_ignored_and_ports_differ() -> None:
    async with a_bench() as bench:
        await bench.service.open(ASKER)
        bench.upstream.is_forging = True
        names = [f"h{n}.example.org" for n in range(20)]
        assert await asyncio.gather(*map(bench.addresses, names)) == [["192.0.2.1"]] * 20
        assert len(set(bench.upstream.source_ports)) > 10


@pytest.mark.anyio
async def test_an_internal_sandbox_sends_nothing_upstream() -> None:
    async with a_bench() as bench:
        await bench.service.open(INTERNAL)
        for n in range(300):
            assert (await bench.ask(f"secret-{n}.example.org")).rcode() == dns.rcode.NXDOMAIN
        assert (await bench.ask("secret.example.org", is_tcp=True)).rcode() == dns.rcode.NXDOMAIN
        assert bench.upstream.questions == []
        assert bench.forwarder.packets_sent == 0
        assert await bench.addresses("web") == ["10.0.1.2"]


@pytest.mark.anyio
async def test_a_dead_upstream_holds_up_no_name_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_forward, "LIMIT_S", 0.5)
    async with a_bench() as bench:
        await bench.service.open(ASKER)
        bench.upstream.is_dead = True
        waiting = [asyncio.create_task(bench.ask(f"h{n}.example.org")) for n in range(50)]
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0)
        began = loop.time()
        for _ in range(50):
            assert await bench.addresses("web") == ["10.0.1.2"]
        assert loop.time() - began < 0.45, "own names waited for the upstream"
        answers = await asyncio.gather(*waiting)
        assert {answer.rcode() for answer in answers} == {dns.rcode.SERVFAIL}


@pytest.mark.anyio
async def test_what_may_be_under_way_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_forward, "MOST_AT_ONCE", 3)
    monkeypatch.setattr(dns_forward, "LIMIT_S", 0.5)
    async with a_bench() as bench:
        await bench.service.open(ASKER)
        bench.upstream.is_dead = True
        answers = await asyncio.gather(*(bench.ask(f"h{n}.example.org") for n in range(10)))
        assert {answer.rcode() for answer in answers} == {dns.rcode.SERVFAIL}
        assert bench.forwarder.packets_sent == 3


@pytest.mark.anyio
async def test_a_tasks_own_resolvers_are_asked_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_bench() as bench:
        forwarder = Forwarder(lambda: ["127.0.0.99"], port=bench.forwarder._port)
        bench.service._answering._forwarder = forwarder
        await bench.service.open(Asker(task_id="t1", networks=("n1",), resolvers=("127.0.0.1",)))
        assert await bench.addresses("www.example.org") == ["192.0.2.1"]
        await forwarder.close()


@pytest.mark.anyio
async def test_the_next_resolver_is_asked_when_one_is_gone() -> None:
    async with a_bench() as bench:
        await bench.service.open(Asker(task_id="t1", networks=(), resolvers=("127.0.0.98", "127.0.0.1")))
        assert await bench.addresses("www.example.org") == ["192.0.2.1"]


@pytest.mark.anyio
async def test_opening_again_changes_the_view_and_closing_frees_the_port() -> None:
    async with a_bench() as bench:
        await bench.service.open(ASKER)
        port = bench.port
        await bench.service.open(Asker(task_id="t1", networks=("n2",)))
        assert bench.port == port
        assert (await bench.ask("web")).rcode() == dns.rcode.NXDOMAIN
        await bench.service.close("t1")
        await bench.service.close("t1")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
            again.bind(("127.0.0.1", port))


@pytest.mark.anyio
async def test_a_sandbox_that_is_gone_is_said_so() -> None:
    async def refuse(task_id: str) -> tuple[socket.socket, socket.socket]:
        raise DataPlaneFailure("there is no sandbox of task t1")

    service = NameService(refuse, Forwarder(list))
    with pytest.raises(NameServiceFailure, match="no sandbox of task t1"):
        await service.open(ASKER)


@pytest.mark.anyio
async def test_garbage_on_a_stream_ends_it_and_nothing_else() -> None:
    async with a_bench() as bench:
        await bench.service.open(ASKER)
        for garbage in (b"\xff\xff", b"\x00\x00", b"\x00\x05abc", b"\x00\x0c" + b"\x00" * 12):
            reader, writer = await asyncio.open_connection("127.0.0.1", bench.port)
            writer.write(garbage)
            writer.write_eof()
            await asyncio.wait_for(reader.read(), 5)
            writer.close()
        assert await bench.addresses("web", is_tcp=True) == ["10.0.1.2"]


@pytest.mark.anyio
async def test_one_sandboxs_flood_is_dropped_beyond_its_rate() -> None:
    async with a_bench() as bench:
        bench.service._limits = Limits(rate=1, burst=5)
        await bench.service.open(ASKER)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
            asker.setblocking(False)
            asker.connect(("127.0.0.1", bench.port))
            for _ in range(50):
                asker.send(dns.message.make_query("web", "A").to_wire())
            listener = bench.service._listeners["t1"]
            await until(lambda: listener.dropped >= 45)
            n_answers = 0
            with contextlib.suppress(BlockingIOError):
                while asker.recv(4096):
                    n_answers += 1
            assert n_answers == 5


def test_a_bucket_fills_again() -> None:
    bucket = Bucket(rate=10, burst=2, now_s=0)
    assert [bucket.take(0), bucket.take(0), bucket.take(0)] == [True, True, False]
    assert bucket.take(0.1)
    assert not bucket.take(0.1)
    assert [bucket.take(100), bucket.take(100), bucket.take(100)] == [True, True, False]


# --- malformed packets -----------------------------------------------------------------


def a_packet(n_questions: int = 1, flags: int = 0x0100, body: bytes = b"\x03web\x00\x00\x01\x00\x01") -> bytes:
    return struct.pack("!HHHHHH", 7, flags, n_questions, 0, 0, 0) + body


def a_responder() -> Responder:
    zone = Zone()
    zone.change(items(a_service("web")), ())
    return Responder(zone)


@pytest.mark.parametrize(
    ("packet", "rcode"),
    [
        pytest.param(b"", None, id="empty"),
        pytest.param(b"\x00" * 11, None, id="short header"),
        pytest.param(a_packet(flags=0x8100), None, id="an answer"),
        pytest.param(a_packet(n_questions=65535), dns.rcode.FORMERR, id="65535 questions"),
        pytest.param(a_packet(n_questions=0, body=b""), dns.rcode.FORMERR, id="no question"),
        pytest.param(a_packet(body=b"\xc0\x0c\x00\x01\x00\x01"), dns.rcode.FORMERR, id="name points to itself"),
        pytest.param(a_packet(body=b"\xc0\xff\x00\x01\x00\x01"), dns.rcode.FORMERR, id="name points nowhere"),
        pytest.param(a_packet(body=b"\x3f" + b"a" * 63 + b"\x40"), dns.rcode.FORMERR, id="bad label type"),
        pytest.param(a_packet(body=(b"\x3f" + b"a" * 63) * 5 + b"\x00\x00\x01\x00\x01"), dns.rcode.FORMERR, id="> 255"),
        pytest.param(a_packet(body=b"\x03we"), dns.rcode.FORMERR, id="cut short"),
        pytest.param(a_packet(body=b"\x00" * 5000), dns.rcode.FORMERR, id="too long"),
        pytest.param(a_packet(flags=0x2800), dns.rcode.NOTIMP, id="update"),
        pytest.param(a_packet(body=b"\x03web\x00\x00\x01\x00\x03"), dns.rcode.REFUSED, id="class CHAOS"),
        pytest.param(a_packet(body=b"\x03web\x00\x00\xfc\x00\x01"), dns.rcode.REFUSED, id="zone transfer"),
    ],
)
def test_what_is_malformed_is_refused_or_dropped(packet: bytes, rcode: dns.rcode.Rcode | None) -> None:
    answer = a_responder().respond(packet, ASKER, is_tcp=False)
    if rcode is None:
        assert answer is None
        return
    assert isinstance(answer, bytes)
    response = dns.message.from_wire(answer)
    assert response.rcode() == rcode
    assert answer[:2] == packet[:2]
    assert len(answer) <= max(12, len(packet)), "a refusal is no amplifier"


def test_any_is_answered_with_what_there_is() -> None:
    query = dns.message.make_query("web", "ANY")
    answer = a_responder().respond(query.to_wire(), ASKER, is_tcp=False)
    assert isinstance(answer, bytes)
    assert [rrset.to_text() for rrset in dns.message.from_wire(answer).answer] == ["web. 5 IN A 10.0.1.2"]


def _mutations() -> st.SearchStrategy[bytes]:
    good = dns.message.make_query("tasks.web.front", "A", use_edns=0).to_wire()

    def mutate(edits: list[tuple[int, int]], end: int) -> bytes:
        packet = bytearray(good)
        for at, value in edits:
            packet[at % len(packet)] = value
        return bytes(packet[: max(0, len(packet) - end)])

    edits = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=8)
    return st.one_of(st.binary(max_size=600), st.builds(mutate, edits, st.integers(0, 20)))


@given(_mutations())
def test_no_packet_raises(packet: bytes) -> None:
    responder = a_responder()
    for _ in range(2):  # The second time the answer is a kept one.
        answer = responder.respond(packet, ASKER, is_tcp=False)
        assert answer is None or isinstance(answer, bytes | dns_answer.Query)
        if isinstance(answer, bytes):
            dns.message.from_wire(answer, ignore_trailing=True)


def test_kept_answers_carry_each_querys_own_id() -> None:
    responder = a_responder()
    for number in (1, 2, 65535):
        query = dns.message.make_query("web", "A", id=number)
        answer = responder.respond(query.to_wire(), ASKER, is_tcp=False)
        assert isinstance(answer, bytes)
        assert query.is_response(dns.message.from_wire(answer))


def test_answers_are_kept_per_view() -> None:
    responder = a_responder()
    wire = dns.message.make_query("web", "A").to_wire()
    for networks, n_answers in ((("n1",), 1), (("n2",), 0), (("n1",), 1)):
        answer = responder.respond(wire, Asker(task_id="t", networks=networks), is_tcp=False)
        assert isinstance(answer, bytes)
        assert len(dns.message.from_wire(answer).answer) == n_answers


def test_the_nodes_resolvers_follow_its_file(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    resolvers: Callable[[], tuple[str, ...]] = NodeResolvers(path)
    assert resolvers() == ()
    path.write_text("# comment\nnameserver 192.0.2.1\nsearch x\nnameserver 2001:db8::1\n")
    assert resolvers() == ("192.0.2.1", "2001:db8::1")
    assert isinstance(parse(dns.message.make_query("x", "A").to_wire(), is_tcp=True), dns_answer.Query)
