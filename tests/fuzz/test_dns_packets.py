"""Any packet at all: the name server answers, refuses or drops it, and goes on answering."""

import asyncio
import socket
from collections.abc import Iterator

import dns.message
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.edge.test_dns import ASKER, a_service, items
from tests.fuzz.damage import mutated
from tests.fuzz.rounds import brief, lasting, rounds

from skep.core.names import Zone
from skep.edge.dns import NameService
from skep.edge.dns_answer import Query, Responder
from skep.edge.dns_forward import Forwarder

KINDS = ["A", "AAAA", "PTR", "ANY", "AXFR", "TXT", "SOA", "TYPE65535"]
NAMES = ["web", "tasks.web", "db", "example.org", ".", "a." * 60, "2.1.0.10.in-addr.arpa", "x" * 63]
queries = st.builds(
    lambda name, kind, edns: dns.message.make_query(name, kind, use_edns=edns, payload=1232).to_wire(),
    st.sampled_from(NAMES), st.sampled_from(KINDS), st.sampled_from([-1, 0]),
)  # fmt: skip
packets = st.one_of(mutated(queries), st.binary(max_size=80), queries)


@pytest.fixture(scope="module")
def responder() -> Responder:
    zone = Zone()
    zone.change(items(a_service("web"), a_service("rr", vip=""), a_service("many", vip="", n_backends=300)), ())
    return Responder(zone)


@lasting
def test_any_packet_gets_an_answer_a_refusal_or_nothing(responder: Responder) -> None:
    @brief(300)
    @example(packet=b"\x00\x00\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01", is_tcp=False)
    @given(packet=packets, is_tcp=st.booleans())
    def target(packet: bytes, is_tcp: bool) -> None:
        answer = responder.respond(packet, ASKER, is_tcp=is_tcp)
        if isinstance(answer, bytes):
            assert answer[:2] == packet[:2]
            assert answer[2] & 0x80, "an answer that is no response could be bounced for ever"
            assert is_tcp or len(answer) <= 4096
        else:
            assert answer is None or isinstance(answer, Query)

    rounds(target)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@lasting
def test_the_server_answers_after_any_packet(loop: asyncio.AbstractEventLoop) -> None:
    """On real sockets, with nobody upstream: after whatever came, the next question has its answer."""
    sockets: list[socket.socket] = []
    faults: list[object] = []
    loop.set_exception_handler(lambda _, context: faults.append(context))

    async def open_sockets(task_id: str) -> tuple[socket.socket, socket.socket]:
        stream = socket.create_server(("127.0.0.1", 0))
        datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagram.bind(stream.getsockname())
        sockets.append(datagram)
        return datagram, stream

    service = NameService(open_sockets, Forwarder(lambda: []))
    service.change(items(a_service("web")), ())
    loop.run_until_complete(service.open(ASKER))
    where = sockets[0].getsockname()
    question = dns.message.make_query("web", "A")

    async def ask(packet: bytes) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.setblocking(False)
            asking.connect(where)
            await loop.sock_sendall(asking, packet)
            await loop.sock_sendall(asking, question.to_wire())
            async with asyncio.timeout(10):
                while (await loop.sock_recv(asking, 4096))[:2] != question.to_wire()[:2]:
                    pass
        reader, writer = await asyncio.open_connection(*where)
        writer.write(len(packet).to_bytes(2, "big") + packet)
        writer.write_eof()
        async with asyncio.timeout(10):
            await reader.read()
        writer.close()

    @brief(60)
    @given(packet=packets.filter(bool))
    def target(packet: bytes) -> None:
        loop.run_until_complete(ask(packet))
        assert faults == []

    try:
        rounds(target)
    finally:
        loop.run_until_complete(service.shut_down())
