"""A small blocking HTTP client for an Engine API on a unix socket or TCP address.

Edge: sockets. Standard library only, because the command line imports it and has to answer at once; what of it is
slow to load (`http.client` brings `email` and `ssl`) is loaded with the first request.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import http.client
    import socket
    import ssl

DEFAULT_TIMEOUT_S = 60.0


class EngineUnreachable(Exception):
    """Nothing answers at that address; the text says which and what to check."""


class EngineRefused(Exception):
    """The engine answered with an error. Attributes: status: HTTP status; message: its sentence."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON; None when it is empty."""
        return json.loads(self.body) if self.body.strip() else None


@dataclass(slots=True)
class EngineClient:
    """One address of an Engine API; every call is its own connection.

    Attributes:
        address: `unix:///path` or `tcp://host:port`.
        tls: For TCP; None speaks plain HTTP.
        timeout_s: For connecting and for each read; None waits for ever.
    """

    address: str
    timeout_s: float | None = DEFAULT_TIMEOUT_S
    headers: dict[str, str] = field(default_factory=dict)
    tls: "ssl.SSLContext | None" = None

    def call(self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> Reply:
        """Send a request and read the whole answer.

        Args:
            path: With its query, such as `/v1.41/info`.
            body: Sent as JSON unless it is bytes, a file open for reading, or None.
        Raises:
            EngineUnreachable: nothing answers.
            EngineRefused: status 400 or above.
        """
        with self.stream(method, path, body, headers) as response:
            return Reply(response.status, response.headers, response.read())

    def json(self, method: str, path: str, body: object = None) -> Any:
        """`call`, answering the decoded JSON."""
        return self.call(method, path, body).json()

    def stream(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> "StreamedReply":
        """Send a request and leave the body to be read piece by piece; close it, or use it in a `with`."""
        import http.client

        connection = self._connection()
        is_ready = body is None or isinstance(body, bytes) or hasattr(body, "read")
        payload: Any = body if is_ready else json.dumps(body).encode()
        sent = {**self.headers, **(headers or {})}
        if payload is not None:
            sent.setdefault("Content-Type", "application/json")
        try:
            connection.request(method, path, payload, sent)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self._unreachable(error) from error
        if response.status >= 400:
            raw = response.read()
            connection.close()
            raise EngineRefused(response.status, _message(raw, response.status))
        return StreamedReply(connection, response)

    def connect(self) -> "socket.socket":
        """Open a connection for what is no plain HTTP; the caller closes it.

        Raises:
            EngineUnreachable: nothing answers.
        """
        connection = self._connection()
        try:
            connection.connect()
        except OSError as error:
            raise self._unreachable(error) from error
        connection.sock.settimeout(None)
        return connection.sock

    def _unreachable(self, error: Exception) -> EngineUnreachable:
        return EngineUnreachable(
            f"Cannot connect to the daemon at {self.address}: {error or type(error).__name__}. "
            f"Is skepd running there, and may this user open it?"
        )

    def _connection(self) -> "http.client.HTTPConnection":
        import http.client

        from skep.edge.unix_connection import UnixConnection

        scheme, _, rest = self.address.partition("://")
        match scheme:
            case "unix":
                return UnixConnection(rest, self.timeout_s)
            case "tcp" | "http":
                host, _, port = rest.rstrip("/").rpartition(":")
                if self.tls is not None:
                    return http.client.HTTPSConnection(host, int(port), timeout=self.timeout_s, context=self.tls)
                return http.client.HTTPConnection(host, int(port), timeout=self.timeout_s)
            case _:
                raise EngineUnreachable(f'"{self.address}" is not an address; write unix:///path or tcp://host:port')


def _message(raw: bytes, status: int) -> str:
    try:
        answer = json.loads(raw)
    except ValueError:
        answer = None
    if isinstance(answer, dict) and isinstance(answer.get("message"), str):
        return str(answer["message"])
    return raw.decode(errors="replace").strip() or f"the daemon answered with status {status}"


class StreamedReply:
    """An answer whose body is read as it comes."""

    def __init__(self, connection: "http.client.HTTPConnection", response: "http.client.HTTPResponse") -> None:
        self._connection = connection
        self._response = response
        self.status = response.status
        self.headers: Mapping[str, str] = dict(response.headers.items())

    def read(self, n_bytes: int | None = None) -> bytes:
        return self._response.read(n_bytes)

    def read_some(self) -> bytes:
        """What has come, as soon as anything has; nothing at the end."""
        return self._response.read1(1 << 16)

    def lines(self) -> Iterator[bytes]:
        """Lines as they arrive, without their newline; empty lines are left out."""
        while line := self._response.readline():
            if line.strip():
                yield line.rstrip(b"\r\n")

    def close(self) -> None:
        self._response.close()
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
