"""One daemon per data directory, an id that stays, and a word to the init system.

Edge: a locked file, a small file, a datagram socket.
"""

import fcntl
import os
import resource
import socket
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from skep.lib.ids import new_id


class InstanceRunning(Exception):
    """Another daemon uses the data directory; the text says which."""


class InstanceLock:
    """Holds a data directory for as long as the process lives; the kernel lets go of it however it ends."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / "skepd.lock"
        self._descriptor = -1

    def __enter__(self) -> Self:
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(self._descriptor, 32).decode(errors="replace").strip()
            os.close(self._descriptor)
            raise InstanceRunning(
                f"{self._path.parent} is in use by another skepd (process {holder or 'unknown'}); "
                f"stop it, or give this one another --data-dir"
            ) from error
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, str(os.getpid()).encode())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)


def engine_id(data_dir: Path, random_bytes: Callable[[int], bytes]) -> str:
    """The daemon's own id, made once per data directory."""
    path = data_dir / "engine-id"
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        made = new_id(random_bytes)
        path.write_text(made + "\n")
        return made


def boot_id() -> str:
    """Differs after every boot of the machine; in a lab node, after every boot of the node."""
    kernel = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    start = Path("/proc/1/stat").read_text().rpartition(")")[2].split()[19]
    return f"{kernel}-{start}"


def raise_file_limit() -> None:
    """Allow as many open files as the machine lets this process have: each session takes three."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def notify_ready() -> None:
    """Tell systemd, if it is there, that the daemon is ready. Source: sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier:
        notifier.sendto(b"READY=1", address.replace("@", "\0", 1))
