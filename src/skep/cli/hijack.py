"""A request whose connection becomes a raw two-way stream: what exec and attach are made of.

Edge: sockets, the terminal. One thread and one loop: output is read while input still waits to be sent, so neither can
hold up the other. Source: Docker API 1.51, "Attach to a container"; RFC 9110 section 7.8.
"""

import json
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from skep.cli.client import Engine
from skep.edge.unix_http import EngineRefused, EngineUnreachable

CHUNK = 65_536
MAX_UNSENT = 4 * CHUNK
FRAME_HEADER = struct.Struct(">BxxxL")
STDERR = 2
Resize = Callable[[int, int], None]


def open_stream(engine: Engine, path: str, body: object = None) -> tuple[socket.socket, bytes]:
    """Ask for a raw stream.

    Returns:
        The connection, and what came of the stream already.
    Raises:
        EngineRefused, EngineUnreachable.
    """
    payload = b"" if body is None else json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
    )
    connection = engine.http.connect()
    try:
        connection.sendall(head.encode() + payload)
        return connection, _read_head(connection)
    except OSError as error:
        connection.close()
        raise EngineUnreachable(f"the daemon broke off: {error}; is it still running?") from error
    except EngineRefused:
        connection.close()
        raise


def _read_head(connection: socket.socket) -> bytes:
    raw = b""
    while b"\r\n\r\n" not in raw:
        part = connection.recv(CHUNK)
        if not part:
            raise ConnectionResetError("it ended the connection before it answered")
        raw += part
    head, _, rest = raw.partition(b"\r\n\r\n")
    status = int(head.split(None, 2)[1])
    if status in (101, 200):
        return rest
    connection.settimeout(2)
    while not rest.rstrip().endswith(b"}") and (part := connection.recv(CHUNK)):
        rest += part
    start = rest.find(b"{")
    raise EngineRefused(
        status, str(json.loads(rest[start : rest.rfind(b"}") + 1])["message"]) if start >= 0 else "refused"
    )


class Output:
    """Where a stream's output goes: as it is, or taken apart into stdout and stderr."""

    def __init__(self, *, is_framed: bool) -> None:
        self._is_framed = is_framed
        self._rest = b""

    def write(self, data: bytes) -> None:
        if not self._is_framed:
            _write(sys.stdout, data)
            return
        self._rest += data
        while len(self._rest) >= FRAME_HEADER.size:
            channel, length = FRAME_HEADER.unpack_from(self._rest)
            end = FRAME_HEADER.size + length
            if len(self._rest) < end:
                break
            _write(sys.stderr if channel == STDERR else sys.stdout, self._rest[FRAME_HEADER.size : end])
            self._rest = self._rest[end:]


def _write(out: Any, data: bytes) -> None:
    out.buffer.write(data)
    out.buffer.flush()


def carry(connection: socket.socket, ahead: bytes, output: Output, stdin: int | None) -> None:
    """Carry input and output until the other end has no more output.

    Args:
        stdin: File to read from; None for none. Its end is passed on, and output goes on.
    """
    import ssl  # Imported late: completing the words of exec needs none of it.

    not_yet = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
    output.write(ahead)
    connection.setblocking(False)
    unsent = b""
    while True:
        sources: list[int | socket.socket] = [connection]
        if stdin is not None and len(unsent) < MAX_UNSENT:
            sources.append(stdin)
        readable, writable, _ = select.select(sources, [connection] if unsent else [], [])
        try:
            if stdin is not None and stdin in readable:
                data = os.read(stdin, CHUNK)
                unsent += data
                if not data:
                    stdin = None
                    writable = [connection]
            if writable:
                unsent = unsent[connection.send(unsent) :] if unsent else b""
                if not unsent and stdin is None:
                    connection.shutdown(socket.SHUT_WR)
            while connection in readable:
                data = connection.recv(CHUNK)
                if not data:
                    return
                output.write(data)
        except not_yet:
            continue
        except (BrokenPipeError, ConnectionResetError):
            stdin, unsent = None, b""  # It takes no more; what it still says is read.


def require_terminal() -> None:
    """See that there is a terminal to give away.

    Raises:
        click.UsageError: There is none.
    """
    if not sys.stdin.isatty():
        raise click.UsageError("the input device is not a TTY; leave out -t")


@contextmanager
def raw_terminal(resize: Resize) -> Iterator[None]:
    """Give the terminal to the other end: every key goes there, and so does every change of the window's size.

    Args:
        resize: Tells rows and columns.
    """
    import termios  # Imported late, like `tty`: only this needs them.
    import tty

    before = termios.tcgetattr(sys.stdin.fileno())

    def tell(*_: object) -> None:
        size = os.get_terminal_size(sys.stdin.fileno())
        try:
            resize(size.lines, size.columns)
        except (EngineRefused, EngineUnreachable):
            return  # It has ended, or will be told at the next change.

    previous = signal.signal(signal.SIGWINCH, tell)
    try:
        tty.setraw(sys.stdin.fileno())
        tell()
        yield
    finally:
        signal.signal(signal.SIGWINCH, previous)
        termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, before)
