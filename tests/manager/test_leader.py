"""A leader, users and made-up agents on one store in memory: from a service to running tasks, and back after a loss."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
from tests.factories import GIB, a_port

from skep.edge.clock import SystemClock, SystemDice
from skep.edge.memory import MemoryStore
from skep.manager.control.cluster import Founding, first_objects
from skep.manager.control.control import Surroundings, SwarmControl
from skep.manager.leader import Leader
from skep.manager.replica import Replica
from skep.model.base import Nanoseconds
from skep.model.cluster import Authority, JoinTokens
from skep.model.identity import Identity, Newcomer
from skep.model.lifecycle import TaskState, is_terminal
from skep.model.network import NetworkAttachmentConfig, NetworkSpec
from skep.model.node import Availability, Node, NodeDescription, NodeSpec, NodeState, Role, TLSInfo
from skep.model.sealed import Sealed
from skep.model.service import ContainerSpec, EndpointSpec, Replicated, Resources, ServiceMode, ServiceSpec, TaskSpec
from skep.model.session import Hello, TaskReport
from skep.model.task import Task, TaskStatus
from skep.ports.logs import TaskLogEntry
from skep.ports.runtime import LogOptions
from skep.store.state import State

pytestmark = pytest.mark.anyio


class QuickClock(SystemClock):
    """Runs four times as fast as the machine's."""

    def now(self) -> Nanoseconds:
        return super().now() * 4

    async def sleep(self, length: Nanoseconds) -> None:
        await super().sleep(length // 4)


class PlainSealer:
    """Seals nothing: for tests."""

    def seal(self, plain: bytes, purpose: str) -> Sealed:
        return Sealed(key_id="none", nonce=b"", box=plain)

    def open(self, sealed: Sealed, purpose: str) -> bytes:
        return sealed.box


class NoLogs:
    async def logs(
        self, tasks: Sequence[Task], options: LogOptions, coming: AsyncIterator[Task] | None = None
    ) -> AsyncIterator[TaskLogEntry]:
        for _ in ():
            yield _


class Agent:
    """Beats, and reports every task of its node as what the swarm wants of it."""

    def __init__(self, swarm: "Swarm", node_id: str) -> None:
        self.swarm = swarm
        self.node_id = node_id
        self.running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        resources = Resources(nano_cpus=4_000_000_000, memory_bytes=8 * GIB)
        hello = Hello(description=NodeDescription(hostname=self.node_id, resources=resources), underlay=self.address)
        await self.swarm.leader.register(self.node_id, hello)
        self.running = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self.running is not None:
            self.running.cancel()
            await asyncio.gather(self.running, return_exceptions=True)

    @property
    def address(self) -> str:
        return f"192.0.2.{self.node_id[-1]}"

    async def _run(self) -> None:
        while True:
            self.swarm.leader.beat(self.node_id)
            tasks = self.swarm.view.tasks.where("node", self.node_id)
            reports = [report for task in tasks if (report := self._report(task))]
            if reports:
                await self.swarm.leader.report(self.node_id, reports)
            await self.swarm.clock.sleep(100_000_000)

    def _report(self, task: Task) -> TaskReport | None:
        wanted = TaskState.SHUTDOWN if task.desired_state > TaskState.RUNNING else task.desired_state
        if is_terminal(task.status.state) or task.status.state == wanted:
            return None
        return TaskReport(task_id=task.id, status=TaskStatus(state=wanted, is_accepting=wanted == TaskState.RUNNING))


class Swarm:
    """One manager, its users' operations, and agents."""

    def __init__(self) -> None:
        self.clock = QuickClock()
        self.store = MemoryStore()
        self.replica = Replica(self.store, self.clock)
        self.agents: dict[str, Agent] = {}
        self.running: asyncio.Task[None] | None = None

    async def open(self) -> None:
        await self.replica.open()
        authority = Authority(certificate_pem="", sealed_key=Sealed(key_id="", nonce=b"", box=b""))
        founding = Founding(
            cluster_id="cluster",
            authority=authority,
            node_id="node1",
            hostname="node1",
            underlay="192.0.2.1",
            control_addr="192.0.2.1:2377",
        )
        await self.replica.commit(first_objects(founding, JoinTokens(worker="w", manager="m"), "ingress"))
        surroundings = Surroundings(self.clock, SystemDice(), TLSInfo, PlainSealer(), NoLogs())
        self.control = SwarmControl(self.replica, surroundings)
        self.leader = Leader(self.replica, self.clock, SystemDice(), own_node_id="node1")
        self.running = asyncio.create_task(self.leader.run())

    async def join(self, *node_ids: str) -> None:
        for node_id in node_ids:
            if node_id not in self.view.nodes:
                identity = Identity(node_id=node_id, role=Role.WORKER, cluster_id="cluster", serial="1")
                await self.control.registry.admit(Newcomer(identity=identity))
            self.agents[node_id] = Agent(self, node_id)
            await self.agents[node_id].start()

    @property
    def view(self) -> State:
        return self.replica.view

    async def wait(self, condition: Callable[[], bool]) -> None:
        watch = self.replica.watch()
        async with asyncio.timeout(20):
            while not condition():
                await anext(watch)

    def node(self, id: str) -> Node:
        return self.control.find_node(id)

    def running_on(self, service_id: str) -> list[str]:
        tasks = self.view.tasks.where("service", service_id)
        return sorted(
            task.node_id
            for task in tasks
            if task.status.state == TaskState.RUNNING and task.desired_state == TaskState.RUNNING
        )


@asynccontextmanager
async def a_swarm(*workers: str) -> AsyncIterator[Swarm]:
    swarm = Swarm()
    await swarm.open()
    try:
        await swarm.join("node1", *workers)
        yield swarm
    finally:
        for agent in swarm.agents.values():
            await agent.stop()
        if swarm.running is not None:
            swarm.running.cancel()
            await asyncio.gather(swarm.running, return_exceptions=True)
        await swarm.replica.close()
        await swarm.store.close()


def a_spec(name: str = "web", *, replicas: int = 3, networks: Sequence[str] = (), published: int = 0) -> ServiceSpec:
    template = TaskSpec(
        container_spec=ContainerSpec(image="alpine"),
        networks=[NetworkAttachmentConfig(target=target) for target in networks] or None,
    )
    endpoint = EndpointSpec(ports=[a_port(published)]) if published else None
    return ServiceSpec(
        name=name,
        task_template=template,
        mode=ServiceMode(replicated=Replicated(replicas=replicas)),
        endpoint_spec=endpoint,
    )


async def test_a_service_becomes_running_tasks_with_addresses_and_a_port() -> None:
    async with a_swarm("node2", "node3") as swarm:
        network = await swarm.control.create_network(NetworkSpec(name="back"))
        service = await swarm.control.create_service(a_spec(networks=["back"], published=9200))
        await swarm.wait(lambda: swarm.running_on(service.id) == ["node1", "node2", "node3"])
        stored = swarm.control.find_service("web")
        assert stored.endpoint is not None
        assert [port.published_port for port in stored.endpoint.ports or []] == [9200]
        assert {item.network_id for item in stored.endpoint.virtual_ips or []} == {network.id, "ingress"}
        addresses = [item.address for task in swarm.view.tasks.values() for item in task.attachments]
        assert len(addresses) == len(set(addresses)) == 6


async def test_scaling_draining_and_removing() -> None:
    async with a_swarm("node2") as swarm:
        service = await swarm.control.create_service(a_spec(replicas=2))
        await swarm.wait(lambda: len(swarm.running_on(service.id)) == 2)
        stored = swarm.control.find_service("web")
        await swarm.control.update_service("web", stored.version, a_spec(replicas=5))
        await swarm.wait(lambda: len(swarm.running_on(service.id)) == 5)
        node = swarm.control.find_node("node2")
        await swarm.control.update_node("node2", node.version, NodeSpec(availability=Availability.DRAIN))
        await swarm.wait(lambda: swarm.running_on(service.id) == ["node1"] * 5)
        await swarm.control.remove_service("web")
        await swarm.wait(lambda: service.id not in swarm.view.services and not len(swarm.view.tasks))


async def test_a_silent_node_is_given_up_and_taken_back() -> None:
    async with a_swarm("node2", "node3") as swarm:
        service = await swarm.control.create_service(a_spec())
        await swarm.wait(lambda: swarm.running_on(service.id) == ["node1", "node2", "node3"])
        await swarm.agents["node3"].stop()
        await swarm.wait(lambda: not swarm.node("node3").balanced)
        assert swarm.running_on(service.id) == ["node1", "node2", "node3"]
        await swarm.wait(lambda: swarm.node("node3").status.state == NodeState.DOWN)
        await swarm.wait(lambda: len([n for n in swarm.running_on(service.id) if n != "node3"]) == 3)
        await swarm.agents["node3"].start()
        await swarm.wait(lambda: swarm.node("node3").status.state == NodeState.READY)
        await swarm.wait(lambda: len(swarm.running_on(service.id)) == 3)


async def test_a_removed_node_is_refused_and_its_tasks_run_elsewhere() -> None:
    async with a_swarm("node2") as swarm:
        service = await swarm.control.create_service(a_spec(replicas=2))
        await swarm.wait(lambda: swarm.running_on(service.id) == ["node1", "node2"])
        await swarm.agents["node2"].stop()
        await swarm.control.remove_node("node2", is_forced=True)
        await swarm.wait(lambda: swarm.running_on(service.id) == ["node1", "node1"])
        assert "node2" in swarm.control.cluster().removed_nodes
        assert "node2" not in swarm.view.nodes


async def test_a_new_leader_resumes_where_the_old_one_stopped() -> None:
    async with a_swarm("node2") as swarm:
        first = await swarm.control.create_service(a_spec("first", replicas=2))
        await swarm.wait(lambda: len(swarm.running_on(first.id)) == 2)
        before = {task.id for task in swarm.view.tasks.values()}
        assert swarm.running is not None
        swarm.running.cancel()
        await asyncio.gather(swarm.running, return_exceptions=True)
        second = await swarm.control.create_service(a_spec("second", replicas=2))
        swarm.running = asyncio.create_task(swarm.leader.run())
        for agent in swarm.agents.values():
            await agent.stop()
            await agent.start()
        await swarm.wait(lambda: len(swarm.running_on(second.id)) == 2)
        assert {task.id for task in swarm.view.tasks.where("service", first.id)} == before


async def test_at_rest_nothing_is_written() -> None:
    async with a_swarm("node2") as swarm:
        service = await swarm.control.create_service(a_spec(published=8080))
        await swarm.wait(lambda: len(swarm.running_on(service.id)) == 3)
        watch = swarm.replica.watch()
        quiet = False
        while not quiet:
            try:
                async with asyncio.timeout(0.5):
                    await anext(watch)
            except TimeoutError:
                quiet = True
        revision = swarm.view.revision
        await swarm.clock.sleep(2_000_000_000)
        assert swarm.view.revision == revision
