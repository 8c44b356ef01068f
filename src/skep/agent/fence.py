"""Stops tasks that must not run twice once this node may have been given up.

Edge: asyncio. A service labelled `skep.partition=at-most-one` gets a replacement for a task on a silent node only after
the node's lease has ended and the task had its grace. This is the other half: without a manager for the length of the
lease, or after a time in which nothing of this node ran, such tasks are stopped here.

The lease begins again with every proof that a manager is there. A session is such a proof for as long as it is open:
its channel breaks within seconds when the other end is gone. A daemon that has just begun has little time to find a
manager, because nobody knows how long there was none before.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

import structlog

from skep.core.orchestrate.modes import AT_MOST_ONE, PARTITION_LABEL
from skep.core.orchestrate.moves import PARTITION_LEASE
from skep.lib.durations import MILLISECOND, SECOND
from skep.model.base import Nanoseconds
from skep.model.task import Task
from skep.ports.clock import Clock

TICK: Nanoseconds = 500 * MILLISECOND
FIRST_LEASE: Nanoseconds = 5 * SECOND

log = structlog.get_logger(__name__)


class Fenced(Protocol):
    """What can be stopped: an executor."""

    @property
    def task(self) -> Task: ...
    def fence(self) -> None: ...


class Fence:
    """Attributes: is_connected: a manager holds a session with this node."""

    def __init__(self, clock: Clock, executors: Callable[[], Iterable[Fenced]]) -> None:
        self._clock = clock
        self._executors = executors
        self.is_connected = False
        self._ticked_at = clock.now()
        self._ends_at = self._ticked_at + FIRST_LEASE

    def connected(self) -> None:
        self.is_connected = True
        self._ends_at = self._clock.now() + PARTITION_LEASE

    def disconnected(self) -> None:
        if self.is_connected:
            self._ends_at = self._clock.now() + PARTITION_LEASE
        self.is_connected = False

    async def run(self) -> None:
        """Watch the lease until cancelled."""
        self._ticked_at = self._clock.now()
        self._ends_at = max(self._ends_at, self._ticked_at + FIRST_LEASE)
        while True:
            await self._clock.sleep(TICK)
            self.tick()

    def tick(self) -> None:
        """Stop what may not run any longer."""
        now = self._clock.now()
        was_away = now - self._ticked_at > PARTITION_LEASE  # Frozen, suspended: what is known of managers is old.
        self._ticked_at = now
        if not was_away and (self.is_connected or now < self._ends_at):
            return
        for executor in list(self._executors()):
            if executor.task.service_labels.get(PARTITION_LABEL) == AT_MOST_ONE:
                log.warning(
                    "a task is stopped: no manager was there for the length of its lease", task=executor.task.id
                )
                executor.fence()
