"""TLS in front of aiohttp: listens, shakes hands, knows who the peer is, and hands the plain stream on.

Edge: sockets, OpenSSL. asyncio's own TLS ignores half-close and cannot change certificates live, so anyio's streams
terminate TLS and a socket pair carries the plain bytes into the server. Trust is in the cluster's roots only: one, or
two while one follows the other. Every peer has a few seconds for its handshake and for its first header, and a share
of the connections, so that idle ones cost little and starve nobody. Long, because whoever may end a connection early
has to know what it is made of.
"""

import asyncio
import contextlib
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Final
from weakref import WeakKeyDictionary

import anyio
import anyio.abc
import msgspec
import structlog
from aiohttp import web
from anyio.streams.tls import TLSAttribute, TLSStream

from skep.core import identity as certificates
from skep.lib.rates import TokenBuckets
from skep.model.errors import Unauthenticated
from skep.model.identity import Identity, Operator
from skep.model.node import Role
from skep.ports.transport import ListenFailed

log = structlog.get_logger(__name__)

CHUNK: Final = 65_536
MAX_HEAD: Final = 65_536
BACKLOG: Final = 1024
FAREWELL_S: Final = 5.0
"""How long a peer may take to read the end of what it was sent; closing sooner would lose it."""
DESCRIPTORS_SHORT_S: Final = 0.1
LOOK_S: Final = 0.75
"""A removed node's connections end at the second look: until then it may still be told why."""
GONE: Final = (OSError, ssl.SSLError, anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream)
"""What a stream raises once its peer has gone, in whatever way it went."""


# --- peers -----------------------------------------------------------------------


