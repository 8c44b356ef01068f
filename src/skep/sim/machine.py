"""One machine of the simulated swarm: its engine, its kernel, its disk, and the daemon that comes and goes.

Edge: asyncio on the simulated loop. The agent and its session are the real ones; everything they touch is here and
outlives them as the real thing would: containers and rules survive a killed daemon, disks survive a power cut.
Long, because what a machine does to its daemon is one story: start, kill, freeze, power cut.
"""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from skep.agent.agent import Agent, NodeMemory, Ports
from skep.agent.description import NodeFacts
from skep.agent.identity import NodeIdentity
from skep.agent.session import AgentSession, SessionPorts
from skep.core.identity import tls_facts
from skep.core.mesh.intent import NodeIntent
from skep.core.names import ZoneItem
from skep.model.assignment import ItemKey
from skep.model.base import Nanoseconds
from skep.model.identity import Credentials, Identity
from skep.model.node import Role
from skep.model.session import CertificateHeld, ManagerAddress, TaskReport
from skep.ports.dataplane import DataPlaneFailure, Drift, SandboxConfig
from skep.ports.resolver import Asker
from skep.ports.runtime import Container, ContainerConfig, ContainerState, EngineUnreachable
from skep.sim.clock import SimClock, SimDice
from skep.sim.disk import DiskAssignments, DiskRecords, NodeDisk
from skep.sim.engine import TASK_LABEL, FakeContainer, FakeEngine, FakeRuntime
from skep.sim.loop import Process, SimLoop
from skep.sim.network import Network, SimControlPort

MILLISECOND = 1_000_000
LISTEN = "LISTEN"
LISTEN_AFTER = "LISTEN_AFTER"
FOREVER: Nanoseconds = 1 << 60
MANAGER_ADDRESS = ManagerAddress(node_id="", addr="manager:2377")
ROOT_PEM = """-----BEGIN CERTIFICATE-----
MIIBCTCBsaADAgECAgEBMAoGCCqGSM49BAMCMA4xDDAKBgNVBAMMA3NpbTAgFw0y
MDAxMDEwMDAwMDBaGA8yMTIwMDEwMTAwMDAwMFowDjEMMAoGA1UEAwwDc2ltMFkw
EwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAENJDw0TGL5BuJgK1kJWV1XbqKe0uNgE6W
FEWdOOWHab7+llGaIF18AiEFU6wAa4JxPrXCJEWpWheTMQgScJIPQjAKBggqhkjO
PQQDAgNHADBEAiBT/n4DfM4W+jqDlDXvE+jMUdV2aW7fcd7cesTIlyLOMQIgHb8K
vRZr6dsH5RXfIfRlAMoYBilIOV0XSk2Z32GbMXc=
-----END CERTIFICATE-----
"""
"""A root that nothing is signed by: trust is not what is simulated."""


class Witness(Protocol):
    """Who is told what happens in the world."""

    def launched(self, machine: "Machine", container: FakeContainer) -> None: ...
    def stopping(self, machine: "Machine", container: FakeContainer) -> None: ...
    def prepared(self, machine: "Machine", config: SandboxConfig) -> None: ...
    def acknowledged(self, machine: "Machine", reports: Sequence[TaskReport]) -> None: ...
    def left(self, machine: "Machine") -> None: ...
    def failed(self, what: str) -> None: ...


@dataclass
class Temper:
    """How well a machine does at present.

    Attributes:
        engine_delay, plane_delay: How long one request takes, at least and at most.
        lost_answers: How often the engine does what it is asked and the answer is lost.
        plane_failure: Why the kernel refuses; empty while it does not.
    """

    engine_delay: tuple[Nanoseconds, Nanoseconds] = (MILLISECOND, 8 * MILLISECOND)
    plane_delay: tuple[Nanoseconds, Nanoseconds] = (MILLISECOND, 20 * MILLISECOND)
    lost_answers: float = 0.0
    plane_failure: str = ""


@dataclass
class Kernel:
    """What is programmed and survives the daemon."""

    applied: NodeIntent | None = None
    sandboxes: dict[str, SandboxConfig] = field(default_factory=dict)


