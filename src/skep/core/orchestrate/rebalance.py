"""Which tasks would be better off on another node, now that nodes came back or were added.

Pure. Asked for by a user, or done by itself where the swarm's label `skep.rebalance` says `auto`: then once a node has
been up for a while, and a few tasks of a service at a time.

A task is marked to move (`Task.move`) only if the scheduler would put one more task of the service elsewhere, and
clearly so: where there are fewer tasks of the service in the branch of a spread preference, or within the same branches
fewer recent failures of it or fewer tasks of it on the node, even after the task has left. So every move makes the
spread more even, and swapping back and forth cannot happen. The moves themselves are those of `orchestrate.moves`:
start-first, within the update's parallelism, given up where no place is found.
"""

from collections.abc import Collection, Iterable, Set
from dataclasses import dataclass

import msgspec

from skep.core.orchestrate import modes
from skep.core.orchestrate.modes import Mode
from skep.core.plan import NOTHING, Dirty, Plan, earliest
from skep.core.schedule.demand import Demand, demand_of
from skep.core.schedule.filters import Pipeline
from skep.core.schedule.inventory import Inventory
from skep.core.schedule.site import Site
from skep.core.schedule.spread import chooser
from skep.lib.durations import SECOND
from skep.model.base import Nanoseconds
from skep.model.cluster import Cluster
from skep.model.lifecycle import TaskState
from skep.model.node import Availability, Node, NodeState
from skep.model.service import RestartCondition, Service, UpdateConfig
from skep.model.task import Task
from skep.store.changes import Change, Put
from skep.store.state import View

REASON = "another node has fewer tasks of the service"
POLICY_LABEL = "skep.rebalance"
AUTOMATIC = "auto"
SETTLED_AFTER: Nanoseconds = 30 * SECOND
"""How long a node has to be up before tasks are brought to it unasked: one that comes and goes gets none."""


@dataclass(frozen=True, slots=True)
class Move:
    """Attributes: target_id: a node that would take the task now; the scheduler has the last word."""

    task: Task
    target_id: str


def is_automatic(cluster: Cluster | None) -> bool:
    """Whether the swarm's policy is to rebalance by itself."""
    return cluster is not None and cluster.spec.labels.get(POLICY_LABEL) == AUTOMATIC


@dataclass(frozen=True, slots=True)
class Spared:
    """What is left as it is. Attributes: tasks: ids of those that stay; nodes: of those nothing is brought to."""

    tasks: Set[str] = frozenset()
    nodes: Set[str] = frozenset()


class Rebalancer:
    """The automatic policy. It remembers which nodes it looked at, and when; a new leader looks at all of them once."""

    def __init__(self) -> None:
        self._looked_at: Nanoseconds = 0
        self._known: frozenset[str] = frozenset()

    def reconcile(self, view: View, dirty: Dirty, inventory: Inventory, now: Nanoseconds) -> Plan:
        """Mark a few tasks of services that something touched, and of all when a node has settled or takes tasks again.

        Args:
            inventory: Holds what the decisions before this one plan.
        Returns:
            Puts of tasks; `wake_at` is when the next node will have settled.
        """
        if not is_automatic(view.cluster):
            return NOTHING
        takers = [node for node in view.nodes.values() if _takes_tasks(node)]
        moments = [node.status.since + SETTLED_AFTER for node in takers]
        ids = frozenset(node.id for node in takers)
        is_news = any(self._looked_at < moment <= now for moment in moments) or dirty.is_cluster or ids - self._known
        services = list(view.services.values()) if is_news else [view.services.get(id) for id in sorted(dirty.services)]
        unsettled = {node.id for node in view.nodes.values() if node.status.since + SETTLED_AFTER > now}
        changes: list[Change] = []
        for service in services:
            if service is None or service.removing:
                continue
            tried = _tried(view.tasks.where("service", service.id))
            found = moves(view, service, inventory, now, Spared(tried, unsettled))
            parallelism = (service.spec.update_config or UpdateConfig()).parallelism or len(found)
            limit = max(0, min(parallelism, len(found) - len(tried)))  # Others are not tried in their stead.
            changes.extend(Put(msgspec.structs.replace(move.task, move=REASON)) for move in found[:limit])
        if not changes:  # Otherwise the next round looks once more: perhaps the store does not take these.
            self._looked_at, self._known = now, ids
        return Plan(tuple(changes), earliest(moment for moment in moments if moment > now))


