"""Attach and exec: a request whose connection becomes a raw two-way stream to the engine.

Edge: the client's connection and one to the engine. The end of either direction is passed on as just that (a
half-close), so `docker exec -i` gets all its output after its input has ended, and a program that ends before
its input does loses none of its output either.
Source: moby's api/server/router/container, "hijacking"; RFC 9110 section 7.8.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

import structlog
from aiohttp import web

from skep.api.call import Call
from skep.api.connection import Hijacked
from skep.api.errors import EngineFailure
from skep.api.passthrough import Engine, passed_headers
from skep.model.errors import SkepError, Unavailable
from skep.ports.bytestream import ByteStream, StreamBroken

log = structlog.get_logger(__name__)

FAREWELL_S = 5.0
"""How long a client may take to close after the end of the output."""
_HEAD_LIMIT = 65_536
_REFUSAL_LIMIT = 1_048_576
_CHUNK = 65_536


class _Line:
    """A connection to the engine, whose answer's header is read before the rest."""

    def __init__(self, stream: ByteStream) -> None:
        self.send = stream.send
        self.send_end = stream.send_end
        self._stream = stream
        self._ahead = b""

    async def receive(self) -> bytes:
        """Some bytes; none at the end."""
        data, self._ahead = self._ahead, b""
        return data or await self._stream.receive()

    async def receive_until(self, mark: bytes) -> bytes:
        """Everything up to a mark, which is left out."""
        data = b""
        while mark not in data:
            if len(data) > _HEAD_LIMIT:
                raise EngineFailure("the container engine's answer has no end to its header")
            data += await self._more()
        found, _, self._ahead = data.partition(mark)
        return found

    async def receive_exactly(self, n: int) -> bytes:
        data = b""
        while len(data) < n:
            data += await self._more()
        data, self._ahead = data[:n], data[n:] + self._ahead
        return data

    async def _more(self) -> bytes:
        data = await self.receive()
        if not data:
            raise EngineFailure("the container engine broke off in the middle of its answer")
        return data


@dataclass(frozen=True, slots=True)
class _Head:
    """Attributes: headers: by name in lower case."""

    status: int
    headers: Mapping[str, str]


async def relay(call: Call, engine: Engine, path: str) -> web.StreamResponse:
    """Pass the request on to the engine; if it agrees to a raw stream, carry it until the engine ends it.

    Args:
        path: What to ask for there, quoted, without version and query.
    Raises:
        EngineFailure, Unavailable, Unsupported.
    """
    body = await call.body()
    request = await _request_text(call, await engine.path_for(call, path), body)
    stream = await engine.connect()
    try:
        line = _Line(stream)
        try:
            await line.send(request + body)
            head = await _receive_head(line)
            if head.status != 101:
                return web.Response(
                    status=head.status,
                    body=await _receive_refusal(line, head),
                    headers={"Content-Type": head.headers.get("content-type", "application/json")},
                )
        except StreamBroken as error:
            raise Unavailable(f"the container engine does not answer: {error}") from error
        await _carry(call, head, line)
        return Hijacked()
    finally:
        await stream.close()


async def _request_text(call: Call, target: str, body: bytes) -> bytes:
    headers = passed_headers(call.request.headers)
    headers.update({"Host": "engine", "Connection": "Upgrade", "Upgrade": "tcp", "Content-Length": str(len(body))})
    lines = [f"{call.request.method} {target} HTTP/1.1"]
    lines.extend(f"{name}: {value}" for name, value in headers.items())
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


async def _receive_head(line: _Line) -> _Head:
    first, *rest = (await line.receive_until(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    number = first.partition(" ")[2].partition(" ")[0]
    if not (first.startswith("HTTP/1.") and number.isdecimal() and len(number) == 3):
        raise EngineFailure("the container engine's answer is no HTTP")
    pairs = (header.partition(":") for header in rest if header)
    return _Head(int(number), {name.strip().lower(): value.strip() for name, _, value in pairs})


async def _receive_refusal(line: _Line, head: _Head) -> bytes:
    """Read an ordinary answer, which is an error or an empty one, and short."""
    if head.status in (204, 304):
        return b""
    length = head.headers.get("content-length", "")
    if length.isdecimal():
        return await line.receive_exactly(min(int(length), _REFUSAL_LIMIT))
    if head.headers.get("transfer-encoding", "").lower() == "chunked":
        return await _receive_chunks(line)
    body = b""
    while len(body) < _REFUSAL_LIMIT and (data := await line.receive()):
        body += data
    return body


async def _receive_chunks(line: _Line) -> bytes:
    body = b""
    while len(body) < _REFUSAL_LIMIT:
        try:
            size = int((await line.receive_until(b"\r\n")).partition(b";")[0], 16)
        except ValueError as error:
            raise EngineFailure("the container engine's answer is no HTTP") from error
        body += (await line.receive_exactly(size + 2))[:-2]
        if size == 0:
            break
    return body


# --- after the 101 ------------------------------------------------------------------


async def _carry(call: Call, head: _Head, line: _Line) -> None:
    source, transport = call.connection.hijack()
    transport.write(_answer_text(call, head))
    upload = asyncio.create_task(_upload(source, line))
    try:
        await _download(line, transport, call)
    finally:
        upload.cancel()
        await asyncio.wait([upload])
    transport.write_eof()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FAREWELL_S):
            while await source.read(_CHUNK):
                pass  # Closing with input unread would reset the connection, and lose output on its way.


def _answer_text(call: Call, head: _Head) -> bytes:
    wants_upgrade = "upgrade" in call.request.headers
    lines = ["HTTP/1.1 101 UPGRADED" if wants_upgrade else "HTTP/1.1 200 OK"]
    lines.append(f"Content-Type: {head.headers.get('content-type', 'application/vnd.docker.raw-stream')}")
    if wants_upgrade:
        lines += ["Connection: Upgrade", "Upgrade: tcp"]
    lines.extend(f"{name}: {value}" for name, value in call.headers.items())
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def _upload(source: asyncio.StreamReader, line: _Line) -> None:
    try:
        while data := await source.read(_CHUNK):
            await line.send(data)
        await line.send_end()
    except StreamBroken:
        pass  # The program has ended and takes no more input; its output still counts.


async def _download(line: _Line, transport: asyncio.Transport, call: Call) -> None:
    try:
        while data := await line.receive():
            transport.write(data)
            await call.connection.drain()
    except StreamBroken:
        pass  # The engine closed without taking all input; what it had said before was read.
    except SkepError as reason:
        log.info("a connection to a node's engine broke", path=call.path, reason=str(reason))
