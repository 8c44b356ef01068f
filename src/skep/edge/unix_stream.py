"""A byte stream over a socket of this machine.

Edge: a unix socket, written and read apart: a write that fails must not end the reading of what was said before it.
asyncio's transports do just that, which is why this is a plain socket.
"""

import asyncio
import socket
from pathlib import Path
from typing import Final

from skep.ports.bytestream import StreamBroken

CHUNK: Final = 65_536


class SocketStream:
    """Implements `ports.bytestream.ByteStream` on a connected socket, which it owns from then on."""

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        self._socket = connected
        self._loop = asyncio.get_running_loop()

    async def send(self, data: bytes, /) -> None:
        try:
            await self._loop.sock_sendall(self._socket, data)
        except OSError as error:
            raise StreamBroken(f"the other end takes no more: {error.strerror}") from error

    async def send_end(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise StreamBroken(f"the other end takes no more: {error.strerror}") from error

    async def receive(self) -> bytes:
        try:
            return await self._loop.sock_recv(self._socket, CHUNK)
        except OSError as error:
            raise StreamBroken(f"the other end broke off: {error.strerror}") from error

    async def close(self) -> None:
        self._socket.close()


async def connect_unix(path: Path) -> SocketStream:
    """Connect to whoever listens at a path.

    Raises:
        StreamBroken: Nobody does.
    """
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        await asyncio.get_running_loop().sock_connect(connected, str(path))
    except OSError as error:
        connected.close()
        raise StreamBroken(f"nobody answers at {path}: {error.strerror}") from error
    except BaseException:
        connected.close()
        raise
    return SocketStream(connected)
