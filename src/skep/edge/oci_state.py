"""Look up a container's first process in the OCI runtime's own state, sure that it is still the same process.

Edge: small files and /proc. Process ids are used again; the start time beside them is not.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from skep.model.codec import MALFORMED

UNSEEN_EXIT_CODE = 137  # As if killed: that is what a power cut or a killed supervisor amounts to.
UNSEEN_END = "its end was not seen: the machine or its supervisor went down while it ran"


class _RuncState(msgspec.Struct):
    """The part of runc's state.json we need."""

    init_process_pid: int = 0
    init_process_start: int = 0


class _CrunState(msgspec.Struct, rename="kebab"):
    """The part of crun's `status` we need."""

    pid: int = 0
    process_start_time: int = 0


@dataclass(frozen=True, slots=True)
class FirstProcess:
    """Attributes: pid: 0 if it is gone. is_waiting: it is made but not let go yet."""

    pid: int
    is_waiting: bool = False


def first_process(folder: Path) -> FirstProcess:
    """Find a container's first process. Args: folder: the container's in the runtime's state root."""
    pid, start = _read_state(folder)
    if not pid or start_ticks(pid) != start:
        return FirstProcess(0)
    return FirstProcess(pid, (folder / "exec.fifo").exists())


def start_ticks(pid: int) -> int:
    """When a process started, in clock ticks since boot; -1 if it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return -1
    return -1 if fields[0] in "ZX" else int(fields[19])


def is_supervisor(pid: int, container_id: str) -> bool:
    """Whether a process is this container's conmon; while it lives, an exit code may still come."""
    try:
        return os.fsencode(container_id) in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _read_state(folder: Path) -> tuple[int, int]:
    with suppress(OSError, *MALFORMED):
        runc = msgspec.json.decode((folder / "state.json").read_bytes(), type=_RuncState)
        return runc.init_process_pid, runc.init_process_start
    with suppress(OSError, *MALFORMED):
        crun = msgspec.json.decode((folder / "status").read_bytes(), type=_CrunState)
        return crun.pid, crun.process_start_time
    return 0, 0
