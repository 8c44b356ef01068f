"""Bring one assigned task to what is wanted of it.

Edge: asyncio; drives the engine and, through `agent.preparation`, the rest of the node. `core.task_steps` decides; this
module does the one thing decided, records what was reached before it tells anyone, and asks again. Killed at any
point, the next daemon's executor goes on from the record, the engine and the sandbox (see `agent.adoption`).
Long, because every step shares what is known of the one task.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import assert_never

import msgspec
import structlog

from skep.agent import container as containers
from skep.agent import health, preparation, readiness
from skep.agent.host import Host
from skep.agent.records import DEFAULT_GRACE, TaskRecord
from skep.agent.waiting import Interrupted, wait_event
from skep.core import task_steps
from skep.core.task_steps import Act, Advance, Health, Observed, Phase, Wanted
from skep.lib.durations import SECOND
from skep.model.assignment import AssignedTask
from skep.model.base import Nanoseconds
from skep.model.errors import InvalidSpec
from skep.model.lifecycle import TaskState, is_terminal
from skep.model.task import ContainerStatus, Task, TaskStatus
from skep.ports.dataplane import DataPlaneFailure
from skep.ports.files import FilesFailure
from skep.ports.resolver import NameServiceFailure
from skep.ports.runtime import (
    Container,
    ContainerRejected,
    ContainerState,
    EngineUnreachable,
    HealthTest,
    ImageMissing,
    NoSuchContainer,
    RuntimeFailure,
)

LINGER = 1 * SECOND
"""A dead task's sandbox stays so long: its address refuses at once, where a missing one would swallow packets."""
ATTEMPTS = 6
"""Tries at preparing before the task is given up; an engine that is away is waited for without limit."""

log = structlog.get_logger(__name__)

PHASES = {
    ContainerState.CREATED: Phase.CREATED,
    ContainerState.RUNNING: Phase.RUNNING,
    ContainerState.EXITED: Phase.EXITED,
}


@dataclass(frozen=True, slots=True)
class Found:
    """What an earlier daemon left of a task.

    Attributes:
        observed: See `agent.adoption`.
        is_of_now: Something of this boot is here, so the memory of what is assigned is not older than it.
    """

    observed: Observed
    status: TaskStatus
    container: Container | None = None
    has_sandbox: bool = False
    is_of_now: bool = False

    @property
    def may_go_on(self) -> bool:
        """Whether it may be taken up before a manager has spoken: it is under way here, or it is over."""
        return self.is_of_now or self.observed.is_lost or is_terminal(self.observed.state)