def nobody(_node_id: str) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end. Attributes: address: its IP; identity: None without a certificate."""

    address: str
    identity: Identity | Operator | None
    is_revoked: Callable[[str], bool]
    is_demoted: Callable[[str], bool] = nobody

    @property
    def is_removed(self) -> bool:
        """Whether it is a node that was removed, before it connected or since."""
        return isinstance(self.identity, Identity) and self.is_revoked(self.identity.node_id)

    @property
    def role(self) -> Role | None:
        """What it is now, whatever its certificate says of a manager that was demoted; None if it is no node."""
        if not isinstance(self.identity, Identity):
            return None
        return Role.WORKER if self.is_demoted(self.identity.node_id) else self.identity.role


_peers: WeakKeyDictionary[asyncio.BaseTransport, Peer] = WeakKeyDictionary()


def _peer(request: web.BaseRequest) -> Peer | None:
    return _peers.get(request.transport) if request.transport is not None else None


def peer_of(request: web.BaseRequest) -> Identity | None:
    """Who sent a request, by the verified certificate of its connection.

    Returns:
        None without a certificate, or once the node has been removed, also amid a connection.
    """
    peer = _peer(request)
    if peer is None or not isinstance(peer.identity, Identity) or peer.is_removed:
        return None
    return msgspec.structs.replace(peer.identity, role=peer.role)


def operator_of(request: web.BaseRequest) -> Operator | None:
    """The operator who sent a request, by the verified certificate of its connection."""
    peer = _peer(request)
    return peer.identity if peer is not None and isinstance(peer.identity, Operator) else None


def removed_peer_of(request: web.BaseRequest) -> Identity | None:
    """Who sent a request if it is a removed node, to be told so and nothing else."""
    peer = _peer(request)
    if peer is None or not isinstance(peer.identity, Identity) or not peer.is_removed:
        return None
    return peer.identity


def address_of(request: web.BaseRequest) -> str:
    """The IP address a request came from; empty if it did not come through a front."""
    peer = _peer(request)
    return peer.address if peer is not None else ""


# --- front -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FrontLimits:
    """How much of the server a peer may take.

    Attributes:
        handshake_s, header_s: How long it may take over each.
        anonymous_per_address, anonymous: Connections without a certificate, or whose handshake is not over.
        per_node: Connections of one certificate's node or operator.
        per_manager: The same of a manager, which carries other nodes' sessions and streams.
        handshakes_per_second, handshake_burst: New connections of one address; each costs a signature.
    """

    handshake_s: float = 5.0
    header_s: float = 5.0
    anonymous_per_address: int = 256
    anonymous: int = 2048
    per_node: int = 32
    per_manager: int = 8192
    handshakes_per_second: float = 100
    handshake_burst: int = 1000


@dataclass(frozen=True, slots=True)
class Trust:
    """Attributes: cluster_id: whose nodes are known; is_revoked: whether a node of it was removed.

    admits_removed: let removed nodes in, so that they can be told why they are refused (`removed_peer_of`).
    admits_operators: let in those whose certificate is no node's (`operator_of`).
    is_demoted: whether a node is no manager any more, though it may still hold a manager's certificate.
    """

    cluster_id: str
    is_revoked: Callable[[str], bool]
    admits_removed: bool = False
    admits_operators: bool = False
    is_demoted: Callable[[str], bool] = nobody


class Refused(Exception):
    """A connection is not wanted. The text is a key of `TlsFront.refusals`."""


@dataclass(slots=True)
class _Shares:
    limits: FrontLimits
    anonymous: Counter[str] = field(default_factory=Counter)
    nodes: Counter[str] = field(default_factory=Counter)

    @contextlib.contextmanager
    def of_address(self, address: str) -> Iterator[contextlib.ExitStack]:
        """Take a share as an unknown; closing what this yields gives it back early."""
        if self.anonymous[address] >= self.limits.anonymous_per_address:
            raise Refused("too many connections of one address")
        if self.anonymous.total() >= self.limits.anonymous:
            raise Refused("too many connections without a certificate")
        with contextlib.ExitStack() as share:
            share.enter_context(_counted(self.anonymous, address))
            yield share

    @contextlib.contextmanager
    def of_node(self, name: str, *, is_manager: bool) -> Iterator[None]:
        if self.nodes[name] >= (self.limits.per_manager if is_manager else self.limits.per_node):
            raise Refused("too many connections of one node")
        with _counted(self.nodes, name):
            yield


@contextlib.contextmanager
def _counted(counter: Counter[str], key: str) -> Iterator[None]:
    counter[key] += 1
    try:
        yield
    finally:
        counter[key] -= 1
        if not counter[key]:
            del counter[key]


class TlsFront:
    """One TLS listener before one server."""

    def __init__(
        self,
        server: Callable[[], asyncio.Protocol],
        context: Callable[[], ssl.SSLContext],
        trust: Trust | Callable[[], Trust],
        limits: FrontLimits | None = None,
    ) -> None:
        """Put TLS before a server.

        Args:
            server: Makes the protocol of a plain connection, such as aiohttp's `web.Server`.
            context: The TLS context for the next connection. Raises `Refused` where there is none at present.
            trust: Whom to believe, or what says so for the next connection.
        """
        self._server = server
        self._context = context
        self._trust = trust if callable(trust) else lambda: trust
        self._limits = limits or FrontLimits()
        self._shares = _Shares(self._limits)
        self._listener: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._handshakes = TokenBuckets(self._limits.handshakes_per_second, self._limits.handshake_burst)
        self._of_nodes: dict[asyncio.Task[None], Peer] = {}
        self.refusals: Counter[str] = Counter()

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port, for those who asked for 0.

        Raises:
            ListenFailed: The address is taken or not ours.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
        except OSError as error:
            raise ListenFailed(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
        listener.setblocking(False)
        self._listener = listener
        self._spawn(self._accept(listener))
        self._spawn(self._expel())
        return int(listener.getsockname()[1])

    async def close(self) -> None:
        """Stop listening and end every connection."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._of_nodes.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a connection failed in a way not foreseen", exc_info=error)

    async def _expel(self) -> None:
        """End whatever nodes hold open here that were removed since."""
        seen: set[asyncio.Task[None]] = set()
        while True:
            await asyncio.sleep(LOOK_S)
            removed = {task for task, peer in self._of_nodes.items() if peer.is_removed}
            for task in removed & seen:
                self.refusals["certificate of a removed node"] += 1
                task.cancel()
            seen = removed

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(listener)
            except OSError as error:
                # Out of descriptors, or the peer left while queued: either passes.
                log.warning("a connection could not be accepted", error=str(error))
                await asyncio.sleep(DESCRIPTORS_SHORT_S)
                continue
            self._spawn(self._connection(connection, address[0].removeprefix("::ffff:")))

    async def _connection(self, connection: socket.socket, address: str) -> None:
        with connection:
            try:
                if not self._handshakes.take(address, time.monotonic_ns()):
                    raise Refused("too many new connections of one address")
                with self._shares.of_address(address) as share:
                    await self._serve(connection, address, share)
            except Refused as refusal:
                self.refusals[str(refusal)] += 1
                log.debug("a connection was refused", peer=address, reason=str(refusal))
            except GONE:
                pass

    async def _serve(self, connection: socket.socket, address: str, share: contextlib.ExitStack) -> None:
        _keep_alive(connection)
        stream = await self._handshake(connection)
        try:
            trust = self._trust()
            identity = _identify(stream, trust)
            peer = Peer(address, identity, trust.is_revoked, trust.is_demoted)
            with contextlib.ExitStack() as node_share:
                if identity is not None:
                    is_manager = peer.role is Role.MANAGER
                    node_share.enter_context(self._shares.of_node(_name(identity), is_manager=is_manager))
                    share.close()
                if (task := asyncio.current_task()) is not None and isinstance(identity, Identity):
                    self._of_nodes[task] = peer
                head = await self._head(stream)
                await self._relay(stream, head, peer)
                await _farewell(stream)
        finally:
            await anyio.aclose_forcefully(stream.transport_stream)

    async def _handshake(self, connection: socket.socket) -> TLSStream:
        plain = await anyio.abc.SocketStream.from_socket(connection)
        async with contextlib.AsyncExitStack() as unless_done:
            unless_done.push_async_callback(anyio.aclose_forcefully, plain)
            try:
                async with asyncio.timeout(self._limits.handshake_s):
                    stream = await TLSStream.wrap(plain, server_side=True, ssl_context=self._context())
            except TimeoutError as error:
                raise Refused("handshake too slow") from error
            except ssl.SSLError as error:
                raise Refused("handshake failed") from error
            unless_done.pop_all()
        return stream

    async def _head(self, stream: TLSStream) -> bytes:
        """Read until the first request's header is whole, so that a slow sender costs the server nothing."""
        head = bytearray()
        try:
            async with asyncio.timeout(self._limits.header_s):
                while b"\r\n\r\n" not in head and len(head) < MAX_HEAD:
                    head += await stream.receive(CHUNK)
        except TimeoutError as error:
            raise Refused("header too slow") from error
        return bytes(head)

    async def _relay(self, stream: TLSStream, head: bytes, peer: Peer) -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with ours:
            ours.setblocking(False)
            transport, _ = await loop.connect_accepted_socket(self._server, theirs)
            _peers[transport] = peer
            upward = asyncio.ensure_future(_upward(stream, ours, head))
            try:
                while chunk := await loop.sock_recv(ours, CHUNK):
                    await stream.send(chunk)
            finally:
                upward.cancel()
                await asyncio.wait([upward])
                transport.close()


