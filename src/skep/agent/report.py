"""What is to be told to the managers: the newest status of each task until it is committed there.

Edge: asyncio events only. A report is sent again until it is stored, so a broken session, a manager that dies before it
commits and a daemon that restarts all lose nothing; statuses between two sends are folded into the newest.
"""

import asyncio
from collections.abc import Sequence

from skep.model.lifecycle import is_progress
from skep.model.session import TaskReport
from skep.model.task import TaskStatus


class ReportBook:
    """Attributes hidden; one event loop."""

    def __init__(self) -> None:
        self._newest: dict[str, TaskStatus] = {}
        self._sent: dict[str, TaskStatus] = {}
        self._is_news = asyncio.Event()

    def note(self, task_id: str, status: TaskStatus) -> None:
        """Put a status up for reporting; one that would go back is dropped."""
        newest = self._newest.get(task_id)
        if newest is not None and not is_progress(newest.state, status.state):
            return
        self._newest[task_id] = status
        self._is_news.set()

    def forget(self, task_id: str) -> None:
        """The manager no longer knows the task."""
        self._newest.pop(task_id, None)
        self._sent.pop(task_id, None)

    def renew(self) -> None:
        """A new session: what was sent over the old one and not confirmed goes out again."""
        self._sent.clear()
        if self._newest:
            self._is_news.set()

    async def wait_news(self) -> Sequence[TaskReport]:
        """Wait until a status was not sent yet, then everything not confirmed, by task id."""
        while not self._fresh():
            self._is_news.clear()
            await self._is_news.wait()
        self._is_news.clear()
        self._sent = dict(self._newest)
        return [TaskReport(task_id=task_id, status=status) for task_id, status in sorted(self._newest.items())]

    def _fresh(self) -> bool:
        return any(self._sent.get(task_id) is not status for task_id, status in self._newest.items())

    def confirm(self, reports: Sequence[TaskReport]) -> None:
        """These are stored; a task that has moved on since stays in the book."""
        for report in reports:
            if self._newest.get(report.task_id) == report.status:
                self.forget(report.task_id)

    def __len__(self) -> int:
        return len(self._newest)
