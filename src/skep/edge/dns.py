"""The name server of a node's tasks: at 127.0.0.11 in every sandbox, UDP and TCP.

Edge: sockets that the data plane opens inside sandboxes; asyncio. One server answers for all sandboxes of the node out
of one zone; each sandbox has its own rate, its own share of what may be forwarded and its own view of the zone. The
kernel closes the sockets with the daemon, so the next one opens them again when it adopts the sandbox.
"""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import dns.rcode
import structlog

from skep.core.names import Zone, ZoneItem
from skep.edge import dns_answer
from skep.edge.dns_answer import Query, Responder
from skep.edge.dns_forward import Forwarder, ForwardingFailure, Outcome
from skep.model.assignment import ItemKey
from skep.ports.dataplane import DataPlaneFailure
from skep.ports.resolver import Asker, NameServiceFailure

DATAGRAM_BYTES = 4097
"""One more than the longest query, so that a longer one is seen to be too long."""
DATAGRAMS_AT_ONCE = 32
"""Read in one go, so that one sandbox's flood does not keep the others waiting."""
MOST_CONNECTIONS = 32
IDLE_S = 10.0

log = structlog.get_logger(__name__)


class Sockets(NamedTuple):
    """Bound in one sandbox; the stream socket listens."""

    datagram: socket.socket
    stream: socket.socket


SocketAddress = tuple[Any, ...]
OpenSockets = Callable[[str], Awaitable[tuple[socket.socket, socket.socket]]]


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one sandbox. Attributes: rate, burst: queries per second, and at once; forwards: questions under way."""

    rate: float = 12_000
    burst: float = 12_000
    forwards: int = 256


class NameService:
    """Implements `ports.resolver.NameServer`.

    Args:
        open_sockets: Opens a sandbox's sockets, by task id.
    """

    def __init__(self, open_sockets: OpenSockets, forwarder: Forwarder, limits: Limits | None = None) -> None:
        self._open_sockets = open_sockets
        self._limits = limits or Limits()
        self._zone = Zone()
        self._answering = Answering(Responder(self._zone), forwarder)
        self._forwarder = forwarder
        self._listeners: dict[str, Listener] = {}

    def change(self, put: Mapping[ItemKey, ZoneItem], remove: Collection[ItemKey]) -> None:
        self._zone.change(put, remove)

    async def open(self, asker: Asker) -> None:
        listener = self._listeners.get(asker.task_id)
        if listener is not None:
            listener.asker = asker
            return
        try:
            sockets = Sockets(*await self._open_sockets(asker.task_id))
        except (DataPlaneFailure, OSError) as error:
            raise NameServiceFailure(f"no name server can be opened in the task's sandbox: {error}") from error
        listener = Listener(asker, sockets, self._answering, self._limits)
        self._listeners[asker.task_id] = listener
        await listener.start()

    async def close(self, task_id: str) -> None:
        listener = self._listeners.pop(task_id, None)
        if listener is not None:
            await listener.close()

    async def shut_down(self) -> None:
        """Close every sandbox's sockets; what is under way gets no answer."""
        for task_id in list(self._listeners):
            await self.close(task_id)
        await self._forwarder.close()


class Answering:
    """From a packet to its answer, the world outside included."""

    def __init__(self, responder: Responder, forwarder: Forwarder) -> None:
        self._responder = responder
        self._forwarder = forwarder

    def at_once(self, packet: bytes, asker: Asker, *, is_tcp: bool) -> bytes | Query | None:
        """As `Responder.respond`; a query that may not be forwarded is refused here."""
        answer = self._responder.respond(packet, asker, is_tcp=is_tcp)
        if isinstance(answer, Query) and not asker.is_forwarding:
            return dns_answer.fail(answer, dns.rcode.NXDOMAIN)
        return answer

    async def forward(self, query: Query, asker: Asker) -> bytes:
        """Ask the resolvers; SERVFAIL when none of them answers."""
        try:
            outcome = await self._forwarder.ask(query.question, asker.resolvers)
        except ForwardingFailure:
            return dns_answer.fail(query, dns.rcode.SERVFAIL)
        return _relay(query, outcome, asyncio.get_running_loop().time())


def _relay(query: Query, outcome: Outcome, now_s: float) -> bytes:
    response = dns_answer.begin(query)
    response.set_rcode(outcome.rcode)
    response.answer, response.authority = outcome.aged(now_s)
    return dns_answer.encode(response, query.limit)


