"""What the progress loop makes of one round of answers."""

from typing import Any

from skep.cli.progress import assess

NODES = [{"ID": "n1", "Status": {"State": "ready"}}, {"ID": "n2", "Status": {"State": "down"}}]


def a_service(replicas: int = 2, **more: Any) -> dict[str, Any]:
    return {"ID": "s", "Spec": {"Mode": {"Replicated": {"Replicas": replicas}}}, **more}


def a_task(
    slot: int, state: str = "running", desired: str = "running", node: str = "n1", err: str = ""
) -> dict[str, Any]:
    return {"Slot": slot, "NodeID": node, "DesiredState": desired, "Status": {"State": state, "Err": err}}


def test_all_running_has_converged() -> None:
    assert assess(a_service(), [a_task(1), a_task(2)], NODES).has_converged


def test_a_task_on_a_node_that_is_down_does_not_count() -> None:
    assert assess(a_service(), [a_task(1), a_task(2, node="n2")], NODES).running == 1


def test_the_task_that_is_wanted_counts_not_its_history() -> None:
    seen = assess(a_service(1), [a_task(1, "failed", "shutdown"), a_task(1)], NODES)
    assert (seen.running, seen.has_converged) == (1, True)


def test_a_reason_is_shown() -> None:
    waiting = a_task(2, "pending", node="", err="no suitable node (insufficient resources on 1 node)")
    assert "insufficient resources" in assess(a_service(), [a_task(1), waiting], NODES).detail


def test_a_paused_update_is_a_failure() -> None:
    service = a_service(UpdateStatus={"State": "paused", "Message": "task failed"})
    assert assess(service, [], NODES).failure == "service paused: task failed"


def test_a_global_service_without_tasks_waits() -> None:
    service = {"ID": "s", "Spec": {"Mode": {"Global": {}}}}
    assert not assess(service, [], NODES).has_converged
