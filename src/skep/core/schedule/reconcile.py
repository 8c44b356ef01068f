"""Chooses a node for every task that waits for one.

Pure. Tasks of one service and spec version ask for the same, so nodes are filtered once per group, not per task. A task
that cannot be placed says why in Swarm's words, and is tried again when a node changes or something becomes free.
Source: swarmkit/manager/scheduler/scheduler.go.
"""

from collections.abc import Iterable

import msgspec

from skep.core.plan import NOTHING, Dirty, Plan
from skep.core.schedule.demand import demand_of
from skep.core.schedule.filters import Pipeline, sentence
from skep.core.schedule.inventory import GroupKey, Inventory, Refusals
from skep.core.schedule.site import Site
from skep.core.schedule.spread import chooser
from skep.model.base import Nanoseconds
from skep.model.lifecycle import TaskState
from skep.model.task import Task, TaskStatus
from skep.store.changes import Change, Put
from skep.store.state import View

PLACED_MESSAGE = "scheduler assigned task to node"
CONFIRMED_MESSAGE = "scheduler confirmed task can run on preassigned node"


def reconcile(view: View, dirty: Dirty, inventory: Inventory, now: Nanoseconds) -> Plan:
    """Place what waits and can be placed now.

    Args:
        dirty: Its tasks and nodes may differ in `view` from what the inventory observed.
        inventory: Holds what this plan places until the plan is seen committed, or seen not to be.
    Returns:
        Tasks put at ASSIGNED, or with the reason why not; never a `wake_at`, because only changes help.
    """
    touched = inventory.compare(view, dirty.tasks, dirty.nodes)
    if not (touched or inventory.shifted or inventory.are_nodes_changed):
        return NOTHING
    if inventory.are_nodes_changed:
        inventory.number_sites()
    placement = _Placement(view, inventory, now)
    for task_id in _preplaced(inventory, touched):
        placement.confirm(task_id)
    for group in _groups(view, inventory, touched):
        placement.place(group)
    placement.explain()
    inventory.settle()
    return Plan(tuple(placement.changes))


def _preplaced(inventory: Inventory, touched: set[str]) -> list[str]:
    if inventory.are_nodes_changed:
        return [id for ids in inventory.preplaced.values() for id in ids]
    concerned = [id for node_id in inventory.freed for id in inventory.preplaced.get(node_id, ())]
    return sorted({*concerned, *(id for id in touched if inventory.awaits_node(id))})


def _groups(view: View, inventory: Inventory, touched: set[str]) -> list[GroupKey]:
    """Groups worth a try: all when nodes changed, else those with new tasks and those that a freed node would help."""
    if inventory.are_nodes_changed:
        return list(inventory.waiting)
    freed = [inventory.sites[id] for id in sorted(inventory.freed) if id in inventory.sites]
    known = {inventory.group(id) for id in touched}
    return [group for group in inventory.waiting if group in known or (freed and _helps(view, inventory, group, freed))]


def _helps(view: View, inventory: Inventory, group: GroupKey, freed: list[Site]) -> bool:
    task = view.tasks.get(next(iter(inventory.waiting[group])))
    if task is None:
        return False
    pipeline = Pipeline(demand_of(task))
    return any(pipeline.refusal(site) is None for site in freed)


class _Placement:
    """One run over what waits."""

    def __init__(self, view: View, inventory: Inventory, now: Nanoseconds) -> None:
        self.view = view
        self.inventory = inventory
        self.now = now
        self.changes: list[Change] = []
        self.refused: set[GroupKey] = set()
        self.placed_status = self._status(PLACED_MESSAGE)
        self.confirmed_status = self._status(CONFIRMED_MESSAGE)

    def place(self, group: GroupKey) -> None:
        """Place as many tasks of a group as there is room for."""
        tasks = self._tasks(self.inventory.waiting.get(group, ()))
        if not tasks:
            return
        pipeline = Pipeline(demand_of(tasks[0]))
        choice = chooser(pipeline, self.inventory.arrangement(pipeline), self.now)
        for task in tasks:
            site = choice.choose()
            if site is None:
                self.refused.add(group)
                return
            self._assign(task, site, pipeline, self.placed_status)

    def explain(self) -> None:
        """Tell what waits why, now that everything is placed: who was refused, and where a node says other than before.

        Placing takes room, and room that becomes free may still be of no use: both change what nodes say to others.
        """
        inventory = self.inventory
        for group, ids in list(inventory.waiting.items()):
            if not (group in self.refused or inventory.says_other(group)):
                continue
            tasks = self._tasks(ids)
            if tasks:
                pipeline = Pipeline(demand_of(tasks[0]))
                inventory.refusals[group] = told = Refusals(pipeline, pipeline.codes(inventory.sites.values()))
                self._refuse(tasks, _unsuitable(sentence(told.codes)))
        for task_id in [id for node_id in sorted(self.inventory.shifted) for id in self._preplaced(node_id)]:
            self.confirm(task_id)

    def _preplaced(self, node_id: str) -> Iterable[str]:
        return list(self.inventory.preplaced.get(node_id, ()))

    def confirm(self, task_id: str) -> None:
        """Check the node a task was made for."""
        for task in self._tasks([task_id]):
            pipeline = Pipeline(demand_of(task))
            site = self.inventory.sites.get(task.node_id)
            if site is None:
                self._refuse([task], "its node is gone")
            elif pipeline.refusal(site) is not None:
                self._refuse([task], pipeline.explain([site]))
            else:
                self._assign(task, site, pipeline, self.confirmed_status)

    def _tasks(self, ids: Iterable[str]) -> list[Task]:
        return [task for task in map(self.view.tasks.get, list(ids)) if task is not None]

    def _assign(self, task: Task, site: Site, pipeline: Pipeline, status: TaskStatus) -> None:
        claimed = site.claim(pipeline.demand) if pipeline.demand.generic else []
        assigned = msgspec.structs.replace(task, node_id=site.node.id, status=status, generic_resources=claimed)
        self.inventory.propose(assigned, site)
        self.changes.append(Put(assigned))

    def _refuse(self, tasks: Iterable[Task], reason: str) -> None:
        for task in tasks:
            if task.status.err != reason:
                status = msgspec.structs.replace(task.status, err=reason, timestamp=self.now)
                self.changes.append(Put(msgspec.structs.replace(task, status=status)))
                self.inventory.refuse(task.id)

    def _status(self, message: str) -> TaskStatus:
        return TaskStatus(timestamp=self.now, state=TaskState.ASSIGNED, message=message)


def _unsuitable(explanation: str) -> str:
    return f"no suitable node ({explanation})" if explanation else "no suitable node"
