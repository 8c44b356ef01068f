"""Requests to a private engine's REST API on its unix socket.

Edge: aiohttp. While the service is being started again, requests wait for it and are sent once more: every one we
send may be repeated without harm. Podman's own API and Docker's report failures alike.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec

from skep.edge.engine_service import EngineService
from skep.model.codec import MALFORMED
from skep.ports.runtime import EngineUnreachable

REQUEST_LIMIT_S = 120.0
RESTART_LIMIT_S = 10.0
ATTEMPTS = 3
CONNECTIONS = 32


class _Failure(msgspec.Struct):
    cause: str = ""
    message: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response. Attributes: body, headers: as sent."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_ok(self) -> bool:
        return self.status < 400

    @property
    def failure(self) -> str:
        """The engine's sentence about what went wrong."""
        text = self.body.decode(errors="replace").strip() or f"the engine answered {self.status}"
        try:
            failure = msgspec.json.decode(self.body, type=_Failure)
        except MALFORMED:
            return text
        return failure.message or failure.cause or failure.error or text


class EngineRequests:
    """A connection pool to one service."""

    def __init__(self, service: EngineService, prefix: str) -> None:
        """Args: prefix: what every path begins with, such as `/v1.41`."""
        self._service = service
        self.prefix = prefix
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        limit_s: float = REQUEST_LIMIT_S,
    ) -> Answer:
        """Send one request, again if the service went away.

        Args:
            path: Below the prefix, already quoted. body: bytes are sent as they are, all else as JSON.
        Raises:
            EngineUnreachable: No answer; whether it was carried out is unknown.
        """
        content = body if body is None or isinstance(body, bytes) else msgspec.json.encode(body)
        name = self._service.program.name
        sent = {"Content-Type": "application/json", **(headers or {})}
        last: Exception | None = None
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(0.05)  # The supervisor sees a dead service within that time.
            await self._service.wait_ready(RESTART_LIMIT_S)
            try:
                async with self._open().request(
                    method,
                    f"http://engine{self.prefix}{path}",
                    params=query,
                    data=content,
                    headers=sent,
                    timeout=aiohttp.ClientTimeout(total=limit_s),
                ) as response:
                    return Answer(response.status, await response.read(), response.headers)
            except TimeoutError as error:
                raise EngineUnreachable(f"{name} gave no answer to {method} {path} in {limit_s:.0f} s") from error
            except (aiohttp.ClientError, OSError) as error:
                last = error
        raise EngineUnreachable(f"{name} does not answer: {last}") from last

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(str(self._service.program.socket), limit=CONNECTIONS),
                timeout=aiohttp.ClientTimeout(total=REQUEST_LIMIT_S),
            )
        return self._session
