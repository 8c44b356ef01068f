"""Which nodes a constraint lets through, key by key."""

import pytest

from skep.core import constraints
from skep.core.constraints import Constraint, Operator
from skep.model.errors import InvalidSpec
from skep.model.node import EngineDescription, Node, NodeDescription, NodeSpec, NodeStatus, Role
from skep.model.service import Platform

NODE = Node(
    id="n1abc",
    role=Role.MANAGER,
    spec=NodeSpec(labels={"zone": "North", "Disk": "ssd"}),
    status=NodeStatus(addr="10.1.2.3"),
    description=NodeDescription(
        hostname="alpha",
        platform=Platform(os="linux", architecture="x86_64"),
        engine=EngineDescription(labels={"storage": "nvme"}),
    ),
)


@pytest.mark.parametrize(
    ("text", "is_match"),
    [
        pytest.param("node.id==n1abc", True, id="id"),
        pytest.param("node.id != n1abc", False, id="id-different"),
        pytest.param("node.hostname == ALPHA", True, id="values-ignore-case"),
        pytest.param("NODE.Hostname==alpha", True, id="keys-ignore-case"),
        pytest.param("node.role==manager", True, id="role"),
        pytest.param("node.role==worker", False, id="other-role"),
        pytest.param("node.platform.os==linux", True, id="os"),
        pytest.param("node.platform.arch!=aarch64", True, id="arch-different"),
        pytest.param("node.labels.zone==north", True, id="label"),
        pytest.param("node.labels.disk==ssd", False, id="label-keys-keep-case"),
        pytest.param("node.labels.Disk==ssd", True, id="label-key-exact"),
        pytest.param("node.labels.gpu!=yes", True, id="missing-label-differs"),
        pytest.param("node.labels.gpu==yes", False, id="missing-label-never-equals"),
        pytest.param("engine.labels.storage==NVMe", True, id="engine-label"),
        pytest.param("engine.labels.other==x", False, id="missing-engine-label"),
        pytest.param("node.ip==10.1.2.3", True, id="address"),
        pytest.param("node.ip!=10.1.2.3", False, id="address-different"),
        pytest.param("node.ip==10.1.0.0/16", True, id="subnet"),
        pytest.param("node.ip!=10.1.0.0/16", False, id="subnet-different"),
        pytest.param("node.ip==192.168.0.0/16", False, id="other-subnet"),
        pytest.param("node.ip==nonsense", False, id="no-address-matches-nothing"),
        pytest.param("node.ip!=nonsense", False, id="no-address-differs-from-nothing"),
        pytest.param("node.colour==red", False, id="unknown-key-equal"),
        pytest.param("node.colour!=red", False, id="unknown-key-different"),
        pytest.param("node.hostname==al.*", False, id="patterns-are-text"),
    ],
)
def test_constraint_matches(text: str, is_match: bool) -> None:
    (constraint,) = constraints.parse([text])
    assert constraints.matches(constraint, NODE) is is_match


@pytest.mark.parametrize(
    "text", ["", "node.labels.x", "node.labels.x=1", "==x", "node.id==", "no de.id==x", "node.id==a;b", "node.id=='a'"]
)
def test_what_is_no_constraint_is_refused(text: str) -> None:
    with pytest.raises(InvalidSpec):
        constraints.parse([text])


def test_parse_keeps_order_and_trims() -> None:
    assert constraints.parse([" node.id == a ", "node.role!=worker"]) == [
        Constraint("node.id", Operator.EQUAL, "a"),
        Constraint("node.role", Operator.DIFFERENT, "worker"),
    ]
    assert constraints.parse(None) == []


def test_all_constraints_must_hold() -> None:
    both = constraints.parse(["node.role==manager", "node.labels.zone==south"])
    assert constraints.matches_all(both[:1], NODE)
    assert not constraints.matches_all(both, NODE)
    assert constraints.matches_all([], NODE)


def test_a_node_without_address_is_in_no_subnet() -> None:
    silent = Node(id="n2", spec=NodeSpec())
    inside, outside = constraints.parse(["node.ip==10.0.0.0/8", "node.ip!=10.0.0.0/8"])
    assert not constraints.matches(inside, silent)
    assert constraints.matches(outside, silent)
