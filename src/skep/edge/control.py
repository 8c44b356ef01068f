"""A manager's control port: certificates and sessions for nodes, over HTTPS with the cluster's own trust.

Edge: aiohttp behind the TLS front. Every route states who may use it, and there is no way to add one that does not.
"""

import asyncio
import enum
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar, assert_never

import msgspec
from aiohttp import web

from skep.edge import tls, tls_context
from skep.edge.websocket import WebSocketChannel, accepted_websocket
from skep.model import errors
from skep.model.codec import MALFORMED
from skep.model.council import EntryRequest
from skep.model.identity import Credentials, Identity, JoinRequest, Refusal, RenewRequest
from skep.model.node import Role
from skep.ports.transport import Channel, ControlService

T = TypeVar("T")
MAX_BODY_BYTES: Final = 65_536
BODY_S: Final = 5.0
IDLE_S: Final = 15.0
SHUTDOWN_S: Final = 1.0
REMOVED: Final = "this node was removed from the swarm; join again with a token to come back"
STATUSES: Final[dict[type[errors.SkepError], int]] = {
    errors.InvalidSpec: 400,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.NotManager: 503,
    errors.NoQuorum: 503,
    errors.Unavailable: 503,
}


class Caller(enum.Enum):
    """Who may use a route."""

    ANYONE = enum.auto()
    NODE = enum.auto()
    NODE_EVEN_IF_REMOVED = enum.auto()
    MANAGER = enum.auto()


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ControlListener:
    """The control port of one manager."""

    def __init__(
        self,
        service: ControlService,
        credentials: Callable[[], Credentials],
        cluster_id: str,
        limits: tls.FrontLimits | None = None,
    ) -> None:
        """Prepare the port.

        Args:
            service: What answers.
            credentials: This manager's, as of the next connection: they may be renewed at any time.
            cluster_id: Whose nodes are known.
        """
        self._service = service
        self._runner = web.AppRunner(
            self._application(), access_log=None, keepalive_timeout=IDLE_S, shutdown_timeout=SHUTDOWN_S
        )
        self._trust = tls.Trust(cluster_id, service.is_removed, admits_removed=True, is_demoted=service.is_demoted)
        self._context = tls_context.LiveContext(credentials)
        self._limits = limits
        self._front: tls.TlsFront | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port, for those who asked for 0.

        Raises:
            ListenFailed: The address is taken or not ours.
        """
        await self._runner.setup()
        try:
            self._front = tls.TlsFront(self._plain_connection, self._context, self._trust, self._limits)
            return await self._front.start(host, port)
        except BaseException:
            await self._runner.cleanup()
            raise

    async def close(self) -> None:
        """Stop listening and end every connection; nodes go to another manager."""
        if self._front is not None:
            await self._front.close()
        await self._runner.cleanup()

    def _plain_connection(self) -> asyncio.Protocol:
        server = self._runner.server
        if server is None:  # Closed while this connection was on its way in.
            raise ConnectionAbortedError("the control port is closed")
        return server()

    def _application(self) -> web.Application:
        application = web.Application(client_max_size=MAX_BODY_BYTES)
        for method, path, caller, handler in (
            ("GET", "/ca", Caller.ANYONE, self._root),
            ("POST", "/join", Caller.ANYONE, self._join),
            ("POST", "/renew", Caller.NODE, self._renew),
            ("POST", "/renew-ended", Caller.ANYONE, self._revive),
            ("GET", "/session", Caller.NODE_EVEN_IF_REMOVED, self._session),
            ("GET", "/relay", Caller.MANAGER, self._relay),
            ("POST", "/managers/enter", Caller.MANAGER, self._enter),
            ("POST", "/managers/vote", Caller.MANAGER, self._vote),
            ("GET", "/managers/progress", Caller.MANAGER, self._progress),
        ):
            application.router.add_route(method, path, _guarded(caller, handler))
        return application

    async def _root(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text=self._service.root(), content_type="application/x-pem-file")

    async def _join(self, request: web.Request) -> web.StreamResponse:
        asked = await _body(request, JoinRequest)
        return _json(await self._service.join(asked, address=tls.address_of(request)))

    async def _renew(self, request: web.Request) -> web.StreamResponse:
        asked = await _body(request, RenewRequest)
        return _json(await self._service.renew(_known(tls.peer_of(request)), asked, address=tls.address_of(request)))

    async def _revive(self, request: web.Request) -> web.StreamResponse:
        asked = await _body(request, RenewRequest)
        return _json(await self._service.revive(asked, address=tls.address_of(request)))

    async def _session(self, request: web.Request) -> web.StreamResponse:
        identity = _known(tls.peer_of(request) or tls.removed_peer_of(request))
        return await _over_websocket(request, lambda channel: self._service.serve(identity, channel))

    async def _relay(self, request: web.Request) -> web.StreamResponse:
        identity = _known(tls.peer_of(request))
        return await _over_websocket(request, lambda channel: self._service.relay(identity, channel))

    async def _enter(self, request: web.Request) -> web.StreamResponse:
        asked = await _body(request, EntryRequest)
        return _json(await self._service.enter(_known(tls.peer_of(request)), asked))

    async def _vote(self, request: web.Request) -> web.StreamResponse:
        asked = await _body(request, EntryRequest)
        await self._service.vote(_known(tls.peer_of(request)), asked)
        return web.Response()

    async def _progress(self, request: web.Request) -> web.StreamResponse:
        return _json(await self._service.progress(_known(tls.peer_of(request))))


async def _over_websocket(request: web.Request, serve: Callable[[Channel], Awaitable[None]]) -> web.StreamResponse:
    socket = accepted_websocket()
    await socket.prepare(request)
    channel = WebSocketChannel(socket)
    try:
        await serve(channel)
    finally:
        await channel.close()
    return socket


def _guarded(caller: Caller, handler: Handler) -> Handler:
    """Let only the right callers through, and answer refusals as such."""

    async def guarded(request: web.Request) -> web.StreamResponse:
        try:
            _admit(request, caller)
            return await handler(request)
        except errors.SkepError as error:
            removed = isinstance(error, errors.Removed) or tls.removed_peer_of(request) is not None
            status = next((code for kind, code in STATUSES.items() if isinstance(error, kind)), 500)
            return _json(Refusal(reason=str(error), removed=removed), status)

    return guarded


def _admit(request: web.Request, caller: Caller) -> None:
    if "Origin" in request.headers:
        raise errors.Forbidden("browsers have no business on the control port; use the Engine API")
    match caller:
        case Caller.ANYONE:
            return
        case Caller.NODE | Caller.NODE_EVEN_IF_REMOVED | Caller.MANAGER:
            identity = tls.peer_of(request)
            if identity is None and tls.removed_peer_of(request) is None:
                raise errors.Unauthenticated("this needs a node's certificate; join the swarm first")
            if identity is None and caller is not Caller.NODE_EVEN_IF_REMOVED:
                raise errors.Forbidden(REMOVED)
            if caller is Caller.MANAGER and (identity is None or identity.role != Role.MANAGER):
                raise errors.Forbidden("only managers may ask this; promote the node first")
        case _:
            assert_never(caller)


def _known(identity: Identity | None) -> Identity:
    if identity is None:  # Removed between two lines.
        raise errors.Forbidden(REMOVED)
    return identity


async def _body(request: web.Request, kind: type[T]) -> T:
    try:
        async with asyncio.timeout(BODY_S):
            return msgspec.json.decode(await request.read(), type=kind)
    except TimeoutError as error:
        raise errors.InvalidSpec("the request's body did not arrive in time; send it at once") from error
    except MALFORMED as error:
        raise errors.InvalidSpec(f"the request cannot be read: {error}") from error


def _json(value: msgspec.Struct, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")
