"""Plain containers on the swarm's networks, as the node keeps them: also over a daemon's death at any place."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from tests.agent.node import NodeUnderTest, a_running_node, an_overlay, the_cluster, until

from skep.agent.attached import AttachedContainer, ContainerEndpoint
from skep.model.assignment import AssignedTask
from skep.model.errors import Conflict, Unavailable
from skep.model.lifecycle import TaskState
from skep.model.network import Attachment
from skep.model.service import NetworkAttachmentSpec, TaskSpec
from skep.model.session import AttachmentAnswered, AttachmentStep, AttachmentWanted
from skep.model.task import Task
from skep.ports.runtime import Container, ContainerState

pytestmark = pytest.mark.anyio

ID = "c" * 64
NET1 = ContainerEndpoint(network="backbone", network_id="net1", aliases=["spy"])
NET2 = ContainerEndpoint(network="other", network_id="net2")
SANDBOX = "plain-box"


@dataclass
class Manager:
    """Answers a node's questions and assigns what it gives. Attributes: held: by attachment."""

    node: NodeUnderTest
    held: dict[str, AttachmentWanted] = field(default_factory=dict)
    refuses: str = ""
    is_silent: bool = False
    asked: list[AttachmentStep] = field(default_factory=list)

    async def serve(self) -> None:
        while True:
            for wanted in await self.node.agent.next_wanted():
                assert isinstance(wanted, AttachmentWanted)
                self.asked.append(wanted.step)
                if not self.is_silent:
                    self.node.agent.answered(await self._answer(wanted))

    async def _answer(self, wanted: AttachmentWanted) -> AttachmentAnswered:
        if wanted.step is AttachmentStep.ATTACH and self.refuses:
            return AttachmentAnswered(wanted=wanted, error=self.refuses, refusal="Conflict")
        if wanted.step is AttachmentStep.ATTACH:
            self.held[wanted.task_id] = wanted
            await self.node.give(an_attachment(wanted, f"10.0.1.{10 + len(self.held)}/24"))
        elif wanted.step is AttachmentStep.DETACH:
            self.held.pop(wanted.task_id, None)
            await self.node.give(remove=[f"task/{wanted.task_id}"])
        return AttachmentAnswered(wanted=wanted, network_id=wanted.network, network_name="backbone")


def an_attachment(wanted: AttachmentWanted, address: str) -> AssignedTask:
    spec = TaskSpec(network_attachment_spec=NetworkAttachmentSpec(container_id=wanted.container_id))
    attachment = Attachment(network_id=wanted.network, address=address, aliases=list(wanted.names))
    return AssignedTask(task=Task(id=wanted.task_id, node_id="node1", spec=spec, attachments=[attachment]))


@contextlib.asynccontextmanager
async def a_node(directory: Path) -> AsyncIterator[tuple[NodeUnderTest, Manager]]:
    """A node on two networks, with a manager that talks to it."""
    async with a_running_node(directory) as node:
        await node.give(the_cluster(), an_overlay("net1"), an_overlay("net2"), is_full=True)
        manager = Manager(node)
        serving = asyncio.create_task(manager.serve())
        try:
            yield node, manager
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


@contextlib.asynccontextmanager
async def a_new_daemon(node: NodeUnderTest, manager: Manager) -> AsyncIterator[None]:
    """The daemon is killed; the next one runs after the body and talks to the same manager."""
    await node.kill()
    yield
    node.begin()
    node.run()
    node.agent.connected()
    manager.serving = asyncio.create_task(manager.serve())  # type: ignore[attr-defined]  # kept from being collected


async def make(node: NodeUnderTest, *endpoints: ContainerEndpoint) -> None:
    """As `docker create` does it."""
    wanted = AttachedContainer(
        sandbox_id=SANDBOX, name="probe", endpoints=[_numbered(each, at) for at, each in enumerate(endpoints)]
    )
    await node.agent.attachments.make(wanted)
    show(node, ContainerState.CREATED)
    await node.agent.attachments.bind(SANDBOX, ID, "probe")


def _numbered(endpoint: ContainerEndpoint, number: int) -> ContainerEndpoint:
    return ContainerEndpoint(
        network=endpoint.network, network_id=endpoint.network_id, aliases=endpoint.aliases, number=number
    )


def show(node: NodeUnderTest, state: ContainerState, **fields: int) -> None:
    node.engine.containers[ID] = replace(Container(id=ID, name="probe", labels={}, state=state), **fields)


async def start(node: NodeUnderTest) -> None:
    """As `docker start` does it."""
    attachments = node.agent.attachments
    container = attachments.book.find(ID)
    assert container is not None
    async with attachments.lock(container):
        await attachments.attach(ID)
        show(node, ContainerState.RUNNING, pid=77)
    await attachments.settle(ID)


def interfaces(node: NodeUnderTest) -> list[tuple[str, str]]:
    """Network and address of each interface, in order."""
    config = node.plane.prepared.get(SANDBOX)
    return [(each.network_id, each.address) for each in config.interfaces] if config is not None else []


async def test_a_container_has_its_address_before_it_starts_and_until_it_ends(tmp_path: Path) -> None:
    async with a_node(tmp_path) as (node, manager):
        await make(node, NET1)
        assert manager.held == {}, "nothing is held for what does not run"
        await start(node)
        [(task_id, asked)] = manager.held.items()
        assert asked.names == ("probe", "spy", ID[:12])
        assert interfaces(node) == [("net1", "10.0.1.11/24")]
        assert node.names.askers[SANDBOX].networks == ("net1",)
        await node.reach(TaskState.RUNNING, task_id)
        show(node, ContainerState.EXITED)
        await node.agent.attachments.ended(ID)
        await until(lambda: not manager.held)
        assert interfaces(node) == []
        await start(node)
        assert len(manager.held) == 1, "a second start gets it an address again"
        del node.engine.containers[ID]
        await node.agent.attachments.settle(ID)
        assert manager.held == {}
        assert SANDBOX not in await node.plane.sandboxes()


