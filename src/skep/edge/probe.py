"""See which TCP ports a sandbox listens on, from outside and without a packet.

Edge: reads /proc/<pid>/net/tcp and tcp6. The kernel lists listening sockets first, so reading stops at the first other
one and costs nothing where a task has many connections.
"""

import ipaddress
import sys
from collections.abc import Iterator
from pathlib import Path

LISTEN = "0A"


class ProcProbe:
    """Implements `ports.probe.Probe`. Args: proc: where procfs is mounted."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc

    def listening(self, pid: int) -> frozenset[int]:
        if pid <= 0:
            return frozenset()
        return _ports(self._proc / str(pid) / "net")

    def taken(self) -> frozenset[int]:
        return _ports(self._proc / "self" / "net")


def _ports(net: Path) -> frozenset[int]:
    return frozenset(port for table in ("tcp", "tcp6") for port in _listening(net / table))


def _listening(table: Path) -> Iterator[int]:
    try:
        with table.open() as rows:
            next(rows, None)
            for row in rows:
                columns = row.split()
                if columns[3] != LISTEN:
                    return
                address, port = columns[1].split(":")
                if not _is_loopback(address):
                    yield int(port, 16)
    except OSError:  # The process, and with it its tables, is gone.
        return


def _is_loopback(text: str) -> bool:
    """Whether an address as the kernel prints it, 32-bit words in the machine's byte order, is the sandbox's own."""
    words = [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]
    address = ipaddress.ip_address(b"".join(word.to_bytes(4, sys.byteorder) for word in words))
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
