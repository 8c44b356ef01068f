"""What is answered to the question why tasks do not do their work."""

from tests.factories import GIB, a_node, a_port, a_service, a_state, a_task, a_template, with_status

from skep.core.why import why_service, why_task
from skep.model.lifecycle import TaskState

RUNNING, PENDING = TaskState.RUNNING, TaskState.PENDING


def test_a_task_without_a_node_shows_every_node_against_every_filter() -> None:
    web = a_service(replicas=2, template=a_template(memory=16 * GIB, constraints=["node.labels.disk==ssd"]))
    waiting = with_status(a_task("t2", service=web, slot=2, state=PENDING), err="no suitable node")
    running = a_task("t1", service=web, slot=1, state=RUNNING, node_id="n1", accepting=True)
    view = a_state(a_node("n1"), a_node("n2", labels={"disk": "ssd"}), web, waiting, running)
    answer = why_service(view, web)
    assert answer.n_fine == 1
    assert [(each.task.id, each.cause) for each in answer.obstacles] == [("t2", "no suitable node")]
    (table,) = answer.tables
    assert [row.hostname for row in table.rows] == ["n2", "n1"]
    assert "memory 16 GiB wanted" in table.rows[0].verdicts[1].figures
    assert table.fix


def test_tasks_that_ask_for_the_same_share_one_table() -> None:
    web = a_service(replicas=3, template=a_template(constraints=["node.role==none"]))
    waiting = [a_task(f"t{n}", service=web, slot=n, state=PENDING) for n in (1, 2, 3)]
    answer = why_service(a_state(a_node("n1"), web, *waiting), web)
    assert (len(answer.obstacles), len(answer.tables)) == (3, 1)


def test_a_task_that_does_not_accept_yet_is_not_fine() -> None:
    web = a_service(ports=[a_port(8080)])
    deaf = with_status(
        a_task("t1", service=web, slot=1, state=RUNNING, node_id="n1"), message="waiting for port 80/tcp"
    )
    answer = why_service(a_state(a_node("n1"), web, deaf), web)
    assert [each.cause for each in answer.obstacles] == ["waiting for port 80/tcp"]


def test_a_task_that_waits_for_its_delay_says_how_the_one_before_ended() -> None:
    web = a_service()
    failed = a_task("t1", service=web, slot=1, state=TaskState.FAILED, desired=TaskState.SHUTDOWN, node_id="n1")
    failed = with_status(failed, err="task: non-zero exit (7)")
    waiting = a_task("t2", service=web, slot=1, state=TaskState.READY, desired=TaskState.READY, node_id="n1", ordinal=2)
    answer = why_service(a_state(a_node("n1"), web, failed, waiting), web)
    assert [each.cause for each in answer.obstacles] == [
        "it waits for its restart delay; the one before it: it ended as failed: task: non-zero exit (7)"
    ]


def test_a_task_that_waits_for_another_to_stop_names_it() -> None:
    web = a_service()
    stopping = a_task("t1", service=web, slot=1, state=RUNNING, desired=TaskState.SHUTDOWN, node_id="n1")
    waiting = a_task("t2", service=web, slot=1, state=TaskState.READY, desired=TaskState.READY, node_id="n2", ordinal=2)
    answer = why_service(a_state(a_node("n1"), a_node("n2"), web, stopping, waiting), web)
    assert [each.cause for each in answer.obstacles] == ["it waits until task t1 has stopped"]


def test_a_service_that_lacks_something_itself_says_so() -> None:
    web = a_service(reasons=["port 8080/tcp is taken by service shop"])
    answer = why_service(a_state(a_node("n1"), web), web)
    assert answer.reasons == ("port 8080/tcp is taken by service shop",)


def test_a_task_that_ended_says_how() -> None:
    ended = with_status(a_task("t1", service=a_service(), state=TaskState.REJECTED), err="image is not there")
    assert why_task(a_state(ended), ended).obstacles[0].cause == "it ended as rejected: image is not there"
