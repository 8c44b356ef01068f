"""The order in which suitable nodes are filled.

Pure. Spread preferences make a tree: at each level the branch with the fewest tasks of the service comes first,
counting also those on nodes that are not suitable now. In a leaf the node with the fewest tasks of the service, then
the fewest tasks of all; nodes where the service keeps failing come last. A choice costs the logarithm of the nodes.
Source: swarmkit/manager/scheduler/scheduler.go (scheduleNTasksOnSubtree, nodeLess), decision_tree.go.
"""

import heapq
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from skep.core.schedule.demand import Spread
from skep.core.schedule.filters import Pipeline
from skep.core.schedule.site import Site
from skep.model.base import Nanoseconds


class Chooser(Protocol):
    """Gives the best node for the next task, again and again."""

    def choose(self) -> Site | None:
        """The best node with room; None when there is none. The caller places a task on it before the next call."""
        ...


Rank = tuple[int, int, int, str, Site]
"""Recent failures of the service, its tasks, all tasks, and the node's id, which decides before the node would."""


class Leaf:
    """Nodes that differ in load only; looked at when the first of them is asked for."""

    def __init__(self, sites: Sequence[Site], pipeline: Pipeline, rank: Callable[[Site], Rank]) -> None:
        self._sites = sites
        self._pipeline = pipeline
        self._rank = rank
        self._heap: list[Rank] | None = None

    def choose(self) -> Site | None:
        rank, has_room = self._rank, self._pipeline.has_room
        if self._heap is None:
            self._heap = [rank(site) for site in self._pipeline.roomy(self._sites)]
            heapq.heapify(self._heap)
        heap = self._heap
        while heap:
            known = heap[0]
            site = known[-1]
            now = rank(site)
            if now != known:
                heapq.heapreplace(heap, now)  # It was chosen before and has a task more since.
            elif has_room(site):
                return site
            else:
                heapq.heappop(heap)
        return None


class Branches:
    """Groups of nodes, each with how many tasks of the service it has."""

    def __init__(self, branches: Iterable[tuple[int, str, Chooser]]) -> None:
        self._heap = list(branches)
        heapq.heapify(self._heap)

    def choose(self) -> Site | None:
        heap = self._heap
        while heap:
            count, value, branch = heap[0]
            site = branch.choose()
            if site is not None:
                heapq.heapreplace(heap, (count + 1, value, branch))
                return site
            heapq.heappop(heap)
        return None


class Arrangement:
    """Nodes by the values of spread preferences, and which of them may be chosen.

    It holds as long as the nodes stay as they are, for all demands with the same `lasting`.
    """

    __slots__ = ("admitted", "branches", "sites")

    def __init__(self, sites: Sequence[Site], spread: Sequence[Spread], pipeline: Pipeline) -> None:
        """Sort nodes into branches.

        Args:
            sites: All nodes, also those that may not be chosen: their tasks count for their branch.
            spread: The levels of the tree, from its root.
        """
        self.sites = sites
        self.branches: dict[str, Arrangement] | None = None
        self.admitted: Sequence[Site] = ()
        if not spread:
            self.admitted = pipeline.admitted(sites)
            return
        groups: dict[str, list[Site]] = {}
        for site in sites:
            groups.setdefault(spread[0].value(site.node), []).append(site)
        self.branches = {value: Arrangement(group, spread[1:], pipeline) for value, group in groups.items()}


def chooser(pipeline: Pipeline, arrangement: Arrangement, now: Nanoseconds) -> Chooser:
    """Rank nodes for a demand.

    Args:
        pipeline: Of the demand.
        arrangement: Made for the demand, or one with the same `lasting`.
    """
    demand, service_id = pipeline.demand, pipeline.demand.service_id

    def rank(site: Site) -> Rank:
        failures = site.recent_failures(demand, now) if site.failures else 0
        return failures, site.by_service.get(service_id, 0), site.total, site.node.id, site

    def ranked(part: Arrangement) -> Chooser:
        if part.branches is None:
            return Leaf(part.admitted, pipeline, rank)
        return Branches((_count(branch, service_id), value, ranked(branch)) for value, branch in part.branches.items())

    return ranked(arrangement)


def _count(part: Arrangement, service_id: str) -> int:
    return sum([site.by_service.get(service_id, 0) for site in part.sites])
