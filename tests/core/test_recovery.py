"""A swarm goes on with one manager: only who manages changes, and doing it again changes nothing."""

import msgspec
import pytest
from tests.factories import a_cluster, a_node, a_service, a_state, a_task

from skep.core import recovery
from skep.core.recovery import Survivor, sole_manager
from skep.model.cluster import Brake
from skep.model.errors import Unavailable
from skep.model.node import ManagerStatus, Node, NodeSpec, NodeState, Role
from skep.store.changes import Put
from skep.store.state import State

OWN = Survivor("m1", "alpha", "192.0.2.1", "192.0.2.1:2377", "7")


def a_manager(id: str, *, leader: bool = False, reachability: str = "reachable") -> Node:
    return msgspec.structs.replace(
        a_node(id),
        spec=NodeSpec(role=Role.MANAGER),
        role=Role.MANAGER,
        manager_status=ManagerStatus(leader=leader, reachability=reachability, addr=f"{id}:2377"),
    )


def a_swarm() -> State:
    web = a_service()
    return a_state(
        a_cluster(brake=Brake(since=1, nodes=["m2", "m3"])),
        a_manager("m1"),
        a_manager("m2", leader=True),
        a_manager("m3", reachability="unreachable"),
        a_node("w1"),
        web,
        a_task("t1", service=web, slot=1, node_id="m2"),
    )


def recovered(state: State, survivor: Survivor = OWN) -> State:
    state.apply(sole_manager(state, survivor), state.revision + 1)
    return state


def test_one_manager_is_left_and_everything_else_stays() -> None:
    before = a_swarm()
    task, worker = before.tasks.get("t1"), before.nodes.get("w1")
    after = recovered(before)
    own = after.nodes.get("m1")
    assert own is not None
    assert own.manager_status == ManagerStatus(leader=True, addr="192.0.2.1:2377")
    assert (own.status.addr, own.certificate_serial) == ("192.0.2.1", "7")
    for id in ("m2", "m3"):
        other = after.nodes.get(id)
        assert other is not None
        assert (other.spec.role, other.manager_status) == (Role.WORKER, None)
        assert other.role is Role.MANAGER  # Its certificate still says so.
        assert other.status.state is NodeState.READY  # Its heartbeats decide, not we.
    assert after.cluster is not None
    assert after.cluster.brake is None
    assert (after.tasks.get("t1"), after.nodes.get("w1")) == (task, worker)


def test_doing_it_again_changes_nothing() -> None:
    assert sole_manager(recovered(a_swarm()), OWN) == []


def test_a_new_machine_becomes_a_new_node() -> None:
    new = Survivor("m9", "omega", "192.0.2.9", "192.0.2.9:2377", "8")
    after = recovered(a_swarm(), new)
    node = after.nodes.get("m9")
    assert node is not None
    assert (node.spec.role, node.role, node.description.hostname) == (Role.MANAGER, Role.MANAGER, "omega")
    assert [each.id for each in after.nodes.values() if each.manager_status] == ["m9"]
    assert sole_manager(after, new) == []


def test_a_node_that_was_asked_to_be_a_manager_is_asked_no_more() -> None:
    asked = msgspec.structs.replace(a_node("w2"), spec=NodeSpec(role=Role.MANAGER))
    changes = sole_manager(a_state(a_cluster(), a_manager("m1"), asked), OWN)
    demoted = [change.value for change in changes if isinstance(change, Put) and change.id == "w2"]
    assert [node.spec.role for node in demoted if isinstance(node, Node)] == [Role.WORKER]


def test_without_a_cluster_there_is_nothing_to_recover() -> None:
    with pytest.raises(Unavailable, match="no cluster"):
        sole_manager(a_state(), OWN)
    with pytest.raises(Unavailable, match="no cluster"):
        recovery.plan(a_state(), "m1")


def test_the_plan_names_every_manager_and_what_is_lost() -> None:
    found = recovery.plan(a_swarm(), "m1")
    assert [(fate.node_id, fate.was) for fate in found.fates] == [
        ("m1", "manager (reachable)"),
        ("m2", "leader"),
        ("m3", "manager (unreachable)"),
    ]
    assert [fate.becomes for fate in found.fates] == [recovery.SOLE, recovery.DEMOTED, recovery.DEMOTED]
    assert found.n_unchanged == 1
    assert found.danger
    assert found.losses


def test_of_a_lone_manager_the_plan_has_no_losses() -> None:
    found = recovery.plan(a_state(a_cluster(), a_manager("m1", leader=True), a_node("w1")), "m1")
    assert (found.losses, found.danger, found.n_unchanged) == ((), "", 1)
