"""What a manager says it would do is what it then does; and evening out is done as it was announced."""

from collections import Counter

import msgspec
import pytest
from tests.manager.test_leader import Swarm, a_spec, a_swarm

from skep.core.rehearsal import Rehearsal
from skep.model.errors import Conflict
from skep.model.lifecycle import TaskState
from skep.model.node import Availability
from skep.model.service import GlobalJob, Placement, ReplicatedJob, ServiceMode, ServiceSpec

pytestmark = pytest.mark.anyio


def spread(rehearsal: Rehearsal) -> list[int]:
    return sorted(Counter(each.node_id for each in rehearsal.placements).values())


def constrained(spec: ServiceSpec, *constraints: str) -> ServiceSpec:
    template = msgspec.structs.replace(spec.task_template, placement=Placement(constraints=list(constraints)))
    return msgspec.structs.replace(spec, task_template=template)


async def test_a_new_service_is_placed_in_thought_only() -> None:
    async with a_swarm("node2", "node3") as swarm:
        rehearsal = swarm.control.rehearse_service(a_spec(replicas=6, published=8080))
        assert spread(rehearsal) == [2, 2, 2]
        assert not rehearsal.reasons
        assert all(each.is_new for each in rehearsal.placements)
        assert not list(swarm.view.services.values())
        assert not list(swarm.view.tasks.values())


async def test_what_would_wait_says_why() -> None:
    async with a_swarm("node2") as swarm:
        rehearsal = swarm.control.rehearse_service(constrained(a_spec(replicas=1), "node.labels.disk==ssd"))
        assert [each.reason for each in rehearsal.placements] == [
            "no suitable node (scheduling constraints not satisfied on 2 nodes)"
        ]


async def test_what_would_be_refused_is_refused() -> None:
    async with a_swarm() as swarm:
        await swarm.control.create_service(a_spec())
        with pytest.raises(Conflict):
            swarm.control.rehearse_service(a_spec())


@pytest.mark.parametrize(
    ("mode", "count"),
    [(ServiceMode(replicated_job=ReplicatedJob(max_concurrent=2, total_completions=5)), 2),
     (ServiceMode(global_job=GlobalJob()), 2)],
    ids=["replicated-job", "global-job"],
)  # fmt: skip
async def test_a_job_is_shown_as_it_would_begin(mode: ServiceMode, count: int) -> None:
    async with a_swarm("node2") as swarm:
        spec = msgspec.structs.replace(a_spec(), mode=mode)
        assert len(swarm.control.rehearse_service(spec).placements) == count


async def rolled_out(swarm: Swarm, replicas: int) -> str:
    service = await swarm.control.create_service(a_spec(replicas=replicas))
    await swarm.wait(lambda: len(swarm.running_on(service.id)) == replicas)
    return service.id


async def test_an_update_is_played_through_all_its_slots() -> None:
    async with a_swarm("node2") as swarm:
        service_id = await rolled_out(swarm, 4)
        there = constrained(a_spec(replicas=4), "node.hostname==node2")
        rehearsal = swarm.control.rehearse_service(there, reference="web")
        assert {each.node_id for each in rehearsal.placements} == {"node2"}
        assert sorted(each.is_new for each in rehearsal.placements) == [False, False, True, True]
        assert sorted(set(swarm.running_on(service_id))) == ["node1", "node2"]


async def test_rebalancing_says_what_it_would_do_and_then_does_it() -> None:
    async with a_swarm("node2") as swarm:
        node2 = swarm.node("node2")
        paused = msgspec.structs.replace(node2.spec, availability=Availability.PAUSE)
        await swarm.control.update_node("node2", node2.version, paused)
        service_id = await rolled_out(swarm, 4)
        assert set(swarm.running_on(service_id)) == {"node1"}
        active = msgspec.structs.replace(paused, availability=Availability.ACTIVE)
        await swarm.control.update_node("node2", swarm.node("node2").version, active)
        announced = await swarm.control.rebalance_service("web", is_dry=True)
        assert [move.target_id for move in announced] == ["node2", "node2"]
        assert not any(task.move for task in swarm.view.tasks.values())
        fewest = 4
        assert len(await swarm.control.rebalance_service("web", is_dry=False)) == 2

        def is_even() -> bool:
            nonlocal fewest
            running = swarm.running_on(service_id)
            fewest = min(fewest, len(running))
            return Counter(running) == {"node1": 2, "node2": 2}

        await swarm.wait(is_even)
        assert fewest == 4, "start-first"
        stopped = [t for t in swarm.view.tasks.values() if t.desired_state == TaskState.SHUTDOWN]
        assert {task.id for task in stopped} == {move.task.id for move in announced}
        assert await swarm.control.rebalance_service("web", is_dry=True) == []
