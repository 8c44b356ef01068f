"""Ask the node's resolvers what a task wants to know of the world outside.

Edge: UDP and TCP sockets of the node itself. Every question has a socket, a random port and a random id of its own;
equal questions that are under way are asked once; answers are kept as long as their TTLs allow. Nothing here can hold
up a name of ours: the zone is asked first, and what waits here is bounded in number and time.
Source: RFC 1035, 5452 (forged answers), 2308 (negative caching); limits are Docker's (libnetwork/resolver.go).
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from skep.edge.dns_answer import EDNS_UDP_BYTES

MOST_AT_ONCE = 1024
LIMIT_S = 4.0
TRY_S = 1.5
MOST_KEPT = 4096
LONGEST_KEPT_S = 300
SHORTEST_KEPT_S = 1
FAILURE_KEPT_S = 1
FINAL = (dns.rcode.NOERROR, dns.rcode.NXDOMAIN)

QuestionKey = tuple[str, int, tuple[str, ...]]


class ForwardingFailure(Exception):
    """No resolver answered in time, or too many questions are under way."""


class WrongAnswer(OSError):
    """A resolver answered another question. Args: its address."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a resolver said. Attributes: until_s: loop time at which it may no longer be used."""

    rcode: dns.rcode.Rcode
    answer: Sequence[dns.rrset.RRset]
    authority: Sequence[dns.rrset.RRset]
    asked_at_s: float
    until_s: float

    def aged(self, now_s: float) -> tuple[list[dns.rrset.RRset], list[dns.rrset.RRset]]:
        """Answer and authority with what is left of their TTLs."""
        age = int(now_s - self.asked_at_s)
        return [_aged(rrset, age) for rrset in self.answer], [_aged(rrset, age) for rrset in self.authority]


def _aged(rrset: dns.rrset.RRset, age_s: int) -> dns.rrset.RRset:
    if age_s == 0:
        return rrset
    return dns.rrset.from_rdata_list(rrset.name, max(0, rrset.ttl - age_s), list(rrset))


class NodeResolvers:
    """The resolvers of the node's own resolv.conf, read again when the file changes."""

    def __init__(self, path: Path = Path("/etc/resolv.conf")) -> None:
        self._path = path
        self._changed_at_ns = -1
        self._addresses: tuple[str, ...] = ()

    def __call__(self) -> tuple[str, ...]:
        try:
            changed_at_ns = self._path.stat().st_mtime_ns
            if changed_at_ns != self._changed_at_ns:
                self._addresses = _nameservers(self._path.read_text(errors="replace"))
                self._changed_at_ns = changed_at_ns
        except OSError:
            self._addresses = ()
        return self._addresses


def _nameservers(text: str) -> tuple[str, ...]:
    rows = (line.split() for line in text.splitlines())
    return tuple(row[1] for row in rows if len(row) > 1 and row[0] == "nameserver")


