"""The progress of a service until it has converged, or of a job until it is complete, as Docker's CLI shows it.

Edge: the daemon and the terminal. What is decided from what was read is pure and in `assess`.
Source: docker/cli, command/service/progress: its texts, its exit codes, and which task of a slot it looks at.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import click

from skep.cli.client import Engine

Json = dict[str, Any]
POLL_S = 0.2
DEFAULT_MONITOR_NS = 5_000_000_000
STATES = (
    "new", "allocated", "pending", "assigned", "accepted", "preparing", "ready", "starting", "running",
    "complete", "shutdown", "failed", "rejected", "remove", "orphaned",
)  # fmt: skip
RANK = {state: rank for rank, state in enumerate(STATES)}
TERMINAL = RANK["running"]
ROLLBACK = ("rollback_started", "rollback_completed")
PAUSED = {"paused": "service update paused", "rollback_paused": "service rollback paused"}


@dataclass(frozen=True, slots=True)
class Assessment:
    """One round of answers, judged.

    Attributes:
        done, wanted: Tasks that run, or that have completed where it is a job; wanted is -1 while it is not known.
        active: Of a job, how many are at work.
        detail: What the others are at, or why they are not further.
        failure: Why it will not converge; empty if it may.
        rollback: What is said of a rollback under way or over; empty if there is none.
    """

    done: int
    wanted: int
    active: int = 0
    is_job: bool = False
    detail: str = ""
    failure: str = ""
    rollback: str = ""

    @property
    def has_converged(self) -> bool:
        return self.wanted >= 0 and self.done == self.wanted

    @property
    def line(self) -> str:
        """What is shown of it."""
        if self.is_job:
            text = f"job progress: {self.done} out of {max(self.wanted, 0)} complete, {self.active} active"
        else:
            kind = "rolling back update: " if self.rollback else ""
            text = f"overall progress: {kind}{self.done} out of {max(self.wanted, 0)} tasks"
        return f"{text} ({self.detail})" if self.detail and not self.has_converged else text


def assess(service: Json, tasks: Sequence[Json], nodes: Sequence[Json]) -> Assessment:
    """Judge one round of answers: per slot the task that matters, on nodes not down.

    Args:
        tasks: Those made from the service's present spec.
    """
    mode = service["Spec"]["Mode"]
    if "ReplicatedJob" in mode or "GlobalJob" in mode:
        return _assess_job(service, tasks)
    alive = {node["ID"] for node in nodes if node["Status"]["State"] != "down"}
    slots = _slots(service, [task for task in tasks if not task.get("NodeID") or task["NodeID"] in alive])
    running = sum(1 for task in slots.values() if _is_running(task))
    wanted = mode["Replicated"].get("Replicas") or 0 if "Replicated" in mode else (len(slots) or -1)
    status = service.get("UpdateStatus") or {}
    state, message = status.get("State", ""), status.get("Message", "")
    return Assessment(
        running,
        wanted,
        detail=_detail([task for task in slots.values() if not _is_running(task)]),
        failure=f"{PAUSED[state]}: {message}" if state in PAUSED else "",
        rollback=message if state in ROLLBACK else "",
    )


def _assess_job(service: Json, tasks: Sequence[Json]) -> Assessment:
    iteration = _iteration(service.get("JobStatus"))
    slots = _slots(service, [task for task in tasks if _iteration(task) == iteration])
    complete = sum(1 for task in slots.values() if task["Status"]["State"] == "complete")
    active = [task for task in slots.values() if RANK[task["Status"]["State"]] <= TERMINAL]
    stuck = [task for task in slots.values() if task["Status"].get("Err")]
    mode = service["Spec"]["Mode"]
    wanted = mode["ReplicatedJob"]["TotalCompletions"] if "ReplicatedJob" in mode else (len(slots) or -1)
    return Assessment(complete, wanted, active=len(active), is_job=True, detail=_detail(stuck))


def _iteration(holder: Json | None) -> int:
    return int(((holder or {}).get("JobIteration") or {}).get("Index", 0))


def _slots(service: Json, tasks: Sequence[Json]) -> dict[object, Json]:
    """The one task of each slot that matters. Jobs count slots from 0, which Docker's JSON leaves out."""
    is_per_node = "Global" in service["Spec"]["Mode"] or "GlobalJob" in service["Spec"]["Mode"]
    slots: dict[object, Json] = {}
    for task in tasks:
        slot = task.get("NodeID") if is_per_node else task.get("Slot", 0)
        if task["DesiredState"] != "remove" and (slot not in slots or _weight(task) < _weight(slots[slot])):
            slots[slot] = task
    return slots


def _weight(task: Json) -> tuple[int, int]:
    return RANK[task["DesiredState"]], RANK[task["Status"]["State"]]


def _is_running(task: Json) -> bool:
    return task["Status"]["State"] == "running" and RANK[task["DesiredState"]] <= TERMINAL


def _detail(waiting: Sequence[Json]) -> str:
    errors = sorted({task["Status"]["Err"] for task in waiting if task["Status"].get("Err")})
    return "; ".join(errors) or ", ".join(sorted({task["Status"]["State"] for task in waiting}))


def follow(engine: Engine, service_id: str, *, is_quiet: bool = False) -> None:
    """Wait until a service has converged and stayed so for its monitoring time, or until a job is complete.

    Raises:
        click.ClickException: The update or the rollback was paused.
    """
    progress = _Progress(is_quiet)
    while True:
        service = engine.get(f"/services/{quote(service_id)}")
        filters = {"service": [service_id], "_up-to-date": ["true"]}
        seen = assess(service, engine.list("/tasks", filters), engine.list("/nodes"))
        if seen.failure:
            raise click.ClickException(seen.failure)
        monitor_ns = (service["Spec"].get("UpdateConfig") or {}).get("Monitor") or DEFAULT_MONITOR_NS
        if progress.take(seen, monitor_ns / 1e9, time.monotonic()):
            break
        time.sleep(POLL_S)
    progress.say("job complete" if seen.is_job else f"verify: Service {service_id} converged")


class _Progress:
    """What was shown already, and since when the service has been as it should be."""

    def __init__(self, is_quiet: bool) -> None:
        self._is_quiet = is_quiet
        self._shown = ""
        self._rollback = ""
        self._settled_at: float | None = None

    def say(self, line: str) -> None:
        if not self._is_quiet:
            click.echo(line)

    def take(self, seen: Assessment, monitor_s: float, now: float) -> bool:
        """Show what is new; returns whether it is over."""
        if seen.rollback and seen.rollback != self._rollback:
            self._rollback = seen.rollback
            self.say(f"rollback: {seen.rollback}")
        if seen.line != self._shown:
            self._shown = seen.line
            self.say(seen.line)
        if not seen.has_converged:
            if self._settled_at is not None:
                self.say("verify: Detected task failure")
            self._settled_at = None
            return False
        if seen.is_job:
            return True
        self._settled_at = now if self._settled_at is None else self._settled_at
        return now - self._settled_at >= monitor_s
