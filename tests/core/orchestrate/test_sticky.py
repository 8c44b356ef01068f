"""`skep.volume=sticky`: a slot's tasks are made for the node that has their volume."""

import msgspec
import pytest
from tests.core.orchestrate.world import World, a_spec

from skep.model.service import ContainerSpec, Mount, ServiceSpec, TaskSpec

DATA = Mount(type="volume", source="data", target="/data")


def a_service_with(mount: Mount | None, label: str) -> ServiceSpec:
    spec = a_spec(replicas=2)
    container = ContainerSpec(image="db", mounts=[mount] if mount else None)
    template = msgspec.structs.replace(spec.task_template or TaskSpec(), container_spec=container)
    return msgspec.structs.replace(spec, task_template=template, labels={"skep.volume": label} if label else {})


@pytest.mark.parametrize(
    ("mount", "label", "is_sticky"),
    [
        pytest.param(DATA, "sticky", True, id="sticky"),
        pytest.param(DATA, "", False, id="unlabelled"),
        pytest.param(Mount(type="volume", target="/data"), "sticky", False, id="anonymous"),
        pytest.param(None, "sticky", False, id="no-volume"),
    ],
)
def test_the_next_task_of_a_slot_is_at_home_where_the_last_one_was(
    mount: Mount | None, label: str, is_sticky: bool
) -> None:
    world = World()
    world.add_nodes("n1", "n2", "n3")
    world.create(a_service_with(mount, label))
    world.settle()
    first = {task.slot: task for task in world.running()}
    assert {task.home for task in first.values()} == {""}
    world.fail(first[1])
    world.decide()
    [heir] = [task for task in world.live() if task.slot == 1]
    assert heir.home == (first[1].node_id if is_sticky else "")
    world.fail(heir)  # It may fail before it was placed at all.
    world.decide()
    [grandchild] = [task for task in world.live() if task.slot == 1]
    assert grandchild.home == heir.home
