"""The progress of a service until it has converged, as Docker's CLI shows it.

Edge: the daemon and the terminal. What is decided from what was read is pure and in `assess`.
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
STATES = (
    "new", "allocated", "pending", "assigned", "accepted", "preparing", "ready", "starting", "running",
    "complete", "shutdown", "failed", "rejected", "remove", "orphaned",
)  # fmt: skip
RANK = {state: rank for rank, state in enumerate(STATES)}
TERMINAL = RANK["running"]


@dataclass(frozen=True, slots=True)
class Assessment:
    """Attributes: running, wanted: tasks; detail: what the others are at; failure: why it will not converge."""

    running: int
    wanted: int
    detail: str = ""
    failure: str = ""
    is_rolling_back: bool = False

    @property
    def has_converged(self) -> bool:
        return self.wanted >= 0 and self.running >= self.wanted


def assess(service: Json, tasks: Sequence[Json], nodes: Sequence[Json]) -> Assessment:
    """Judge one round of answers as the docker CLI does: per slot the task that matters, on nodes not down."""
    alive = {node["ID"] for node in nodes if node["Status"]["State"] != "down"}
    slots: dict[object, Json] = {}
    for task in tasks:
        if task.get("NodeID") and task["NodeID"] not in alive:
            continue
        slot = task.get("Slot") or task.get("NodeID")
        if slot not in slots or _weight(task) < _weight(slots[slot]):
            slots[slot] = task
    running = sum(1 for task in slots.values() if _is_running(task))
    mode = service["Spec"]["Mode"]
    wanted = mode["Replicated"].get("Replicas") or 0 if "Replicated" in mode else (len(slots) or -1)
    status = service.get("UpdateStatus") or {}
    state, message = status.get("State", ""), status.get("Message", "")
    failure = f"service {state.replace('_', ' ')}: {message}" if state in ("paused", "rollback_paused") else ""
    errors = sorted({task["Status"]["Err"] for task in slots.values() if task["Status"].get("Err")})
    waiting = sorted({task["Status"]["State"] for task in slots.values() if not _is_running(task)})
    return Assessment(running, wanted, "; ".join(errors) or ", ".join(waiting), failure, state == "rollback_started")


def _weight(task: Json) -> tuple[int, int]:
    return RANK[task["DesiredState"]], RANK[task["Status"]["State"]]


def _is_running(task: Json) -> bool:
    return task["Status"]["State"] == "running" and RANK[task["DesiredState"]] <= TERMINAL


def follow(engine: Engine, service_id: str, *, is_quiet: bool = False) -> None:
    """Wait until a service has converged and stayed so for its monitoring time.

    Raises:
        click.ClickException: The update was paused.
    """
    settled_at = 0.0
    line = ""
    while True:
        service = engine.get(f"/services/{quote(service_id)}")
        filters = {"service": [service_id], "_up-to-date": ["true"]}
        seen = assess(service, engine.list("/tasks", filters), engine.list("/nodes"))
        if seen.failure:
            raise click.ClickException(seen.failure)
        monitor_s = (service["Spec"].get("UpdateConfig") or {}).get("Monitor", 5_000_000_000) / 1e9
        line = _show(seen, line, is_quiet)
        now = time.monotonic()
        if not seen.has_converged:
            settled_at = 0.0
        elif not settled_at:
            settled_at = now
        elif now - settled_at >= monitor_s:
            break
        time.sleep(POLL_S)
    if not is_quiet:
        click.echo(f"verify: Service {service_id} converged")


def _show(seen: Assessment, shown: str, is_quiet: bool) -> str:
    line = f"overall progress: {'rolling back update: ' if seen.is_rolling_back else ''}{seen.running} out of "
    line += f"{max(seen.wanted, 0)} tasks"
    if seen.detail and not seen.has_converged:
        line += f" ({seen.detail})"
    if line != shown and not is_quiet:
        click.echo(line)
    return line
