"""What a node asks of a manager's control port, over HTTPS.

Edge: aiohttp's client. Every call ends within a few seconds; every failure is a `TransportError` in one sentence.
"""

import asyncio.sslproto
import contextlib
import errno
import os
import ssl
from collections.abc import AsyncIterator
from typing import Any, Final, TypeVar, cast

import aiohttp
import msgspec

from skep.edge import tls_context
from skep.edge.websocket import CLOSE_S, PING_S, WebSocketChannel
from skep.model.codec import MALFORMED
from skep.model.council import Entry, EntryRequest, Progress
from skep.model.identity import MANAGER_NAME, Credentials, Issued, JoinRequest, Refusal, RenewRequest
from skep.ports.transport import (
    MAX_MESSAGE_BYTES,
    Channel,
    Declined,
    TransportError,
    Unreachable,
    Untrusted,
)

T = TypeVar("T")

ANSWER_S: Final = 5.0
ENTER_S: Final = 30.0
"""For what changes the managers: the state may have to move first, and etcd takes some seconds for each step."""
CONNECT_S: Final = 0.6
"""For a session, which a longer round trip would break anyway: the kernel asks again only after a second."""
SILENT: Final = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.ETIMEDOUT)
MAX_ANSWER_BYTES: Final = 262_144

# asyncio allocates this much for every TLS connection it opens: 306 KiB a session as shipped, 83 KiB so.
cast("Any", asyncio.sslproto.SSLProtocol).max_size = 32_768


class HttpControlPort:
    """Implements `ports.transport.ControlPort`, `RelayPort` and `CouncilPort`."""

    def __init__(self, answer_s: float = ANSWER_S) -> None:
        self._answer_s = answer_s
        self._made: tuple[Credentials, ssl.SSLContext] | None = None

    def _context(self, credentials: Credentials) -> ssl.SSLContext:
        """A context costs more than a connection, and a manager that is away is dialled often: the last one is kept."""
        if self._made is None or self._made[0] is not credentials:
            self._made = (credentials, tls_context.client_context(credentials.root, credentials))
        return self._made[1]

    async def root(self, addr: str) -> str:
        return (await self._ask("GET", addr, "/ca", tls_context.blind_context())).decode(errors="replace")

    async def join(self, addr: str, root_pem: str, request: JoinRequest) -> Issued:
        body = msgspec.json.encode(request)
        return _issued(addr, await self._ask("POST", addr, "/join", _trusting(addr, root_pem), body))

    async def renew(self, addr: str, credentials: Credentials, request: RenewRequest) -> Issued:
        body = msgspec.json.encode(request)
        if request.proof is not None:
            return _issued(addr, await self._ask("POST", addr, "/renew-ended", _trusting(addr, credentials.root), body))
        return _issued(addr, await self._ask("POST", addr, "/renew", self._context(credentials), body))

    async def dial(self, addr: str, credentials: Credentials) -> Channel:
        return await self._open(addr, "/session", credentials)

    async def relay(self, addr: str, credentials: Credentials) -> Channel:
        return await self._open(addr, "/relay", credentials)

    async def enter(self, addr: str, credentials: Credentials, request: EntryRequest) -> Entry:
        context = self._context(credentials)
        raw = await self._ask("POST", addr, "/managers/enter", context, msgspec.json.encode(request), limit_s=ENTER_S)
        return _answered(addr, raw, Entry)

    async def vote(self, addr: str, credentials: Credentials, request: EntryRequest) -> None:
        context = self._context(credentials)
        await self._ask("POST", addr, "/managers/vote", context, msgspec.json.encode(request), limit_s=ENTER_S)

    async def progress(self, addr: str, credentials: Credentials) -> Progress:
        return _answered(addr, await self._ask("GET", addr, "/managers/progress", self._context(credentials)), Progress)

    async def _open(self, addr: str, path: str, credentials: Credentials) -> Channel:
        async with contextlib.AsyncExitStack() as unless_done:
            patience = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)
            session = await unless_done.enter_async_context(aiohttp.ClientSession(timeout=patience))
            async with _translated(addr), asyncio.timeout(self._answer_s):
                socket = await session.ws_connect(
                    f"https://{addr}{path}",
                    ssl=self._context(credentials),
                    server_hostname=MANAGER_NAME,
                    heartbeat=PING_S,
                    timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_S),
                    max_msg_size=MAX_MESSAGE_BYTES,
                )
            unless_done.pop_all()
        return WebSocketChannel(socket, session.close)

    async def _ask(
        self,
        method: str,
        addr: str,
        path: str,
        context: ssl.SSLContext,
        body: bytes | None = None,
        *,
        limit_s: float = 0,
    ) -> bytes:
        async with (
            _translated(addr),
            asyncio.timeout(limit_s or self._answer_s),
            aiohttp.ClientSession() as session,
            session.request(
                method, f"https://{addr}{path}", data=body, ssl=context, server_hostname=MANAGER_NAME
            ) as response,
        ):
            answer = await response.content.read(MAX_ANSWER_BYTES)
            while chunk := await response.content.read(MAX_ANSWER_BYTES):
                answer += chunk
                if len(answer) > MAX_ANSWER_BYTES:
                    raise Untrusted(f"{addr} sent an endless answer; it is no manager of this swarm")
            if response.status != 200:
                raise _declined(addr, response.status, answer)
            return answer