async def test_a_refusal_leaves_nothing(tmp_path: Path) -> None:
    async with a_node(tmp_path) as (node, manager):
        await make(node, NET1)
        manager.refuses = "no address is left"
        with pytest.raises(Conflict, match="Could not attach to network backbone: no address is left"):
            await start(node)
        assert interfaces(node) == []
        manager.refuses = ""
        await start(node)
        assert len(manager.held) == 1


async def test_the_second_of_two_networks_is_refused(tmp_path: Path) -> None:
    async with a_node(tmp_path) as (node, manager):
        await make(node, NET1)
        await start(node)
        container = node.agent.attachments.book.containers[SANDBOX]
        manager.refuses = "no address is left"
        with pytest.raises(Conflict):
            await node.agent.attachments.connect(container, NET2)
        assert interfaces(node) == [("net1", "10.0.1.11/24")]
        assert len(manager.held) == 1


async def test_networks_come_and_go_and_no_interface_is_renamed(tmp_path: Path) -> None:
    async with a_node(tmp_path) as (node, manager):
        await make(node, NET1)
        await start(node)
        await node.agent.attachments.connect(node.agent.attachments.book.containers[SANDBOX], NET2)
        assert [network for network, _ in interfaces(node)] == ["net1", "net2"]
        await node.agent.attachments.disconnect(ID, "net1")
        assert [network for network, _ in interfaces(node)] == ["", "net2"]
        assert [each.network for each in manager.held.values()] == ["net2"]
        await node.agent.attachments.connect(node.agent.attachments.book.containers[SANDBOX], NET1)
        assert [network for network, _ in interfaces(node)] == ["net1", "net2"]


async def test_a_new_daemon_keeps_what_lives(tmp_path: Path) -> None:
    async with a_node(tmp_path) as (node, manager):
        await make(node, NET1)
        await start(node)
        held = dict(manager.held)
        async with a_new_daemon(node, manager):
            node.names.askers.clear()
        await until(lambda: SANDBOX in node.names.askers)
        await node.give()
        await asyncio.sleep(0.05)
        assert manager.held == held
        assert interfaces(node) == [("net1", "10.0.1.11/24")]


@pytest.mark.parametrize("is_removed", [False, True])
async def test_a_new_daemon_gives_back_what_ended_meanwhile(tmp_path: Path, is_removed: bool) -> None:
    async with a_node(tmp_path) as (node, manager):
        await make(node, NET1)
        await start(node)
        async with a_new_daemon(node, manager):
            if is_removed:
                del node.engine.containers[ID]
            else:
                show(node, ContainerState.EXITED)
        await node.give()
        await until(lambda: not manager.held)
        await until(lambda: interfaces(node) == [])


async def test_a_create_that_was_cut_short_leaves_no_sandbox(tmp_path: Path) -> None:
    async with a_node(tmp_path) as (node, manager):
        await node.agent.attachments.make(AttachedContainer(sandbox_id=SANDBOX, endpoints=[NET1]))
        assert SANDBOX in await node.plane.sandboxes()
        async with a_new_daemon(node, manager):
            pass
        for _ in range(200):
            if SANDBOX not in await node.plane.sandboxes():
                break
            await asyncio.sleep(0.01)
        assert SANDBOX not in await node.plane.sandboxes()


async def test_an_attachment_nobody_claims_is_given_back(tmp_path: Path) -> None:
    """The answer came when nobody waited for it any more, or the node's disk was lost."""
    async with a_node(tmp_path) as (node, manager):
        wanted = AttachmentWanted(step=AttachmentStep.ATTACH, task_id="stray", network="net1", container_id=ID)
        manager.held["stray"] = wanted
        await node.give(an_attachment(wanted, "10.0.1.99/24"))
        await until(lambda: not manager.held)


async def test_managers_that_forgot_an_attachment_are_asked_again(tmp_path: Path) -> None:
    async with a_node(tmp_path) as (node, manager):
        await make(node, NET1)
        await start(node)
        [task_id] = manager.held
        manager.held.clear()
        await node.give(remove=[f"task/{task_id}"])
        await node.agent.attachments.look_at_all()
        assert len(manager.held) == 1
        assert task_id not in manager.held


async def test_without_a_manager_a_start_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skep.agent.attachments.ANSWER_S", 0.05)
    async with a_node(tmp_path) as (node, manager):
        await make(node, NET1)
        manager.is_silent = True
        with pytest.raises(Unavailable, match="no manager of the swarm answers"):
            await start(node)
        assert interfaces(node) == []


@pytest.mark.parametrize("place", range(1, 5))
async def test_a_daemon_killed_anywhere_in_a_start_leaves_one_address_or_none(tmp_path: Path, place: int) -> None:
    async with a_node(tmp_path) as (node, manager):
        await make(node, NET1)
        node.failpoint.left = place
        starting = asyncio.create_task(start(node))
        await until(lambda: node.failpoint.is_hit or starting.done())
        async with a_new_daemon(node, manager):
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
        await node.give()
        await start(node)
        await until(lambda: len(manager.held) == 1)
        container = node.agent.attachments.book.containers[SANDBOX]
        assert list(manager.held) == container.task_ids
        assert len(interfaces(node)) == 1
