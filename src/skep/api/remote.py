"""The container engine of another node, reached over the session that node holds with this manager.

Edge: asyncio. HTTP is spoken over a socket pair whose other end is carried over the session: both directions at once,
each ending on its own, neither held beyond a socket's buffer and the stream's credit.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp

from skep.api.errors import EngineFailure
from skep.api.passthrough import Engine, client_session
from skep.model.errors import SkepError
from skep.ports.bytestream import ByteStream, StreamBroken

_CHUNK: Final = 65_536


class RemoteEngine(Engine):
    """The engine of one node."""

    def __init__(self, open_stream: Callable[[], ByteStream]) -> None:
        """Connect nothing yet.

        Args:
            open_stream: Opens a connection to the engine. Raises `Unavailable` where the node holds no session.
        """
        super().__init__()
        self._open_stream = open_stream

    async def connect(self) -> ByteStream:
        return self._open_stream()

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[aiohttp.ClientSession]:
        """A client of one connection; leaving it ends that connection at the engine too."""
        stream = self._open_stream()
        ours, theirs = socket.socketpair()
        bridge = _Bridge(stream, ours)
        try:
            async with client_session(_SocketConnector(theirs)) as session:
                yield session
        except EngineFailure:
            if bridge.refusal is not None:  # Why it broke off, in the node's own words.
                raise bridge.refusal from None
            raise
        finally:
            theirs.close()
            await bridge.close()


class _Bridge:
    """Carries bytes between one end of a socket pair and a stream. Attributes: refusal: why the node ended it."""

    def __init__(self, stream: ByteStream, ours: socket.socket) -> None:
        ours.setblocking(False)
        self.refusal: SkepError | None = None
        self._stream = stream
        self._socket = ours
        self._loop = asyncio.get_running_loop()
        self._tasks = [asyncio.ensure_future(part) for part in (self._upward(), self._downward())]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stream.close()
        self._socket.close()

    async def _upward(self) -> None:
        try:
            while data := await self._loop.sock_recv(self._socket, _CHUNK):
                await self._stream.send(data)
            await self._stream.send_end()
        except (StreamBroken, OSError):
            pass  # It takes no more; what it says still counts.

    async def _downward(self) -> None:
        try:
            while data := await self._stream.receive():
                await self._loop.sock_sendall(self._socket, data)
        except SkepError as refusal:
            self.refusal = refusal
        except (StreamBroken, OSError):
            pass
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # The client has closed its end already.


class _SocketConnector(aiohttp.UnixConnector):
    """Gives the one connection it was made with. aiohttp's connectors are meant to be told apart by this method."""

    def __init__(self, connected: socket.socket) -> None:
        super().__init__("", force_close=True)
        connected.setblocking(False)
        self._connected = connected

    async def _create_connection(self, *_: Any) -> Any:
        made = await self._loop.create_connection(self._factory, sock=self._connected)
        return made[1]
