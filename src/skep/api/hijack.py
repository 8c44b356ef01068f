"""Attach and exec: a request whose connection becomes a raw two-way stream to the engine.

Edge: the client's connection and the engine's unix socket. The end of either direction is passed on as just that (a
half-close), so `docker exec -i` gets all its output after its input has ended.
Source: moby's api/server/router/container, "hijacking"; RFC 9110 section 7.8.
"""

import asyncio
from dataclasses import dataclass

from aiohttp import web

from skep.api.call import Call
from skep.api.connection import Connection, Hijacked
from skep.api.errors import EngineFailure
from skep.api.passthrough import passed_headers
from skep.model.errors import Unavailable

_HEAD_LIMIT = 65_536
_ERROR_LIMIT = 1_048_576
_CHUNK = 65_536


@dataclass(frozen=True, slots=True)
class _Head:
    status: int
    reason: str
    headers: dict[str, str]


async def relay(call: Call) -> web.StreamResponse:
    """Pass the request on to the engine; if it agrees to a raw stream, carry it until the engine ends it.

    Raises:
        EngineFailure, Unavailable.
    """
    body = await call.body()
    try:
        reader, writer = await asyncio.open_unix_connection(str(call.backend.engine.socket), limit=_HEAD_LIMIT)
    except OSError as error:
        raise Unavailable(f"the container engine does not answer: {error.strerror}") from error
    try:
        writer.write(await _request_text(call, body) + body)
        await writer.drain()
        head = await _read_head(reader)
        if head.status != 101:
            return web.Response(
                status=head.status,
                body=await _read_body(reader, head),
                headers={"Content-Type": head.headers.get("content-type", "application/json")},
            )
        await _carry(call, head, reader, writer)
        return Hijacked()
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError) as error:
        if call.connection.is_hijacked:
            return Hijacked()  # Too late for an answer; closing is all there is to say.
        raise EngineFailure(f"the container engine broke off: {error}") from error
    finally:
        writer.close()


async def _request_text(call: Call, body: bytes) -> bytes:
    headers = passed_headers(call.request.headers)
    headers.update({"Host": "engine", "Connection": "Upgrade", "Upgrade": "tcp", "Content-Length": str(len(body))})
    lines = [f"{call.request.method} {await call.backend.engine.path_for(call)} HTTP/1.1"]
    lines.extend(f"{name}: {value}" for name, value in headers.items())
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


async def _read_head(reader: asyncio.StreamReader) -> _Head:
    raw = await reader.readuntil(b"\r\n\r\n")
    first, *rest = raw.decode("latin-1").split("\r\n")
    _, _, status = first.partition(" ")
    number, _, reason = status.partition(" ")
    if not number.isdecimal():
        raise EngineFailure("the container engine's answer is no HTTP")
    pairs = (line.partition(":") for line in rest if line)
    return _Head(int(number), reason, {name.strip().lower(): value.strip() for name, _, value in pairs})


async def _read_body(reader: asyncio.StreamReader, head: _Head) -> bytes:
    """Read an ordinary answer, which is an error or an empty one, and short."""
    if head.status in (204, 304):
        return b""
    if "content-length" in head.headers:
        return await reader.readexactly(min(int(head.headers["content-length"]), _ERROR_LIMIT))
    if head.headers.get("transfer-encoding", "").lower() != "chunked":
        return await reader.read(_ERROR_LIMIT)
    body = b""
    while len(body) < _ERROR_LIMIT:
        size = int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16)
        chunk = await reader.readexactly(size + 2)
        if size == 0:
            break
        body += chunk[:-2]
    return body


async def _carry(call: Call, head: _Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    source, transport = call.connection.hijack()
    wants_upgrade = "upgrade" in call.request.headers
    first = "HTTP/1.1 101 UPGRADED" if wants_upgrade else "HTTP/1.1 200 OK"
    lines = [first, f"Content-Type: {head.headers.get('content-type', 'application/vnd.docker.raw-stream')}"]
    if wants_upgrade:
        lines += ["Connection: Upgrade", "Upgrade: tcp"]
    lines.extend(f"{name}: {value}" for name, value in call.headers.items())
    transport.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
    upload = asyncio.create_task(_upload(source, writer))
    try:
        await _download(reader, transport, call.connection)
    finally:
        upload.cancel()
        await asyncio.wait([upload])


async def _upload(source: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(_CHUNK):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except ConnectionError:
        pass  # The process has ended and takes no more input; its output still counts.


async def _download(reader: asyncio.StreamReader, transport: asyncio.Transport, connection: Connection) -> None:
    while data := await reader.read(_CHUNK):
        transport.write(data)
        await connection.drain()
