"""Who is shown to lead and to be reached."""

import msgspec
import pytest
from tests.factories import a_node, a_state, all_dirty

from skep.core import managers
from skep.core.plan import Dirty
from skep.model.node import ManagerStatus, Node, NodeState, NodeStatus, Role


def a_manager(id: str, *, leader: bool = False, reachability: str = "reachable", state: str = "ready") -> Node:
    status = ManagerStatus(leader=leader, reachability=reachability, addr=f"{id}:2377")
    node = a_node(id=id, role=Role.MANAGER)
    return msgspec.structs.replace(node, manager_status=status, status=NodeStatus(state=NodeState(state)))


def shown(*nodes: Node, leader_id: str) -> dict[str, tuple[bool, str]]:
    state = a_state(*nodes)
    plan = managers.reconcile(state, all_dirty(state), leader_id, now=7)
    state.apply(plan.changes, 2)
    assert managers.reconcile(state, all_dirty(state), leader_id, now=8).changes == ()
    return {
        node.id: (node.manager_status.leader, node.manager_status.reachability)
        for node in state.nodes.values()
        if node.manager_status is not None
    }


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        pytest.param([a_manager("m1", leader=True)], {"m1": (True, "reachable")}, id="as it was"),
        pytest.param(
            [a_manager("m1"), a_manager("m2", leader=True)],
            {"m1": (True, "reachable"), "m2": (False, "reachable")},
            id="another leads now",
        ),
        pytest.param(
            [a_manager("m1", leader=True), a_manager("m2", state="down")],
            {"m1": (True, "reachable"), "m2": (False, "unreachable")},
            id="one is down",
        ),
        pytest.param(
            [a_manager("m1", leader=True), a_manager("m2", reachability="unreachable")],
            {"m1": (True, "reachable"), "m2": (False, "reachable")},
            id="one is back",
        ),
        pytest.param([a_manager("m1", state="down")], {"m1": (True, "reachable")}, id="who decides reaches itself"),
        pytest.param(
            [a_manager("m1", leader=True), a_manager("m2", state="unknown")],
            {"m1": (True, "reachable"), "m2": (False, "reachable")},
            id="one that was just let in",
        ),
    ],
)
def test_the_leader_shows_who_leads_and_who_is_reached(before: list[Node], expected: object) -> None:
    assert shown(*before, leader_id="m1") == expected


def test_workers_and_managers_to_be_are_shown_as_no_managers() -> None:
    assert shown(a_node(id="w1"), a_node(id="m2", role=Role.MANAGER), leader_id="m1") == {}


def test_only_what_changed_is_looked_at() -> None:
    state = a_state(a_manager("m2", leader=True))
    assert managers.reconcile(state, Dirty(), "m1", now=7).changes == ()