class SimEngine(FakeEngine):
    """An engine whose containers belong to the machine, not to the daemon that asked for them."""

    def __init__(self, machine: "Machine", images: Sequence[str]) -> None:
        super().__init__(images, now=machine.clock.now)
        self.by_pid: dict[int, FakeContainer] = {}
        self.troubled_at: Nanoseconds = -FOREVER
        self._machine = machine

    def new_container_id(self) -> str:
        return hashlib.sha256(f"{self._machine.node_id}/{self.number()}".encode()).hexdigest()

    def launch(self, container: FakeContainer) -> None:
        self._machine.power.enter(lambda: super(SimEngine, self).launch(container))
        self.by_pid[container.pid] = container
        self._machine.witness.launched(self._machine, container)

    def lose_power(self) -> None:
        """What ran is afterwards shown as if it had never been started, as podman does."""
        for container in self.containers.values():
            if container.state is ContainerState.RUNNING:
                container.state, container.pid, container.process = ContainerState.CREATED, 0, None
        self.break_streams()

    def break_streams(self) -> None:
        """End everyone's stream of exits."""
        for queue in self._listeners:
            queue.put_nowait("")

    def running(self) -> list[FakeContainer]:
        return [each for each in self.containers.values() if each.state is ContainerState.RUNNING]


class SimRuntime(FakeRuntime):
    """One daemon's connection to a `SimEngine`."""

    def __init__(self, machine: "Machine", process: Process) -> None:
        super().__init__(machine.engine)
        self._machine = machine
        self._process = process

    async def create(self, config: ContainerConfig) -> str:
        container_id = await super().create(config)
        self._maybe_lose_answer()
        return container_id

    async def run(self, container_id: str) -> Container:
        container = await super().run(container_id)
        await self._machine.pause(self._machine.temper.engine_delay)
        self._maybe_lose_answer()
        return container

    async def stop(self, container_id: str, *, grace: Nanoseconds) -> None:
        await self._reach()
        container = self.engine.containers.get(container_id)
        if container is not None and container.state is ContainerState.RUNNING:
            self._machine.witness.stopping(self._machine, container)
        await super().stop(container_id, grace=grace)
        self._maybe_lose_answer()

    async def exits(self) -> AsyncIterator[str]:
        await self._reach()
        async for container_id in self.engine.exits():
            if not container_id:
                raise EngineUnreachable("the engine closed its stream of events")
            yield container_id

    async def _reach(self) -> None:
        await self._machine.pause(self._machine.temper.engine_delay)
        self._process.check()
        if not self.engine.is_reachable:
            self._machine.note_trouble()
            raise EngineUnreachable("the engine does not answer")

    def _maybe_lose_answer(self) -> None:
        self._process.check()
        if self._machine.dice.random() < self._machine.temper.lost_answers:
            self._machine.note_trouble()
            raise EngineUnreachable("the engine closed the connection before it answered")


class SimPlane:
    """One daemon's hold of a `Kernel`. Implements `ports.dataplane.DataPlane`."""

    def __init__(self, machine: "Machine", process: Process) -> None:
        self._machine = machine
        self._process = process

    async def start(self) -> None:
        await self._reach()

    async def close(self) -> None:
        await asyncio.sleep(0)

    async def program(self, intent: NodeIntent) -> None:
        await self._reach()
        self._machine.kernel.applied = intent
        await self._reach()

    async def prepare(self, config: SandboxConfig) -> Path:
        await self._reach()
        applied = self._machine.kernel.applied
        for interface in config.interfaces:
            if applied is None or f"network/{interface.network_id}" not in applied.networks:
                raise DataPlaneFailure(f"network {interface.network_id} is not programmed on this node")
        self._machine.kernel.sandboxes[config.task_id] = config
        self._machine.witness.prepared(self._machine, config)
        return Path("/run/netns") / config.task_id

    async def release(self, task_id: str) -> None:
        await self._reach()
        self._machine.kernel.sandboxes.pop(task_id, None)

    async def sandboxes(self) -> Sequence[str]:
        await self._reach()
        return list(self._machine.kernel.sandboxes)

    async def audit(self) -> Sequence[Drift]:
        await self._reach()
        return []

    async def repair(self) -> Sequence[Drift]:
        await self._reach()
        return []

    async def clear(self) -> None:
        await self._reach()
        self._machine.kernel.applied = None
        self._machine.kernel.sandboxes.clear()

    async def _reach(self) -> None:
        await self._machine.pause(self._machine.temper.plane_delay)
        self._process.check()
        if self._machine.temper.plane_failure:
            raise DataPlaneFailure(self._machine.temper.plane_failure)


