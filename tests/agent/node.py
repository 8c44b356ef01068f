"""A node for agent tests: an agent on fakes, with the world around it that survives the agent's death."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from pathlib import Path

from skep.agent.agent import Agent, Ports
from skep.agent.description import NodeFacts
from skep.core.mesh.intent import NodeIntent
from skep.core.names import ZoneItem
from skep.edge.task_files import MemoryFiles, file_system_of
from skep.model.assignment import AssignedTask, ClusterFacts, Delta, Item, OverlayNetwork
from skep.model.lifecycle import TaskState
from skep.model.network import Attachment, IPAMConfig
from skep.model.service import ContainerSpec, TaskSpec
from skep.model.task import Task, TaskStatus
from skep.ports.dataplane import DataPlaneFailure, Drift, SandboxConfig
from skep.ports.resolver import Asker, NameServiceFailure
from skep.ports.runtime import (
    Container,
    ContainerConfig,
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

EPOCH = "epoch-1"


class QuickClock:
    """Real waiting, a hundred times quicker than asked: tests wait for conditions, not for the length."""

    def __init__(self, speed: int = 100) -> None:
        self._speed = speed

    def now(self) -> int:
        return int(asyncio.get_running_loop().time() * 1e9) * self._speed

    async def sleep(self, length: int) -> None:
        await asyncio.sleep(length / 1e9 / self._speed)


class Failpoint:
    """Stops the world at the n-th place where a daemon can be killed: before and after every effect."""

    def __init__(self) -> None:
        self.left = -1
        self.is_hit = False

    async def here(self) -> None:
        await asyncio.sleep(0)
        self.left -= 1
        if self.left == 0:
            self.is_hit = True
        if self.is_hit:
            await asyncio.Event().wait()


class Engine:
    """A container engine in memory. `down` makes every call fail."""

    def __init__(self, failpoint: Failpoint) -> None:
        self._failpoint = failpoint
        self.images = {"web"}
        self.pulls: list[tuple[str, str]] = []
        self.containers: dict[str, Container] = {}
        self.configs: dict[str, ContainerConfig] = {}
        self.starts: list[str] = []
        self.stops: list[tuple[str, int]] = []
        self.down = False
        self.loses_an_answer = False
        self.stop_exit_code = 143
        self.health: HealthTest | None = None
        self.probe_exit_code = 0
        self.run_failure: Exception | None = None
        self.create_delay = 0.0
        self.log: list[LogEntry] = []
        self._ended: asyncio.Queue[str] = asyncio.Queue()
        self._count = 0

    def _check(self) -> None:
        if self.down:
            raise EngineUnreachable("the engine's socket does not answer: is it running?")

    async def start(self) -> None:
        self._check()

    async def close(self) -> None: ...

    async def facts(self) -> EngineFacts:
        self._check()
        return EngineFacts(
            name="fake", version="1.0", os="linux", architecture="x86_64", cpu_nano=2_000_000_000, memory_bytes=1 << 30
        )

    async def ensure_image(self, image: str, *, registry_auth: str = "") -> str:
        self._check()
        self.pulls.append((image, registry_auth))
        if image not in self.images:
            raise ImageMissing(f"No such image: {image}")
        return f"sha256:{image}"

    async def create(self, config: ContainerConfig) -> str:
        await self._failpoint.here()
        self._check()
        for container in self.containers.values():
            if container.name == config.name:
                return container.id
        self._count += 1
        container_id = f"{self._count:064x}"[::-1]
        self.containers[container_id] = Container(
            id=container_id, name=config.name, labels=config.labels, state=ContainerState.CREATED, health=self.health
        )
        self.configs[container_id] = config
        await asyncio.sleep(self.create_delay)
        await self._failpoint.here()
        return container_id

    async def run(self, container_id: str) -> Container:
        await self._failpoint.here()
        self._check()
        if self.run_failure is not None:
            raise self.run_failure
        self.starts.append(container_id)
        self._change(container_id, state=ContainerState.RUNNING, pid=4242)
        if self.loses_an_answer:
            self.loses_an_answer = False
            raise EngineUnreachable("the engine's socket was closed")
        await self._failpoint.here()
        return self.containers[container_id]

    async def inspect(self, container_id: str) -> Container:
        self._check()
        if container_id not in self.containers:
            raise NoSuchContainer(f"No such container: {container_id}")
        return self.containers[container_id]

    async def list_containers(self) -> Sequence[Container]:
        self._check()
        return list(self.containers.values())

    async def stop(self, container_id: str, *, grace: int) -> None:
        await self._failpoint.here()
        self._check()
        self.stops.append((container_id, grace))
        if self.containers[container_id].state is ContainerState.RUNNING:
            self.end(container_id, self.stop_exit_code)
        await self._failpoint.here()

    async def remove(self, container_id: str) -> None:
        await self._failpoint.here()
        self._check()
        self.containers.pop(container_id, None)
        await self._failpoint.here()

    async def exits(self) -> AsyncIterator[str]:
        self._check()
        while True:
            yield await self._ended.get()

    async def logs(self, container_id: str, options: LogOptions) -> AsyncIterator[LogEntry]:
        self._check()
        for entry in self.log:
            yield entry

    async def exec(self, container_id: str, command: Sequence[str], *, timeout: int) -> ExecResult:
        self._check()
        return ExecResult(exit_code=self.probe_exit_code, output=b"")

    @property
    def passthrough(self) -> Path | None:
        return None

    def _change(self, container_id: str, **fields: object) -> None:
        old = self.containers[container_id]
        kept = {name: getattr(old, name) for name in Container.__dataclass_fields__}
        self.containers[container_id] = Container(**{**kept, **fields})  # type: ignore[arg-type]  # a test's shortcut

    def end(self, container_id: str, exit_code: int, **fields: object) -> None:
        """The container's process ends by itself."""
        self._change(container_id, state=ContainerState.EXITED, exit_code=exit_code, pid=0, **fields)
        self._ended.put_nowait(container_id)

    def a_container(self, id: str, labels: Mapping[str, str]) -> Container:
        """One that someone else made."""
        return Container(id=id, name=id, labels=labels, state=ContainerState.RUNNING, pid=1)

    def only(self) -> Container:
        [container] = self.containers.values()
        return container


