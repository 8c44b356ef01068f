"""Where a task's secrets and configs lie while it runs: in memory, never on a disk.

Port. A file keeps its inode when it is placed again, because a container may have it mounted already.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


class FilesFailure(Exception):
    """The node cannot keep files in memory; the text is one sentence fit for a task's `err`."""


@dataclass(frozen=True, slots=True)
class PrivateFile:
    """One file. Attributes: name: unique within its task and a single path component; mode: permission bits."""

    name: str
    content: bytes = field(repr=False)
    uid: int = 0
    gid: int = 0
    mode: int = 0o444


class FilePlaces(Protocol):
    def place(self, task_id: str, files: Sequence[PrivateFile]) -> Sequence[Path]:
        """Have a task's files there; returns the path of each, in their order.

        Raises:
            FilesFailure.
        """
        ...

    def remove(self, task_id: str) -> None:
        """Remove a task's files; no error if it has none."""
        ...

    def task_ids(self) -> Collection[str]:
        """Tasks that have files here."""
        ...
