"""The order in which suitable nodes are filled.

Pure. Spread preferences make a tree: at each level the branch with the fewest tasks of the service comes first,
counting also those on nodes that are not suitable now. In a leaf the node with the fewest tasks of the service, then
the fewest tasks of all; nodes where the service keeps failing come last. A choice costs the logarithm of the nodes.
Source: swarmkit/manager/scheduler/scheduler.go (scheduleNTasksOnSubtree, nodeLess), decision_tree.go.
"""

import heapq
from collections.abc import Callable, Iterable
from typing import Protocol

from skep.core.schedule.demand import Demand, Spread
from skep.core.schedule.site import Site
from skep.model.base import Nanoseconds


class Chooser(Protocol):
    """Gives the best node for the next task, again and again."""

    def choose(self) -> Site | None:
        """The best node with room; None when there is none. The caller places a task on it before the next call."""
        ...


class Leaf:
    """Nodes that differ in load only."""

    def __init__(
        self, sites: Iterable[Site], fits: Callable[[Site], bool], rank: Callable[[Site], tuple[int, int, int]]
    ) -> None:
        self._fits = fits
        self._rank = rank
        self._heap = [(*rank(site), site.node.id, site) for site in sites]
        heapq.heapify(self._heap)

    def choose(self) -> Site | None:
        heap, rank = self._heap, self._rank
        while heap:
            site = heap[0][4]
            entry = (*rank(site), site.node.id, site)
            if entry[:3] != heap[0][:3]:
                heapq.heapreplace(heap, entry)  # It was chosen before and has a task more since.
            elif self._fits(site):
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


def chooser(
    demand: Demand, sites: Iterable[Site], suitable: set[str], fits: Callable[[Site], bool], now: Nanoseconds
) -> Chooser:
    """Arrange nodes for a demand.

    Args:
        sites: All nodes, also unsuitable ones: their tasks count for their branch.
        suitable: Ids of those that may be chosen.
        fits: Whether a suitable node still is after tasks were placed on it.
    """
    service_id = demand.service_id

    def rank(site: Site) -> tuple[int, int, int]:
        return site.recent_failures(demand, now), site.by_service.get(service_id, 0), site.total

    def arrange(sites: list[Site], spread: tuple[Spread, ...]) -> Chooser:
        if not spread:
            return Leaf((site for site in sites if site.node.id in suitable), fits, rank)
        level, rest = spread[0], spread[1:]
        groups: dict[str, list[Site]] = {}
        for site in sites:
            groups.setdefault(level.value(site.node), []).append(site)
        return Branches(
            (sum(site.by_service.get(service_id, 0) for site in group), value, arrange(group, rest))
            for value, group in groups.items()
        )

    return arrange(list(sites), demand.spread)
