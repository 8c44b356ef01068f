"""An HTTP connection over a unix socket.

Edge: sockets. A module of its own because `http.client` takes longer to load than most commands take to run.
"""

import http.client
import socket


class UnixConnection(http.client.HTTPConnection):
    """`http.client`'s connection to a path instead of a host and port."""

    def __init__(self, path: str, timeout_s: float | None) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)
