"""How a moment's answers are judged."""

from typing import Any

import pytest

from skep.stack.convergence import HOPELESS, Judgement, Outcome, Standing, Swarm, judge, outcome

SWARM = Swarm({"n1": "node1", "n2": "node2"}, frozenset({"n2"}))


def service(replicas: int = 1, update: str = "", condition: str = "any", mode: Any = None) -> dict[str, Any]:
    return {
        "Spec": {
            "Name": "web",
            "Mode": mode or {"Replicated": {"Replicas": replicas}},
            "TaskTemplate": {"RestartPolicy": {"Condition": condition}},
        },
        "UpdateStatus": {"State": update, "Message": "because"} if update else None,
    }


def task(state: str, slot: int = 1, desired: str = "running", node: str = "n1", err: str = "", at: int = 0) -> Any:
    return {
        "ID": f"{slot}-{state}-{at}",
        "Slot": slot,
        "NodeID": node,
        "DesiredState": desired,
        "CreatedAt": f"2026-01-01T00:00:{at:02d}Z",
        "Status": {"State": state, "Err": err},
    }


def ended(at: int, err: str = "exit 3") -> Any:
    return task("failed", desired="shutdown", err=err, at=at)


@pytest.mark.parametrize(
    ("found", "tasks", "standing", "running"),
    [
        (service(2), [task("running", 1), task("running", 2)], Standing.CONVERGED, 2),
        (service(2), [task("running", 1)], Standing.WAITING, 1),
        (service(0), [], Standing.CONVERGED, 0),
        (service(), [task("running", node="n2")], Standing.WAITING, 0),
        (service(), [task("running", desired="shutdown")], Standing.WAITING, 0),
        (service(), [task("starting")], Standing.WAITING, 0),
        (service(), [task("pending", node="", err="no suitable node")], Standing.UNPLACEABLE, 0),
        (service(), [task("pending", node="")], Standing.WAITING, 0),
        (service(), [ended(1), task("starting", at=2)], Standing.FAILING, 0),
        (service(), [*(ended(n) for n in range(HOPELESS)), task("ready", at=9)], Standing.FAILED, 0),
        (service(), [task("failed", err="exit 3")], Standing.FAILED, 0),
        (service(condition="none"), [task("complete", desired="shutdown")], Standing.CONVERGED, 1),
        (service(1, "paused", "none"), [task("complete", desired="shutdown")], Standing.CONVERGED, 1),
        (service(2, "paused", "none"), [task("complete", desired="shutdown")], Standing.FAILED, 1),
        (service(1, "rollback_completed", "none"), [task("complete")], Standing.FAILED, 1),
        (service(1, "updating"), [task("running")], Standing.WAITING, 1),
        (service(1, "completed"), [task("running")], Standing.CONVERGED, 1),
        (service(1, "paused"), [task("running")], Standing.FAILED, 1),
        (service(1, "rollback_completed"), [task("running")], Standing.FAILED, 1),
        (service(mode={"Global": {}}), [], Standing.UNPLACEABLE, 0),
        (service(mode={"ReplicatedJob": {"TotalCompletions": 2}}), [task("complete", 1)], Standing.WAITING, 1),
        (
            service(mode={"ReplicatedJob": {"TotalCompletions": 2}}),
            [task("complete", 1), task("complete", 2)],
            Standing.CONVERGED,
            2,
        ),
    ],
)
def test_a_service_is_judged(found: dict[str, Any], tasks: list[Any], standing: Standing, running: int) -> None:
    judgement = judge(found, tasks, SWARM)
    assert (judgement.standing, judgement.running) == (standing, running)


def test_an_old_failure_of_an_untouched_service_is_not_this_deployments() -> None:
    assert judge(service(1, "rollback_completed"), [task("running")], SWARM, is_changed=False).standing is (
        Standing.CONVERGED
    )


@pytest.mark.parametrize(
    ("tasks", "reason"),
    [
        ([task("pending", node="", err="no suitable node")], "web.1 is pending: no suitable node"),
        ([ended(1), task("starting", at=2)], "web.1 is starting on node1: exit 3"),
        ([task("preparing")], "web.1 is preparing on node1"),
    ],
)
def test_there_is_a_reason_per_task(tasks: list[Any], reason: str) -> None:
    assert judge(service(), tasks, SWARM).reasons == (reason,)


@pytest.mark.parametrize(
    ("standings", "is_time_over", "expected"),
    [
        ([Standing.CONVERGED], False, Outcome.CONVERGED),
        ([Standing.CONVERGED, Standing.WAITING], False, None),
        ([Standing.UNPLACEABLE], False, None),
        ([Standing.FAILING], False, None),
        ([Standing.CONVERGED, Standing.FAILED], False, Outcome.FAILED),
        ([Standing.WAITING], True, Outcome.TIMED_OUT),
        ([Standing.WAITING, Standing.UNPLACEABLE], True, Outcome.UNPLACEABLE),
        ([Standing.FAILING, Standing.UNPLACEABLE], True, Outcome.FAILED),
    ],
)
def test_outcomes(standings: list[Standing], is_time_over: bool, expected: Outcome | None) -> None:
    assert outcome([Judgement("s", standing) for standing in standings], is_time_over=is_time_over) is expected
