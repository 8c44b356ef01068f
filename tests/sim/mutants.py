"""Deliberately broken variants of the decisions: each is one mistake somebody could make, with the violation it is."""

import asyncio
import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from skep.agent import preparation
from skep.agent.executor import Executor
from skep.agent.network import Mesh
from skep.core import liveness, observe, task_steps
from skep.core.allocate import ledger
from skep.core.allocate.ledger import Ledger
from skep.core.dispatch.board import Board
from skep.core.dispatch.drains import Drains
from skep.core.liveness import Thresholds
from skep.core.orchestrate import modes, replicated, restart, starts, update
from skep.core.schedule import filters
from skep.manager.replica import Replica
from skep.model.node import NodeState
from skep.model.task import Task
from skep.store.changes import Batch

Apply = Callable[[pytest.MonkeyPatch], None]


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One mistake. Attributes: apply: makes it; violates: the pattern of the violation by which it must be caught."""

    apply: Apply
    violates: str


MUTANTS: dict[str, Mutant] = {}


def mutant(violates: str) -> Callable[[Apply], Apply]:
    def register(apply: Apply) -> Apply:
        MUTANTS[apply.__name__.replace("_", " ")] = Mutant(apply, violates)
        return apply

    return register


def _nothing(*args: Any, **kwargs: Any) -> None:
    return None


@mutant(r"^\('address', .* is held by .* and by")
def an_address_is_released_before_its_task_has_stopped(patch: pytest.MonkeyPatch) -> None:
    right = ledger.claims_of
    patch.setattr(
        ledger, "claims_of", lambda value: () if isinstance(value, Task) and value.desired_state > 576 else right(value)
    )
    patch.setattr("skep.core.allocate.pools.COOL_DOWN", 0)


@mutant(r"^\('address', .* is held by .* and by")
def numbers_held_by_tasks_are_forgotten_at_a_restart(patch: pytest.MonkeyPatch) -> None:
    right = Ledger.of

    class WithoutTasks:
        def __init__(self, view: Any) -> None:
            self.networks, self.nodes, self.services, self.tasks = view.networks, view.nodes, view.services, _Empty()

    patch.setattr(Ledger, "of", classmethod(lambda cls, view: right(WithoutTasks(view))))  # type: ignore[arg-type]  # broken on purpose


class _Empty:
    def values(self) -> list[Any]:
        return []


@mutant("still sends to")
def a_departure_waits_for_nobody(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Drains, "start", _nothing)


@mutant("still sends to")
def a_task_is_stopped_before_it_is_drained(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(task_steps.Wanted, "may_stop", property(lambda self: self.must_stop))


@mutant("still sends to")
def a_node_acknowledges_what_it_has_not_programmed(patch: pytest.MonkeyPatch) -> None:
    right = Mesh.note

    def note(self: Mesh, change: Any) -> None:
        right(self, change)
        self.applied_version = self._assignments.version

        async def tell() -> None:
            async with self._is_applied:
                self._is_applied.notify_all()

        asyncio.ensure_future(tell())  # noqa: RUF006 — it is done before anybody could ask

    patch.setattr(Mesh, "note", note)


@mutant("has other endpoints|answers other names")
def a_removed_item_is_not_told(patch: pytest.MonkeyPatch) -> None:
    right = Board.remove
    patch.setattr(Board, "remove", lambda self, topic, key: None if key.startswith("end") else right(self, topic, key))


@mutant("went back from|had ended as")
def reports_are_taken_as_they_come(patch: pytest.MonkeyPatch) -> None:
    right = observe.fold

    def fold(view: Any, node_id: str, reports: Any, now: int) -> Any:
        plan = right(view, node_id, reports, now)
        tasks = (view.tasks.get(report.task_id) for report in reports)
        later = [task for task in tasks if task is not None and task.status.state > 576]
        return plan if plan.changes or not later else msgspec_plan(plan, later[0])

    patch.setattr(observe, "fold", fold)
    patch.setattr(observe, "is_progress", lambda old, new: True)
    patch.setattr(observe, "is_terminal", lambda state: False)


def msgspec_plan(plan: Any, task: Task) -> Any:
    """As if an older report of the task had come last."""
    from skep.store.changes import Put

    status = msgspec.structs.replace(task.status, state=task.status.state - 64)
    return dataclasses.replace(plan, changes=(Put(msgspec.structs.replace(task, status=status)),))


def _admit_all(patch: pytest.MonkeyPatch, name: str, admits: Callable[[Any, Any], bool]) -> None:
    found = [each for each in filters.FILTERS if each.name == name]
    assert found, [each.name for each in filters.FILTERS]
    broken = tuple(dataclasses.replace(each, admits=admits) if each.name == name else each for each in filters.FILTERS)
    patch.setattr(filters, "FILTERS", broken)


@mutant("reserves more (CPUs|memory) than it has")
def the_scheduler_ignores_reservations(patch: pytest.MonkeyPatch) -> None:
    _admit_all(patch, "Resource", lambda demand, site: True)


@mutant("has a host-mode port twice")
def the_scheduler_ignores_host_ports(patch: pytest.MonkeyPatch) -> None:
    _admit_all(patch, "HostPort", lambda demand, site: True)


@mutant("against its constraints")
def the_scheduler_ignores_constraints(patch: pytest.MonkeyPatch) -> None:
    _admit_all(patch, "Constraint", lambda demand, site: True)


@mutant("was put on node .*, which is ready and (drain|pause)")
def tasks_come_to_drained_nodes(patch: pytest.MonkeyPatch) -> None:
    _admit_all(patch, "Ready", lambda demand, site: site.node.status.state == NodeState.READY)


@mutant("was put on node .*, which is down")
def tasks_come_to_nodes_that_are_down(patch: pytest.MonkeyPatch) -> None:
    _admit_all(patch, "Ready", lambda demand, site: site.node.spec.availability.value == "active")


@mutant("follows a failed one after")
def a_failed_task_is_replaced_without_delay(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(restart, "back_off", lambda delay, streak: 0)


@mutant("follows a failed one after")
def a_crash_loop_does_not_back_off(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(restart, "_streak", lambda task, policy, record: 1)


@mutant("was (raised|started) before its time")
def a_waiting_task_is_raised_before_its_time(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(starts, "_hindrances", lambda roster, task: iter(()))


@mutant("slots at work instead of")
def there_is_one_replica_too_many(patch: pytest.MonkeyPatch) -> None:
    generous = SimpleNamespace(replicas=lambda spec: modes.replicas(spec) + 1, is_at_most_one=modes.is_at_most_one)
    patch.setattr(replicated, "modes", generous)


@mutant("has [0-9]+ of [0-9]+ slots filled")
def a_removed_slot_is_not_stopped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(replicated, "remove_slot", _nothing)


@mutant("in the making")
def an_update_exceeds_its_parallelism(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(update, "_is_under_way", lambda roster, rollout, key: False)


@mutant("was rolled back out of rollback_started")
def a_failed_rollback_is_rolled_back(patch: pytest.MonkeyPatch) -> None:
    def act(roster: Any, action: Any, task: Task) -> None:
        if roster.service.previous_spec is None:
            roster.change_service(previous_spec=roster.service.spec)
        update._roll_back(roster, f"update rolled back due to failure or early termination of task {task.id}")

    patch.setattr(update, "_act_on_failure", act)


@mutant("was given up after .* of silence")
def a_node_is_given_up_at_the_first_threshold(patch: pytest.MonkeyPatch) -> None:
    right = liveness.thresholds

    def hasty(view: Any, settings: Any) -> Thresholds:
        limits = right(view, settings)
        return Thresholds(limits.unbalanced, limits.unbalanced)

    patch.setattr(liveness, "thresholds", hasty)


@mutant("node .* is (down|unknown|ready), balanced")
def a_node_that_is_heard_again_stays_out(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(liveness._Judgement, "returns", lambda self: iter(()))
    patch.setattr(observe, "returned", lambda node, now: node)


@mutant("was acknowledged(,| and is) not stored")
def a_commit_is_acknowledged_before_it_is_stored(patch: pytest.MonkeyPatch) -> None:
    right = Replica.commit

    async def commit(self: Replica, changes: Any, *, lease: str = "") -> Batch:
        task = asyncio.ensure_future(right(self, changes, lease=lease))
        done, _ = await asyncio.wait([task], timeout=0.0005)
        return task.result() if done else Batch(self.view.revision, [])

    patch.setattr(Replica, "commit", commit)


@mutant("runs again, after")
def a_start_is_not_recorded(patch: pytest.MonkeyPatch) -> None:
    async def save(self: Executor, status: Any) -> None:
        await asyncio.sleep(0)

    patch.setattr(Executor, "_save", save)


@mutant("has sandboxes .* of no active task")
def sandboxes_are_left(patch: pytest.MonkeyPatch) -> None:
    async def release(host: Any, task_id: str) -> None:
        await asyncio.sleep(0)

    patch.setattr(preparation, "release_sandbox", release)