class Plane:
    """A data plane in memory."""

    def __init__(self, failpoint: Failpoint) -> None:
        self._failpoint = failpoint
        self.prepared: dict[str, SandboxConfig] = {}
        self.programmed: list[NodeIntent] = []
        self.failure: DataPlaneFailure | None = None
        self.is_cleared = False

    async def start(self) -> None: ...
    async def close(self) -> None: ...

    async def program(self, intent: NodeIntent) -> None:
        await self._failpoint.here()
        if self.failure is not None:
            raise self.failure
        await asyncio.sleep(0)
        self.programmed.append(intent)
        await self._failpoint.here()

    async def prepare(self, config: SandboxConfig) -> Path:
        await self._failpoint.here()
        for interface in config.interfaces:
            if interface.network_id and f"network/{interface.network_id}" not in self.programmed[-1].networks:
                raise DataPlaneFailure(f"network {interface.network_id} is not programmed")
        self.prepared[config.task_id] = config
        await self._failpoint.here()
        return Path("/run/netns") / config.task_id

    async def release(self, task_id: str) -> None:
        await self._failpoint.here()
        self.prepared.pop(task_id, None)
        await self._failpoint.here()

    async def sandboxes(self) -> Sequence[str]:
        return list(self.prepared)

    async def audit(self) -> Sequence[Drift]:
        return []

    async def repair(self) -> Sequence[Drift]:
        return []

    async def clear(self) -> None:
        self.is_cleared = True
        self.prepared.clear()


class Names:
    def __init__(self) -> None:
        self.zone: dict[str, ZoneItem] = {}
        self.askers: dict[str, Asker] = {}
        self.known_at_open: dict[str, set[str]] = {}
        self.failure: NameServiceFailure | None = None

    def change(self, put: Mapping[str, ZoneItem], remove: Collection[str]) -> None:
        self.zone.update(put)
        for key in remove:
            self.zone.pop(key, None)

    async def open(self, asker: Asker) -> None:
        if self.failure is not None:
            raise self.failure
        self.askers[asker.task_id] = asker
        self.known_at_open.setdefault(asker.task_id, set(self.zone))

    async def close(self, task_id: str) -> None:
        self.askers.pop(task_id, None)


class Ears:
    """A probe whose answers are set by the test."""

    def __init__(self) -> None:
        self.ports: frozenset[int] = frozenset()
        self.of_node: frozenset[int] = frozenset()

    def listening(self, pid: int) -> frozenset[int]:
        return self.ports

    def taken(self) -> frozenset[int]:
        return self.of_node


