"""All nodes with what is free on them, and the tasks that wait for one.

Pure. Derived from the stored objects and kept current by their changes. What a plan places is held at once; the next
decision compares it with the view it is handed, so a plan that never happened holds nothing.
"""

from collections.abc import Collection
from dataclasses import dataclass

from skep.core.schedule.demand import Demand
from skep.core.schedule.filters import Pipeline
from skep.core.schedule.site import Site, is_counted
from skep.core.schedule.spread import Arrangement
from skep.model.lifecycle import TaskState
from skep.model.node import Node
from skep.model.task import Task
from skep.store.changes import Batch
from skep.store.state import View

GroupKey = tuple[str, int, str]
"""Service id and spec version; for a task of no service, its own id and -1."""

MAX_ARRANGEMENTS = 64
"""Each is a list of the nodes: what is kept is a matter of memory."""

_FAILURES = (TaskState.FAILED, TaskState.REJECTED)


def group_of(task: Task) -> GroupKey:
    """Tasks of one group ask for the same."""
    return (task.service_id, task.spec_version, task.home) if task.service_id else (task.id, -1, "")


@dataclass(frozen=True, slots=True)
class Refusals:
    """Why a group waits, as it was told. Attributes: codes: what each node said, by the node's place."""

    pipeline: Pipeline
    codes: bytearray


