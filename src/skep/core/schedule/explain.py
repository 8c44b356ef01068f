"""Why a service's tasks do not run: every node against every filter, and the change that would mend most with least.

Pure. A value for people; what is decided is in `reconcile`, by the same filters.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from skep.core.schedule.demand import Demand
from skep.core.schedule.filters import Filter, Pipeline
from skep.core.schedule.site import Site


@dataclass(frozen=True, slots=True)
class Verdict:
    """One filter on one node. Attributes: figures: what was compared."""

    filter: str
    is_admitted: bool
    figures: str


@dataclass(frozen=True, slots=True)
class NodeVerdicts:
    """One row of the table. Attributes: verdicts: in the filters' order."""

    node_id: str
    hostname: str
    verdicts: tuple[Verdict, ...]

    @property
    def is_suitable(self) -> bool:
        return all(verdict.is_admitted for verdict in self.verdicts)


@dataclass(frozen=True, slots=True)
class Explanation:
    """The whole answer.

    Attributes:
        rows: One per node, nearest to suitable first.
        summary: As in a task's status; empty when a node is suitable.
        fix: What to do, as one sentence or command; empty when nothing is wrong or nothing can be done.
    """

    rows: tuple[NodeVerdicts, ...]
    summary: str
    fix: str


def explain(demand: Demand, sites: Iterable[Site]) -> Explanation:
    """Check all filters on all nodes, also those behind the first refusal.

    Args:
        demand: From `demand_of` a task or `demand_of_spec`.
        sites: As in `Inventory.sites`; may be empty.
    """
    pipeline = Pipeline(demand)
    everywhere = sorted(sites, key=lambda site: (len(_refusals(pipeline, site)), site.node.id))
    rows = tuple(_row(pipeline, site) for site in everywhere)
    if any(row.is_suitable for row in rows):
        return Explanation(rows, "", "")
    reasons = pipeline.explain(everywhere)
    summary = f"no suitable node ({reasons})" if reasons else "no suitable node"
    return Explanation(rows, summary, _nearest_fix(pipeline, everywhere))


def _refusals(pipeline: Pipeline, site: Site) -> list[Filter]:
    return [candidate for candidate in pipeline.filters if not candidate.admits(pipeline.demand, site)]


def _row(pipeline: Pipeline, site: Site) -> NodeVerdicts:
    verdicts = tuple(
        Verdict(
            candidate.name,
            candidate.admits(pipeline.demand, site),
            candidate.figures(pipeline.demand, site),
        )
        for candidate in pipeline.filters
    )
    return NodeVerdicts(site.node.id, site.node.description.hostname, verdicts)


def _nearest_fix(pipeline: Pipeline, sites: list[Site]) -> str:
    """What the node with the fewest refusals needs; the nodes come in that order."""
    if not sites:
        return "add a node to the swarm: docker swarm join-token worker"
    fixes = [candidate.fix(pipeline.demand, sites[0]) for candidate in _refusals(pipeline, sites[0])]
    return "; then ".join(fix for fix in fixes if fix)