def _takes_tasks(node: Node) -> bool:
    return node.status.state == NodeState.READY and node.spec.availability == Availability.ACTIVE


def _tried(tasks: Iterable[Task]) -> set[str]:
    """Those at work whose replacement was made and came to nothing: it is not tried again and again."""
    tasks = list(tasks)
    newest: dict[int, int] = {}
    for task in tasks:
        newest[task.slot] = max(task.ordinal, newest.get(task.slot, 0))
    return {task.id for task in tasks if _is_live(task) and task.ordinal < newest[task.slot]}


def moves(
    view: View, service: Service, inventory: Inventory, now: Nanoseconds, spared: Spared | None = None
) -> list[Move]:
    """The moves that even out a service; none while it is being updated, moved or is no long-running replicated one.

    Args:
        inventory: Of this view; it is used for trying and left as it was.
    """
    tasks = [task for task in view.tasks.where("service", service.id) if _is_live(task)]
    if modes.mode_of(service.spec) is not Mode.REPLICATED or _is_restless(service, tasks) or _is_bound(service):
        return []
    spared = spared or Spared()
    steps: list[tuple[Task, Site, Task, Site]] = []
    next_sites: dict[Demand, Site | None] = {}  # Until a step is made.
    try:
        for task in sorted(tasks, key=lambda task: (-task.created_at, task.id)):  # The newest go first.
            source = inventory.sites.get(task.node_id)
            if source is None or task.id not in inventory.placed or task.id in spared.tasks:
                continue
            demand = demand_of(task)
            if demand not in next_sites:
                next_sites[demand] = _next_site(demand, inventory, now)
            target = next_sites[demand]
            if target is None or target.node.id in spared.nodes:
                continue
            if not _is_better(demand, source, target, inventory, now):
                continue
            moved = msgspec.structs.replace(task, node_id=target.node.id, generic_resources=[])
            source.remove(task)
            target.add(moved)
            steps.append((task, source, moved, target))
            next_sites.clear()
    finally:
        for task, source, moved, target in reversed(steps):
            target.remove(moved)
            source.add(task)
    return [Move(task, target.node.id) for task, _, _, target in steps]


def _is_live(task: Task) -> bool:
    return task.desired_state <= TaskState.COMPLETE


def _is_bound(service: Service) -> bool:
    """Whether its tasks stay with their data, or are not replaced when they leave."""
    condition = modes.restart_policy(service.spec.task_template).condition
    return modes.is_sticky(service.spec) or condition == RestartCondition.NONE


def _is_restless(service: Service, tasks: Iterable[Task]) -> bool:
    status = service.update_status
    is_rolling = status is not None and status.state in ("updating", "rollback_started")
    return is_rolling or any(task.move or task.status.state != TaskState.RUNNING for task in tasks)


def _next_site(demand: Demand, inventory: Inventory, now: Nanoseconds) -> Site | None:
    """Where the scheduler would put one more task, and so the successor of one that goes on until that runs."""
    pipeline = Pipeline(demand)
    return chooser(pipeline, inventory.arrangement(pipeline), now).choose()


def _is_better(demand: Demand, source: Site, target: Site, inventory: Inventory, now: Nanoseconds) -> bool:
    """Whether a task of one node would be better off on the other, also once it has left."""
    sites: Collection[Site] = inventory.sites.values()
    for level in demand.spread:
        branches: dict[str, list[Site]] = {}
        for site in sites:
            branches.setdefault(level.value(site.node), []).append(site)
        here, there = (branches[level.value(site.node)] for site in (source, target))
        if here is not there:
            return _count(demand, there) < _count(demand, here) - 1
        sites = here
    ours = source.recent_failures(demand, now), _count(demand, [source]) - 1
    theirs = target.recent_failures(demand, now), _count(demand, [target])
    return theirs < ours


def _count(demand: Demand, sites: Iterable[Site]) -> int:
    return sum(site.by_service.get(demand.service_id, 0) for site in sites)