async def is_refused(addr: str) -> bool:
    """Whether the machine at an address says that nothing listens there; silence or an answer say something else."""
    host, _, port = addr.rpartition(":")
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except ConnectionRefusedError:
        return True
    except (OSError, TimeoutError, ValueError):
        return False
    writer.transport.abort()
    return False


def _trusting(addr: str, root_pem: str) -> ssl.SSLContext:
    try:
        return tls_context.client_context(root_pem)
    except (ssl.SSLError, ValueError) as error:
        raise Untrusted(f"{addr} sent no root certificate; it is no manager of a swarm") from error


def _issued(addr: str, raw: bytes) -> Issued:
    try:
        return msgspec.json.decode(raw, type=Issued)
    except MALFORMED as error:
        raise Untrusted(f"{addr} sent something other than a certificate; it is no manager of this swarm") from error


def _answered(addr: str, raw: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(raw, type=kind)
    except MALFORMED as error:
        raise Untrusted(f"{addr} sent something other than was asked; it is no manager of this swarm") from error


def _declined(addr: str, status: int, raw: bytes) -> Declined:
    try:
        refusal = msgspec.json.decode(raw, type=Refusal)
    except MALFORMED:
        refusal = Refusal(reason=f"the manager at {addr} answered with status {status}")
    return Declined(refusal.reason, is_removed=refusal.removed, is_final=400 <= status < 500 and status != 429)


@contextlib.asynccontextmanager
async def _translated(addr: str) -> AsyncIterator[None]:
    """Turn the client library's failures into the port's."""
    try:
        yield
    except TransportError:
        raise
    except aiohttp.WSServerHandshakeError as error:
        raise Declined(f"the manager at {addr} refused the connection ({error.status})", is_final=False) from error
    except (aiohttp.ClientConnectorCertificateError, ssl.SSLCertVerificationError) as error:
        raise Untrusted(f"{addr} is no manager of this swarm: its certificate is not one of the swarm's") from error
    except (aiohttp.ClientSSLError, ssl.SSLError) as error:
        raise Untrusted(f"{addr} does not speak TLS as a manager does; check the address and the port") from error
    except TimeoutError as error:
        raise Unreachable(
            f"the manager at {addr} did not answer in time; check the address and that nothing filters its port",
            is_silent=True,
        ) from error
    except aiohttp.ClientConnectorError as error:
        number = error.os_error.errno
        cause = os.strerror(number) if number and number > 0 else str(error.os_error)
        raise Unreachable(
            f"the manager at {addr} cannot be reached: {cause}; check the address and port", is_silent=number in SILENT
        ) from error
    except (aiohttp.InvalidURL, ValueError) as error:
        raise Unreachable(f'"{addr}" is no address; write host:port') from error
    except (aiohttp.ClientError, OSError) as error:
        raise Unreachable(f"the manager at {addr} closed the connection; try again") from error
