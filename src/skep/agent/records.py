"""What a node remembers of each task on its own disk, and the small files its container reads.

Edge: files below one directory, one sub-directory per task. The status file answers, after any crash, whether
the task may ever have run. Files are replaced by rename; only `sync` waits for the disk, and it is asked for
once per task, before its container is started.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec

from skep.lib.durations import SECOND
from skep.model.base import Nanoseconds, Record
from skep.model.codec import MALFORMED
from skep.model.task import TaskStatus

DEFAULT_GRACE = 10 * SECOND
"""For a service that says nothing of it."""


class TaskRecord(Record, frozen=True, kw_only=True):
    """Where a task stands.

    Attributes:
        boot_id: The boot of the node in which it was written.
        is_stopping: It was told to stop by us.
        stop_grace: How long it may take over that, also when nobody knows its spec any more.
    """

    status: TaskStatus
    boot_id: str = ""
    is_stopping: bool = False
    stop_grace: Nanoseconds = DEFAULT_GRACE


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(TaskRecord)


class RecordStore:
    """Task records below `directory`, which is made when first needed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def path(self, task_id: str) -> Path:
        """The task's own directory."""
        return self._directory / task_id

    def load(self, task_id: str) -> TaskRecord | None:
        """The last record written, None if there is none or it is damaged (as after a power cut)."""
        try:
            return _decoder.decode((self.path(task_id) / "status").read_bytes())
        except (FileNotFoundError, NotADirectoryError, *MALFORMED):
            return None

    def save(self, task_id: str, record: TaskRecord, *, sync: bool = False) -> None:
        """Write a record so that a reader finds the old one or the new one, never a part."""
        self.write(task_id, "status", _encoder.encode(record), sync=sync)

    def write(self, task_id: str, name: str, content: bytes, *, sync: bool = False, in_place: bool = False) -> Path:
        """Write one of the task's files.

        Args:
            in_place: Keep the file's inode: a container may have it mounted already.
        """
        directory = self.path(task_id)
        directory.mkdir(parents=True, exist_ok=True)
        target = directory / name
        if in_place:
            target.write_bytes(content)
            return target
        draft = directory / f".{name}.new"
        with draft.open("wb") as file:
            file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        draft.replace(target)
        if sync:
            _sync_directory(directory)
            _sync_directory(self._directory)
        return target

    def remove(self, task_id: str) -> None:
        """Forget a task; no error if it is not known."""
        shutil.rmtree(self.path(task_id), ignore_errors=True)

    def task_ids(self) -> Sequence[str]:
        """Tasks of which something is kept."""
        try:
            return sorted(entry.name for entry in self._directory.iterdir() if entry.is_dir())
        except FileNotFoundError:
            return []

    def clear(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
