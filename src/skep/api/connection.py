"""One client's connection: who it is, how long it may dawdle, and how it is taken over for raw bytes.

Edge: asyncio transports through aiohttp's request handler. Two things are added to it. A client that opens a connection
and sends half a request is cut off after a few seconds. And a connection can be *hijacked*, as Docker calls it: after a
101 it carries raw bytes both ways, each direction ending on its own (a closed stdin must not cut the output short).
"""

import asyncio
from http import HTTPStatus
from typing import Protocol

from aiohttp import web, web_protocol

from skep.api import wire
from skep.api.authorize import Caller

HEAD_TIMEOUT_S = 5.0
"""From the first byte of a request, or of the connection, to the end of its header."""
BUFFER_BYTES = 262_144
"""What a hijacked connection holds of input not yet taken; twice that and the client is made to wait."""


class Admission(Protocol):
    """Keeps count of connections. Implemented by the server."""

    def opened(self, connection: "Connection") -> None: ...
    def closed(self, connection: "Connection") -> None: ...


class _RawInput:
    """Feeds what arrives after a hijack to a stream reader; shaped as the parser aiohttp expects."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self._reader.feed_data(data)
        return False, b""

    def feed_eof(self) -> None:
        self._reader.feed_eof()


class Connection(web_protocol.RequestHandler):
    """aiohttp's handler of one connection, with a deadline for headers, and hijacking.

    Attributes:
        caller: Who is behind it; None leaves that to its certificate, asked anew for each request.
    """

    __slots__ = ("_admission", "_deadline", "_raw", "caller")

    def __init__(
        self, server: web.Server, loop: asyncio.AbstractEventLoop, caller: Caller | None, admission: Admission
    ) -> None:
        super().__init__(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]  # None turns it off; aiohttp's own Server passes it too
            keepalive_timeout=300,
            lingering_time=2,
            auto_decompress=False,
        )
        self.caller = caller
        self._admission = admission
        self._deadline: asyncio.TimerHandle | None = None
        self._raw: asyncio.StreamReader | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._admission.opened(self)
        self._expect_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.head_came()
        self._admission.closed(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        before = self._request_count
        super().data_received(data)
        if self._request_count > before:
            self.head_came()
        elif data and self._deadline is None and self._waiter is not None:  # Idle, and here begins a request.
            self._expect_head()

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio's protocol asks for it; aiohttp narrows it
        """Keep the way out open after the client's end of input, where the connection is hijacked."""
        if self._raw is not None:
            self._raw.feed_eof()
        return self._raw is not None

    def hijack(self) -> tuple[asyncio.StreamReader, asyncio.Transport]:
        """Take the connection over: what comes in from now on is read raw, nothing more is parsed.

        The caller writes its own answer, and returns `Hijacked()` from its handler when it is done. What a client
        sends before it has seen that answer is lost in aiohttp's parser; Docker's clients wait for it.

        Raises:
            ConnectionResetError: The client is gone.
        """
        transport = self.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has gone")
        self.keep_alive(False)
        reader = asyncio.StreamReader(limit=BUFFER_BYTES, loop=self._loop)
        reader.set_transport(transport)
        self._raw = reader
        self.set_parser(_RawInput(reader))  # type: ignore[arg-type]  # aiohttp names its WebSocket reader, but only feeds it
        return reader, transport

    async def drain(self) -> None:
        """Wait until the client has taken enough of what was written."""
        await self._drain_helper()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no HTTP, as Docker answers anything: in JSON, with no trace.

        Raises:
            ConnectionError: An answer has begun; only cutting it off tells the client that it is not whole.
        """
        if request.writer.output_size > 0:
            raise ConnectionError("the answer had begun when it failed")
        text = message or HTTPStatus(status).phrase
        return web.Response(
            status=status,
            body=wire.encode({"message": text.partition("\n")[0].rstrip(":")}),
            content_type="application/json",
            headers={"Connection": "close"},
        )

    def _expect_head(self) -> None:
        self._deadline = self._loop.call_later(HEAD_TIMEOUT_S, self.force_close)

    def head_came(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class Hijacked(web.StreamResponse):
    """Says that the connection was hijacked and everything was written."""

    async def prepare(self, request: web.BaseRequest) -> None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None
