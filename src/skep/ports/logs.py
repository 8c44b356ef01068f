"""Where the log entries of tasks come from, wherever they run.

Port. A manager asks the nodes over their sessions.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from skep.model.task import Task
from skep.ports.runtime import LogEntry, LogOptions


@dataclass(frozen=True, slots=True)
class TaskLogEntry:
    """One entry of `service logs`."""

    task: Task
    entry: LogEntry


class LogSource(Protocol):
    def logs(
        self, tasks: Sequence[Task], options: LogOptions, coming: AsyncIterator[Task] | None = None
    ) -> AsyncIterator[TaskLogEntry]:
        """Log entries of tasks by time, also of those still coming; a silent node is named in a stderr entry."""
        ...
