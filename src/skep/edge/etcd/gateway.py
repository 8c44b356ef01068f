"""Asks etcd's JSON gateway, at whichever endpoint answers.

Edge: aiohttp's client, TLS. One attempt goes to one endpoint and ends within a moment; `ask` repeats it elsewhere until
its limit. What is asked that way must be safe to ask twice: after a break nobody knows whether the first was heard.
"""

import asyncio
import ssl
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Final, TypeVar

import aiohttp
import msgspec

from skep.edge.etcd import wire

T = TypeVar("T")

PAUSE_S: Final = 0.05
"""Between two rounds of all endpoints."""
MAX_CONNECTIONS: Final = 96
TRANSIENT_CODES: Final = frozenset({1, 2, 4, 10, 13, 14})
"""gRPC's cancelled, unknown, deadline exceeded, aborted, internal, unavailable: another member may do better."""
TOO_MANY_REQUESTS: Final = "too many requests"


class GatewayError(Exception):
    """Base. The text is one sentence."""


class Away(GatewayError):
    """An endpoint did not do it in time. Attributes: was_heard: whether it may have done it all the same, or will."""

    def __init__(self, reason: str, *, was_heard: bool) -> None:
        super().__init__(reason)
        self.was_heard = was_heard


class Refusal(GatewayError):
    """etcd understood and will not do it, wherever it is asked. Attributes: code: gRPC's."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Patience:
    """Attributes: attempt_s: for one endpoint; commit_s: for a transaction; load_s: for reading one page of rows."""

    attempt_s: float = 1.0
    commit_s: float = 1.8
    load_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Target:
    """Which etcd, and how to know it.

    Attributes:
        endpoints: URLs of members, the nearest first; not empty.
        context: The TLS context for the next connection; None without TLS, or with the machine's own authorities.
        server_name: The name a member's certificate must have; "" for the host of its URL.
    """

    endpoints: Sequence[str]
    context: Callable[[], ssl.SSLContext] | None = None
    server_name: str = ""
    patience: Patience = field(default_factory=Patience)


class Gateway:
    """The endpoints of one etcd. Made in a running event loop."""

    def __init__(self, target: Target) -> None:
        self.patience = target.patience
        self._target = target
        self._preferred = 0
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=target.patience.attempt_s),
        )

    @property
    def endpoint(self) -> str:
        """The one that is asked first at present."""
        return self._target.endpoints[self._preferred]

    def avoid(self, endpoint: str) -> None:
        """Ask another one first from now on."""
        if endpoint == self.endpoint:  # Others may have turned away from it meanwhile.
            self._preferred = (self._preferred + 1) % len(self._target.endpoints)

    async def close(self) -> None:
        await self._http.close()

    async def ask(
        self, path: str, request: msgspec.Struct, answer: type[T], *, limit_s: float, doubts: list[str] | None = None
    ) -> T:
        """Ask until an endpoint answers.

        Args:
            request: Must be safe to be carried out twice.
            doubts: Gets the reason of each attempt that failed but may have been carried out, or still may be.
        Raises:
            Refusal: For good.
            Away: Nobody answered within `limit_s`.
        """
        body = wire.encode(request)
        loop = asyncio.get_running_loop()
        until = loop.time() + limit_s
        n_tries = 0
        while True:
            endpoint = self.endpoint
            try:
                left_s = max(0.01, min(self.patience.attempt_s, until - loop.time()))
                return await self.attempt(endpoint, path, body, answer, limit_s=left_s)
            except Away as error:
                self.avoid(endpoint)
                if error.was_heard and doubts is not None:
                    doubts.append(str(error))
                if self._http.closed or loop.time() + PAUSE_S >= until:
                    raise
            n_tries += 1
            if n_tries % len(self._target.endpoints) == 0:
                await asyncio.sleep(PAUSE_S)

    async def attempt(self, endpoint: str, path: str, body: bytes, answer: type[T], *, limit_s: float) -> T:
        """Ask one endpoint once. Raises as `ask`."""
        if self._http.closed:  # Whoever asked at the very end is not to blame.
            raise Away(f"{endpoint} is not asked any more", was_heard=False)
        try:
            async with asyncio.timeout(limit_s), self._post(endpoint, path, body) as response:
                raw = await response.read()
                status = response.status
            if status != 200:
                raise _failure(endpoint, raw)
            return wire.decode(raw, answer)
        except aiohttp.ClientConnectorError as error:
            raise Away(f"{endpoint} cannot be reached: {error.os_error.strerror or error}", was_heard=False) from error
        except TimeoutError as error:
            raise Away(f"{endpoint} does not answer", was_heard=True) from error
        except (aiohttp.ClientError, OSError) as error:
            raise Away(f"{endpoint} broke off: {error}", was_heard=True) from error
        except wire.MALFORMED as error:
            raise Away(f"{endpoint} answered what no etcd answers: {error}", was_heard=True) from error

    async def lines(self, endpoint: str, path: str, request: msgspec.Struct) -> AsyncGenerator[bytes, None]:
        """Follow a stream at one endpoint, line by line, for as long as it lasts.

        Raises:
            Refusal, Away.
        """
        try:
            async with self._post(endpoint, path, wire.encode(request)) as response:
                if response.status != 200:
                    raise _failure(endpoint, await response.read())
                parts: list[bytes] = []
                async for chunk in response.content.iter_any():
                    end, *more = chunk.split(b"\n")
                    parts.append(end)
                    for start in more:
                        yield b"".join(parts)
                        parts = [start]
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Away(f"{endpoint} broke off: {error}", was_heard=True) from error
        raise Away(f"{endpoint} ended the stream", was_heard=True)

    async def get(self, endpoint: str, path: str, *, limit_s: float) -> bytes:
        """Fetch one of etcd's plain pages. Raises `Away`."""
        try:
            async with (
                asyncio.timeout(limit_s),
                self._http.get(
                    endpoint + path, ssl=self._context(), server_hostname=self._target.server_name or None
                ) as response,
            ):
                return await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Away(f"{endpoint} does not answer: {error}", was_heard=False) from error

    def _post(self, endpoint: str, path: str, body: bytes) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        return self._http.post(
            endpoint + path, data=body, ssl=self._context(), server_hostname=self._target.server_name or None
        )

    def _context(self) -> ssl.SSLContext | bool:
        return self._target.context() if self._target.context is not None else True


def _failure(endpoint: str, raw: bytes) -> GatewayError:
    try:
        failure = wire.decode(raw, wire.Failure)
    except wire.MALFORMED:
        return Away(f"{endpoint} answered what no etcd answers", was_heard=True)
    if failure.code in TRANSIENT_CODES or TOO_MANY_REQUESTS in failure.message:
        return Away(f"{endpoint}: {failure.message}", was_heard=True)
    return Refusal(failure.message.removeprefix("etcdserver: "), failure.code)
