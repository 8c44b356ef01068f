"""A container engine in memory that is no kinder than a real one, for the agent's tests and the simulator.

It passes the same contract suite. `FakeEngine` is the machine: containers live on in it when a daemon dies.
`FakeRuntime` is one daemon's connection to it. Programs are written in the few words of shell that
`skep.sim.shell` knows; time is the event loop's, so a loop with virtual time runs them at once.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from skep.edge.mount_sources import check_bind_sources
from skep.edge.oci_values import signal_number
from skep.edge.podman.images import image_candidates
from skep.model.base import Nanoseconds
from skep.ports.runtime import (
    Container,
    ContainerConfig,
    ContainerRejected,
    ContainerState,
    EngineFacts,
    EngineUnreachable,
    ExecResult,
    HealthTest,
    ImageMissing,
    LogEntry,
    LogOptions,
    NoSuchContainer,
)
from skep.sim.shell import Process

TASK_LABEL = "com.docker.swarm.task.id"
SECOND = 1_000_000_000
SIGTERM, SIGKILL = 15, 9


@dataclass
class FakeContainer:
    """A container on the fake machine."""

    id: str
    config: ContainerConfig
    health: HealthTest | None
    state: ContainerState = ContainerState.CREATED
    pid: int = 0
    exit_code: int | None = None
    started_at: Nanoseconds = 0
    finished_at: Nanoseconds = 0
    log: list[LogEntry] = field(default_factory=list)
    process: Process | None = None
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def view(self) -> Container:
        return Container(
            id=self.id,
            name=self.config.name,
            labels=dict(self.config.labels),
            state=self.state,
            pid=self.pid if self.state is ContainerState.RUNNING else 0,
            exit_code=self.exit_code,
            started_at=self.started_at,
            finished_at=self.finished_at,
            health=self.health,
        )

    async def wait_log(self, position: int) -> Sequence[LogEntry]:
        """Wait for entries from `position` on; none means that it has ended."""
        async with self.changed:
            await self.changed.wait_for(lambda: len(self.log) > position or self.state is ContainerState.EXITED)
        return self.log[position:]


class FakeEngine:
    """One machine's containers and images.

    Attributes:
        is_reachable: Set to False and every request fails until it is True again.
        start_delay_s: How long a start takes.
        cpu_nano, memory_bytes: What the machine has.
        unhealthy: Names of containers whose exec'd commands exit with 1, whatever they are.
    """

    def __init__(self, images: Sequence[str] = ("contract",), *, now: Callable[[], Nanoseconds]) -> None:
        """Args: now: the machine's clock in nanoseconds."""
        self.now = now
        self.images: dict[str, HealthTest | None] = {image_candidates(image)[0]: None for image in images}
        self.containers: dict[str, FakeContainer] = {}
        self.is_reachable = True
        self.start_delay_s = 0.0
        self.cpu_nano = 2 * SECOND
        self.memory_bytes = 1 << 30
        self.unhealthy: set[str] = set()
        self._numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._listeners: dict[asyncio.Queue[str], None] = {}

    def number(self) -> int:
        return next(self._numbers)

    def new_container_id(self) -> str:
        return f"{self.number():064x}"

    def add_image(self, name: str, health: HealthTest | None = None) -> None:
        self.images[image_candidates(name)[0]] = health

    def by_name(self, name: str) -> FakeContainer:
        """Find a container by its name, to hurt or to look at."""
        return next(each for each in self.containers.values() if each.config.name == name)

    def launch(self, container: FakeContainer) -> None:
        """Let a container's program go; it runs on when its daemon dies."""
        config = container.config
        arguments = [*(config.command or ()), *(config.args or ("sh", "-c", "while :; do sleep 1; done"))]
        try:
            process = Process(arguments)
        except FileNotFoundError as error:
            raise ContainerRejected(f'exec: "{arguments[0]}": executable file not found in $PATH') from error
        container.process = process
        container.state, container.pid = ContainerState.RUNNING, 1000 + self.number()
        container.started_at = self.now()
        task = asyncio.create_task(self._live(container, process))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def kill(self, container: FakeContainer, number: int = SIGKILL) -> None:
        """Send a signal; returns at once, the end may come later or never."""
        if container.state is ContainerState.RUNNING and container.process is not None:
            container.process.signal(number)
        await asyncio.sleep(0)

    async def power_cut(self) -> None:
        """Everything that runs ends, unseen."""
        for container in self.containers.values():
            await self.kill(container)
        await self.close()

    async def close(self) -> None:
        """End every program, so that no task is left on the loop."""
        for container in self.containers.values():
            await self.kill(container)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def wait_end(self, container: FakeContainer) -> None:
        async with container.changed:
            await container.changed.wait_for(lambda: container.state is ContainerState.EXITED)

    async def exits(self) -> AsyncIterator[str]:
        """Ids as they end, each twice: the port allows it, so its users must bear it."""
        queue: asyncio.Queue[str] = asyncio.Queue()
        self._listeners[queue] = None
        try:
            while True:
                container_id = await queue.get()
                yield container_id
                yield container_id
        finally:
            self._listeners.pop(queue, None)

    async def _live(self, container: FakeContainer, process: Process) -> None:
        async for channel, line in process.run():
            async with container.changed:
                container.log.append(LogEntry(channel, self.now(), line))
                container.changed.notify_all()
        async with container.changed:
            container.state, container.exit_code = ContainerState.EXITED, process.exit_code
            container.finished_at = max(self.now(), container.started_at)
            container.changed.notify_all()
        for queue in self._listeners:
            queue.put_nowait(container.id)