class SimNames:
    """A daemon's name server. Implements `ports.resolver.NameServer`."""

    def __init__(self) -> None:
        self.zone: dict[ItemKey, ZoneItem] = {}
        self.askers: dict[str, Asker] = {}

    def change(self, put: Mapping[ItemKey, ZoneItem], remove: Collection[ItemKey]) -> None:
        for key in remove:
            self.zone.pop(key, None)
        self.zone.update(put)

    async def open(self, asker: Asker) -> None:
        self.askers[asker.task_id] = asker

    async def close(self, task_id: str) -> None:
        self.askers.pop(task_id, None)


class SimProbe:
    """Programs listen on the ports their environment names, some time after they start. Implements `ports.probe`."""

    def __init__(self, machine: "Machine") -> None:
        self._machine = machine

    def listening(self, pid: int) -> frozenset[int]:
        container = self._machine.engine.by_pid.get(pid)
        if container is None or container.state is not ContainerState.RUNNING:
            return frozenset()
        told = dict(line.split("=", 1) for line in container.config.env)
        ready_at = container.started_at + int(float(told.get(LISTEN_AFTER, "0")) * 1e9)
        if self._machine.clock.now() < ready_at:
            return frozenset()
        return frozenset(int(port) for port in told.get(LISTEN, "").split(",") if port)

    def taken(self) -> frozenset[int]:
        return frozenset()


class SimIdentity(NodeIdentity):
    """Who a node is, without certificates."""

    def __init__(self, node_id: str, cluster_id: str, role: Role) -> None:
        self._simulated = Identity(node_id=node_id, role=role, cluster_id=cluster_id, expires_at=1 << 62)

    @property
    def credentials(self) -> Credentials:
        return Credentials(certificate="", key="", root=ROOT_PEM)

    @property
    def identity(self) -> Identity:
        return self._simulated

    @property
    def held(self) -> CertificateHeld:
        return CertificateHeld(serial="", trust=tls_facts(ROOT_PEM))

    @property
    def renew_at(self) -> Nanoseconds:
        return 1 << 62


class _WatchedAgent(Agent):
    """An agent whose acknowledged reports are told to the checkers."""

    def __init__(self, machine: "Machine", facts: NodeFacts, ports: Ports, memory: NodeMemory) -> None:
        super().__init__(facts, ports, memory)
        self._machine = machine

    async def reported(self, reports: Sequence[TaskReport]) -> None:
        self._machine.witness.acknowledged(self._machine, reports)
        await super().reported(reports)


@dataclass(frozen=True, slots=True)
class Site:
    """Where a machine stands. Attributes: cluster_id: its swarm's; role: what its certificate says."""

    loop: SimLoop
    network: Network
    witness: Witness
    dice: random.Random
    cluster_id: str
    images: Sequence[str]
    role: Role = Role.WORKER


