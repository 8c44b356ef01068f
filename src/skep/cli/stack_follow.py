"""Waiting for a stack: start order, convergence, and what to end with.

Edge: the daemon, the terminal and the clock. What a moment's answers mean is decided in `skep.stack.convergence`.
"""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from skep.cli import render
from skep.cli.client import Engine
from skep.edge.unix_http import EngineRefused, EngineUnreachable
from skep.stack.compose import ComposeService, Condition
from skep.stack.convergence import Judgement, Outcome, Standing, judge, outcome, swarm_of
from skep.stack.labels import label_filter

POLL_S = 0.3
PATIENCE_S = 5.0
"""So long nothing but unplaceable tasks is waited for: a node may be on its way back."""
MONITOR_NS = 5_000_000_000
SERVER_FAULT = 500


@dataclass(slots=True)
class Follow:
    """One stack being followed.

    Attributes:
        deadline: On the monotonic clock, in seconds.
        changed: Full names of services this deployment wrote.
    """

    engine: Engine
    stack: str
    deadline: float
    say: Callable[[str], None]
    changed: set[str] = field(default_factory=set)
    shown: dict[str, str] = field(default_factory=dict)
    monitor_s: float = 0.0

    def look(self) -> dict[str, Judgement]:
        """Judge every service of the stack as it is now."""
        services = self.engine.list("/services", label_filter(self.stack), status=True)
        ids = [service["ID"] for service in services]
        tasks = self.engine.list("/tasks", {"service": ids, "_up-to-date": ["true"]}) if ids else []
        swarm = swarm_of(self.engine.list("/nodes"))
        found: dict[str, Judgement] = {}
        for service in services:
            name = service["Spec"]["Name"]
            own = [task for task in tasks if task["ServiceID"] == service["ID"]]
            found[name] = judge(service, own, swarm, is_changed=name in self.changed)
        self.monitor_s = max(
            (_monitor_s(service["Spec"]) for service in services if service["Spec"]["Name"] in self.changed),
            default=0.0,
        )
        self._show(found)
        return found

    def _look_again(self) -> dict[str, Judgement]:
        """Look, with patience for a daemon that is restarting or a swarm that has no leader for a moment.

        Raises:
            EngineUnreachable, EngineRefused: It lasted until the deadline.
        """
        while True:
            try:
                return self.look()
            except (EngineUnreachable, EngineRefused) as error:
                is_passing = isinstance(error, EngineUnreachable) or error.status >= SERVER_FAULT
                if not is_passing or time.monotonic() >= self.deadline:
                    raise
            time.sleep(POLL_S)

    def _show(self, found: dict[str, Judgement]) -> None:
        for name, judgement in found.items():
            line = judgement.line + (f" ({judgement.reasons[0]})" if judgement.reasons else "")
            if self.shown.get(name) != line and (name in self.changed or judgement.standing is not Standing.CONVERGED):
                self.say(render.plain(line))
            self.shown[name] = line

    def wait_converged(self, names: Collection[str]) -> tuple[Outcome, list[Judgement]]:
        """Wait until services run as they should and have done so for their monitoring time."""
        settled_at: float | None = None

        def has_settled(found: dict[str, Judgement]) -> bool:
            nonlocal settled_at
            chosen = [found[name] for name in names if name in found]
            if any(judgement.standing is not Standing.CONVERGED for judgement in chosen) or len(chosen) < len(names):
                settled_at = None
                return False
            settled_at = time.monotonic() if settled_at is None else settled_at
            return time.monotonic() - settled_at >= self.monitor_s

        return self._wait(names, has_settled)

    def wait_dependencies(self, service: ComposeService) -> tuple[Outcome, list[Judgement]]:
        """Wait until everything a service depends on is where it has to be."""
        conditions = {f"{self.stack}_{needed.service}": needed.condition for needed in service.depends_on}

        def are_met(found: dict[str, Judgement]) -> bool:
            return all(name in found and _is_met(found[name], condition) for name, condition in conditions.items())

        return self._wait(conditions, are_met)

    def _wait(
        self, names: Collection[str], is_done: Callable[[dict[str, Judgement]], bool]
    ) -> tuple[Outcome, list[Judgement]]:
        stuck_at: float | None = None
        while True:
            found = self._look_again()
            chosen = [found[name] for name in names if name in found]
            if is_done(found):
                return Outcome.CONVERGED, chosen
            now = time.monotonic()
            is_stuck = {j.standing for j in chosen} - {Standing.CONVERGED} == {Standing.UNPLACEABLE}
            stuck_at = (stuck_at or now) if is_stuck else None
            is_over = now >= self.deadline or (stuck_at is not None and now - stuck_at >= PATIENCE_S)
            ended = outcome(chosen, is_time_over=is_over)
            if ended is Outcome.CONVERGED and is_over:
                ended = Outcome.TIMED_OUT  # All run, but not yet for as long as they are to be watched.
            if ended not in (None, Outcome.CONVERGED):
                assert ended is not None  # noqa: S101 -- tells mypy what the line above says
                return ended, chosen
            time.sleep(POLL_S)


def _is_met(judgement: Judgement, condition: Condition) -> bool:
    match condition:
        case Condition.STARTED:
            return judgement.standing is Standing.CONVERGED or judgement.running > 0
        case Condition.HEALTHY:  # A task of a swarm is running once its health check has passed.
            return judgement.standing is Standing.CONVERGED
        case Condition.COMPLETED:
            return judgement.completed >= max(judgement.wanted, 1)


def _monitor_s(spec: dict[str, object]) -> float:
    update = spec.get("UpdateConfig")
    given = update.get("Monitor") if isinstance(update, dict) else None
    return float(given or MONITOR_NS) / 1e9
