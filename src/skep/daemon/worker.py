"""A node's own parts, put together: engine, kernel, name service, agent and its session.

Edge: picks adapters. Every member of a swarm has them, managers too.
"""

from collections.abc import Callable, Sequence
from functools import partial

from skep.agent.agent import Agent, Ports
from skep.agent.attachments import Attachments
from skep.agent.description import NodeFacts
from skep.agent.identity import NodeIdentity
from skep.agent.session import AgentSession, SessionPorts
from skep.daemon import known_managers
from skep.daemon.config import DaemonConfig
from skep.daemon.manager import Means
from skep.daemon.membership import Membership
from skep.daemon.stores import ETCD_PROGRAM
from skep.daemon.supervise import Supervisor
from skep.edge import machine
from skep.edge.control_client import HttpControlPort
from skep.edge.dataplane import LinuxDataPlane
from skep.edge.dns import NameService
from skep.edge.dns_forward import Forwarder, NodeResolvers
from skep.edge.docker.runtime import DockerRuntime
from skep.edge.instance import boot_id
from skep.edge.podman.runtime import PodmanRuntime
from skep.edge.probe import ProcProbe
from skep.edge.process.runtime import ProcessRuntime
from skep.edge.registries import Registries
from skep.edge.task_files import MemoryFiles
from skep.edge.unix_stream import connect_unix
from skep.model.node import ETCD_CAPABILITY
from skep.model.session import ManagerAddress
from skep.ports.runtime import Runtime


def make_runtime(config: DaemonConfig, registries: Registries) -> Runtime:
    """The engine the daemon was told to use."""
    root, run_dir = config.data_dir / "engine", config.run_dir / "engine"
    if config.engine == "process":
        return ProcessRuntime(root=root, run_dir=run_dir, cgroup_parent=config.cgroup_parent)
    engine = DockerRuntime if config.engine == "docker" else PodmanRuntime
    return engine(
        root=root,
        run_dir=run_dir,
        cgroup_parent=config.cgroup_parent,
        image_stores=config.image_stores,
        registries=registries,
    )


def _nothing() -> None:
    """Nobody waits for the removal yet."""


class WorkerParts:
    """A running node of a swarm."""

    def __init__(self, membership: Membership, identity: NodeIdentity, runtime: Runtime, means: Means) -> None:
        self._membership = membership
        self._identity = identity
        self._runtime = runtime
        self._means = means
        self._supervisor = Supervisor()
        self._in_touch = Supervisor()
        self._plane: LinuxDataPlane | None = None
        self._names: NameService | None = None
        self._agent: Agent | None = None
        self._session: AgentSession | None = None
        self._on_removed: Callable[[], None] = _nothing

    async def start(self, config: DaemonConfig, hostname: str, on_removed: Callable[[], None]) -> None:
        """Take over what an earlier daemon left, then stay in touch with the swarm.

        Args:
            on_removed: Called once the swarm has removed this node and everything of it is cleaned up.
        Raises:
            DataPlaneFailure: The kernel lacks something; the text names it.
        """
        member = self._membership
        plane = LinuxDataPlane(
            self_node_id=member.node_id, run_dir=config.run_dir / "net", underlay_address=member.underlay
        )
        await plane.start()
        self._plane = plane
        self._names = NameService(plane.open_dns_sockets, Forwarder(NodeResolvers()))
        facts = NodeFacts(
            node_id=member.node_id,
            hostname=hostname,
            underlay=member.underlay,
            boot_id=boot_id(),
            architecture=machine.architecture(),
            capabilities=(ETCD_CAPABILITY,) if config.external_etcd or ETCD_PROGRAM.is_file() else (),
        )
        files = MemoryFiles(config.run_dir / "files")
        ports = Ports(
            self._runtime, plane, self._names, ProcProbe(), self._means.clock, files=files, connect=connect_unix
        )
        agent = Agent(facts, ports, config.swarm_dir / "agent")
        agent.load()
        agent.managers = known_managers.load(config.swarm_dir)
        agent.on_managers = partial(known_managers.save, config.swarm_dir)
        self._agent = agent
        self._on_removed = on_removed
        self._supervisor.keep("agent", agent.run)
        self._connect(agent, [*agent.managers, *member.managers])

    def _connect(self, agent: Agent, managers: Sequence[ManagerAddress]) -> None:
        session = AgentSession(
            self._identity,
            managers,
            agent,
            SessionPorts(HttpControlPort(), self._means.clock, self._means.dice),
        )

        async def stay_connected() -> None:
            await session.run()
            self._on_removed()

        self._session = session
        self._in_touch.keep("session", stay_connected)

    async def turn_to(self, managers: Sequence[ManagerAddress]) -> None:
        """Look for managers there from now on, and nowhere else; what runs is not touched."""
        if self._agent is not None:
            await self._in_touch.close()
            await self._agent.managers_changed(managers)
            self._connect(self._agent, managers)

    async def wait_connected(self) -> None:
        """Wait until a manager has welcomed this node."""
        if self._session is not None:
            await self._session.wait_connected()

    @property
    def managers(self) -> Sequence[ManagerAddress]:
        """Where managers are, as the one in session said last; empty before the first."""
        return self._agent.managers if self._agent is not None else ()

    @property
    def attachments(self) -> Attachments | None:
        """Plain containers on the swarm's networks; None before the start."""
        return self._agent.attachments if self._agent is not None else None

    @property
    def is_connected(self) -> bool:
        return self._session is not None and self._session.is_connected

    @property
    def trouble(self) -> str:
        """Why this node cannot come back to its swarm by itself; empty if nothing is in the way."""
        return self._session.trouble if self._session is not None else ""

    async def vacate(self, reason: str) -> None:
        """Stop every task with its grace and remove everything the swarm put on this node; its word counts no more."""
        await self._in_touch.close()
        if self._agent is not None:
            await self._agent.removed(reason)

    async def close(self) -> None:
        """Let go; no container and no rule is touched."""
        await self._in_touch.close()
        await self._supervisor.close()
        if self._names is not None:
            await self._names.shut_down()
        if self._plane is not None:
            await self._plane.close()
