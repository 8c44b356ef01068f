"""A task with a home goes there or waits, and says why."""

import msgspec
from tests.factories import a_node, a_service, a_state, a_task, all_dirty

from skep.core import schedule
from skep.model.lifecycle import TaskState
from skep.model.node import Availability, Node
from skep.model.task import Task


def placed(*nodes: Node) -> Task:
    """A task at home on n2, as it is after one round."""
    waiting = msgspec.structs.replace(a_task("t1", state=TaskState.PENDING), home="n2")
    state = a_state(a_service(), waiting, *nodes)
    plan = schedule.reconcile(state, all_dirty(state), schedule.Inventory.of(state), 0)
    [put] = plan.changes
    assert isinstance(put.value, Task)
    return put.value


def test_it_goes_home_though_other_nodes_are_emptier() -> None:
    assert placed(a_node("n1"), a_node("n2"), a_node("n3")).node_id == "n2"


def test_it_waits_for_its_node_and_says_so() -> None:
    waiting = placed(a_node("n1"), a_node("n2", availability=Availability.DRAIN), a_node("n3"))
    assert waiting.node_id == ""
    assert waiting.status.err == (
        "no suitable node (2 nodes without the task's volume; 1 node not available for new tasks)"
    )
