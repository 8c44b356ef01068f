"""A load on published ports, run inside a lab's client namespace; prints one JSON object when it is over.

    python -m tests.e2e.load SECONDS RATE URL...

RATE requests a second for SECONDS or until SIGTERM, new connections and kept ones in turn, spread over the URLs and
over worker threads, so that a request that hangs delays no other. Every request is recorded: when it began, how long
it took, who answered or why not.
"""

import http.client
import json
import os
import queue
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass
from urllib.parse import urlsplit

TIMEOUT_S = float(os.environ.get("SKEP_LOAD_TIMEOUT_S", "10"))
WORKERS = 48


@dataclass
class Request:
    """One request.

    Attributes:
        began_s: Since the load began, as all moments.
        opened_s: The connection it was begun on.
        again_s: When it was sent again on a new connection because that one, a kept one, had ended; 0 if it was not.
        error: Empty if it was answered with 200.
    """

    began_s: float
    host: str
    is_kept: bool
    opened_s: float = 0.0
    again_s: float = 0.0
    took_s: float = 0.0
    answer: str = ""
    error: str = ""


@dataclass
class Kept:
    """A connection for further requests; opened_s: as of Request."""

    connection: http.client.HTTPConnection
    opened_s: float


def ask(request: Request, port: int, path: str, began: float, kept: dict[str, Kept]) -> None:
    """Send one request; a kept connection that the server closed while idle is opened again, as clients do."""
    reused = kept.pop(request.host, None) if request.is_kept else None
    now_s = round(time.monotonic() - began, 4)
    opened = reused or Kept(http.client.HTTPConnection(request.host, port, timeout=TIMEOUT_S), now_s)
    connection = opened.connection
    if not request.again_s:
        request.opened_s = opened.opened_s
    try:
        connection.request("GET", path, headers={} if request.is_kept else {"Connection": "close"})
        response = connection.getresponse()
        request.answer = response.read().decode().strip()
        if response.status != 200:
            request.error = f"status {response.status}"
        if request.is_kept and not response.will_close:
            kept[request.host] = opened
            return
    except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError) as error:
        if reused:
            connection.close()
            request.again_s = round(time.monotonic() - began, 4)
            ask(request, port, path, began, kept)
            return
        request.error = repr(error)
    except (OSError, http.client.HTTPException) as error:
        request.error = repr(error)
    connection.close()


def work(tasks: "queue.SimpleQueue[tuple[Request, int, str] | None]", began: float) -> None:
    kept: dict[str, Kept] = {}
    while (task := tasks.get()) is not None:
        request, port, path = task
        started = time.monotonic()
        request.began_s = round(started - began, 4)
        ask(request, port, path, began, kept)
        request.took_s = round(time.monotonic() - started, 4)


def main() -> None:
    length_s, rate, *urls = float(sys.argv[1]), float(sys.argv[2]), *sys.argv[3:]
    targets = [urlsplit(url) for url in urls]
    tasks: queue.SimpleQueue[tuple[Request, int, str] | None] = queue.SimpleQueue()
    requests: list[Request] = []
    # Not an Event: setting one in a handler waits for ever if this thread was just entering its `wait`.
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    began = time.monotonic()
    workers = [threading.Thread(target=work, args=(tasks, began)) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    print("started", flush=True)
    for number in range(int(length_s * rate)):
        time.sleep(max(0.0, began + number / rate - time.monotonic()))
        if told:
            break
        target = targets[number % len(targets)]
        request = Request(0.0, target.hostname or "", is_kept=bool(number // len(targets) % 2))
        requests.append(request)
        tasks.put((request, target.port or 80, target.path))
    for _ in workers:
        tasks.put(None)
    for worker in workers:
        worker.join()
    print(json.dumps([asdict(request) for request in requests]))


if __name__ == "__main__":
    main()
