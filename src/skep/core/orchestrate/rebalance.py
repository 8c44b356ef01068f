"""Which tasks would be better off on another node, now that nodes came back or were added.

Pure. Asked for by a user, or done by itself where the swarm's label `skep.rebalance` says `auto`: then once a node has
been up for a while, and a few tasks of a service at a time.

A task is marked to move (`Task.move`) only if the scheduler's own order would clearly rather have it elsewhere: fewer
tasks of the service in the branch of a spread preference, or on the node, even after it has left. So every move makes
the spread more even, and swapping back and forth cannot happen. The moves themselves are those of
`orchestrate.moves`: start-first, within the update's parallelism, given up where no place is found.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import msgspec

from skep.core.orchestrate import modes
from skep.core.orchestrate.modes import Mode
from skep.core.orchestrate.roster import is_sound
from skep.core.plan import NOTHING, Dirty, Plan, earliest
from skep.core.schedule.demand import Demand, demand_of
from skep.core.schedule.filters import Pipeline
from skep.core.schedule.inventory import Inventory
from skep.core.schedule.site import Site
from skep.lib.durations import SECOND
from skep.model.base import Nanoseconds
from skep.model.cluster import Cluster
from skep.model.lifecycle import TaskState
from skep.model.service import RestartCondition, Service, UpdateConfig
from skep.model.task import Task
from skep.store.changes import Change, Put
from skep.store.state import View

REASON = "another node has fewer tasks of the service"
POLICY_LABEL = "skep.rebalance"
AUTOMATIC = "auto"
SETTLED_AFTER: Nanoseconds = 30 * SECOND
"""How long a node has to be up before tasks are brought to it unasked: one that comes and goes gets none."""
Rank = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Move:
    """Attributes: target_id: a node that would take the task now; the scheduler has the last word."""

    task: Task
    target_id: str


def is_automatic(cluster: Cluster | None) -> bool:
    """Whether the swarm's policy is to rebalance by itself."""
    return cluster is not None and cluster.spec.labels.get(POLICY_LABEL) == AUTOMATIC


class Rebalancer:
    """The automatic policy. It remembers up to when it has looked at nodes; a new leader looks at all of them once."""

    def __init__(self) -> None:
        self._looked_at: Nanoseconds = 0

    def reconcile(self, view: View, dirty: Dirty, inventory: Inventory, now: Nanoseconds) -> Plan:
        """Mark a few tasks of services that something touched, and of all services when a node has settled.

        Args:
            inventory: Holds what the decisions before this one plan.
        Returns:
            Puts of tasks; `wake_at` is when the next node will have settled.
        """
        if not is_automatic(view.cluster):
            return NOTHING
        moments = [node.status.since + SETTLED_AFTER for node in view.nodes.values() if is_sound(node)]
        is_news = any(self._looked_at < moment <= now for moment in moments) or dirty.is_cluster
        services = list(view.services.values()) if is_news else [view.services.get(id) for id in sorted(dirty.services)]
        unsettled = {node.id for node in view.nodes.values() if node.status.since + SETTLED_AFTER > now}
        changes: list[Change] = []
        for service in services:
            if service is None or service.removing:
                continue
            found = [move for move in moves(view, service, inventory) if move.target_id not in unsettled]
            fresh = [move for move in found if not _was_tried(view, move.task)]
            limit = (service.spec.update_config or UpdateConfig()).parallelism or len(fresh)
            changes.extend(Put(msgspec.structs.replace(move.task, move=REASON)) for move in fresh[:limit])
        if not changes:  # Otherwise the next round looks once more: perhaps the store does not take these.
            self._looked_at = now
        return Plan(tuple(changes), earliest(moment for moment in moments if moment > now))


def _was_tried(view: View, task: Task) -> bool:
    """Whether a replacement of this task was made and came to nothing: it is not tried again and again."""
    siblings = view.tasks.where("service", task.service_id)
    return any(each.slot == task.slot and each.ordinal > task.ordinal for each in siblings)


def moves(view: View, service: Service, inventory: Inventory) -> list[Move]:
    """The moves that even out a service; none while it is being updated, moved or is no long-running replicated one.

    Args:
        inventory: Of this view; it is used for trying and left as it was.
    """
    tasks = [task for task in view.tasks.where("service", service.id) if task.desired_state <= TaskState.COMPLETE]
    if modes.mode_of(service.spec) is not Mode.REPLICATED or _is_restless(service, tasks):
        return []
    if modes.restart_policy(service.spec.task_template).condition == RestartCondition.NONE:
        return []  # A task of it that leaves its node is not replaced.
    found: list[Move] = []
    away: list[tuple[Task, Site, Task, Site]] = []
    try:
        for move, old, new in _improvements(tasks, inventory):
            moved = msgspec.structs.replace(move.task, node_id=move.target_id, generic_resources=[])
            away.append((move.task, old, moved, new))
            found.append(move)
    finally:
        for task, old, moved, new in reversed(away):
            new.remove(moved)
            old.add(task)
    return found


def _is_restless(service: Service, tasks: Iterable[Task]) -> bool:
    status = service.update_status
    is_rolling = status is not None and status.state in ("updating", "rollback_started")
    return is_rolling or any(task.move or task.status.state != TaskState.RUNNING for task in tasks)


def _improvements(tasks: list[Task], inventory: Inventory) -> Iterator[tuple[Move, Site, Site]]:
    """Moves one after another, each tried on the sites; the caller undoes them. Newest tasks go first."""
    for task in sorted(tasks, key=lambda task: (-task.created_at, task.id)):
        source = inventory.sites.get(task.node_id)
        if source is None or task.id not in inventory.placed:
            continue
        demand = demand_of(task)
        source.remove(task)
        target = _better_site(demand, source, inventory)
        if target is None:
            source.add(task)
            continue
        target.add(msgspec.structs.replace(task, node_id=target.node.id, generic_resources=[]))
        yield Move(task, target.node.id), source, target


def _better_site(demand: Demand, source: Site, inventory: Inventory) -> Site | None:
    """The best node for a task that has left its own, if it is better than that one."""
    pipeline = Pipeline(demand)
    branches = _branch_counts(demand, inventory)
    candidates = [site for site in inventory.sites.values() if site is not source and pipeline.refusal(site) is None]
    best = min(candidates, key=lambda site: (_rank(demand, site, branches), site.total, site.node.id), default=None)
    if best is None or _rank(demand, best, branches) >= _rank(demand, source, branches):
        return None
    return best


def _path(demand: Demand, site: Site) -> tuple[str, ...]:
    return tuple(spread.value(site.node) for spread in demand.spread)


def _branch_counts(demand: Demand, inventory: Inventory) -> dict[tuple[str, ...], int]:
    """How many tasks of the service each branch of the spread preferences has."""
    counts: dict[tuple[str, ...], int] = {}
    for site in inventory.sites.values() if demand.spread else ():
        path = _path(demand, site)
        for depth in range(1, len(path) + 1):
            counts[path[:depth]] = counts.get(path[:depth], 0) + site.by_service.get(demand.service_id, 0)
    return counts


def _rank(demand: Demand, site: Site, branches: dict[tuple[str, ...], int]) -> Rank:
    """How full the site's branches are, level by level, and then the site itself."""
    path = _path(demand, site)
    return (
        *(branches.get(path[:depth], 0) for depth in range(1, len(path) + 1)),
        site.by_service.get(demand.service_id, 0),
    )
