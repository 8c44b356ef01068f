"""Turn a DNS query into its answer from the zone, byte for byte.

Edge: none but the wire format (dnspython). Answers from the zone are kept encoded under the query's own bytes until the
zone changes, which is most of the server's speed; where several addresses answer, they rotate from query to query.
Whatever a task sends is answered or dropped: no input raises. Source: RFC 1035, 6891, 8482.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import dns.exception
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from skep.core.names import TTL_S, Addresses, Foreign, NoSuchName, Pointer, Zone
from skep.ports.resolver import Asker

HEADER_BYTES = 12
PLAIN_UDP_BYTES = 512
EDNS_UDP_BYTES = 1232
TCP_BYTES = 65_535
QUERY_BYTES = 4096
"""Longer queries are malformed as far as we are concerned: a question is at most 271 bytes."""
KEPT_ANSWERS = 2048
KEPT_QUERY_BYTES = 320
KEPT_ROTATIONS = 64
TRANSFERS = (dns.rdatatype.AXFR, dns.rdatatype.IXFR)


@dataclass(frozen=True, slots=True)
class Query:
    """A well-formed question that is not ours to answer. Attributes: limit: bytes the answer may have."""

    message: dns.message.Message
    limit: int

    @property
    def question(self) -> dns.rrset.RRset:
        return self.message.question[0]


class Responder:
    """Answers from one zone."""

    def __init__(self, zone: Zone) -> None:
        self._zone = zone
        self._kept: dict[tuple[tuple[str, ...], bool, bytes], _Rotation] = {}
        self._kept_generation = -1

    def respond(self, packet: bytes, asker: Asker, *, is_tcp: bool) -> bytes | Query | None:
        """Answer a packet.

        Returns:
            The response, or a query to be asked elsewhere, or None for what is not worth an answer.
        """
        if self._kept_generation != self._zone.generation:
            self._kept.clear()
            self._kept_generation = self._zone.generation
        key = (asker.networks, is_tcp, packet[2:])
        kept = self._kept.get(key)
        if kept is not None:
            return packet[:2] + kept.next()
        query = parse(packet, is_tcp=is_tcp)
        if not isinstance(query, Query):
            return query
        addresses, response = self._look_up(query, asker)
        if response is None:
            return query
        rotation = _Rotation(query, response, addresses)
        if len(addresses) <= KEPT_ROTATIONS and len(packet) <= KEPT_QUERY_BYTES:
            if len(self._kept) >= KEPT_ANSWERS:
                self._kept.clear()
            self._kept[key] = rotation
        return packet[:2] + rotation.next()

    def _look_up(self, query: Query, asker: Asker) -> tuple[Sequence[str], dns.message.Message | None]:
        question = query.question
        answer = self._zone.answer(question.name.to_text(), asker.networks)
        response = begin(query)
        response.flags |= dns.flags.AA
        wants = question.rdtype
        match answer:
            case Foreign():
                return (), None
            case NoSuchName():
                response.set_rcode(dns.rcode.NXDOMAIN)
            case Pointer(name) if wants in (dns.rdatatype.PTR, dns.rdatatype.ANY):
                response.answer = [dns.rrset.from_text(question.name, TTL_S, "IN", "PTR", f"{name}.")]
            case Addresses(addresses) if wants in (dns.rdatatype.A, dns.rdatatype.ANY):
                return addresses, response
            case _:  # A name of ours without a record of that type: no error, and empty.
                pass
        return (), response


class _Rotation:
    """One answer, encoded once per order of its addresses."""

    def __init__(self, query: Query, response: dns.message.Message, addresses: Sequence[str]) -> None:
        self._query = query
        self._response = response
        self._addresses = addresses
        self._encoded: list[bytes | None] = [None] * max(1, len(addresses))
        self._turn = -1

    def next(self) -> bytes:
        """The response without its first two bytes, the id."""
        self._turn = (self._turn + 1) % len(self._encoded)
        encoded = self._encoded[self._turn]
        if encoded is None:
            encoded = self._encoded[self._turn] = self._encode(self._turn)
        return encoded

    def _encode(self, start: int) -> bytes:
        if self._addresses:
            order = [*self._addresses[start:], *self._addresses[:start]]
            self._response.answer = [dns.rrset.from_text_list(self._query.question.name, TTL_S, "IN", "A", order)]
        return encode(self._response, self._query.limit)[2:]


def parse(packet: bytes, *, is_tcp: bool) -> Query | bytes | None:
    """Read a query.

    Returns:
        A query for class IN, or the response that refuses it, or None for what must not be answered.
    """
    if len(packet) < HEADER_BYTES:
        return None
    _, flags, n_questions = struct.unpack_from("!HHH", packet)
    if flags & dns.flags.QR:  # Answering answers lets two servers talk for ever.
        return None
    if dns.opcode.from_flags(flags) != dns.opcode.QUERY:
        return refuse(packet, dns.rcode.NOTIMP)
    if n_questions != 1 or len(packet) > QUERY_BYTES:
        return refuse(packet, dns.rcode.FORMERR)
    try:
        message = dns.message.from_wire(packet, ignore_trailing=True)
    except (dns.exception.DNSException, ValueError):
        return refuse(packet, dns.rcode.FORMERR)
    question = message.question[0]
    if question.rdclass != dns.rdataclass.IN or question.rdtype in TRANSFERS:
        return refuse(packet, dns.rcode.REFUSED)
    return Query(message, TCP_BYTES if is_tcp else _udp_limit(message))


def _udp_limit(message: dns.message.Message) -> int:
    if message.edns < 0:
        return PLAIN_UDP_BYTES
    return max(PLAIN_UDP_BYTES, min(message.payload, EDNS_UDP_BYTES))


def refuse(packet: bytes, rcode: dns.rcode.Rcode) -> bytes:
    """A response of a header only, to a query that cannot be, or is not, looked into."""
    number, flags = struct.unpack_from("!HH", packet)
    kept = flags & (0x7800 | dns.flags.RD)  # Opcode and "recursion desired" are echoed.
    return struct.pack("!HHHHHH", number, dns.flags.QR | kept | dns.flags.RA | rcode, 0, 0, 0, 0)


def encode(message: dns.message.Message, limit: int) -> bytes:
    """Write a response, records in the order given, with the truncation bit where it does not fit."""
    return message.to_wire(max_size=limit, prefer_truncation=True, want_shuffle=False)


def begin(query: Query) -> dns.message.Message:
    """A response to be filled in."""
    return dns.message.make_response(query.message, recursion_available=True, our_payload=EDNS_UDP_BYTES)


def fail(query: Query, rcode: dns.rcode.Rcode) -> bytes:
    """A response without records."""
    response = begin(query)
    response.set_rcode(rcode)
    return encode(response, query.limit)
