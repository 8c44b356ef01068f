"""The orchestrator's one decision: what each service's tasks have to become.

Pure. Looks only at services that something touched, at those with a moment that has come, and at those being
updated. Each service goes through the same steps until they find nothing more to do, so the result is at rest.
Source: swarmkit/manager/orchestrator, as a function of the state instead of loops of events.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from skep.core.orchestrate import enforce, global_, jobs, modes, moves, reap, replicated, restart, starts, update
from skep.core.orchestrate.modes import Mode
from skep.core.orchestrate.roster import Roster
from skep.core.plan import Dirty, Plan, earliest
from skep.model.base import Nanoseconds
from skep.model.service import Service
from skep.store.changes import Change
from skep.store.state import View

MAX_ROUNDS = 8
"""More rounds than any service needs; a decision that goes back and forth is ended by the next event."""


class Agenda:
    """When services being updated have to be looked at again, as found when nothing was left to do for them.

    A leader's memory, which saves it to look at every update in every round. Only what a look at committed objects
    found is remembered, and a change of anything the look saw forgets it, so that losing it costs one look.
    """

    def __init__(self) -> None:
        self._moments: dict[str, Nanoseconds | None] = {}

    def forget(self, service_ids: Iterable[str]) -> None:
        """Something about these services has changed, or is planned to."""
        for service_id in service_ids:
            self._moments.pop(service_id, None)

    def rest(self, service_id: str, until: Nanoseconds | None) -> None:
        """Nothing is to be done for a service before that moment; None for ever."""
        self._moments[service_id] = until

    def is_at_rest(self, service_id: str, now: Nanoseconds) -> bool:
        """Whether a look would find nothing to do."""
        if service_id not in self._moments:
            return False
        moment = self._moments[service_id]
        return moment is None or moment > now

    def moment(self, service_id: str) -> Nanoseconds | None:
        """When a service at rest is due."""
        return self._moments[service_id]


def reconcile(
    view: View, dirty: Dirty, now: Nanoseconds, new_id: Callable[[], str], agenda: Agenda | None = None
) -> Plan:
    """Bring services' tasks to what their specs ask for.

    Args:
        view: May be a draft that already holds other decisions of this step.
        dirty: What changed since the last call; may be empty when only time has passed.
        new_id: Returns a fresh id for a task.
        agenda: What earlier calls have found, kept by the caller; without it every update is looked at.
    Returns:
        Creations, changes and deletions of tasks, changes of services. `wake_at` covers every service, not only the
        dirty ones: a caller may forget the wake-up times of earlier plans.
    """
    return _Orchestration(view, now, new_id, Agenda() if agenda is None else agenda).run(dirty)


@dataclass(slots=True)
class _Orchestration:
    view: View
    now: Nanoseconds
    new_id: Callable[[], str]
    agenda: Agenda
    marks: dict[str, str] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    moments: list[Nanoseconds | None] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def run(self, dirty: Dirty) -> Plan:
        self.marks.update(enforce.overfull(self.view, sorted(dirty.nodes)))
        todo = self._touched(dirty)
        self.agenda.forget(todo)
        is_touched = set(todo)
        todo.update(dict.fromkeys(self._due()))
        for service_id in todo:
            service = self.view.services.get(service_id)
            if service is None:
                self._reap_ownerless(service_id)
            elif self._service(service) and service_id not in is_touched:
                self.agenda.rest(service_id, earliest(self.moments[-1:]))
        self.moments.extend(
            task.look_at for task in self.view.tasks.where("timed", True) if task.service_id not in todo
        )
        return Plan(tuple(self.changes), earliest(self.moments), tuple(self.notes))

    # --- what to look at -----------------------------------------------------------

    def _touched(self, dirty: Dirty) -> dict[str, None]:
        """Ids of services to look at, sorted within each cause so that a replay is exact."""
        todo = dict.fromkeys(sorted(dirty.services))
        for task_id in sorted(dirty.tasks):
            task = self.view.tasks.get(task_id)
            if task is not None:
                todo[task.service_id] = None
        for node_id in sorted(dirty.nodes):
            todo.update(dict.fromkeys(task.service_id for task in self.view.tasks.where("node", node_id)))
        if dirty.nodes:
            todo.update(dict.fromkeys(service.id for service in self.view.services.where("per_node", True)))
        if dirty.is_cluster:
            todo.update(dict.fromkeys(service.id for service in self.view.services.values()))
        todo.pop("", None)
        return todo

    def _due(self) -> Iterable[str]:
        """Services whose moment has come, and those being updated."""
        for task in self.view.tasks.where("timed", True):
            if task.look_at <= self.now:
                yield task.service_id
        for service in self.view.services.where("updating", True):
            if self.agenda.is_at_rest(service.id, self.now):
                self.moments.append(self.agenda.moment(service.id))
            else:
                yield service.id

    # --- one service ---------------------------------------------------------------

    def _service(self, service: Service) -> bool:
        """Bring one service on; returns whether there was nothing to do. Its next moment is then the last of all."""
        roster = Roster.load(self.view, service, self.now, self.new_id)
        marked = roster.all_tasks() if self.marks else ()
        for task in [task for task in marked if task.id in self.marks and not task.move]:
            roster.put(task, move=self.marks[task.id])
        for _ in range(MAX_ROUNDS):
            before = roster.writes
            roster.wakes.clear()
            _orchestrate(roster)
            if roster.writes == before or roster.is_service_deleted:
                break
        changes = roster.changes()
        self.changes.extend(changes)
        self.notes.extend(roster.notes)
        self.moments.append(earliest(moment for moment in roster.moments() if moment > self.now))
        return not changes

    def _reap_ownerless(self, service_id: str) -> None:
        for task in self.view.tasks.where("service", service_id):
            change = reap.reap_ownerless(self.view, task, self.now)
            if change is not None:
                self.changes.append(change)


def _orchestrate(roster: Roster) -> None:
    """All steps for one service, each on what the ones before it decided."""
    if roster.service.removing:
        reap.remove_service(roster)
        return
    enforce.orphan_tasks_of_removed_nodes(roster)
    if modes.is_job(roster.mode):
        jobs.begin_iteration(roster)
    else:
        update.judge(roster)
    _size(roster)
    if not modes.is_job(roster.mode):
        update.advance(roster)
    restart.tend(roster)
    moves.settle(roster)
    moves.replace(roster)
    starts.raise_due(roster)
    reap.trim(roster)
    starts.note_moments(roster)


def _size(roster: Roster) -> None:
    match roster.mode:
        case Mode.REPLICATED:
            replicated.scale(roster)
        case Mode.REPLICATED_JOB:
            jobs.fill(roster)
        case Mode.GLOBAL | Mode.GLOBAL_JOB:
            global_.cover(roster)
