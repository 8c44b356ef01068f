"""What a manager answers nodes that ask for places of their plain containers on networks."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.fakes.live import LiveSwarm

from skep.api.backend import InitRequest
from skep.model.errors import InUse, InvalidSpec
from skep.model.network import IPAM, IPAMConfig, NetworkSpec
from skep.model.service import ContainerSpec, NetworkAttachmentSpec, ServiceSpec, TaskSpec
from skep.model.session import AttachmentAnswered, AttachmentStep, AttachmentWanted
from skep.model.task import Task

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def a_swarm() -> AsyncIterator[LiveSwarm]:
    """A manager that decides, with an attachable network and one that is not."""
    swarm = LiveSwarm()
    await swarm.open(InitRequest(default_addr_pool=["10.0.0.0/8"], subnet_size=24), "alpha")
    try:
        pool = IPAM(config=[IPAMConfig(subnet="10.60.0.0/29")])
        await swarm.control.create_network(NetworkSpec(name="open", attachable=True, ipam=pool))
        await swarm.control.create_network(NetworkSpec(name="closed"))
        yield swarm
    finally:
        await swarm.close()


async def ask(swarm: LiveSwarm, step: AttachmentStep, id: str = "", **fields: str) -> AttachmentAnswered:
    node_id = fields.pop("node_id", swarm.node_id)
    wanted = AttachmentWanted(
        step=step, task_id=id, network=fields.pop("network", "open"), container_id="c" * 64, names=("probe",), **fields
    )
    return await swarm.control.attachments.answer(node_id, wanted)


def attachments(swarm: LiveSwarm) -> list[Task]:
    return [task for task in swarm.control.view.tasks.values() if task.is_attachment]


async def test_an_attachment_has_its_address_when_it_is_answered() -> None:
    async with a_swarm() as swarm:
        answer = await ask(swarm, AttachmentStep.ATTACH, "t1", address="10.60.0.5")
        assert (answer.error, answer.network_name) == ("", "open")
        [task] = attachments(swarm)
        assert (task.id, task.node_id) == ("t1", swarm.node_id)
        assert [(each.address, each.aliases) for each in task.attachments] == [("10.60.0.5/29", ["probe"])]


async def test_the_same_question_twice_is_one_attachment() -> None:
    async with a_swarm() as swarm:
        first = await ask(swarm, AttachmentStep.ATTACH, "t1")
        assert await ask(swarm, AttachmentStep.ATTACH, "t1") == first
        assert len(attachments(swarm)) == 1
        for _ in range(2):
            assert (await ask(swarm, AttachmentStep.DETACH, "t1")).error == ""
        assert attachments(swarm) == []


@pytest.mark.parametrize("step", [AttachmentStep.CHECK, AttachmentStep.ATTACH])
@pytest.mark.parametrize(
    ("network", "refusal", "words"),
    [
        ("closed", "Forbidden", "code = PermissionDenied desc = network closed not manually attachable"),
        ("ingress", "Forbidden", "network ingress not manually attachable"),
        ("nope", "NotFound", "network nope not found"),
    ],
)
async def test_networks_nobody_can_join(step: AttachmentStep, network: str, refusal: str, words: str) -> None:
    async with a_swarm() as swarm:
        answer = await ask(swarm, step, "t1", network=network)
        assert answer.refusal == refusal
        assert words in answer.error
        assert attachments(swarm) == []


async def test_what_cannot_be_given_leaves_nothing() -> None:
    async with a_swarm() as swarm:
        for number in range(5):
            assert (await ask(swarm, AttachmentStep.ATTACH, f"t{number}")).error == ""
        answer = await ask(swarm, AttachmentStep.ATTACH, "late")
        assert answer.refusal == "Conflict"
        assert "no address is left in network" in answer.error
        answer = await ask(swarm, AttachmentStep.ATTACH, "late", address="10.60.0.3")
        assert "Address already in use: 10.60.0.3" in answer.error
        assert len(attachments(swarm)) == 5


async def test_a_node_speaks_for_its_own_attachments_only() -> None:
    async with a_swarm() as swarm:
        await ask(swarm, AttachmentStep.ATTACH, "t1")
        for step in (AttachmentStep.ATTACH, AttachmentStep.DETACH):
            answer = await ask(swarm, step, "t1", node_id="other")
            assert answer.refusal == "Forbidden"
        answer = await ask(swarm, AttachmentStep.ATTACH, "t2", node_id="other")
        assert answer.refusal == "Forbidden", "it is not of this swarm"
        assert [task.id for task in attachments(swarm)] == ["t1"]


async def test_a_removed_node_takes_its_attachments_with_it() -> None:
    async with a_swarm() as swarm:
        worker = await swarm.add_worker("beta")
        assert (await ask(swarm, AttachmentStep.ATTACH, "t1", node_id=worker)).error == ""
        await ask(swarm, AttachmentStep.ATTACH, "t2")
        await swarm.control.remove_node(worker, is_forced=True)
        assert [task.id for task in attachments(swarm)] == ["t2"]


async def test_no_service_is_an_attachment() -> None:
    async with a_swarm() as swarm:
        template = TaskSpec(container_spec=ContainerSpec(image="web"), network_attachment_spec=NetworkAttachmentSpec())
        with pytest.raises(InvalidSpec, match="a service runs containers"):
            await swarm.control.create_service(ServiceSpec(name="web", task_template=template))


async def test_a_network_is_kept_while_a_container_is_on_it() -> None:
    async with a_swarm() as swarm:
        await ask(swarm, AttachmentStep.ATTACH, "t1")
        with pytest.raises(InUse, match="is in use by task t1"):
            await swarm.control.remove_network("open")
        await ask(swarm, AttachmentStep.DETACH, "t1")
        await swarm.control.remove_network("open")