class Bucket:
    """A rate limit: `burst` at once, `rate` per second after that."""

    def __init__(self, rate: float, burst: float, now_s: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._at_s = now_s

    def take(self, now_s: float) -> bool:
        """Whether one more is within the limit."""
        self._left = min(self._burst, self._left + (now_s - self._at_s) * self._rate)
        self._at_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Listener:
    """One sandbox's sockets. Attributes: asker: whose they are; dropped: queries beyond the rate."""

    def __init__(self, asker: Asker, sockets: Sockets, answering: Answering, limits: Limits) -> None:
        self.asker = asker
        self.dropped = 0
        self._sockets = sockets
        self._answering = answering
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._bucket = Bucket(limits.rate, limits.burst, self._loop.time())
        self._work: set[asyncio.Task[None]] = set()
        self._connections = 0
        self._forwards = 0
        self._is_closing = False
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        for opened in self._sockets:
            opened.setblocking(False)
        self._loop.add_reader(self._sockets.datagram, self._read_datagrams)
        self._server = await asyncio.start_server(self._serve_stream, sock=self._sockets.stream)

    async def close(self) -> None:
        self._is_closing = True
        self._loop.remove_reader(self._sockets.datagram)
        self._sockets.datagram.close()
        if self._server is not None:
            self._server.close()
        for work in list(self._work):
            work.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)

    def _allows(self) -> bool:
        if self._bucket.take(self._loop.time()):
            return True
        self.dropped += 1
        if self.dropped == 1 or self.dropped % 100_000 == 0:
            log.warning("a task asks for names too fast", task=self.asker.task_id, dropped=self.dropped)
        return False

    # --- UDP ---------------------------------------------------------------------

    def _read_datagrams(self) -> None:
        for _ in range(DATAGRAMS_AT_ONCE):
            try:
                packet, sender = self._sockets.datagram.recvfrom(DATAGRAM_BYTES)
            except OSError:  # Nothing more to read; or an ICMP error about an earlier answer, of no interest.
                return
            if not self._allows():
                continue
            answer = self._answering.at_once(packet, self.asker, is_tcp=False)
            if isinstance(answer, Query):
                self._begin_forward(answer, sender)
            elif answer is not None:
                self._send(answer, sender)

    def _send(self, answer: bytes, receiver: SocketAddress) -> None:
        try:
            self._sockets.datagram.sendto(answer, receiver)
        except OSError:  # The asker is gone or its buffer is full: it asks again.
            pass

    def _begin_forward(self, query: Query, sender: SocketAddress) -> None:
        if self._forwards >= self._limits.forwards:
            self._send(dns_answer.fail(query, dns.rcode.SERVFAIL), sender)
            return
        self._forwards += 1
        work = asyncio.create_task(self._forward_datagram(query, sender))
        self._work.add(work)
        work.add_done_callback(self._work.discard)

    async def _forward_datagram(self, query: Query, sender: SocketAddress) -> None:
        try:
            self._send(await self._answering.forward(query, self.asker), sender)
        finally:
            self._forwards -= 1

    # --- TCP ---------------------------------------------------------------------

    async def _serve_stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        work = asyncio.current_task()
        if self._connections >= MOST_CONNECTIONS or work is None:
            writer.close()
            return
        self._connections += 1
        self._work.add(work)
        try:
            await self._converse(reader, writer)
        except (OSError, EOFError, TimeoutError):  # The asker left, or took too long.
            pass
        except asyncio.CancelledError:
            if not self._is_closing:  # Our own closing ends here: asyncio's streams would log it as a fault.
                raise
        finally:
            self._connections -= 1
            self._work.discard(work)
            with contextlib.suppress(OSError):
                writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            async with asyncio.timeout(IDLE_S):
                length = int.from_bytes(await reader.readexactly(2), "big")
                if length > dns_answer.QUERY_BYTES:
                    return
                packet = await reader.readexactly(length)
            if not self._allows():
                return
            answer = self._answering.at_once(packet, self.asker, is_tcp=True)
            if isinstance(answer, Query):
                answer = await self._answering.forward(answer, self.asker)
            if answer is None:
                return
            writer.write(len(answer).to_bytes(2, "big") + answer)
            async with asyncio.timeout(IDLE_S):
                await writer.drain()
