"""Reports and hellos of nodes, folded into the state."""

import msgspec
import pytest
from tests.factories import a_node, a_state, a_task, commit

from skep.core import observe
from skep.lib.durations import SECOND
from skep.model.lifecycle import TaskState
from skep.model.node import NodeDescription, NodeState, NodeStatus, TLSInfo
from skep.model.service import Resources
from skep.model.session import TaskReport
from skep.model.task import ContainerStatus, Task, TaskStatus
from skep.store.state import State

NOW = 1_000 * SECOND
S = TaskState


def a_report(task_id: str = "task", state: TaskState = S.RUNNING, **fields: object) -> TaskReport:
    return TaskReport(task_id=task_id, status=TaskStatus(state=state, **fields))  # type: ignore[arg-type]  # As given.


def a_world(state: TaskState = S.ASSIGNED, **fields: object) -> State:
    return a_state(a_node("n1"), a_task(state=state, node_id="n1", **fields))


def folded(state: State, *reports: TaskReport, node_id: str = "n1", now: int = NOW) -> Task:
    commit(state, observe.fold(state, node_id, reports, now))
    task = state.tasks.get("task")
    assert task is not None
    return task


def test_a_report_becomes_the_status() -> None:
    container = ContainerStatus(container_id="c", pid=7)
    report = a_report(timestamp=5, message="started", container=container, is_accepting=True)
    task = folded(a_world(), report)
    assert task.status == report.status
    assert (task.started_at, task.ended_at) == (NOW, 0)


@pytest.mark.parametrize(
    ("old", "new", "is_taken"),
    [
        (S.ASSIGNED, S.ACCEPTED, True),
        (S.STARTING, S.RUNNING, True),
        (S.RUNNING, S.STARTING, False),
        (S.RUNNING, S.FAILED, True),
        (S.ASSIGNED, S.REJECTED, True),
        (S.COMPLETE, S.FAILED, False),
        (S.FAILED, S.RUNNING, False),
        (S.ORPHANED, S.RUNNING, False),
        (S.PENDING, S.RUNNING, False),
        (S.RUNNING, S.ORPHANED, False),
        (S.RUNNING, S.REMOVE, False),
        (S.ASSIGNED, S.ASSIGNED, False),
    ],
)
def test_observed_state_never_goes_back(old: TaskState, new: TaskState, is_taken: bool) -> None:
    task = folded(a_world(old), a_report(state=new))
    assert task.status.state == (new if is_taken else old)


def test_the_moment_of_a_state_is_kept_while_details_change() -> None:
    state = a_world()
    folded(state, a_report(timestamp=5, message="started"))
    task = folded(state, a_report(timestamp=9, message="healthy", is_accepting=True), now=NOW + SECOND)
    assert (task.status.timestamp, task.status.message, task.status.is_accepting) == (5, "healthy", True)
    assert task.started_at == NOW


def test_the_managers_clock_says_when_it_ended() -> None:
    state = a_world()
    folded(state, a_report(timestamp=5))
    task = folded(state, a_report(state=S.FAILED, timestamp=6, err="exit status 1"), now=NOW + SECOND)
    assert (task.started_at, task.ended_at, task.status.timestamp) == (NOW, NOW + SECOND, 6)


def test_a_report_without_a_moment_gets_the_managers() -> None:
    assert folded(a_world(), a_report()).status.timestamp == NOW


def test_the_same_report_twice_changes_nothing() -> None:
    state = a_world()
    folded(state, a_report(timestamp=5))
    assert observe.fold(state, "n1", [a_report(timestamp=5)], NOW + SECOND).changes == ()


def test_several_reports_of_one_task_in_one_message_count_in_order() -> None:
    task = folded(a_world(), a_report(state=S.RUNNING), a_report(state=S.FAILED))
    assert task.status.state == S.FAILED
    assert task.started_at == task.ended_at == NOW


@pytest.mark.parametrize(
    ("node_id", "task_id", "why"),
    [("n2", "task", "not that node's"), ("n1", "nothing", "no such task")],
    ids=["foreign", "unknown"],
)
def test_what_is_not_the_nodes_own_is_noted_and_left_out(node_id: str, task_id: str, why: str) -> None:
    plan = observe.fold(a_world(), node_id, [a_report(task_id)], NOW)
    assert plan.changes == ()
    assert why in plan.notes[0]


def test_a_bad_report_does_not_stop_the_others() -> None:
    task = folded(a_world(), a_report("nothing"), a_report())
    assert task.status.state == S.RUNNING


# --- register ------------------------------------------------------------------


DESCRIPTION = NodeDescription(hostname="alpha", resources=Resources(nano_cpus=10**9))


def test_a_hello_brings_the_node_up() -> None:
    down = msgspec.structs.replace(a_node("n1", state=NodeState.DOWN), balanced=False)
    state = a_state(down)
    commit(state, observe.register(state, "n1", DESCRIPTION, "10.0.0.1", ["vxlan", "nft"], NOW))
    node = state.nodes.get("n1")
    assert node is not None
    assert node.status == NodeStatus(state=NodeState.READY, addr="10.0.0.1", since=NOW)
    assert (node.balanced, node.description, node.capabilities) == (True, DESCRIPTION, ["nft", "vxlan"])
    assert observe.register(state, "n1", DESCRIPTION, "10.0.0.1", ["nft", "vxlan"], NOW + SECOND).changes == ()


def test_a_hello_without_trust_keeps_what_is_known() -> None:
    trust = TLSInfo(trust_root="pem")
    state = a_state(msgspec.structs.replace(a_node("n1"), description=NodeDescription(tls_info=trust)))
    commit(state, observe.register(state, "n1", DESCRIPTION, "10.0.0.1", [], NOW))
    node = state.nodes.get("n1")
    assert node is not None
    assert node.description == msgspec.structs.replace(DESCRIPTION, tls_info=trust)


def test_a_hello_of_a_stranger_creates_nothing() -> None:
    plan = observe.register(a_state(), "n9", DESCRIPTION, "10.0.0.9", [], NOW)
    assert plan.changes == ()
    assert plan.notes
