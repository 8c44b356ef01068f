"""The HTTP server: listens, finds each request's route, and answers refusals as Docker does.

Edge: sockets through asyncio and aiohttp. Every answer carries the headers clients negotiate by. This is also the
supervisor of the handlers: what goes wrong in one is logged and answered, and concerns no other.
"""

import asyncio
import errno
import grp
import os
import socket
import ssl
import stat
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Final, cast

import structlog
from aiohttp import web

import skep
from skep.api import authorize, errors, hosts, routes, versions, wire
from skep.api.backend import LocalNode
from skep.api.call import Backend, Call, RouteTable
from skep.api.connection import Connection
from skep.api.events import EventHub
from skep.api.reach import Engines
from skep.edge import tls
from skep.model.errors import Forbidden, NotFound
from skep.ports.clock import Clock
from skep.ports.registry import Registry

log = structlog.get_logger()

SOCKET_MODE: Final = 0o660
LIMITS: Final = tls.FrontLimits(anonymous_per_address=64, anonymous=512, per_node=512)
"""Of TCP: a person's `docker stats` holds a connection for each container."""
_SHUTDOWN_S: Final = 1.0


class SocketTaken(Exception):
    """The socket's path is in use or holds something else; the sentence says which and what to do."""


class ApiServer:
    """Serves Docker's Engine API for one node, on any number of sockets."""

    def __init__(self, node: LocalNode, clock: Clock, registry: Registry | None = None) -> None:
        """Build the route table.

        Args:
            registry: Asked about images before services are made; None where none is to be asked.
        Raises:
            UnguardedRoute: A route does not say who may call it.
        """
        self._backend = Backend(node, clock, Engines(node), EventHub(node, clock), registry)
        self._table = RouteTable(routes.ALL)
        self._connections: set[Connection] = set()
        self._listeners: list[asyncio.Server] = []
        self._fronts: list[tls.TlsFront] = []
        self._paths: list[Path] = []
        self._events: asyncio.Task[None] | None = None
        self._http: web.Server | None = None

    async def start_unix(self, path: Path, group: str | None = None) -> None:
        """Listen on a unix socket that root and one group may use.

        Args:
            path: Its directory must exist. A socket no one listens on any more is replaced.
            group: Name of a system group; None leaves the socket to root.
        Raises:
            SocketTaken: Someone listens there, or it is no socket.
            LookupError: There is no such group.
        """
        gid = -1 if group is None else _group_id(group)
        await _clear(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        # Closed to everyone but us until owner and mode are right; nothing else runs in between.
        mask = os.umask(0o177)
        try:
            listener.bind(str(path))
        except OSError as error:
            listener.close()
            raise SocketTaken(f"cannot listen on {path}: {error.strerror or error}") from error
        finally:
            os.umask(mask)
        os.chown(path, -1, gid)
        path.chmod(SOCKET_MODE)
        listener.listen(256)
        self._paths.append(path)
        http, loop = self._ready(), asyncio.get_running_loop()
        self._listeners.append(
            await loop.create_unix_server(lambda: Connection(http, loop, authorize.LOCAL, self), sock=listener)
        )

    async def start_tls(
        self,
        host: str,
        port: int,
        context: Callable[[], ssl.SSLContext],
        trust: tls.Trust | Callable[[], tls.Trust],
    ) -> int:
        """Listen on TCP for callers with a certificate of the cluster.

        Args:
            port: 0 for any.
            context: The TLS context for the next connection; it must ask for client certificates.
            trust: Whom to believe; see `tls.TlsFront`.
        Returns:
            The port.
        Raises:
            ListenFailed: The address is taken or not ours.
        """
        http, loop = self._ready(), asyncio.get_running_loop()
        front = tls.TlsFront(lambda: Connection(http, loop, None, self), context, trust, LIMITS)
        self._fronts.append(front)
        return await front.start(host, port)

    async def close(self) -> None:
        """Stop listening, let requests end for a moment, cut the rest, remove the socket files."""
        for listener in self._listeners:
            listener.close()
        for front in self._fronts:
            await front.close()
        self._fronts.clear()
        for path in self._paths:
            path.unlink(missing_ok=True)
        self._paths.clear()
        if self._events is not None:
            self._events.cancel()
            await asyncio.wait([self._events])
            self._events = None
        if self._http is not None:
            self._http.pre_shutdown()
            await self._http.shutdown(_SHUTDOWN_S)
            self._http = None
        for listener in self._listeners:
            await listener.wait_closed()
        self._listeners.clear()
        await self._backend.engine.close()

    # --- connections -----------------------------------------------------------

    def opened(self, connection: Connection) -> None:
        self._connections.add(connection)

    def closed(self, connection: Connection) -> None:
        self._connections.discard(connection)

    def _ready(self) -> web.Server:
        if self._http is None:
            self._http = web.Server(self._handle, handler_cancellation=True)
        if self._events is None:
            self._events = asyncio.create_task(self._backend.events.run())
        return self._http

    # --- requests ---------------------------------------------------------------

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = cast("Connection", request.protocol)  # Our own factory made it.
        connection.head_came()
        headers = self._headers()
        try:
            response = await self._answer(request, connection, headers)
        except errors.Refusal as error:
            response = _refusal(request, *errors.status_of(error))
        except ConnectionError:
            raise  # The client has gone; aiohttp closes.
        except Exception:  # A supervisor: the client gets a sentence, the log what happened.
            log.exception("request failed", method=request.method, path=request.path)
            response = _refusal(request, 500, "the daemon made a mistake with this request; its log says more")
        if not response.prepared:
            response.headers.update(headers)
        return response

    async def _answer(
        self, request: web.BaseRequest, connection: Connection, headers: MutableMapping[str, str]
    ) -> web.StreamResponse:
        if "Origin" in request.headers:
            raise Forbidden("requests made by web pages are not answered here")
        version, path = versions.split_path(request.path)
        found = self._table.find(request.method, path)
        if found is None:
            raise NotFound("page not found")
        route, params = found
        authorize.check(self._caller(request, connection), route.access)
        call = Call(self._backend, request, connection, path, params, version, route, headers)
        if route.access != authorize.EVERYONE:
            await self._catch_up()
        return await (_carry_out(route.handler(call)) if route.changes else route.handler(call))

    async def _catch_up(self) -> None:
        """See what was acknowledged at other managers, as if there were only one."""
        control = self._backend.engines.control()
        if control is not None and not control.is_stale:
            await control.catch_up()

    def _caller(self, request: web.BaseRequest, connection: Connection) -> authorize.Caller:
        """Who asks. On TCP the `Host` must be this node's, or a name that a web page's owner points here would do.

        Raises:
            Forbidden: It is not.
        """
        if connection.caller is not None:
            return connection.caller
        local = self._backend.node.local_state
        if not hosts.is_own(request.headers.get("Host", ""), (self._backend.node.hostname, local.node_id)):
            raise Forbidden("the Host header names another machine; use this node's IP address or host name")
        return authorize.of_peer(tls.peer_of(request) or tls.operator_of(request))

    def _headers(self) -> dict[str, str]:
        """What every answer says of this daemon. Source: moby's version middleware and the ping route."""
        local = self._backend.node.local_state
        active = "active/manager" if local.has_control else "active/worker"
        return {
            "Server": f"Docker/{skep.__version__} (linux)",
            "Api-Version": versions.spell(versions.CURRENT),
            "Ostype": "linux",
            "Docker-Experimental": "false",
            "Swarm": active if local.state == "active" else local.state,
        }


def _refusal(request: web.BaseRequest, status: int, message: str) -> web.Response:
    if request.writer.output_size:
        raise ConnectionError("the answer had begun when it failed")  # Only cutting it off tells the client.
    return web.Response(status=status, body=wire.encode({"message": message}), content_type="application/json")


def _group_id(group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise LookupError(f'there is no group "{group}" here; create it or choose another one') from error


async def _clear(path: Path) -> None:
    """Make way for a socket.

    Raises:
        SocketTaken: With a sentence.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise SocketTaken(f"{path} exists and is not a socket; remove it or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            await asyncio.get_running_loop().sock_connect(probe, str(path))
        except OSError as error:
            if error.errno not in (errno.ECONNREFUSED, errno.ENOENT):
                raise SocketTaken(
                    f"{path} cannot be probed ({error.strerror}); remove it if nothing uses it"
                ) from error
        else:
            raise SocketTaken(f"another daemon listens on {path}; stop it or choose another path")
    path.unlink(missing_ok=True)


async def _carry_out(change: Awaitable[web.StreamResponse]) -> web.StreamResponse:
    """Finish a change that has begun, whether or not its client stays to hear of it."""
    work = asyncio.ensure_future(change)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        work.add_done_callback(_note_unheard)
        raise


def _note_unheard(work: "asyncio.Future[web.StreamResponse]") -> None:
    if not work.cancelled() and (error := work.exception()) is not None:
        log.info("a change came to nothing after its client had gone", reason=str(error))
