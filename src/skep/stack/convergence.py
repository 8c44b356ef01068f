"""How far a stack's services are, and whether they can still get there.

Pure: the API's answers in, a judgement out. A task is judged only if it was made for the service's present spec.
"""

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

Json = dict[str, Any]
STATES: Final = (
    "new", "allocated", "pending", "assigned", "accepted", "preparing", "ready", "starting", "running",
    "complete", "shutdown", "failed", "rejected", "remove", "orphaned",
)  # fmt: skip
RANK: Final = {state: rank for rank, state in enumerate(STATES)}
FAILED: Final = ("failed", "rejected")
HOPELESS: Final = 5
"""So many failures in one slot, and what the swarm does about them is not going to help."""


class Outcome(enum.IntEnum):
    """The exit codes of a deployment."""

    CONVERGED = 0
    FAILED = 1
    UNPLACEABLE = 2
    TIMED_OUT = 3


class Standing(enum.Enum):
    CONVERGED = "converged"
    WAITING = "waiting"
    UNPLACEABLE = "cannot be placed"
    FAILING = "failing"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Judgement:
    """One service at one moment.

    Attributes:
        reasons: One for each task that does not do what it should.
        completed: Slots in which a task has ended well.
    """

    name: str
    standing: Standing
    running: int = 0
    wanted: int = 0
    reasons: tuple[str, ...] = ()
    completed: int = 0

    @property
    def line(self) -> str:
        return f"{self.name}: {self.running}/{self.wanted} {self.standing.value}"


@dataclass(frozen=True, slots=True)
class Swarm:
    """Attributes: names: of nodes, by id; down: ids of nodes that are down."""

    names: dict[str, str] = field(default_factory=dict)
    down: frozenset[str] = frozenset()


def swarm_of(nodes: Iterable[Json]) -> Swarm:
    found = list(nodes)
    return Swarm(
        {node["ID"]: node["Description"]["Hostname"] for node in found},
        frozenset(node["ID"] for node in found if node["Status"]["State"] == "down"),
    )


def judge(service: Json, tasks: Sequence[Json], swarm: Swarm, *, is_changed: bool = True) -> Judgement:
    """Judge a service.

    Args:
        service: With `ServiceStatus`, as `GET /services?status=true` answers.
        tasks: Of that service and of its present spec only, whatever their state.
        is_changed: Whether this deployment wrote it: an update that failed before is not this one's failure.
    """
    name = service["Spec"]["Name"]
    slots = _slots(tasks)
    running = sum(1 for slot in slots.values() if any(_runs(task, swarm) for task in slot))
    completed = sum(1 for slot in slots.values() if any(t["Status"]["State"] == "complete" for t in slot))
    done = completed if _is_job(service) else running + (0 if _restarts_always(service) else completed)
    wanted = _wanted(service)
    update = (service.get("UpdateStatus") or {}) if is_changed else {}
    reasons = tuple(_reason(name, slot, swarm) for slot in slots.values() if not _is_fine(slot, swarm))
    if update.get("State") == "paused" and done >= wanted and not _restarts_always(service):
        update = {}  # To an update, a task that has done its work has ended early; to this service it has not.
    if update.get("State") in ("paused", "rollback_paused", "rollback_started", "rollback_completed"):
        told = f"{name}: {update['State'].replace('_', ' ')}: {update.get('Message', '')}".rstrip(": ")
        return Judgement(name, Standing.FAILED, done, wanted, (told, *reasons), completed)
    if wanted < 0:
        return Judgement(name, Standing.UNPLACEABLE, done, 0, (f"{name}: no node fits it",), completed)
    if done >= wanted and update.get("State") != "updating":
        return Judgement(name, Standing.CONVERGED, done, wanted, (), completed)
    return Judgement(name, _standing(slots.values(), swarm), done, wanted, reasons, completed)


def _is_job(service: Json) -> bool:
    mode = service["Spec"]["Mode"]
    return "ReplicatedJob" in mode or "GlobalJob" in mode


