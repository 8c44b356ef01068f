"""Requests passed to a container engine and its answers passed back, as they come.

Edge: HTTP, to this node's own engine over its unix socket. Bodies stream both ways without being held; when the client
leaves, the engine is let go too. An engine may speak an older API than we do: paths get the newest version both know.
"""

import abc
import http
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final, Protocol

import aiohttp
import msgspec
import yarl
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from skep.api import versions
from skep.api.backend import LocalNode
from skep.api.errors import EngineFailure
from skep.edge.unix_stream import connect_unix
from skep.model.codec import MALFORMED
from skep.model.errors import NotFound, Unavailable, Unsupported
from skep.ports.bytestream import ByteStream, StreamBroken

HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "host",
        "expect",
        "content-length",
    }
)
_OURS: Final = frozenset({"server", "api-version", "ostype", "docker-experimental", "swarm", "date"})
_CONNECT_TIMEOUT_S = 5.0


class Passed(Protocol):
    """What is needed of a request to pass it on; `Call` has it."""

    @property
    def request(self) -> web.BaseRequest: ...
    @property
    def version(self) -> versions.Version: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    async def invite_body(self) -> None: ...


class Engine(abc.ABC):
    """A container engine that can be spoken to with Docker's API."""

    def __init__(self) -> None:
        self._version: versions.Version | None = None

    @abc.abstractmethod
    async def connect(self) -> ByteStream:
        """Open a connection of its own, for what is no plain HTTP; the caller closes it.

        Raises:
            Unsupported, Unavailable: There is no such engine, or it does not answer.
        """

    @abc.abstractmethod
    def _session(self) -> AbstractAsyncContextManager[aiohttp.ClientSession]:
        """The HTTP client for one request."""

    async def version(self) -> versions.Version:
        """The newest API version both sides know."""
        if self._version is None:
            document = await self.ask_json("GET", "/version")
            major, _, minor = str(document.get("ApiVersion", "")).partition(".")
            if not (major.isdecimal() and minor.isdecimal()):
                raise EngineFailure("the container engine does not say which API version it speaks")
            self._version = min(versions.CURRENT, (int(major), int(minor)))
        return self._version

    async def prefix(self) -> str:
        """What our own requests' paths begin with: `/v1.41`."""
        return f"/v{versions.spell(await self.version())}"

    async def ask_json(self, method: str, path: str, params: Mapping[str, str] | None = None) -> Any:
        """Ask the engine something of our own.

        Args:
            path: With `prefix()`, except for what comes before versions.
        Raises:
            EngineFailure: It answered with an error, or no JSON.
            Unavailable: It does not answer.
        """
        async with self.ask(method, path, params=params) as response:
            raw = await response.read()
            if response.status != http.HTTPStatus.OK:
                raise EngineFailure(f"the container engine answered {response.status} to {method} {path}")
            try:
                return msgspec.json.decode(raw)
            except MALFORMED as error:
                raise EngineFailure(f"the container engine's answer to {path} cannot be read: {error}") from error

    async def path_for(self, call: Passed, path: str | None = None) -> str:
        """The request's path and query with a version the engine accepts.

        Args:
            path: Instead of the request's own; quoted, without version and query.
        """
        target = call.request.rel_url
        rest = path or versions.split_path(target.raw_path)[1]
        query = f"?{target.raw_query_string}" if target.raw_query_string else ""
        return f"/v{versions.spell(min(call.version, await self.version()))}{rest}{query}"

    async def relay(self, call: Passed, body: bytes | None = None, *, path: str | None = None) -> web.StreamResponse:
        """Pass a request on and its answer back.

        Args:
            body: Its body if it has been read already; None streams it from the client.
            path: See `path_for`.
        Raises:
            NotFound, Unsupported: The engine has no such route. EngineFailure, Unavailable.
        """
        request = call.request
        headers = passed_headers(request.headers)
        data: bytes | AsyncIterator[bytes] | None = body
        if body is None and request.body_exists:
            await call.invite_body()
            data = request.content.iter_any()
            if request.content_length is not None:
                headers["Content-Length"] = str(request.content_length)
        target = await self.path_for(call, path)
        async with self.ask(request.method, target, headers=headers, data=data) as answer:
            if answer.status == http.HTTPStatus.NOT_FOUND and answer.content_type == "text/plain":
                raise _not_offered(request.method, target.partition("?")[0])
            response = web.StreamResponse(status=answer.status, reason=answer.reason)
            response.headers.extend(returned_headers(answer.headers))
            response.headers.update(call.headers)
            if "Content-Length" in answer.headers and request.method != "HEAD":
                response.content_length = int(answer.headers["Content-Length"])
            await response.prepare(request)
            if request.method != "HEAD":
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
            await response.write_eof()
            return response

    @asynccontextmanager
    async def ask(self, method: str, path: str, **options: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        """Ask the engine; leaving the context before the answer's end ends it there too.

        Args:
            options: As of aiohttp's `ClientSession.request`.
        Raises:
            EngineFailure, Unavailable, Unsupported.
        """
        url = yarl.URL(f"http://engine{path}", encoded=True)
        async with self._session() as session:
            try:
                async with session.request(method, url, **options) as response:
                    yield response
            except (aiohttp.ClientConnectorError, FileNotFoundError) as error:
                raise Unavailable(f"the container engine does not answer: {error}") from error
            except aiohttp.ClientError as error:
                raise EngineFailure(f"the container engine broke off: {error}") from error


def _not_offered(method: str, path: str) -> NotFound | Unsupported:
    """What to say of a route the engine lacks: to a question 404, so that `docker inspect team/app` goes on."""
    sentence = f"the node's container engine has no {method} {path}"
    return NotFound(sentence) if method in ("GET", "HEAD") else Unsupported(sentence)


class LocalEngine(Engine):
    """This node's own, on its unix socket."""

    def __init__(self, node: LocalNode) -> None:
        super().__init__()
        self._node = node
        self._client: aiohttp.ClientSession | None = None
        self._socket: Path | None = None

    @property
    def is_there(self) -> bool:
        return self._node.passthrough is not None

    @property
    def socket(self) -> Path:
        """The engine's unix socket.

        Raises:
            Unsupported: This node's engine has none.
        """
        path = self._node.passthrough
        if path is None:
            raise Unsupported(
                "this node's engine runs tasks only: it has no containers or images of its own; "
                "use a node with the podman or docker engine"
            )
        return path

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def version(self) -> versions.Version:
        if self._socket != self.socket:
            self._version = None
        return await super().version()

    async def connect(self) -> ByteStream:
        try:
            return await connect_unix(self.socket)
        except StreamBroken as error:
            raise Unavailable(f"the container engine does not answer: {error}") from error

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[aiohttp.ClientSession]:
        path = self.socket
        if self._client is None or self._socket != path:
            await self.close()
            self._socket, self._version = path, None
            self._client = client_session(aiohttp.UnixConnector(str(path), limit=0))
        yield self._client


def client_session(connector: aiohttp.BaseConnector) -> aiohttp.ClientSession:
    """A client that adds nothing of its own to what is passed through it."""
    return aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S),
        auto_decompress=False,
        requote_redirect_url=False,
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
    )


def passed_headers(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """What of a request's header goes on to the engine."""
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in HOP_BY_HOP)


def returned_headers(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """What of the engine's header goes back to the client."""
    return CIMultiDict(
        (name, value)
        for name, value in headers.items()
        if name.lower() not in HOP_BY_HOP | _OURS and not name.lower().startswith("libpod-")
    )
