"""The table node x filter, the nearest fix, and what is refused before it is stored."""

import pytest
from tests.factories import GIB, a_node, a_service, a_state, a_template

from skep.core import schedule
from skep.core.schedule import demand
from skep.model.errors import InvalidSpec
from skep.model.node import Availability, NodeState
from skep.model.service import GenericResource as Generic
from skep.model.service import (
    Limits,
    NamedGenericResource,
    ResourceRequirements,
    Resources,
    TaskSpec,
)


def explain(template: TaskSpec, *nodes: object) -> schedule.Explanation:
    inventory = schedule.Inventory.of(a_state(*nodes))  # type: ignore[arg-type]  # nodes
    return schedule.explain(schedule.demand_of_spec(a_service(template=template).spec), inventory.sites.values())


def test_every_filter_on_every_node_with_figures() -> None:
    answer = explain(
        a_template(cpus=2, memory=GIB, constraints=["node.labels.zone==north"]),
        a_node("n1", cpus=1, memory=GIB // 2),
        a_node("n2", cpus=4, labels={"zone": "south"}),
    )
    assert [row.hostname for row in answer.rows] == ["n2", "n1"], "the nearest first"
    table = {(row.node_id, verdict.filter): verdict for row in answer.rows for verdict in row.verdicts}
    assert [filter for node, filter in table if node == "n1"] == ["Ready", "Resource", "Constraint"]
    assert table["n1", "Resource"].figures == (
        "CPU 2 wanted, 1 of 1 free; memory 1 GiB wanted, 512 MiB of 512 MiB free"
    )
    assert table["n1", "Constraint"].figures == "not met: node.labels.zone == north"
    assert table["n2", "Resource"].is_admitted
    assert answer.summary == (
        "no suitable node (insufficient resources on 1 node; scheduling constraints not satisfied on 1 node)"
    )


@pytest.mark.parametrize(
    ("template", "node", "fix"),
    [
        pytest.param(
            a_template(constraints=["node.labels.zone==north"]),
            a_node("n1"),
            "docker node update --label-add zone=north n1",
            id="label",
        ),
        pytest.param(
            a_template(constraints=["node.role==manager"]),
            a_node("n1"),
            "relax the constraint node.role == manager",
            id="constraint",
        ),
        pytest.param(
            a_template(),
            a_node("n1", availability=Availability.DRAIN),
            "docker node update --availability active n1",
            id="drained",
        ),
        pytest.param(
            a_template(),
            a_node("n1", state=NodeState.DOWN),
            "bring node n1 back: it is down",
            id="down",
        ),
        pytest.param(
            a_template(cpus=5, memory=9 * GIB),
            a_node("n1"),
            "reserve 1 CPU and 1 GiB of memory less, or free as much on node n1",
            id="resources",
        ),
        pytest.param(a_template(), None, "add a node to the swarm: docker swarm join-token worker", id="no-nodes"),
        pytest.param(a_template(), a_node("n1"), "", id="nothing-wrong"),
    ],
)
def test_the_nearest_fix(template: TaskSpec, node: object, fix: str) -> None:
    assert explain(template, *([node] if node else [])).fix == fix


@pytest.mark.parametrize(
    ("template", "words"),
    [
        pytest.param(a_template(cpus=0.0001), "invalid cpu value 0.0001: Must be at least 0.001", id="cpu"),
        pytest.param(a_template(memory=4_000_000), "invalid memory value 4000000: Must be at least 4MiB", id="memory"),
        pytest.param(
            TaskSpec(resources=ResourceRequirements(limits=Limits(memory_bytes=1))), "Must be at least 4MiB", id="limit"
        ),
        pytest.param(
            TaskSpec(resources=ResourceRequirements(limits=Limits(pids=-1))), "invalid pids limit -1", id="pids"
        ),
        pytest.param(a_template(constraints=["zone"]), "expected one operator", id="constraint"),
        pytest.param(a_template(max_replicas=-1), "invalid max replicas", id="max-replicas"),
    ],
)
def test_what_is_refused_at_once(template: TaskSpec, words: str) -> None:
    with pytest.raises(InvalidSpec, match=words):
        schedule.check_spec(a_service(template=template).spec)


def test_the_smallest_amounts_pass() -> None:
    schedule.check_spec(a_service(template=a_template(cpus=0.001, memory=4 << 20, constraints=["node.id!=x"])).spec)


def test_a_resource_by_name_is_taken_but_never_found() -> None:
    named = Generic(named_resource_spec=NamedGenericResource(kind="gpu", value="a"))
    template = TaskSpec(resources=ResourceRequirements(reservations=Resources(generic_resources=[named])))
    schedule.check_spec(a_service(template=template).spec)
    assert demand.read_demand(template, None, "", 0).generic == (("gpu=a", 1),)
