"""nginx as the server and wrk as the client of a load, each in a namespace and on processors of its own.

Edge: processes. Everything started ends with its context, also when wrk fails.
"""

import os
import re
import resource
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.kernel.rig import Place

from skep.lab.nodes import wait_until

CONFIGURATION = """
worker_processes 1;
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log stderr crit;
events {{ worker_connections 4096; multi_accept on; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path {directory}; proxy_temp_path {directory}; fastcgi_temp_path {directory};
  uwsgi_temp_path {directory}; scgi_temp_path {directory};
  server {{ listen 80 backlog=4096; location / {{ return 200 "ok"; }} }}
}}
"""
N_CONNECTIONS = 32
SLICE_S = 1  # wrk counts in whole seconds.
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Rate:
    """What one slice of a load reached.

    Attributes:
        failed: Requests without a good answer.
        cost_us: Processor time of client and server together per request, in microseconds, the kernel's share
            included. Unlike the rate it hardly depends on what else the machine does.
    """

    per_s: float
    failed: int
    cost_us: float


def processors() -> tuple[set[int], set[int]]:
    """Which processors the client and the server get: different ones where there are several."""
    allowed = sorted(os.sched_getaffinity(0))
    return ({allowed[0]}, {allowed[-1]})


@contextmanager
def nginx(place: Place) -> Iterator[int]:
    """Serve two bytes on port 80 of a namespace; yields the process id."""
    with tempfile.TemporaryDirectory(prefix="skep-bench-nginx-") as directory:
        file = Path(directory) / "nginx.conf"
        file.write_text(CONFIGURATION.format(directory=directory))
        line = _pinned(processors()[1], ["nginx", "-p", directory, "-c", str(file)])
        process = subprocess.Popen(["nsenter", f"--net={place.path}", "--", *line])
        try:
            wait_until(lambda: _accepts(place), "nginx did not come up")
            yield process.pid
        finally:
            process.terminate()
            process.wait(timeout=10)


def _accepts(place: Place) -> bool:
    with place.inside(), socket.socket() as one:
        return one.connect_ex(("127.0.0.1", 80)) == 0


def wrk(place: Place, url: str, *, server: int, is_new_each: bool) -> Rate:
    """Ask a URL from a namespace as fast as it goes.

    Args:
        server: Process id of the one that answers.
        is_new_each: A new connection for each request.
    """
    options = ["-t1", f"-c{N_CONNECTIONS}", f"-d{SLICE_S}s", "--timeout", "5s"]
    headers = ["-H", "Connection: close"] if is_new_each else []
    before = _spent_s(server)
    text = place.run(*_pinned(processors()[0], ["wrk", *options, *headers, url]))
    spent_s = _spent_s(server) - before
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    assert rate, text
    errors = re.search(r"connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    failed = sum(map(int, errors.groups())) if errors else 0
    n_requests = re.search(r"(\d+) requests in", text)
    assert n_requests, text
    return Rate(float(rate[1]), failed + (int(bad[1]) if bad else 0), spent_s * 1e6 / max(1, int(n_requests[1])))


def _spent_s(server: int) -> float:
    """Processor time so far of a server and of the children of this process that ended."""
    status = Path(f"/proc/{server}/stat").read_text()
    user, system = status[status.rindex(")") + 2 :].split()[11:13]
    own = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (int(user) + int(system)) / TICKS_PER_S + own.ru_utime + own.ru_stime


@dataclass(frozen=True, slots=True)
class Ticks:
    """Processor time so far, in clock ticks, by processor: busy and altogether."""

    busy: Sequence[int]
    total: Sequence[int]

    @classmethod
    def now(cls) -> "Ticks":
        lines = Path("/proc/stat").read_text().splitlines()
        rows = [list(map(int, line.split()[1:9])) for line in lines if re.match(r"cpu\d", line)]
        return cls([sum(row) - row[3] - row[4] for row in rows], [sum(row) for row in rows])

    def shares_since(self, earlier: "Ticks") -> list[float]:
        """How busy each processor was."""
        return [
            (busy - busy_before) / max(1, total - total_before)
            for busy, total, busy_before, total_before in zip(
                self.busy, self.total, earlier.busy, earlier.total, strict=True
            )
        ]


def _pinned(cpus: set[int], command: Sequence[str]) -> list[str]:
    return ["taskset", "-c", ",".join(map(str, sorted(cpus))), *command]