class Forwarder:
    """Args: resolvers: answers the addresses to ask, in order; port: of theirs."""

    def __init__(self, resolvers: Callable[[], Sequence[str]], *, port: int = 53) -> None:
        self._resolvers = resolvers
        self._port = port
        self._kept: dict[QuestionKey, Outcome] = {}
        self._under_way: dict[QuestionKey, asyncio.Task[Outcome]] = {}
        self.packets_sent = 0

    async def ask(self, question: dns.rrset.RRset, resolvers: Sequence[str] = ()) -> Outcome:
        """Find out what the resolvers say.

        Args:
            resolvers: Asked instead of the node's, if any.
        Raises:
            ForwardingFailure: after at most LIMIT_S.
        """
        addresses = tuple(resolvers) or tuple(self._resolvers())
        key = (question.name.to_text().lower(), int(question.rdtype), addresses)
        kept = self._kept.get(key)
        if kept is not None and kept.until_s > asyncio.get_running_loop().time():
            return kept
        asking = self._under_way.get(key)
        if asking is None:
            if len(self._under_way) >= MOST_AT_ONCE:
                raise ForwardingFailure("too many questions are under way")
            asking = asyncio.create_task(self._ask_in_time(question, addresses))
            self._under_way[key] = asking
            asking.add_done_callback(lambda task: self._done(key, task))
        return await asyncio.shield(asking)

    def _done(self, key: QuestionKey, task: asyncio.Task[Outcome]) -> None:
        del self._under_way[key]
        if task.cancelled() or task.exception() is not None:
            return
        if len(self._kept) >= MOST_KEPT:
            for old in list(self._kept)[: MOST_KEPT // 4]:  # The oldest quarter: dicts keep their order.
                del self._kept[old]
        self._kept.pop(key, None)
        self._kept[key] = task.result()

    async def close(self) -> None:
        """Give up whatever is under way."""
        for asking in list(self._under_way.values()):
            asking.cancel()
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)

    async def _ask_in_time(self, question: dns.rrset.RRset, addresses: Sequence[str]) -> Outcome:
        try:
            async with asyncio.timeout(LIMIT_S):
                return await self._ask_in_turn(question, addresses)
        except TimeoutError as error:
            raise ForwardingFailure("no resolver answered in time") from error

    async def _ask_in_turn(self, question: dns.rrset.RRset, addresses: Sequence[str]) -> Outcome:
        last: dns.message.Message | None = None
        for address in addresses:
            try:
                async with asyncio.timeout(TRY_S):
                    last = await self._exchange(question, address)
            except (OSError, EOFError, TimeoutError, dns.exception.DNSException):
                continue
            if last.rcode() in FINAL:
                break
        if last is None:
            raise ForwardingFailure("no resolver answered")
        return _outcome(last, asyncio.get_running_loop().time())

    async def _exchange(self, question: dns.rrset.RRset, address: str) -> dns.message.Message:
        query = dns.message.make_query(question.name, question.rdtype, use_edns=0, payload=EDNS_UDP_BYTES)
        self.packets_sent += 1
        response = await _ask_udp(query, address, self._port)
        if response.flags & dns.flags.TC:
            self.packets_sent += 1
            response = await _ask_tcp(query, address, self._port)
        return response


def _outcome(response: dns.message.Message, now_s: float) -> Outcome:
    rcode = response.rcode()
    ttls = [rrset.ttl for rrset in (*response.answer, *response.authority)]
    kept_s = min([*ttls, LONGEST_KEPT_S]) if rcode in FINAL else FAILURE_KEPT_S
    if rcode in FINAL and not ttls:
        kept_s = SHORTEST_KEPT_S
    return Outcome(rcode, tuple(response.answer), tuple(response.authority), now_s, now_s + kept_s)


class _Exchange(asyncio.DatagramProtocol):
    """Waits for the one datagram that answers a query."""

    def __init__(self, query: dns.message.Message) -> None:
        self._query = query
        self.answered: asyncio.Future[dns.message.Message] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:
        try:
            response = dns.message.from_wire(data, ignore_trailing=True)
        except (dns.exception.DNSException, ValueError):
            return
        if self._query.is_response(response) and not self.answered.done():  # Else it is late, or forged: go on waiting.
            self.answered.set_result(response)

    def error_received(self, exc: Exception) -> None:
        if not self.answered.done():
            self.answered.set_exception(exc)


async def _ask_udp(query: dns.message.Message, address: str, port: int) -> dns.message.Message:
    loop = asyncio.get_running_loop()
    transport, exchange = await loop.create_datagram_endpoint(lambda: _Exchange(query), remote_addr=(address, port))
    try:
        transport.sendto(query.to_wire())
        return await exchange.answered
    finally:
        transport.close()


async def _ask_tcp(query: dns.message.Message, address: str, port: int) -> dns.message.Message:
    reader, writer = await asyncio.open_connection(address, port)
    try:
        wire = query.to_wire()
        writer.write(len(wire).to_bytes(2, "big") + wire)
        length = int.from_bytes(await reader.readexactly(2), "big")
        response = dns.message.from_wire(await reader.readexactly(length), ignore_trailing=True)
    finally:
        writer.close()
    if not query.is_response(response):
        raise WrongAnswer(address)
    return response