class NodeUnderTest:
    """A machine: what is on it outlives the agent, which can be killed and started again."""

    def __init__(self, state_dir: Path, *, speed: int = 100) -> None:
        self.speed = speed
        self.state_dir = state_dir
        self.failpoint = Failpoint()
        self.engine = Engine(self.failpoint)
        self.plane = Plane(self.failpoint)
        state_dir.mkdir(parents=True, exist_ok=True)
        self.files = MemoryFiles(state_dir / "memory", {file_system_of(state_dir)})
        self.boot_id = "boot-1"
        self.reports: dict[str, list[TaskStatus]] = {}
        self.version = 0
        self.begin()

    def begin(self) -> None:
        """A new daemon."""
        self.names, self.ears = Names(), Ears()
        facts = NodeFacts(node_id="node1", hostname="alpha", underlay="192.0.2.1", boot_id=self.boot_id)
        ports = Ports(self.engine, self.plane, self.names, self.ears, QuickClock(self.speed), files=self.files)
        self.agent = Agent(facts, ports, self.state_dir)
        self.agent.load()
        self._tasks: list[asyncio.Task[None]] = []

    def run(self) -> None:
        self._tasks = [asyncio.create_task(self.agent.run()), asyncio.create_task(self._collect())]

    async def _collect(self) -> None:
        """As a manager that stores every report."""
        while True:
            reports = await self.agent.next_reports()
            for report in reports:
                self.reports.setdefault(report.task_id, []).append(report.status)
            await self.agent.reported(reports)

    async def kill(self) -> None:
        """As kill -9: everything stops where it is."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.failpoint.left, self.failpoint.is_hit = -1, False

    async def restart(self) -> None:
        await self.kill()
        self.begin()
        self.run()

    async def give(self, *items: Item, remove: Sequence[str] = (), is_full: bool = False) -> None:
        """The manager sends a delta."""
        base = 0 if is_full else self.agent._assignments.version
        self.version = max(self.version, base) + 1
        await self.agent.assign(EPOCH, Delta(base=base, version=self.version, put=list(items), remove=list(remove)))

    def states(self, task_id: str = "t1") -> list[TaskState]:
        return [status.state for status in self.reports.get(task_id, [])]

    def last(self, task_id: str = "t1") -> TaskStatus:
        return self.reports.get(task_id, [TaskStatus()])[-1]

    async def reach(self, state: TaskState, task_id: str = "t1") -> TaskStatus:
        await until(lambda: state in self.states(task_id), lambda: f"{task_id} reached only {self.states(task_id)}")
        return next(status for status in self.reports[task_id] if status.state is state)


async def until(condition: Callable[[], bool], what: Callable[[], str] = lambda: "", limit_s: float = 20) -> None:
    """Wait for a condition, failing with a sentence when it does not come."""
    deadline = asyncio.get_running_loop().time() + limit_s
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, what() or "the condition did not come true"
        await asyncio.sleep(0.002)


@contextlib.asynccontextmanager
async def a_running_node(state_dir: Path, *, speed: int = 100) -> AsyncIterator[NodeUnderTest]:
    node = NodeUnderTest(state_dir, speed=speed)
    node.run()
    try:
        yield node
    finally:
        await node.kill()


def a_container_spec(**fields: object) -> ContainerSpec:
    return ContainerSpec(**{"image": "web", **fields})  # type: ignore[arg-type]  # a test's shortcut


def assigned(
    id: str = "t1",
    *,
    desired: TaskState = TaskState.RUNNING,
    spec: ContainerSpec | None = None,
    drained: bool = False,
    addresses: Mapping[str, str] | None = None,
    **fields: object,
) -> AssignedTask:
    task = Task(
        id=id,
        spec=TaskSpec(container_spec=spec or a_container_spec()),
        service_id="s1",
        service_name="web",
        slot=1,
        node_id="node1",
        desired_state=desired,
        attachments=[Attachment(network_id=net, address=address) for net, address in (addresses or {}).items()],
        **fields,  # type: ignore[arg-type]  # a test's shortcut
    )
    return AssignedTask(task=task, drained=drained)


def an_overlay(id: str = "net1", *, internal: bool = False) -> OverlayNetwork:
    subnets = [IPAMConfig(subnet="10.0.1.0/24", gateway="10.0.1.1")]
    return OverlayNetwork(network_id=id, name=id, vni=4097, subnets=subnets, internal=internal)


def the_cluster() -> ClusterFacts:
    return ClusterFacts(cluster_id="c1", ingress_network_id="ingress")
