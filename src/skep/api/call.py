"""One request on its way through a handler, and the routes it may take.

Edge: reads the body from the client's connection. Handlers get a `Call`, never the HTTP request itself, so that
limits, spelling and headers are the same everywhere.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from aiohttp import web

from skep.api import filters, versions, wire
from skep.api.authorize import Access
from skep.api.backend import Control, LocalNode
from skep.api.connection import Connection
from skep.api.errors import TooLarge, TooSlow
from skep.api.events import EventHub
from skep.api.passthrough import LocalEngine
from skep.api.reach import Engines
from skep.model.errors import InvalidSpec
from skep.ports.clock import Clock
from skep.ports.registry import Registry

T = TypeVar("T")

BODY_LIMIT: Final = 2_097_152
"""Enough for any spec: one object may not be larger than a store's transaction, 1.5 MB."""
BODY_IDLE_S: Final = 5.0
UNLIMITED: Final = 0
STALE: Final = "Skep-Stale"
"""A header of answers that may be out of date, because too few managers answer; its value is `true`."""

_FALSE = frozenset({"", "0", "no", "false", "none"})


@dataclass(frozen=True, slots=True)
class Backend:
    """What handlers work on."""

    node: LocalNode
    clock: Clock
    engines: Engines
    events: EventHub
    registry: Registry | None = None

    @property
    def engine(self) -> LocalEngine:
        """This node's own."""
        return self.engines.local


@dataclass(slots=True)
class Call:
    """One request.

    Attributes:
        path: Without the version. params: the parts of the path that the route names.
        headers: What every answer carries; streams must be given them before they begin.
    """

    backend: Backend
    request: web.BaseRequest
    connection: Connection
    path: str
    params: Mapping[str, str]
    version: versions.Version
    route: "Route"
    headers: MutableMapping[str, str]

    @property
    def node(self) -> LocalNode:
        return self.backend.node

    @property
    def control(self) -> Control:
        """The swarm's operations. An answer that reads from them says so where they may be out of date.

        Raises:
            NotManager: In Docker's words.
        """
        control = self.backend.node.control()
        if control.is_stale and not self.route.changes:
            self.headers[STALE] = "true"
        return control

    def text(self, name: str, default: str = "") -> str:
        """A query parameter."""
        return self.request.query.get(name, default)

    def flag(self, name: str, *, default: bool = False) -> bool:
        """A query parameter as Docker reads truth: anything but empty, 0, no, false and none.

        Source: moby's httputils.BoolValue.
        """
        value = self.request.query.get(name)
        return default if value is None else value.strip().lower() not in _FALSE

    def number(self, name: str) -> int:
        """A query parameter that must be a whole number of 64 bits.

        Raises:
            InvalidSpec: It is missing or not a number; in Docker's words.
        """
        value = self.text(name)
        if not re.fullmatch(r"\d{1,19}", value, re.ASCII):
            raise InvalidSpec(f"invalid {name} '{value}': it must be a whole number")
        return int(value)

    def filters(self, *allowed: str) -> filters.Filters:
        """The query's filters.

        Args:
            allowed: The keys that may be there; none given allows any.
        Raises:
            InvalidSpec: They cannot be read, or a key is not allowed.
        """
        found = filters.read(self.text("filters"))
        return found.allow(*allowed) if allowed else found

    async def body(self) -> bytes:
        """Read the whole body.

        Raises:
            TooLarge, TooSlow, InvalidSpec.
        """
        limit = self.route.body_limit
        length = self.request.content_length
        if length is not None and length > limit:
            raise TooLarge(f"request body of {length} bytes is larger than the {limit} bytes this request may have")
        chunks: list[bytes] = []
        size = 0
        async for chunk in self.pieces():
            size += len(chunk)
            if size > limit:
                raise TooLarge(f"request body is larger than the {limit} bytes this request may have")
            chunks.append(chunk)
        return b"".join(chunks)

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes, however long it is.

        Raises:
            TooSlow, InvalidSpec.
        """
        await self.invite_body()
        content = self.request.content
        while not content.at_eof():
            try:
                async with asyncio.timeout(BODY_IDLE_S):
                    chunk = await content.readany()
            except TimeoutError as error:
                raise TooSlow(f"request body stopped arriving for {BODY_IDLE_S:.0f} seconds") from error
            except web.RequestPayloadError as error:
                raise InvalidSpec(f"request body cannot be read: {error}") from error
            yield chunk

    async def invite_body(self) -> None:
        """Tell a client that waits for it (`Expect: 100-continue`) to send the body."""
        if self.request.headers.get("Expect", "").lower() == "100-continue":
            await self.request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.request.writer.output_size = 0  # An interim answer: the real one is still to come.

    async def json(self, kind: type[T]) -> T:
        """Read the body as a structure of the model.

        Raises:
            InvalidSpec: It is not sent as JSON, is no JSON, or does not fit; the sentence names the field.
        """
        return wire.decode(await self.json_text(), kind)

    async def json_text(self) -> bytes:
        """Read the body, which must be declared to be JSON: a web page's form can then never reach us."""
        raw = await self.body()
        declared = self.request.content_type
        if raw and declared != "application/json":
            raise InvalidSpec(f"unsupported Content-Type header ({declared}): must be 'application/json'")
        return raw

    def reply(self, document: object, status: int = 200) -> web.Response:
        """Answer in JSON; the server adds its headers."""
        return web.Response(status=status, body=wire.encode(document), content_type="application/json")

    def done(self, status: int = 200) -> web.Response:
        """Answer nothing but the status."""
        return web.Response(status=status)

    async def stream(self, content_type: str) -> web.StreamResponse:
        """Begin an answer of unknown length; the client sees its header at once."""
        response = web.StreamResponse(headers={**self.headers, "Content-Type": content_type})
        await response.prepare(self.request)
        return response


Handler = Callable[[Call], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """What is answered at one method and path.

    Attributes:
        path: `{id}` stands for one part of a path, `{name...}` for several.
        access: Who may call it; an empty set is refused at start-up.
        body_limit: In bytes; UNLIMITED leaves the body to the handler, which passes it on as it comes.
        changes: It changes something, so it runs to its end even if the client leaves.
    """

    method: str
    path: str
    handler: Handler
    access: Access
    body_limit: int = BODY_LIMIT
    changes: bool = False
    pattern: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        escaped = re.sub(r"\{(\w+)\.\.\.\}", r"(?P<\1>.+)", self.path)
        object.__setattr__(self, "pattern", re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", escaped)))


class UnguardedRoute(Exception):
    """A route does not say who may call it. The daemon must not start."""


class RouteTable:
    """All routes, found by method and path; the first that fits counts."""

    def __init__(self, routes: Sequence[Route]) -> None:
        """Build the table.

        Raises:
            UnguardedRoute: A route names no caller.
        """
        self.routes = tuple(routes)
        self._by_head: dict[tuple[str, str], list[Route]] = {}
        for route in self.routes:
            if not route.access:
                raise UnguardedRoute(f"{route.method} {route.path} does not say who may call it")
            self._by_head.setdefault((route.method, _head(route.path)), []).append(route)

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]] | None:
        """The route of a request, with the parts of the path it names; None if there is none."""
        for route in self._by_head.get((method, _head(path)), ()):
            match = route.pattern.fullmatch(path)
            if match is not None:
                return route, match.groupdict()
        return None


def _head(path: str) -> str:
    return path.partition("/")[2].partition("/")[0]