class FakeRuntime:
    """One daemon's connection to a `FakeEngine`; implements `skep.ports.runtime.Runtime`."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine

    @property
    def passthrough(self) -> Path | None:
        return None

    async def start(self) -> None:
        await self._reach()

    async def close(self) -> None:
        pass

    async def facts(self) -> EngineFacts:
        await self._reach()
        return EngineFacts("fake", "1", "linux", "x86_64", self.engine.cpu_nano, self.engine.memory_bytes)

    async def ensure_image(self, image: str, *, registry_auth: str = "") -> str:
        await self._reach()
        return f"sha256:{self._image(image)}"

    async def create(self, config: ContainerConfig) -> str:
        await self._reach()
        for known in self.engine.containers.values():
            if known.config.name == config.name:
                return known.id
        name = self._image(config.image)
        check_bind_sources(config.mounts)
        signal_number(config.stop_signal or "SIGTERM")
        container_id = self.engine.new_container_id()
        self.engine.containers[container_id] = FakeContainer(container_id, config, self.engine.images[name])
        return container_id

    async def run(self, container_id: str) -> Container:
        await self._reach()
        container = self._need(container_id)
        if self.engine.start_delay_s:
            await asyncio.sleep(self.engine.start_delay_s)
        if container.state is ContainerState.CREATED:
            self.engine.launch(container)
        return container.view()

    async def inspect(self, container_id: str) -> Container:
        await self._reach()
        return self._need(container_id).view()

    async def list_containers(self) -> Sequence[Container]:
        await self._reach()
        return [each.view() for each in self.engine.containers.values() if TASK_LABEL in each.config.labels]

    async def stop(self, container_id: str, *, grace: Nanoseconds) -> None:
        await self._reach()
        container = self._need(container_id)
        if container.state is not ContainerState.RUNNING:
            return
        await self.engine.kill(container, signal_number(container.config.stop_signal or "SIGTERM"))
        try:
            async with asyncio.timeout(grace / SECOND):
                await self.engine.wait_end(container)
        except TimeoutError:
            await self.engine.kill(container)
            await self.engine.wait_end(container)

    async def remove(self, container_id: str) -> None:
        await self._reach()
        container = self.engine.containers.get(container_id)
        if container is None:
            return
        if container.state is ContainerState.RUNNING:
            await self.engine.kill(container)
            await self.engine.wait_end(container)
        self.engine.containers.pop(container_id, None)

    def exits(self) -> AsyncIterator[str]:
        return self.engine.exits()

    async def logs(self, container_id: str, options: LogOptions) -> AsyncIterator[LogEntry]:
        await self._reach()
        container = self._need(container_id)
        wanted = [entry for entry in container.log if _is_wanted(entry, options)]
        for entry in wanted[len(wanted) - min(options.tail, len(wanted)) :] if options.tail >= 0 else wanted:
            yield entry
        position = len(container.log)
        while options.follow:
            fresh = await container.wait_log(position)
            if not fresh:
                return
            position += len(fresh)
            for entry in fresh:
                if _is_wanted(entry, options):
                    yield entry

    async def exec(self, container_id: str, command: Sequence[str], *, timeout: Nanoseconds) -> ExecResult:
        await self._reach()
        container = self._need(container_id)
        if container.state is not ContainerState.RUNNING:
            raise NoSuchContainer(f"Container {container_id} is not running")
        if container.config.name in self.engine.unhealthy:
            return ExecResult(1, b"")
        try:
            process = Process(command)
        except FileNotFoundError:
            return ExecResult(255, f'exec: "{command[0]}": executable file not found in $PATH\n'.encode())
        async with asyncio.timeout(timeout / SECOND if timeout else None):
            output = [line async for _, line in process.run()]
        return ExecResult(process.exit_code, b"".join(output))

    async def _reach(self) -> None:
        await asyncio.sleep(0)  # A request never answers within the same step of the loop.
        if not self.engine.is_reachable:
            raise EngineUnreachable("the engine does not answer")

    def _need(self, container_id: str) -> FakeContainer:
        if container_id not in self.engine.containers:
            raise NoSuchContainer(f"No such container: {container_id}")
        return self.engine.containers[container_id]

    def _image(self, image: str) -> str:
        for name in image_candidates(image):
            if name in self.engine.images:
                return name
        raise ImageMissing(f"No such image: {image}")


def _is_wanted(entry: LogEntry, options: LogOptions) -> bool:
    return (options.stdout if entry.channel == 1 else options.stderr) and entry.timestamp >= options.since
