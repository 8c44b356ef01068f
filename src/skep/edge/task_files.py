"""Secrets and configs of running tasks, in a memory file system of this node.

Edge: files below one directory, on tmpfs: the directory is on one already (as /run is), or one is mounted there. Nobody
but root can reach into it; a container sees a file through a bind mount of that file alone. What is here survives the
daemon, as the containers do, and not the machine.
"""

import os
import shutil
import subprocess
from collections.abc import Collection, Sequence
from pathlib import Path

from skep.ports.files import FilesFailure, PrivateFile

MEMORY_TYPES = frozenset({"tmpfs", "ramfs"})


class MemoryFiles:
    """Files below `directory`, which is made when first needed; implements `skep.ports.files.FilePlaces`.

    Args:
        good_types: Types of file systems that are good enough; on any other a tmpfs is mounted.
    """

    def __init__(self, directory: Path, good_types: Collection[str] = MEMORY_TYPES) -> None:
        self._directory = directory
        self._good_types = good_types
        self._is_ready = False

    def place(self, task_id: str, files: Sequence[PrivateFile]) -> Sequence[Path]:
        try:
            self._make_ready()
            folder = self._directory / task_id
            folder.mkdir(mode=0o700, exist_ok=True)
            return [_write(folder / file.name, file) for file in files]
        except OSError as error:
            raise FilesFailure(f"this node cannot keep the task's secrets in memory: {error}") from error

    def remove(self, task_id: str) -> None:
        shutil.rmtree(self._directory / task_id, ignore_errors=True)

    def task_ids(self) -> Collection[str]:
        try:
            return frozenset(entry.name for entry in self._directory.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return frozenset()

    def _make_ready(self) -> None:
        if self._is_ready:
            return
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if file_system_of(self._directory) not in self._good_types:
            options = "mode=0700,nosuid,nodev,noexec"
            command = ["mount", "-t", "tmpfs", "-o", options, "skep-files", str(self._directory)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise FilesFailure(
                    f"no memory file system can be mounted at {self._directory} to keep secrets in: "
                    f"{done.stderr.strip()}; put the daemon's run directory on a tmpfs, such as /run/skep"
                )
        self._is_ready = True


def file_system_of(path: Path) -> str:
    """The type of the file system a path is on. Source: proc(5), /proc/self/mountinfo."""
    device = path.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[2] == wanted:
            return after.split()[0]
    return ""


def _write(path: Path, file: PrivateFile) -> Path:
    """Write a file as nobody else could read it before it is finished."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as opened:
        os.fchmod(descriptor, 0o600)
        opened.write(file.content)
        os.fchown(descriptor, file.uid, file.gid)
        os.fchmod(descriptor, file.mode)
    return path
