"""Requests passed to the node's own container engine and its answers passed back, as they come.

Edge: HTTP over the engine's unix socket. Bodies stream both ways without being held; when the client leaves, the engine
is let go too. The engine may speak an older API than we do: paths get the newest version both know.
"""

import http
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
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
from skep.model.codec import MALFORMED
from skep.model.errors import Unavailable, Unsupported

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


class Engine:
    """The node's engine, if it can be spoken to with Docker's API."""

    def __init__(self, node: LocalNode) -> None:
        self._node = node
        self._session: aiohttp.ClientSession | None = None
        self._socket: Path | None = None
        self._version: versions.Version | None = None

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
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def version(self) -> versions.Version:
        """The newest API version both sides know."""
        if self._version is None or self._socket != self.socket:
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

    async def path_for(self, call: Passed) -> str:
        """The request's path and query with a version the engine accepts."""
        target = call.request.rel_url
        _, rest = versions.split_path(target.raw_path)
        query = f"?{target.raw_query_string}" if target.raw_query_string else ""
        return f"/v{versions.spell(min(call.version, await self.version()))}{rest}{query}"

    async def relay(self, call: Passed, body: bytes | None = None) -> web.StreamResponse:
        """Pass a request on and its answer back.

        Args:
            body: Its body if it has been read already; None streams it from the client.
        """
        request = call.request
        headers = passed_headers(request.headers)
        data: bytes | AsyncIterator[bytes] | None = body
        if body is None and request.body_exists:
            await call.invite_body()
            data = request.content.iter_any()
            if request.content_length is not None:
                headers["Content-Length"] = str(request.content_length)
        async with self.ask(request.method, await self.path_for(call), headers=headers, data=data) as answer:
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
            EngineFailure, Unavailable.
        """
        session = await self._connected()
        try:
            async with session.request(method, yarl.URL(f"http://engine{path}", encoded=True), **options) as response:
                yield response
        except (aiohttp.ClientConnectorError, FileNotFoundError) as error:
            raise Unavailable(f"the container engine does not answer at {self._socket}: {error}") from error
        except aiohttp.ClientError as error:
            raise EngineFailure(f"the container engine broke off: {error}") from error

    async def _connected(self) -> aiohttp.ClientSession:
        path = self.socket
        if self._session is None or self._socket != path:
            await self.close()
            self._socket, self._version = path, None
            self._session = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(str(path), limit=0),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S),
                auto_decompress=False,
                requote_redirect_url=False,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            )
        return self._session


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
