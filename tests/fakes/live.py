"""A node whose swarm is real (store, state, decisions, control operations) and whose machines are not.

Tasks are accepted and run the moment they are assigned. For tests of what speaks to a swarm.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from tests.fakes.swarm import ALREADY, NO_SWARM, WORKER

from skep.api.backend import InitRequest, JoinRequest, LocalState, RestoreRequest
from skep.edge.clock import SystemClock, SystemDice
from skep.edge.memory import MemoryStore
from skep.manager.ca import CertificateAuthority
from skep.manager.control.cluster import Founding, first_objects
from skep.manager.control.control import Surroundings, SwarmControl
from skep.manager.leader import Leader
from skep.manager.replica import Replica
from skep.manager.seal import DataKey, Seal
from skep.model.cluster import JoinTokens
from skep.model.errors import Conflict, InvalidSpec, NotManager
from skep.model.identity import Identity, Newcomer, new_token
from skep.model.lifecycle import TaskState, is_terminal
from skep.model.node import Availability, EngineDescription, NodeDescription, Role
from skep.model.service import Platform, Resources
from skep.model.session import Hello, ManagerAddress, TaskReport
from skep.model.task import ContainerStatus, Task, TaskStatus
from skep.ports.logs import TaskLogEntry
from skep.ports.runtime import EngineFacts, LogEntry, LogOptions

BEAT_S = 0.2


class Agent:
    """Beats, and reports each task of its node as what the swarm wants of it."""

    def __init__(self, leader: Leader, replica: Replica, node_id: str) -> None:
        self._leader = leader
        self._replica = replica
        self._node_id = node_id
        self._runs = [asyncio.create_task(work) for work in (self._beat(), self._run())]

    async def stop(self) -> None:
        for run in self._runs:
            run.cancel()
        await asyncio.gather(*self._runs, return_exceptions=True)

    async def _beat(self) -> None:
        while True:
            self._leader.beat(self._node_id)
            await asyncio.sleep(BEAT_S)

    async def _run(self) -> None:
        watch = self._replica.watch()
        while True:
            tasks = self._replica.view.tasks.where("node", self._node_id)
            reports = [report for task in tasks if (report := self._report(task)) is not None]
            if reports:
                await self._leader.report(self._node_id, reports)
            await anext(watch)

    def _report(self, task: Task) -> TaskReport | None:
        wanted = TaskState.SHUTDOWN if task.desired_state > TaskState.COMPLETE else task.desired_state
        if task.status.state < TaskState.ASSIGNED or is_terminal(task.status.state) or task.status.state == wanted:
            return None
        container = ContainerStatus(container_id=task.id.ljust(64, "0"), pid=4711)
        is_up = wanted == TaskState.RUNNING
        status = TaskStatus(
            state=wanted, message="started" if is_up else wanted.label, container=container, is_accepting=is_up
        )
        return TaskReport(task_id=task.id, status=status)


class Lines:
    """Logs: each task says one line on either channel."""

    async def logs(
        self, tasks: Sequence[Task], options: LogOptions, coming: AsyncIterator[Task] | None = None
    ) -> AsyncIterator[TaskLogEntry]:
        for task in tasks:
            for channel, text in ((1, f"hello from slot {task.slot}\n"), (2, "complaint\n")):
                if (options.stdout, options.stderr)[channel - 1]:
                    yield TaskLogEntry(task, LogEntry(channel, task.created_at, text.encode()))


class LiveSwarm:
    """One manager's parts."""

    def __init__(self) -> None:
        self.clock, self.dice = SystemClock(), SystemDice()
        self.store = MemoryStore()
        self.replica = Replica(self.store, self.clock)
        self.agents: list[Agent] = []
        self.node_id = "manager".ljust(25, "0")

    async def open(self, request: InitRequest, hostname: str) -> None:
        authority = CertificateAuthority.create(self.clock.now())
        seal = Seal(DataKey.of(bytes(32)))
        await self.replica.open()
        founding = Founding(
            cluster_id="cluster".ljust(25, "0"),
            authority=authority.sealed(seal),
            node_id=self.node_id,
            hostname=hostname,
            underlay="192.0.2.1",
            control_addr="192.0.2.1:2377",
            spec=request.spec,
            availability=Availability(request.availability),
            address_pools=tuple(request.default_addr_pool),
            subnet_size=request.subnet_size,
            data_path_port=request.data_path_port,
        )
        tokens = JoinTokens(
            **{role: str(new_token(authority.root_pem, self.dice.bytes)) for role in ("worker", "manager")}
        )
        await self.replica.commit(first_objects(founding, tokens, "ingress".ljust(25, "0")))
        surroundings = Surroundings(self.clock, self.dice, lambda: authority.tls_facts, seal, Lines())
        self.control = SwarmControl(self.replica, surroundings)
        self.leader = Leader(self.replica, self.clock, self.dice, own_node_id=self.node_id)
        self._decisions = asyncio.create_task(self.leader.run())
        await self._start_agent(self.node_id, hostname)

    async def add_worker(self, hostname: str) -> str:
        node_id = hostname.ljust(25, "0")
        identity = Identity(node_id=node_id, role=Role.WORKER, cluster_id="cluster".ljust(25, "0"), serial="1")
        await self.control.registry.admit(Newcomer(identity=identity))
        await self._start_agent(node_id, hostname)
        return node_id

    async def _start_agent(self, node_id: str, hostname: str) -> None:
        description = NodeDescription(
            hostname=hostname,
            platform=Platform(architecture="x86_64", os="linux"),
            resources=Resources(nano_cpus=4 * 10**9, memory_bytes=8 << 30),
            engine=EngineDescription(engine_version="4.3.1"),
            tls_info=self.control.tls_info,
        )
        await self.leader.register(node_id, Hello(description=description, underlay=f"192.0.2.{len(self.agents) + 1}"))
        self.agents.append(Agent(self.leader, self.replica, node_id))

    async def close(self) -> None:
        for agent in self.agents:
            await agent.stop()
        self._decisions.cancel()
        await asyncio.gather(self._decisions, return_exceptions=True)
        await self.replica.close()
        await self.store.close()