class Executor:
    """One task's controller.

    Attributes:
        task: As assigned last. seen: What is known of it. status: What was recorded last.
        container_id: Empty until there is one; `has_container` is set from then on, or once there will be none.
    """

    def __init__(self, host: Host, assigned: AssignedTask, version: int, found: Found) -> None:
        self._host = host
        self.task: Task = assigned.task
        self.seen = found.observed
        self.status = found.status
        self.container_id = found.container.id if found.container else ""
        self.has_container = asyncio.Event()
        self._container = found.container
        self._has_sandbox = found.has_sandbox
        self._woken = asyncio.Event()
        self._stop_wanted = asyncio.Event()
        self._removal_wanted = asyncio.Event()
        self._followers: dict[str, asyncio.Task[None]] = {}
        if self.container_id:
            self.has_container.set()
        self._wanted = Wanted(desired=TaskState.NEW)
        self._version = 0
        self.assign(assigned, version)

    # --- told from outside ---------------------------------------------------------

    def assign(self, assigned: AssignedTask, version: int) -> None:
        """Take what the manager wants of the task as of that version of the assignment set."""
        self.task = assigned.task
        self._version = version
        self._want(Wanted(assigned.task.desired_state, is_drained=assigned.drained, is_fenced=self._wanted.is_fenced))

    def dismiss(self) -> None:
        """The task is no longer assigned: stop it and remove everything of it."""
        self._want(replace(self._wanted, is_removed=True))

    def fence(self) -> None:
        """The task may have been replaced elsewhere: stop it, without waiting for anyone."""
        self._want(replace(self._wanted, is_fenced=True))

    def _want(self, wanted: Wanted) -> None:
        self._wanted = wanted
        if wanted.must_stop:
            self._stop_wanted.set()
        if wanted.is_removed:
            self._removal_wanted.set()
        self._woken.set()

    def observe(self, container: Container | None) -> None:
        """The engine was asked: this is the container now, or there is none."""
        if not self.is_observed:
            return
        if container is None:
            self._see(phase=Phase.ABSENT)
            return
        self._container = container
        cause = container.error or ("out of memory" if container.is_oom_killed else "")
        self._see(phase=PHASES[container.state], exit_code=container.exit_code, cause=cause)

    async def look(self) -> None:
        """Ask the engine about the container, as when it may have ended; an engine that is away changes nothing."""
        if not self.container_id:
            return
        try:
            self.observe(await self._host.runtime.inspect(self.container_id))
        except NoSuchContainer:
            self.observe(None)
        except RuntimeFailure as failure:
            log.info("a container cannot be looked at", task=self.task.id, error=str(failure))

    @property
    def is_observed(self) -> bool:
        """Whether its container's state still matters."""
        return bool(self.container_id) and not is_terminal(self.seen.state)

    # --- the loop ----------------------------------------------------------------------

    async def run(self) -> None:
        """Work until the task is dismissed and nothing of it remains. Cancelled, it leaves everything as it is."""
        if self.seen.state > TaskState.ASSIGNED:
            self._host.report(self.task.id, self.status)
        await self._take_over()
        async with asyncio.TaskGroup() as group:
            while True:
                self._woken.clear()
                step = task_steps.next_step(self._wanted, self.seen)
                if step is Act.CLEAN_UP:
                    break
                self._follow(group)
                await self._do(step)
            self._unfollow()
        await preparation.remove_container(self._host, self.task.id, self.container_id)
        await preparation.release_sandbox(self._host, self.task.id)
        self._host.records.remove(self.task.id)

    async def _do(self, step: task_steps.Step) -> None:
        match step:
            case Advance():
                await self._advance(step)
            case Act.PREPARE:
                await self._prepare()
            case Act.START:
                await self._start()
            case Act.STOP:
                await self._stop()
            case Act.WATCH:
                await self._woken.wait()
            case Act.HOLD | Act.CLEAN_UP:
                await self._hold()
            case _:
                assert_never(step)

    def _see(self, **changes: object) -> None:
        seen = replace(self.seen, **changes)  # type: ignore[arg-type]  # replace() cannot check names passed on
        if seen != self.seen:
            self.seen = seen
            self._woken.set()

    async def _take_over(self) -> None:
        """Go on with what an earlier daemon left: its health and its name server."""
        if self.seen.phase is Phase.RUNNING and self._health_test() is not None:
            self._see(health=Health.HEALTHY if self.seen.state is TaskState.RUNNING else Health.STARTING)
        if self._has_sandbox and not is_terminal(self.seen.state):
            try:
                await self._host.names.open(self._host.mesh.asker_of(self.task))
            except NameServiceFailure as failure:
                log.warning("names are not served to a task", task=self.task.id, error=str(failure))

    # --- states ------------------------------------------------------------------------

    async def _advance(self, step: Advance) -> None:
        """Record a state, then report it: after a crash the record is never behind what was told."""
        is_running = step.state is TaskState.RUNNING
        status = TaskStatus(
            timestamp=self._host.clock.now(),
            state=step.state,
            message=step.message,
            err=step.err,
            container=self._container_status(),
            ports=containers.host_ports(self.task) if is_running else [],
            is_accepting=is_running and not self._missing_ports(),
        )
        try:
            await self._save(status)
        except OSError as error:
            if step.state is TaskState.STARTING:  # Without the mark a crash could run the task twice.
                self._see(refusal=f"the node cannot record that the task starts: {error}")
                return
            log.warning("a task's state cannot be recorded", task=self.task.id, error=str(error))
        self._tell(status)
        self._see(state=step.state)
        if is_terminal(step.state):
            self._host.drop_files(self.task.id)
            self.has_container.set()  # Whoever waits for one need not wait any longer.

    async def _save(self, status: TaskStatus) -> None:
        record = TaskRecord(
            status=status,
            boot_id=self._host.boot_id,
            is_stopping=self.seen.is_stopping,
            stop_grace=self._stop_grace,
        )
        if status.state is TaskState.STARTING:
            await asyncio.to_thread(self._host.records.save, self.task.id, record, sync=True)
        else:
            self._host.records.save(self.task.id, record)

    def _tell(self, status: TaskStatus) -> None:
        self.status = status
        self._host.report(self.task.id, status)

    async def _say(self, message: str, *, is_accepting: bool = False) -> None:
        """Tell users, and the balancer, something new about the state the task is in."""
        status = msgspec.structs.replace(self.status, message=message, is_accepting=is_accepting)
        if status == self.status:
            return
        with contextlib.suppress(OSError):  # A lost message is said again; a lost state is handled in `_advance`.
            await self._save(status)
        self._tell(status)

    def _container_status(self) -> ContainerStatus | None:
        if not self.container_id:
            return None
        pid = self._container.pid if self._container and self.seen.phase is Phase.RUNNING else 0
        return ContainerStatus(container_id=self.container_id, pid=pid, exit_code=self.seen.exit_code)

    # --- preparing and starting ----------------------------------------------------------

    async def _prepare(self) -> None:
        try:
            await self._insist(self._make)
        except Interrupted:
            return
        except (InvalidSpec, RuntimeFailure, DataPlaneFailure, NameServiceFailure, FilesFailure, OSError) as failure:
            self._see(refusal=str(failure))

    async def _make(self) -> None:
        self._has_sandbox = True  # From here on there may be one.
        self._container = await preparation.prepare(self._host, self.task, self._version, self._stop_wanted)
        self.container_id = self._container.id
        self.has_container.set()
        self._see(is_prepared=True, phase=PHASES[self._container.state])

    async def _start(self) -> None:
        try:
            await self._insist(self._run_container)
        except Interrupted:
            await self._find_out()  # What was tried last may have started it.
        except NoSuchContainer:
            self.observe(None)
        except (RuntimeFailure, OSError) as failure:
            await self._find_out()  # The engine may have failed after its first process came up.
            self._see(refusal=str(failure))

    async def _find_out(self) -> None:
        """Look at the container until the engine answers: nothing is said of it before that is known."""
        between = preparation.pauses()
        while True:
            try:
                self.observe(await self._host.runtime.inspect(self.container_id))
            except NoSuchContainer:
                self.observe(None)
            except RuntimeFailure as failure:
                log.warning("it is not known whether a task has started", task=self.task.id, error=str(failure))
                await self._host.clock.sleep(between.next())
                continue
            return

    async def _run_container(self) -> None:
        """Start the container unless an earlier try, whose answer was lost, has started it already."""
        container = await self._host.runtime.inspect(self.container_id)
        if container.state is ContainerState.CREATED:
            container = await self._host.runtime.run(self.container_id)
        self._container = container
        self._see(health=Health.NONE if self._health_test() is None else Health.STARTING)
        self.observe(container)

    async def _insist(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do something that may fail for a while; a stop asked for ends the pauses between the tries.

        Raises:
            Interrupted: a stop is wanted. Others: what `work` raises, once it is clear that it stays so.
        """
        between = preparation.pauses()
        while True:
            try:
                return await work()
            except (ImageMissing, ContainerRejected, NoSuchContainer):
                raise
            except EngineUnreachable as failure:
                state = self.status.message.split(":")[0]
                await self._say(f"{state}: waiting for the container engine: {failure}")
            except (RuntimeFailure, DataPlaneFailure, NameServiceFailure, FilesFailure, OSError):
                if between.attempts >= ATTEMPTS - 1:
                    raise
            if await wait_event(self._stop_wanted, self._host.clock, between.next()):
                raise Interrupted

    # --- running ---------------------------------------------------------------------------

    def _follow(self, group: asyncio.TaskGroup) -> None:
        """Begin, once each, to follow a running container's health, and its ports once the task runs."""
        if self.seen.phase is not Phase.RUNNING or self.seen.state < TaskState.STARTING:
            return
        if "health" not in self._followers:
            self._followers["health"] = group.create_task(self._follow_health())
        if "ports" not in self._followers and self.seen.state is TaskState.RUNNING:
            self._followers["ports"] = group.create_task(self._follow_ports())

    def _unfollow(self) -> None:
        for follower in self._followers.values():
            follower.cancel()

    def _health_test(self) -> HealthTest | None:
        spec = self.task.spec.container_spec
        of_image = self._container.health if self._container else None
        return health.effective_test(spec.healthcheck if spec else None, of_image)

    async def _follow_health(self) -> None:
        test = self._health_test()
        if test is None:
            return
        record = health.begin(self._host.clock.now(), was_healthy=self.seen.health is Health.HEALTHY)
        asked = health.Asked(self._host.runtime, self.container_id, test)
        async for state in health.follow(asked, self._host.clock, record):
            if self.seen.phase is not Phase.RUNNING:
                return
            self._see(health=state)

    def _missing_ports(self) -> frozenset[int]:
        ports = containers.awaited_ports(self.task)
        if not ports or self._container is None:
            return ports
        return ports - self._host.probe.listening(self._container.pid)

    async def _follow_ports(self) -> None:
        if self.status.is_accepting:
            return
        async for missing in readiness.missing_ports(self._missing_ports, self._host.clock):
            if self.seen.phase is not Phase.RUNNING or self.seen.state is not TaskState.RUNNING:
                return
            message = readiness.waiting_text(missing) if missing else "started"
            await self._say(message, is_accepting=not missing)

    # --- stopping --------------------------------------------------------------------------------

    @property
    def _stop_grace(self) -> Nanoseconds:
        spec = self.task.spec.container_spec
        return spec.stop_grace_period if spec and spec.stop_grace_period is not None else DEFAULT_GRACE

    async def _stop(self) -> None:
        if self._wanted.may_stop and not self.seen.is_stopping:
            self._see(is_stopping=True)
            with contextlib.suppress(OSError):  # Without the mark a crash here shows as a failure, not a shutdown.
                await self._save(self.status)
        between = preparation.pauses()
        while self.seen.phase is Phase.RUNNING:
            try:
                await self._host.runtime.stop(self.container_id, grace=self._stop_grace)
            except NoSuchContainer:
                self.observe(None)
                return
            except RuntimeFailure as failure:
                log.warning("a container cannot be stopped yet", task=self.task.id, error=str(failure))
            await self.look()
            if self.seen.phase is Phase.RUNNING:
                await self._host.clock.sleep(between.next())

    async def _hold(self) -> None:
        """Wait for the manager. A finished task's sandbox is let go meanwhile; its container is kept for its logs."""
        if is_terminal(self.seen.state) and self._has_sandbox:
            self._unfollow()
            await wait_event(self._removal_wanted, self._host.clock, LINGER)
            await preparation.release_sandbox(self._host, self.task.id)
            self._has_sandbox = False
        await self._woken.wait()
