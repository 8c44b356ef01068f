"""A daemon on a unix socket that answers what a test lays down, for commands that are run as their users run them."""

import json
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest


class Daemon:
    """A daemon without a swarm.

    Attributes:
        answers: By method and path, anything JSON, bytes as they are. asked: what was, with its body.
        logins: The credentials for a registry that came along, by method and path.
        phrases: Pass phrases that came along.
    """

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.answers: dict[tuple[str, str], Any] = {}
        self.asked: list[tuple[str, str, dict[str, str], Any]] = []
        self.headers: dict[str, str] = {}
        self.logins: dict[tuple[str, str], str] = {}
        self.phrases: list[str] = []

    @property
    def host(self) -> str:
        return f"unix://{self.socket}"

    def take(self, method: str, target: str, body: bytes) -> tuple[int, bytes]:
        parts = urlsplit(target)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        sent = json.loads(body) if body.startswith(b"{") else body or None
        self.asked.append((method, parts.path, query, sent))
        if (method, parts.path) not in self.answers:
            return 404, json.dumps({"message": f"{parts.path} not found"}).encode()
        answer = self.answers[method, parts.path]
        return 200, answer if isinstance(answer, bytes) else json.dumps(answer).encode()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    found = Daemon(tmp_path / "docker.sock")

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            if login := self.headers.get("X-Registry-Auth"):
                found.logins[self.command, urlsplit(self.path).path] = login
            if phrase := self.headers.get("X-Skep-Pass-Phrase"):
                found.phrases.append(phrase)
            length = int(self.headers.get("Content-Length") or 0)
            status, body = found.take(self.command, self.path, self.rfile.read(length))
            self.send_response(status)
            for name, value in found.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else body)

        do_GET = do_POST = do_DELETE = do_HEAD = do_PUT = answer

        def address_string(self) -> str:
            return "client"  # A unix socket's peer has no address to write down.

        def log_message(self, *_: object) -> None:
            pass

    with socketserver.ThreadingUnixStreamServer(str(found.socket), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()
