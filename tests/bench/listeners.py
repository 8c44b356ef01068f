"""Many listeners to a daemon's events, in one process: SOCKET COUNT.

Edge: unix sockets. Says `listening` when all are, reads until its standard input ends, then says how many
service events it heard altogether.
"""

import selectors
import socket
import sys

REQUEST = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"
SETTLE_S = 1.0


def main(path: str, count: int) -> None:
    selector = selectors.DefaultSelector()
    for _ in range(count):
        one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        one.connect(path)
        one.sendall(REQUEST)
        assert one.recv(65536).startswith(b"HTTP/1.1 200"), "the daemon does not tell its events"
        selector.register(one, selectors.EVENT_READ)
    print("listening", flush=True)
    selector.register(sys.stdin, selectors.EVENT_READ)
    n_heard, is_over = 0, False
    while ready := selector.select(timeout=SETTLE_S if is_over else None):
        for key, _ in ready:
            if key.fileobj is sys.stdin:
                is_over = True
                selector.unregister(sys.stdin)
            elif isinstance(key.fileobj, socket.socket):
                n_heard += key.fileobj.recv(1 << 20).count(b'"Type":"service"')
    print(n_heard, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