class LiveNode:
    """Implements `skep.api.backend.LocalNode`."""

    def __init__(self, data_dir: Path) -> None:
        self.hostname = "alpha"
        self.data_dir = data_dir
        self.engine_id = "LIVE:engine"
        self.clock = SystemClock()
        self.started_at = self.clock.now()
        self.passthrough: Path | None = None
        self.local_state = LocalState()
        self.swarm: LiveSwarm | None = None
        self.attachments = None

    async def engine_facts(self) -> EngineFacts:
        return EngineFacts("process", "0.1.0", "linux", "amd64", 4 * 10**9, 8 << 30)

    def control(self) -> SwarmControl:
        if self.swarm is None:
            raise NotManager(NO_SWARM if self.local_state.state == "inactive" else WORKER)
        return self.swarm.control

    async def init_swarm(self, request: InitRequest) -> str:
        if self.local_state.state != "inactive":
            raise NotManager(ALREADY)
        swarm = LiveSwarm()
        await swarm.open(request, self.hostname)
        self.swarm = swarm
        manager = ManagerAddress(node_id=swarm.node_id, addr="192.0.2.1:2377")
        self.local_state = LocalState("active", swarm.node_id, "192.0.2.1", True, managers=(manager,))
        return swarm.node_id

    async def join_swarm(self, request: JoinRequest) -> None:
        if self.local_state.state != "inactive":
            raise NotManager(ALREADY)
        if not request.join_token.startswith("SWMTKN-1-"):
            raise InvalidSpec("invalid join token")
        self.local_state = LocalState("active", "joined".ljust(25, "0"), "192.0.2.2", False)

    async def rejoin_swarm(self, addrs: Sequence[str]) -> None:
        if self.local_state.state == "inactive":
            raise NotManager("This node is not part of a swarm")

    async def restore_swarm(self, request: RestoreRequest, content: AsyncIterator[bytes]) -> str:
        raise NotManager(ALREADY)

    async def unlock_swarm(self, unlock_key: str) -> None:
        if self.local_state.state == "inactive":
            raise NotManager("This node is not part of a swarm")
        raise Conflict("swarm is not locked")

    async def leave_swarm(self, *, is_forced: bool) -> None:
        if self.local_state.state == "inactive":
            raise NotManager("This node is not part of a swarm")
        swarm, self.swarm, self.local_state = self.swarm, None, LocalState()
        if swarm is not None:
            await swarm.close()
