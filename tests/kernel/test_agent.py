"""The agent on a real kernel with real processes: a task comes up, is adopted by the next daemon, leaves nothing."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.agent.node import until
from tests.contract.runtime_places import remove_cgroups
from tests.kernel.rig import Node, Place, Swarm, overlay

from skep.agent.agent import Agent, Ports
from skep.agent.description import NodeFacts
from skep.edge.clock import SystemClock
from skep.edge.dataplane import LinuxDataPlane
from skep.edge.dns import NameService
from skep.edge.dns_forward import Forwarder
from skep.edge.probe import ProcProbe
from skep.edge.process.runtime import ProcessRuntime
from skep.model.assignment import AssignedTask, Backend, BalancedService, Delta
from skep.model.lifecycle import TaskState as S
from skep.model.network import Attachment
from skep.model.service import ContainerSpec, Endpoint, PortConfig, TaskSpec
from skep.model.session import LogRequest
from skep.model.task import Task, TaskStatus

pytestmark = [pytest.mark.anyio, pytest.mark.kernel]

ASK = ("busybox", "nslookup", "web", "127.0.0.11")
SCRIPT = "echo up; sleep 0.3; exec busybox httpd -f -p 9200 -h /etc"


def a_runtime(directory: Path) -> ProcessRuntime:
    return ProcessRuntime(root=directory / "engine", run_dir=directory / "run", cgroup_parent="/skep-test-agent")


@pytest.fixture
async def directory(tmp_path: Path, anyio_backend: str) -> AsyncIterator[Path]:
    """Of the daemon's own files; what a failed test left running is removed."""
    yield tmp_path / "daemon"
    runtime = a_runtime(tmp_path / "daemon")
    await runtime.start()
    for container in await runtime.list_containers():
        await runtime.remove(container.id)
    await runtime.close()
    remove_cgroups("skep-test-agent")


class Daemon:
    """One life of a node's daemon, as far as its agent goes."""

    def __init__(self, directory: Path, plane: LinuxDataPlane) -> None:
        self.plane = plane
        self.runtime = a_runtime(directory)
        self.names = NameService(plane.open_dns_sockets, Forwarder(list))
        facts = NodeFacts(node_id="n1", hostname="alpha", underlay="192.168.77.1", boot_id="b")
        ports = Ports(self.runtime, plane, self.names, ProcProbe(), SystemClock())
        self.agent = Agent(facts, ports, directory / "state")
        self.statuses: list[TaskStatus] = []
        self._work: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        await self.runtime.start()
        self.agent.load()
        self._work = [asyncio.create_task(self.agent.run()), asyncio.create_task(self._collect())]

    async def _collect(self) -> None:
        while True:
            reports = await self.agent.next_reports()
            self.statuses += [report.status for report in reports]
            await self.agent.reported(reports)

    async def die(self) -> None:
        """As kill -9: the kernel closes what the process had open, nothing else happens."""
        for work in self._work:
            work.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
        await self.names.shut_down()
        await self.runtime.close()
        await self.plane.close()

    async def reach(self, state: S) -> TaskStatus:
        await until(lambda: any(status.state is state for status in self.statuses), lambda: str(self.statuses), 20)
        return next(status for status in self.statuses if status.state is state)


@contextlib.asynccontextmanager
async def a_life(directory: Path, plane: LinuxDataPlane) -> AsyncIterator[Daemon]:
    daemon = Daemon(directory, plane)
    await daemon.start()
    try:
        yield daemon
    finally:
        await daemon.die()


def a_task(node: Node, **fields: object) -> Task:
    command = ["busybox", "sh", "-c", SCRIPT]
    spec = ContainerSpec(image="any", command=command, hostname="{{.Service.Name}}", stop_grace_period=100_000_000)
    return Task(
        id="t1",
        spec=TaskSpec(container_spec=spec),
        service_id="s",
        service_name="web",
        slot=1,
        node_id=node.id,
        attachments=[Attachment(network_id="a", address="10.0.1.5/24")],
        endpoint=Endpoint(ports=[PortConfig(target_port=9200, published_port=9200)]),
        **fields,  # type: ignore[arg-type]  # a test's shortcut
    )


@pytest.fixture(autouse=True)
def _needs_an_oci_runtime() -> None:
    missing = [name for name in ("runc", "conmon", "busybox") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")


async def test_a_task_lives_through_the_death_of_its_daemon(swarm: Swarm, directory: Path) -> None:
    node = swarm.nodes[0]
    await node.plane.close()
    web = BalancedService(
        network_id="a",
        service_id="s",
        names=["web"],
        virtual_ip="10.0.1.2",
        backends=[Backend(task_id="t1", node_id="n1", address="10.0.1.5")],
    )
    items = [*swarm.items.values(), overlay(1), web, AssignedTask(task=a_task(node))]
    plane = swarm.plane(1)
    await plane.start()
    async with a_life(directory, plane) as first:
        await first.agent.assign("e", Delta(base=0, version=1, put=items))
        status = await first.reach(S.RUNNING)
        await until(lambda: first.statuses[-1].is_accepting, limit_s=20)
        assert not status.is_accepting, "it did not listen yet when it was started"
        assert status.container is not None
        pid = status.container.pid
        sandbox = Place(Path(f"/proc/{pid}/ns/net"))
        assert "10.0.1.2" in await asyncio.to_thread(sandbox.run, *ASK)
        lines = [part.payload async for part in first.agent.open_stream(LogRequest(task_id="t1"))]
        assert lines == [b"up\n"]

    plane = swarm.plane(1)
    await plane.start()
    async with a_life(directory, plane) as second:
        again = await second.reach(S.RUNNING)
        assert again.is_accepting
        assert again.container is not None
        assert again.container.pid == pid
        await until(lambda: bool(second.names._listeners))
        assert "10.0.1.2" in await asyncio.to_thread(sandbox.run, *ASK)
        stop = AssignedTask(task=a_task(node, desired_state=S.SHUTDOWN), drained=True)
        await second.agent.assign("e", Delta(base=1, version=2, put=[stop]))
        await second.reach(S.SHUTDOWN)
        await second.agent.assign("e", Delta(base=2, version=3, remove=["task/t1"]))
        await until(lambda: not (directory / "state" / "tasks" / "t1").exists(), limit_s=20)
        assert list(await second.runtime.list_containers()) == []
        assert list(await plane.sandboxes()) == []
        await second.agent.removed("the test is over")
        assert not Path(f"/proc/{pid}").exists()