def _restarts_always(service: Json) -> bool:
    policy = service["Spec"]["TaskTemplate"].get("RestartPolicy") or {}
    return (policy.get("Condition") or "any") == "any"


def _wanted(service: Json) -> int:
    """How many tasks it should have; -1 for a global service that fits no node."""
    mode = service["Spec"]["Mode"]
    if "Replicated" in mode:
        replicas = mode["Replicated"].get("Replicas")
        return 1 if replicas is None else int(replicas)
    if "ReplicatedJob" in mode:
        return int(mode["ReplicatedJob"].get("TotalCompletions") or 1)
    return int((service.get("ServiceStatus") or {}).get("DesiredTasks") or -1)


def _slots(tasks: Sequence[Json]) -> dict[object, list[Json]]:
    slots: dict[object, list[Json]] = {}
    for task in tasks:
        slots.setdefault(task.get("Slot") or task.get("NodeID") or task["ID"], []).append(task)
    return slots


def _runs(task: Json, swarm: Swarm) -> bool:
    is_meant = RANK[task["DesiredState"]] <= RANK["running"]
    return is_meant and task["Status"]["State"] == "running" and task.get("NodeID") not in swarm.down


def _is_fine(slot: Iterable[Json], swarm: Swarm) -> bool:
    return any(_runs(task, swarm) or task["Status"]["State"] == "complete" for task in slot)


def _is_unplaced(task: Json) -> bool:
    is_meant = RANK[task["DesiredState"]] <= RANK["running"]
    return is_meant and not task.get("NodeID") and bool(task["Status"].get("Err"))


def _standing(slots: Iterable[Sequence[Json]], swarm: Swarm) -> Standing:
    """The worst of the slots that are not fine."""
    worst = Standing.WAITING
    for slot in slots:
        if _is_fine(slot, swarm):
            continue
        failures = sum(1 for task in slot if task["Status"]["State"] in FAILED)
        is_over = all(RANK[task["DesiredState"]] > RANK["running"] or _has_ended(task) for task in slot)
        if failures >= HOPELESS or (failures and is_over):
            return Standing.FAILED
        if any(_is_unplaced(task) for task in slot):
            worst = Standing.UNPLACEABLE
        elif failures and worst is Standing.WAITING:
            worst = Standing.FAILING
    return worst


def _has_ended(task: Json) -> bool:
    return RANK[task["Status"]["State"]] > RANK["running"]


def _reason(name: str, slot: Sequence[Json], swarm: Swarm) -> str:
    """One sentence about a slot: where its newest task is, and the newest error of any."""
    newest = max(slot, key=lambda task: task["CreatedAt"])
    told = newest["Status"].get("Err") or ""
    if not told:
        failures = [task for task in slot if task["Status"].get("Err")]
        told = max(failures, key=lambda task: task["CreatedAt"])["Status"]["Err"] if failures else ""
    node = swarm.names.get(newest.get("NodeID", ""), "")
    where = f" on {node}" if node else ""
    number = newest.get("Slot") or node or newest["ID"][:12]
    return f"{name}.{number} is {newest['Status']['State']}{where}" + (f": {told}" if told else "")


def outcome(judgements: Iterable[Judgement], *, is_time_over: bool) -> Outcome | None:
    """What to end with; None to go on waiting.

    Services that cannot be placed may become placeable, and failing ones recover: only the time that has passed
    turns them into outcomes, and how much of it that takes is the caller's to say.
    """
    standings = {judgement.standing for judgement in judgements}
    if Standing.FAILED in standings:
        return Outcome.FAILED
    if standings <= {Standing.CONVERGED}:
        return Outcome.CONVERGED
    if not is_time_over:
        return None
    if Standing.FAILING in standings:
        return Outcome.FAILED
    return Outcome.UNPLACEABLE if Standing.UNPLACEABLE in standings else Outcome.TIMED_OUT
