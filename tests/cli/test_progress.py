"""What the progress loop makes of one round of answers, and what it says over several."""

from collections.abc import Iterator
from typing import Any

import click
import pytest

from skep.cli import progress
from skep.cli.progress import assess

NODES = [{"ID": "n1", "Status": {"State": "ready"}}, {"ID": "n2", "Status": {"State": "down"}}]


def a_service(replicas: int = 2, **more: Any) -> dict[str, Any]:
    return {"ID": "s", "Spec": {"Mode": {"Replicated": {"Replicas": replicas}}}, **more}


def a_job(total: int = 3, iteration: int = 0) -> dict[str, Any]:
    mode = {"ReplicatedJob": {"MaxConcurrent": 2, "TotalCompletions": total}}
    index = {"Index": iteration} if iteration else {}
    return {"ID": "s", "Spec": {"Mode": mode}, "JobStatus": {"JobIteration": index}}


def a_task(
    slot: int, state: str = "running", desired: str = "running", node: str = "n1", err: str = "", **more: Any
) -> dict[str, Any]:
    shown = {"Slot": slot} if slot else {}
    return {**shown, "NodeID": node, "DesiredState": desired, "Status": {"State": state, "Err": err}, **more}


def a_job_task(slot: int, state: str, *, iteration: int = 0, **more: Any) -> dict[str, Any]:
    index = {"Index": iteration} if iteration else {}
    return a_task(slot, state, "complete", JobIteration=index, **more)


def test_all_running_has_converged() -> None:
    assert assess(a_service(), [a_task(1), a_task(2)], NODES).has_converged


def test_a_surplus_task_has_not_converged() -> None:
    assert not assess(a_service(1), [a_task(1), a_task(2)], NODES).has_converged
    assert assess(a_service(1), [a_task(1), a_task(2, desired="remove")], NODES).has_converged


def test_a_task_on_a_node_that_is_down_does_not_count() -> None:
    assert assess(a_service(), [a_task(1), a_task(2, node="n2")], NODES).done == 1


def test_the_task_that_is_wanted_counts_not_its_history() -> None:
    seen = assess(a_service(1), [a_task(1, "failed", "shutdown"), a_task(1)], NODES)
    assert (seen.done, seen.has_converged) == (1, True)


def test_a_reason_is_shown() -> None:
    waiting = a_task(2, "pending", node="", err="no suitable node (insufficient resources on 1 node)")
    seen = assess(a_service(), [a_task(1), waiting], NODES)
    assert seen.line == "overall progress: 1 out of 2 tasks (no suitable node (insufficient resources on 1 node))"


@pytest.mark.parametrize(
    ("state", "said"),
    [("paused", "service update paused: it failed"), ("rollback_paused", "service rollback paused: it failed")],
)
def test_a_paused_update_is_a_failure(state: str, said: str) -> None:
    assert assess(a_service(UpdateStatus={"State": state, "Message": "it failed"}), [], NODES).failure == said


def test_a_global_service_without_tasks_waits() -> None:
    service = {"ID": "s", "Spec": {"Mode": {"Global": {}}}}
    assert not assess(service, [], NODES).has_converged


def test_a_job_counts_what_is_complete_from_slot_0_on() -> None:
    tasks = [a_job_task(0, "complete"), a_job_task(1, "running"), a_job_task(2, "pending")]
    seen = assess(a_job(), tasks, NODES)
    assert (seen.done, seen.wanted, seen.active) == (1, 3, 2)
    assert seen.line.startswith("job progress: 1 out of 3 complete, 2 active")


def test_tasks_of_earlier_iterations_of_a_job_do_not_count() -> None:
    old = [a_job_task(slot, "complete") for slot in range(3)]
    seen = assess(a_job(iteration=1), [*old, a_job_task(0, "running", iteration=1)], NODES)
    assert (seen.done, seen.active) == (0, 1)


def test_a_job_is_complete_wherever_it_ran() -> None:
    tasks = [a_job_task(slot, "complete", node="n2") for slot in range(3)]
    assert assess(a_job(), tasks, NODES).has_converged


def test_a_failing_task_of_a_job_says_why() -> None:
    failed = a_job_task(0, "failed", err="task: non-zero exit (3)")
    assert assess(a_job(), [failed], NODES).line.endswith("(task: non-zero exit (3))")


def test_a_global_job_has_as_many_tasks_as_nodes_with_one() -> None:
    service = {"ID": "s", "Spec": {"Mode": {"GlobalJob": {}}}, "JobStatus": {}}
    tasks = [a_job_task(0, "complete", node="n1"), a_job_task(0, "running", node="n2")]
    seen = assess(service, tasks, NODES)
    assert (seen.done, seen.wanted) == (1, 2)


class Rounds:
    """A daemon that answers one round after another."""

    def __init__(self, *rounds: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
        self._rounds: Iterator[tuple[dict[str, Any], list[dict[str, Any]]]] = iter(rounds)
        self._tasks: list[dict[str, Any]] = []

    def get(self, path: str) -> dict[str, Any]:
        service, self._tasks = next(self._rounds)
        return service

    def list(self, path: str, filters: object = None) -> list[dict[str, Any]]:
        return self._tasks if path == "/tasks" else NODES


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "POLL_S", 0.0)


def brisk(status: dict[str, str] | None = None) -> dict[str, Any]:
    service = a_service(1, **({"UpdateStatus": status} if status else {}))
    service["Spec"]["UpdateConfig"] = {"Monitor": 1}
    return service


def test_a_rollback_is_told_with_its_reason_and_ends_well(capsys: pytest.CaptureFixture[str]) -> None:
    rolling = brisk({"State": "rollback_started", "Message": "update rolled back due to x"})
    done = brisk({"State": "rollback_completed", "Message": "rollback completed"})
    rounds = Rounds((brisk(), []), (rolling, []), (rolling, [a_task(1)]), (done, [a_task(1)]), (done, [a_task(1)]))
    progress.follow(rounds, "s")  # type: ignore[arg-type]  # the two questions that are asked
    assert capsys.readouterr().out.splitlines() == [
        "overall progress: 0 out of 1 tasks",
        "rollback: update rolled back due to x",
        "overall progress: rolling back update: 0 out of 1 tasks",
        "overall progress: rolling back update: 1 out of 1 tasks",
        "rollback: rollback completed",
        "verify: Service s converged",
    ]


def test_a_task_that_falls_while_it_is_watched_begins_the_watch_anew(capsys: pytest.CaptureFixture[str]) -> None:
    slow = a_service(1)
    slow["Spec"]["UpdateConfig"] = {"Monitor": 60_000_000_000}
    rounds = Rounds((slow, [a_task(1)]), (slow, [a_task(1, "failed")]), (brisk(), [a_task(1)]), (brisk(), [a_task(1)]))
    progress.follow(rounds, "s")  # type: ignore[arg-type]  # the two questions that are asked
    assert "verify: Detected task failure" in capsys.readouterr().out


def test_a_complete_job_is_not_watched(capsys: pytest.CaptureFixture[str]) -> None:
    progress.follow(Rounds((a_job(1), [a_job_task(0, "complete")])), "s")  # type: ignore[arg-type]  # as above
    assert capsys.readouterr().out == "job progress: 1 out of 1 complete, 0 active\njob complete\n"


def test_a_paused_update_ends_with_its_reason() -> None:
    paused = brisk({"State": "paused", "Message": "update paused due to x"})
    with pytest.raises(click.ClickException, match="service update paused: update paused due to x"):
        progress.follow(Rounds((paused, [])), "s")  # type: ignore[arg-type]  # as above
