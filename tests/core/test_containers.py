"""What a user may call a task's container, as a table."""

import msgspec
import pytest
from tests.factories import a_node, a_service, a_task

from skep.core.containers import find_tasks
from skep.model.lifecycle import TaskState
from skep.model.task import ContainerStatus, Task, TaskStatus
from skep.store.changes import Put
from skep.store.state import State

NODE = "node00000000000000000000a"


def a_run(task_id: str, *, container: str = "", state: TaskState = TaskState.RUNNING, **changes: object) -> Task:
    status = TaskStatus(state=state, container=ContainerStatus(container_id=container) if container else None)
    fields = {"service_id": "s1", "service_name": "web", "node_id": NODE, "status": status, **changes}
    return msgspec.structs.replace(a_task(id=task_id), **fields)


@pytest.fixture
def state() -> State:
    state = State()
    service, everywhere = a_service(id="s1", name="web"), a_service(id="s2", name="my.agent")
    node = a_node(id=NODE, hostname="worker1")
    runs = [
        a_run("told1", container="aa11" * 16, state=TaskState.SHUTDOWN, slot=1, desired_state=TaskState.SHUTDOWN),
        a_run("tnew1", container="aa22" * 16, slot=1, ordinal=1),
        a_run("twait2", state=TaskState.PREPARING, slot=2, ordinal=3),
        a_run("tglobal", container="bb33" * 16, slot=0, service_id="s2", service_name="my.agent"),
    ]
    state.apply([Put(service), Put(everywhere), Put(node), *map(Put, runs)], 1)
    return state


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        pytest.param("tnew1", ["tnew1"], id="a task's id"),
        pytest.param("tne", ["tnew1"], id="the beginning of a task's id"),
        pytest.param("aa22" * 16, ["tnew1"], id="a container's id"),
        pytest.param("aa22aa", ["tnew1"], id="the beginning of a container's id"),
        pytest.param("aa", ["told1", "tnew1"], id="a beginning that two share"),
        pytest.param("web.1", ["tnew1"], id="a place: the one that runs"),
        pytest.param("/web.1", ["tnew1"], id="with a container name's slash"),
        pytest.param("web.1.told1", ["told1"], id="the name of an ended one"),
        pytest.param("web.2", ["twait2"], id="a place whose task has no container yet"),
        pytest.param("web.3", [], id="a place nobody fills"),
        pytest.param("web.2.tnew1", [], id="a name that does not fit its task"),
        pytest.param(f"my.agent.{NODE}", ["tglobal"], id="a global service's task by node"),
        pytest.param("my.agent.worker1", ["tglobal"], id="a global service's task by host name"),
        pytest.param("web", [], id="a service is no container"),
        pytest.param("", [], id="nothing"),
        pytest.param("..", [], id="dots"),
        pytest.param("web.-1", [], id="a negative place"),
        pytest.param("web.²", [], id="a digit of another script"),
        pytest.param("no such thing", [], id="words"),
    ],
)
def test_what_a_reference_means(state: State, reference: str, found: list[str]) -> None:
    assert [task.id for task in find_tasks(state, reference)] == found
