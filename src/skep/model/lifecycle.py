"""The states of a task and the order they come in.

Pure. Observed state never goes back; desired state never goes back either.
Source: swarmkit/api/types.proto, enum TaskState.
"""

import enum


class TaskState(enum.IntEnum):
    """Numbers are SwarmKit's, with its gaps: comparing states compares progress."""

    NEW = 0
    PENDING = 64
    ASSIGNED = 192
    ACCEPTED = 256
    PREPARING = 320
    READY = 384
    STARTING = 448
    RUNNING = 512
    COMPLETE = 576
    SHUTDOWN = 640
    FAILED = 704
    REJECTED = 768
    REMOVE = 800
    ORPHANED = 832

    @property
    def label(self) -> str:
        """As Docker's API writes it: `running`."""
        return self.name.lower()


LABELS = {state.label: state for state in TaskState}


def is_terminal(state: TaskState) -> bool:
    """Whether nothing runs any more and nothing will."""
    return state > TaskState.RUNNING


def is_active(state: TaskState) -> bool:
    """Whether the task has been handed to its node and may hold a container."""
    return TaskState.ASSIGNED <= state <= TaskState.RUNNING


def is_progress(old: TaskState, new: TaskState) -> bool:
    """Whether an observation may replace another: observed state never goes back."""
    return new >= old