def _identify(stream: TLSStream, trust: Trust) -> Identity | Operator | None:
    der = stream.extra(TLSAttribute.peer_certificate_binary)  # noqa: S610 — anyio's, not Django's
    if der is None:
        return None
    try:
        holder = certificates.holder_of_der(der)
    except Unauthenticated as error:
        raise Refused("certificate of no node") from error
    if holder.cluster_id != trust.cluster_id:
        raise Refused("certificate of another cluster")
    if isinstance(holder, Operator):
        if not trust.admits_operators:
            raise Refused("certificate of no node")
    elif trust.is_revoked(holder.node_id) and not trust.admits_removed:
        raise Refused("certificate of a removed node")
    return holder


def _name(identity: Identity | Operator) -> str:
    return identity.node_id if isinstance(identity, Identity) else f"operator {identity.name}"


async def _upward(stream: TLSStream, ours: socket.socket, head: bytes) -> None:
    """Carry the peer's bytes to the server; pass on a half-close as one, and a break as the end of everything."""
    loop = asyncio.get_running_loop()
    how = socket.SHUT_RDWR
    try:
        await loop.sock_sendall(ours, head)
        while True:
            await loop.sock_sendall(ours, await stream.receive(CHUNK))
    except anyio.EndOfStream:
        how = socket.SHUT_WR
    except GONE:
        pass
    with contextlib.suppress(OSError):
        ours.shutdown(how)


async def _farewell(stream: TLSStream) -> None:
    """Say TLS's own farewell and wait for the peer's: by then it has read everything."""
    try:
        async with asyncio.timeout(FAREWELL_S):
            await stream.unwrap()
    except (TimeoutError, *GONE):
        pass


def _keep_alive(connection: socket.socket) -> None:
    """Have the kernel end connections whose peer has vanished within about 15 seconds."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 6), (socket.TCP_KEEPINTVL, 3), (socket.TCP_KEEPCNT, 3)):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 15_000)
