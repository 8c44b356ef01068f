"""The channel of a session over a WebSocket, at either end.

Edge: aiohttp. The dialling end pings, so that it notices a manager that vanished; at the listening end the kernel's
keep-alive and the session's own silence limit do.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import aiohttp
from aiohttp import web

from skep.ports.transport import MAX_MESSAGE_BYTES, ChannelClosed

PING_S: Final = 1.5
"""After so long without a word the dialling end pings; half of that later it gives up."""
CLOSE_S: Final = 1.0


async def _nothing_more() -> None:
    return


class WebSocketChannel:
    """One end of a WebSocket. Implements `ports.transport.Channel`."""

    def __init__(
        self,
        socket: web.WebSocketResponse | aiohttp.ClientWebSocketResponse[bool],
        release: Callable[[], Awaitable[None]] = _nothing_more,
    ) -> None:
        """Wrap a WebSocket that is open. `release` is awaited once it has been closed."""
        self._socket = socket
        self._release = release
        self._turn = asyncio.Lock()
        self._is_closing = False

    async def send(self, message: bytes, /) -> None:
        # All senders wait for the peer on one future of aiohttp's: cancelling one would cancel all of them.
        error = await asyncio.shield(asyncio.ensure_future(self._send(message)))
        if error is not None:
            raise ChannelClosed(f"the session broke while sending: {error}") from error

    async def _send(self, message: bytes) -> Exception | None:
        try:
            async with self._turn:  # One at a time, or asyncio's TLS takes everything at once, however slow the peer.
                await self._socket.send_bytes(message)
        except (OSError, aiohttp.ClientError, RuntimeError) as error:
            return error
        return None

    async def receive(self) -> bytes:
        try:
            message = await self._socket.receive()
        except (OSError, aiohttp.ClientError, RuntimeError) as error:
            raise ChannelClosed(f"the session broke: {error}") from error
        if message.type is aiohttp.WSMsgType.BINARY:
            return bytes(message.data)
        if message.type is aiohttp.WSMsgType.ERROR:
            raise ChannelClosed(f"the session broke: {message.data}")
        if message.type is aiohttp.WSMsgType.TEXT:
            raise ChannelClosed("the other end sent text, which no session contains")
        raise ChannelClosed("the other end closed the session")

    async def close(self) -> None:
        if self._is_closing:
            return
        self._is_closing = True
        try:
            async with asyncio.timeout(CLOSE_S):  # aiohttp would wait for ever for a peer that does not read.
                await self._socket.close()
        except (OSError, aiohttp.ClientError, RuntimeError, TimeoutError):
            pass  # It is closed all the same.
        finally:
            await self._release()


def accepted_websocket() -> web.WebSocketResponse:
    """The listening end, not yet prepared; compression would cost 256 KiB a session."""
    return web.WebSocketResponse(timeout=CLOSE_S, compress=False, max_msg_size=MAX_MESSAGE_BYTES)