class Inventory:
    """What the scheduler knows. Build it with `Inventory.of`, keep it current with `observe`.

    Attributes:
        sites: By node id.
        placed: Tasks that hold something on a node, as they were counted.
        waiting: Tasks without a node, by group, in order of arrival.
        preplaced: Tasks that were made for a node and must be confirmed there, by node.
        freed: Nodes on which something became free since the last decision.
        shifted: Nodes on which anything was taken or became free since.
        refusals: What each waiting group was told.
        are_nodes_changed: A node came, went or changed since the last decision.
    """

    def __init__(self) -> None:
        self.sites: dict[str, Site] = {}
        self.placed: dict[str, Task] = {}
        self.waiting: dict[GroupKey, dict[str, None]] = {}
        self.preplaced: dict[str, dict[str, None]] = {}
        self.freed: set[str] = set()
        self.shifted: set[str] = set()
        self.refusals: dict[GroupKey, Refusals] = {}
        self.places: dict[str, int] = {}
        self.are_nodes_changed = True
        self._arrangements: dict[Demand, Arrangement] = {}
        self._waits: dict[str, GroupKey] = {}
        self._awaits_node: dict[str, str] = {}
        self._tentative: dict[tuple[str, str], None] = {}

    @classmethod
    def of(cls, view: View) -> "Inventory":
        """Read all nodes and tasks."""
        inventory = cls()
        for node in view.nodes.values():
            inventory._take_node(node.id, node)
        for task in view.tasks.values():
            inventory._take_task(task.id, task)
            if task.status.state in _FAILURES and task.node_id in inventory.sites and task.slot:
                inventory.sites[task.node_id].fail(task)
        return inventory

    def observe(self, batch: Batch) -> None:
        """Take in a committed batch, in the order of revisions."""
        for event in batch.events:
            if event.kind == "node":
                self._tentative.pop(("node", event.id), None)
                self._take_node(event.id, event.new if isinstance(event.new, Node) else None)
            elif event.kind == "task":
                new, old = event.new, event.old
                if isinstance(new, Task) and isinstance(old, Task) and new.status.state != old.status.state:
                    self._note_failure(new)
                self._tentative.pop(("task", event.id), None)
                self._take_task(event.id, new if isinstance(new, Task) else None)

    def compare(self, view: View, tasks: Collection[str], nodes: Collection[str]) -> set[str]:
        """Bring what a view says on top of what was committed; undo what an earlier view said and this one does not.

        Args:
            tasks, nodes: Ids that may differ from what was observed.
        Returns:
            Those of the tasks that wait for a node or its confirmation, and those that an abandoned plan was about.
        """
        tentative, self._tentative = self._tentative, {}
        asked = {id for kind, id in tentative if kind == "task"}
        for id in asked:
            self._take_task(id, view.tasks.get(id))
        for id in sorted({*nodes, *(id for kind, id in tentative if kind == "node")}):
            node = view.nodes.get(id)
            site = self.sites.get(id)
            known = site.node if site else None
            if known is not node and known != node:
                self._take_node(id, node)
                self._tentative["node", id] = None
            elif ("node", id) in tentative and id in nodes:
                self._tentative["node", id] = None  # The earlier view, which was never committed, said so too.
        for id in sorted(tasks):
            asked.add(id)
            if self._take_task(id, view.tasks.get(id)) or ("task", id) in tentative:
                self._tentative["task", id] = None
        return {id for id in asked if id in self._waits or id in self._awaits_node}

    def group(self, task_id: str) -> GroupKey | None:
        """The group in which a task waits for a node; None if it does not."""
        return self._waits.get(task_id)

    def propose(self, task: Task, site: Site) -> None:
        """Hold what a plan gives a waiting or pre-placed task."""
        site.add(task)
        self.shifted.add(site.node.id)
        self.placed[task.id] = task
        self._unwait(task.id)
        self._tentative["task", task.id] = None

    def refuse(self, task_id: str) -> None:
        """A plan gives a task a reason; should the plan never happen, the task is to be looked at again."""
        self._tentative["task", task_id] = None

    def settle(self) -> None:
        """The changes since the last decision have been looked at."""
        self.freed.clear()
        self.shifted.clear()
        self.are_nodes_changed = False

    def number_sites(self) -> None:
        """Give every node its place, after nodes have changed: what was said before is about others."""
        self.places = {id: place for place, id in enumerate(self.sites)}
        self.refusals.clear()
        self._arrangements.clear()

    def arrangement(self, pipeline: Pipeline) -> Arrangement:
        """The nodes as a demand may choose among them, kept for others: most services ask the same of nodes."""
        lasting = pipeline.demand.lasting
        found = self._arrangements.get(lasting)
        if found is None:
            if len(self._arrangements) >= MAX_ARRANGEMENTS:
                self._arrangements.clear()
            found = Arrangement(list(self.sites.values()), lasting.spread, pipeline)
            self._arrangements[lasting] = found
        return found

    def says_other(self, group: GroupKey) -> bool:
        """Whether a node would now give a waiting group another answer than it was told."""
        told = self.refusals.get(group)
        if told is None:
            return True
        codes, code, places = told.codes, told.pipeline.code, self.places
        shifted = (self.sites[id] for id in self.shifted if id in self.sites)
        return any(codes[places[site.node.id]] != code(site) for site in shifted)

    def awaits_node(self, task_id: str) -> bool:
        """Whether a task was made for a node and is not confirmed there."""
        return task_id in self._awaits_node

    def _take_node(self, id: str, node: Node | None) -> None:
        self.are_nodes_changed = True
        site = self.sites.get(id)
        if node is None:
            self.sites.pop(id, None)
        elif site is not None:
            site.update(node)
        else:
            self.sites[id] = Site(node)
            for task in self.placed.values():
                if task.node_id == id:
                    self.sites[id].add(task)

    def _take_task(self, id: str, task: Task | None) -> bool:
        """Take in a task as it is now; returns whether that changed anything."""
        before = self.placed.get(id)
        holds = task is not None and task.node_id and TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING
        if before is not None and task is not None and holds and _holds_the_same(before, task):
            self.placed[id] = task
            return False
        has_changed = self._wait(id, task)
        if before is not None:
            del self.placed[id]
            self.freed.add(before.node_id)
            self.shifted.add(before.node_id)
            if before.node_id in self.sites:
                self.sites[before.node_id].remove(before)
        if task is not None and holds:
            self.placed[id] = task
            self.shifted.add(task.node_id)
            if task.node_id in self.sites:
                self.sites[task.node_id].add(task)
        return has_changed or before is not None or bool(holds)

    def _wait(self, id: str, task: Task | None) -> bool:
        is_pending = task is not None and task.status.state == TaskState.PENDING and is_counted(task)
        group = group_of(task) if task is not None and is_pending and not task.node_id else None
        node_id = task.node_id if task is not None and is_pending else ""
        if self._waits.get(id) == group and self._awaits_node.get(id, "") == node_id:
            return False
        self._unwait(id)
        if group is not None:
            self._waits[id] = group
            self.waiting.setdefault(group, {})[id] = None
        if node_id:
            self._awaits_node[id] = node_id
            self.preplaced.setdefault(node_id, {})[id] = None
        return True

    def _unwait(self, id: str) -> None:
        group = self._waits.pop(id, None)
        if group is not None:
            del self.waiting[group][id]
            if not self.waiting[group]:
                del self.waiting[group]
                self.refusals.pop(group, None)
        node_id = self._awaits_node.pop(id, None)
        if node_id is not None:
            del self.preplaced[node_id][id]
            if not self.preplaced[node_id]:
                del self.preplaced[node_id]

    def _note_failure(self, task: Task) -> None:
        """Remember on the node; not for tasks whose node the scheduler did not choose."""
        if task.status.state in _FAILURES and task.slot and task.node_id in self.sites:
            self.sites[task.node_id].fail(task)


def _holds_the_same(before: Task, after: Task) -> bool:
    """Whether both count alike; what a task asks for never changes once it is placed."""
    return before.node_id == after.node_id and is_counted(before) == is_counted(after)