class Machine:
    """A machine and its node. Attributes: daemon: None while it does not run; power: what containers belong to."""

    def __init__(self, site: Site, node_id: str, hostname: str, underlay: str) -> None:
        self.node_id = node_id
        self.hostname = hostname
        self.underlay = underlay
        self.dice = site.dice
        self.witness = site.witness
        self.temper = Temper()
        self.kernel = Kernel()
        self.disk = NodeDisk(site.dice)
        self.boots = 1
        self.has_left = False
        self.daemon: Process | None = None
        self.agent: Agent | None = None
        self.names = SimNames()
        self.session: AgentSession | None = None
        self.labels: dict[str, str] = {}
        self._site = site
        self._loop = site.loop
        self._started_at: Nanoseconds = 0
        offset, ppm = site.dice.randint(-(10**12), 10**12), site.dice.randint(-200, 200)
        self.clock = SimClock(site.loop, offset=offset, ppm=ppm)
        self.power = Process(site.loop, f"machine {hostname}")
        self.engine = SimEngine(self, site.images)
        self.engine.cpu_nano, self.engine.memory_bytes = 4 * 10**9, 8 << 30

    def note_trouble(self) -> None:
        """The engine did not do what it was asked."""
        self.engine.troubled_at = self._loop.now

    def pause(self, span: tuple[Nanoseconds, Nanoseconds]) -> Coroutine[Any, Any, None]:
        """Let a request take its time."""
        return self._loop.sleep(self.dice.randint(*span))

    # --- the daemon ----------------------------------------------------------------

    def start(self) -> None:
        """Start the daemon: it takes over what is there."""
        process = Process(self._loop, f"agent {self.hostname}.{self.boots}")
        self._started_at = self._loop.now
        self.daemon = process
        self.names = SimNames()
        ports = Ports(SimRuntime(self, process), SimPlane(self, process), self.names, SimProbe(self), self.clock)
        facts = NodeFacts(
            node_id=self.node_id,
            hostname=self.hostname,
            underlay=self.underlay,
            boot_id=f"{self.hostname}-{self.boots}",
            engine_labels=self.labels or None,
        )
        memory = NodeMemory(
            DiskAssignments(self.disk, process, self.node_id), DiskRecords(self.disk, process, self.node_id)
        )
        agent = _WatchedAgent(self, facts, ports, memory)
        agent.load()
        self.session = AgentSession(
            SimIdentity(self.node_id, self._site.cluster_id, self._site.role),
            [MANAGER_ADDRESS],
            agent,
            SessionPorts(
                SimControlPort(self._loop, self._site.network, process, self.node_id), self.clock, SimDice(self.dice)
            ),
        )
        self.agent = agent
        self._keep(process.spawn(agent.run(), "agent"), process)
        self._keep(process.spawn(self._stay_connected(self.session), "session"), process)

    async def _stay_connected(self, session: AgentSession) -> None:
        await session.run()
        self.has_left = True
        self.witness.left(self)
        if self.daemon is not None:
            self.daemon.kill()
        self.daemon = self.agent = self.session = None

    def _keep(self, task: "asyncio.Task[None]", process: Process) -> None:
        def ended(task: "asyncio.Task[None]") -> None:
            if not task.cancelled() and task.exception() is not None:
                self.witness.failed(f"{process.name}: {task.get_name()} failed: {task.exception()!r}")

        task.add_done_callback(ended)

    @property
    def is_up(self) -> bool:
        """Whether its daemon runs."""
        return self.daemon is not None

    @property
    def link_name(self) -> str:
        return self.node_id

    def is_fit(self, since: Nanoseconds) -> bool:
        """Whether its daemon was at work for so long, with an engine that does what it is told."""
        daemon, now = self.daemon, self._loop.now
        if daemon is None or daemon in self._loop.frozen or not self.engine.is_reachable:
            return False
        return max(self._started_at, daemon.thawed_at, self.engine.troubled_at) + since <= now

    def kill_daemon(self) -> None:
        """SIGKILL: the machine closes its connections."""
        if self.daemon is not None:
            self.daemon.kill()
            self.daemon = self.agent = self.session = None
            for channel in self._site.network.link(self.node_id).dialled():
                channel.hang_up()

    def power_cut(self) -> None:
        """Everything stops; disks keep what they were given in time."""
        if self.daemon is not None:
            self.daemon.kill()
        self.daemon = self.agent = self.session = None
        self._site.network.link(self.node_id).drop_node()
        self.power.kill()
        self.engine.lose_power()
        self.kernel.applied = None
        self.kernel.sandboxes.clear()
        self.disk.power_cut()

    def boot(self) -> None:
        """The power is back."""
        self.boots += 1
        self.power = Process(self._loop, f"machine {self.hostname}.{self.boots}")
        self.start()

    def task_of(self, container: FakeContainer) -> str:
        return container.config.labels.get(TASK_LABEL, "")
