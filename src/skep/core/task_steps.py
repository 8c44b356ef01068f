"""What a node does next about one of its tasks.

Pure. The executor observes, asks `next_step`, does that one thing and asks again. A task runs once: the step to
STARTING is remembered durably before the container is started, and a container that is gone after that is a failed
task, never a second start. Source: swarmkit/agent/exec/controller.go, whose states and messages are kept.
"""

import enum
from dataclasses import dataclass

from skep.model.lifecycle import TaskState, is_terminal

GONE = "the task's container is gone: the node or its engine restarted, or the container was removed by hand"
UNHEALTHY = "task: unhealthy container"
FENCED = "the node reached no manager for the length of its lease, and this service may run at most once"


class Phase(enum.Enum):
    """How far a task's container is."""

    ABSENT = "absent"
    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"


class Health(enum.Enum):
    """NONE: no check is configured, which counts as healthy."""

    NONE = "none"
    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the manager asks for.

    Attributes:
        is_drained: The task is out of everyone's balancing: it may be stopped.
        is_removed: It is no longer assigned: nothing of it is to remain.
        is_fenced: It may have been replaced elsewhere already, and must not run twice.
    """

    desired: TaskState
    is_drained: bool = False
    is_removed: bool = False
    is_fenced: bool = False

    @property
    def must_stop(self) -> bool:
        return self.is_removed or self.is_fenced or self.desired >= TaskState.SHUTDOWN

    @property
    def may_stop(self) -> bool:
        return self.is_removed or self.is_fenced or (self.must_stop and self.is_drained)


@dataclass(frozen=True, slots=True)
class Observed:
    """What the node knows of the task.

    Attributes:
        state: The last state reached and recorded.
        is_prepared: Sandbox, files and container are complete.
        is_stopping: We told the container to stop, so its end is no failure.
        exit_code: None unless the container exited and its code is known.
        cause: The engine's words about the exit; may be empty.
        refusal: Why preparing or starting can never succeed; empty otherwise.
        is_lost: The container ran in a sandbox or a boot of the node that is no more; its exit code means nothing.
    """

    state: TaskState = TaskState.ASSIGNED
    phase: Phase = Phase.ABSENT
    health: Health = Health.NONE
    is_prepared: bool = False
    is_stopping: bool = False
    exit_code: int | None = None
    cause: str = ""
    refusal: str = ""
    is_lost: bool = False


@dataclass(frozen=True, slots=True)
class Advance:
    """Record and report a state. Attributes: message: Docker's word for it; err: why not, for the failed ones."""

    state: TaskState
    message: str
    err: str = ""


class Act(enum.Enum):
    """Things to do; WATCH waits for the container or the manager, HOLD for the manager only."""

    PREPARE = "prepare"
    START = "start"
    WATCH = "watch"
    STOP = "stop"
    HOLD = "hold"
    CLEAN_UP = "clean up"


Step = Advance | Act


def next_step(wanted: Wanted, seen: Observed) -> Step:
    """Decide the one next thing to do about a task.

    Returns:
        A step whose doing changes `seen`, or HOLD or WATCH: wait for the manager, the container or its health.
    """
    if is_terminal(seen.state):
        return Act.CLEAN_UP if wanted.is_removed else Act.HOLD
    if seen.refusal or seen.is_lost:
        return Act.STOP if seen.phase is Phase.RUNNING else _failed(seen, seen.refusal or GONE)
    if seen.phase is Phase.EXITED:
        is_cut_short = wanted.is_fenced and seen.is_stopping and wanted.desired < TaskState.SHUTDOWN
        return _failed(seen, FENCED) if is_cut_short else _ended(seen)
    if wanted.must_stop:
        return _towards_stop(wanted, seen)
    return _towards_running(wanted, seen)


def _failed(seen: Observed, err: str) -> Advance:
    if seen.state < TaskState.STARTING:
        return Advance(TaskState.REJECTED, "preparing", err)
    return Advance(TaskState.FAILED, "started" if seen.state is TaskState.RUNNING else "starting", err)


def _ended(seen: Observed) -> Advance:
    if seen.health is Health.UNHEALTHY:
        return _failed(seen, UNHEALTHY)
    if seen.is_stopping:
        return Advance(TaskState.SHUTDOWN, "shutdown")
    if seen.exit_code == 0:
        return Advance(TaskState.COMPLETE, "finished")
    return Advance(TaskState.FAILED, "started", exit_text(seen.exit_code, seen.cause))


def exit_text(exit_code: int | None, cause: str) -> str:
    """Docker's sentence for a container that ended badly.

    Source: moby/daemon/cluster/executor/container/errors.go.
    """
    code = "unknown" if exit_code is None else exit_code
    return f"task: non-zero exit ({code}): {cause}" if cause else f"task: non-zero exit ({code})"


def _towards_stop(wanted: Wanted, seen: Observed) -> Step:
    if seen.phase is Phase.RUNNING:
        return Act.STOP if wanted.may_stop else Act.WATCH
    if seen.state >= TaskState.STARTING and seen.phase is Phase.ABSENT:
        return _failed(seen, GONE) if not seen.is_stopping else Advance(TaskState.SHUTDOWN, "shutdown")
    return Advance(TaskState.SHUTDOWN, "shutdown")


def _towards_running(wanted: Wanted, seen: Observed) -> Step:
    match seen.state:
        case TaskState.PREPARING:
            return Advance(TaskState.READY, "prepared") if seen.is_prepared else Act.PREPARE
        case TaskState.READY:
            if not seen.is_prepared:
                return Act.PREPARE
            return Advance(TaskState.STARTING, "starting") if wanted.desired >= TaskState.RUNNING else Act.HOLD
        case TaskState.STARTING | TaskState.RUNNING:
            return _running(seen)
        case TaskState.ACCEPTED:
            return Advance(TaskState.PREPARING, "preparing")
        case _:
            return Advance(TaskState.ACCEPTED, "accepted")


def _running(seen: Observed) -> Step:
    match seen.phase:
        case Phase.CREATED if seen.state is TaskState.STARTING:
            return Act.START if seen.is_prepared else Act.PREPARE
        case Phase.RUNNING if seen.health is Health.UNHEALTHY:
            return Act.STOP
        case Phase.RUNNING if seen.state is TaskState.STARTING and seen.health is not Health.STARTING:
            return Advance(TaskState.RUNNING, "started")
        case Phase.RUNNING:
            return Act.WATCH
        case _:
            return _failed(seen, GONE)
