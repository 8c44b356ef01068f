"""Waiting for a stack whose daemon is away for a moment."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from skep.cli.client import Engine
from skep.cli.stack_follow import Follow
from skep.edge.unix_http import EngineRefused, EngineUnreachable
from skep.stack.convergence import Outcome

SERVICE = {
    "ID": "s",
    "Spec": {"Name": "x_web", "Mode": {"Replicated": {"Replicas": 1}}, "TaskTemplate": {}},
}
TASK = {
    "ID": "t",
    "ServiceID": "s",
    "Slot": 1,
    "NodeID": "n",
    "DesiredState": "running",
    "CreatedAt": "2026-01-01T00:00:00Z",
    "Status": {"State": "running"},
}
NODE = {"ID": "n", "Description": {"Hostname": "node1"}, "Status": {"State": "ready"}}


class ScriptedEngine(Engine):
    """Fails as it is told, one failure per request, and then answers with one running task."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)

    def list(self, path: str, filters: dict[str, list[str]] | None = None, **query: object) -> list[dict[str, Any]]:
        if self.failures:
            raise self.failures.pop(0)
        return {"/services": [SERVICE], "/tasks": [TASK], "/nodes": [NODE]}[path]


def follow(*failures: Exception, length_s: float = 5.0) -> Follow:
    return Follow(ScriptedEngine(*failures), "x", time.monotonic() + length_s, lambda _: None)


@pytest.mark.parametrize(
    "failures",
    [(), (EngineUnreachable("away"),), (EngineRefused(503, "no leader"), EngineUnreachable("away"))],
    ids=["none", "a restart", "an election"],
)
def test_a_moment_without_a_daemon_does_not_end_the_waiting(failures: tuple[Exception, ...]) -> None:
    ended, judgements = follow(*failures).wait_converged(["x_web"])
    assert ended is Outcome.CONVERGED
    assert [judgement.running for judgement in judgements] == [1]


@pytest.mark.parametrize(
    ("make", "length_s"),
    [(lambda: EngineRefused(403, "no"), 5.0), (lambda: EngineUnreachable("away"), 0.0)],
    ids=["a refusal", "past the deadline"],
)
def test_what_does_not_pass_ends_it(make: Callable[[], Exception], length_s: float) -> None:
    with pytest.raises((EngineRefused, EngineUnreachable)):
        follow(make(), length_s=length_s).wait_converged(["x_web"])


def test_a_service_that_never_comes_times_out() -> None:
    ended, _ = follow(length_s=0.0).wait_converged(["x_web", "x_gone"])
    assert ended is Outcome.TIMED_OUT
