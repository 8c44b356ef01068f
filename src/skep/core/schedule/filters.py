"""Why a task may not run on a node, in the order the reasons are looked for.

Pure. Each filter says whether it has anything to check for a demand, checks one node, counts its refusals in Swarm's
words, and tells a user what it saw on a node and what would mend it. To add a filter, add it to `FILTERS`.
Source: swarmkit/manager/scheduler/filter.go and pipeline.go.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from skep.core import constraints
from skep.core.constraints import NODE_LABEL, Operator
from skep.core.schedule.demand import Demand
from skep.core.schedule.site import Site
from skep.model.node import Availability, NodeState

GIB = 1 << 30
MIB = 1 << 20
CPU = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Filter:
    """One reason a node can be unsuitable.

    Attributes:
        one, many: How refusals are counted: of one node, and of `{n}` nodes.
        applies: Whether there is anything to check.
        admits: Whether a node passes.
        figures: What was compared on a node, for people.
        fix: What would make the node pass, for people; "" if it is beyond them.
        is_dynamic: Placing a task can change the answer.
    """

    name: str
    one: str
    many: str
    applies: Callable[[Demand], bool]
    admits: Callable[[Demand, Site], bool]
    figures: Callable[[Demand, Site], str]
    fix: Callable[[Demand, Site], str]
    is_dynamic: bool = False

    def explain(self, n_nodes: int) -> str:
        return self.one if n_nodes == 1 else self.many.format(n=n_nodes)


class Pipeline:
    """The filters that apply to one demand."""

    __slots__ = ("_dynamic", "_lasting", "demand", "filters")

    def __init__(self, demand: Demand) -> None:
        self.demand = demand
        self.filters = tuple(candidate for candidate in FILTERS if candidate.applies(demand))
        self._dynamic = tuple(candidate.admits for candidate in self.filters if candidate.is_dynamic)
        self._lasting = tuple(candidate.admits for candidate in self.filters if not candidate.is_dynamic)

    def refusal(self, site: Site) -> Filter | None:
        """The first filter that refuses a node; None if it is suitable."""
        demand = self.demand
        for candidate in self.filters:
            if not candidate.admits(demand, site):
                return candidate
        return None

    def admitted(self, sites: Sequence[Site]) -> Sequence[Site]:
        """Those that would be suitable if there were room on them; that holds until a node changes."""
        return self._passing(self._lasting, sites)

    def roomy(self, sites: Sequence[Site]) -> Sequence[Site]:
        """Those with room, whatever else speaks against them; that holds until a task comes or goes."""
        return self._passing(self._dynamic, sites)

    def has_room(self, site: Site) -> bool:
        """Whether there is room on a node."""
        demand = self.demand
        for admits in self._dynamic:  # noqa: SIM110  # all() with a generator costs half of placing a task
            if not admits(demand, site):
                return False
        return True

    def explain(self, sites: Iterable[Site]) -> str:
        """Count the refusals, most frequent first: `insufficient resources on 2 nodes; …`; "" if there are none."""
        return sentence(self.codes(sites))

    def _passing(self, checks: Iterable[Callable[[Demand, Site], bool]], sites: Sequence[Site]) -> Sequence[Site]:
        demand = self.demand
        for admits in checks:
            sites = [site for site in sites if admits(demand, site)]
        return sites

    def code(self, site: Site) -> int:
        """Which filter refuses a node first, as its place in `FILTERS` from 1 on; 0 for none."""
        refusal = self.refusal(site)
        return 0 if refusal is None else _PLACES[refusal.name]

    def codes(self, sites: Iterable[Site]) -> bytearray:
        """The code of each node, in their order."""
        return bytearray(map(self.code, sites))


def sentence(codes: Iterable[int]) -> str:
    """What nodes with these codes say together."""
    counts = Counter(codes)
    order = sorted((place for place in counts if place), key=lambda place: (-counts[place], place))
    return "; ".join(FILTERS[place - 1].explain(counts[place]) for place in order)


# --- ready ---------------------------------------------------------------------


def _ready_figures(demand: Demand, site: Site) -> str:
    return f"state {site.node.status.state.value}, availability {site.node.spec.availability.value}"


def _ready_fix(demand: Demand, site: Site) -> str:
    if site.node.status.state != NodeState.READY:
        return f"bring node {_name(site)} back: it is {site.node.status.state.value}"
    if site.node.spec.availability != Availability.ACTIVE:
        return f"docker node update --availability active {_name(site)}"
    return ""


# --- resources -------------------------------------------------------------------


def _has_resources(demand: Demand, site: Site) -> bool:
    if demand.cpu_nano and demand.cpu_nano > site.cpu_free:
        return False
    if demand.memory_bytes and demand.memory_bytes > site.memory_free:
        return False
    return not demand.generic or all(number <= site.generic_free(kind) for kind, number in demand.generic)


def _resource_figures(demand: Demand, site: Site) -> str:
    offered = site.node.description.resources
    parts: list[str] = []
    if demand.cpu_nano:
        parts.append(f"CPU {_cpu(demand.cpu_nano)} wanted, {_cpu(site.cpu_free)} of {_cpu(offered.nano_cpus)} free")
    if demand.memory_bytes:
        free, all_of_it = _size(site.memory_free), _size(offered.memory_bytes)
        parts.append(f"memory {_size(demand.memory_bytes)} wanted, {free} of {all_of_it} free")
    parts += [f"{kind} {number} wanted, {site.generic_free(kind)} free" for kind, number in demand.generic]
    return "; ".join(parts)


def _resource_fix(demand: Demand, site: Site) -> str:
    missing: list[str] = []
    if demand.cpu_nano > site.cpu_free:
        missing.append(f"{_cpu(demand.cpu_nano - site.cpu_free)} CPU")
    if demand.memory_bytes > site.memory_free:
        missing.append(f"{_size(demand.memory_bytes - site.memory_free)} of memory")
    missing += [
        f"{number - site.generic_free(kind)} {kind}"
        for kind, number in demand.generic
        if number > site.generic_free(kind)
    ]
    return f"reserve {' and '.join(missing)} less, or free as much on node {_name(site)}"


def _cpu(nano: int) -> str:
    return f"{nano / CPU:g}"


def _size(n_bytes: int) -> str:
    return f"{n_bytes / GIB:.3g} GiB" if abs(n_bytes) >= GIB else f"{n_bytes / MIB:.3g} MiB"


# --- plugins, constraints, platform ----------------------------------------------


def _missing_plugins(demand: Demand, site: Site) -> list[tuple[str, str]]:
    installed = {(plugin.type, plugin.name) for plugin in site.node.description.engine.plugins or []}
    reports_logs = any(type == "Log" for type, _ in installed)
    return [
        (type, name)
        for type, name in demand.plugins
        if (type, name) not in installed
        and (type, f"{name}:latest") not in installed
        and (type != "Log" or reports_logs)  # An engine that names no log driver at all just does not report them.
    ]


def _plugin_figures(demand: Demand, site: Site) -> str:
    missing = _missing_plugins(demand, site)
    return "missing " + ", ".join(f"{type} {name}" for type, name in missing) if missing else "all there"


def _plugin_fix(demand: Demand, site: Site) -> str:
    names = " ".join(name for _, name in _missing_plugins(demand, site))
    return f"install {names} on node {_name(site)}"


def _unmet(demand: Demand, site: Site) -> list[constraints.Constraint]:
    return [wanted for wanted in demand.constraints if not constraints.matches(wanted, site.node)]


def _is_admitted_by_constraints(demand: Demand, site: Site) -> bool:
    return not demand.is_unreadable and constraints.matches_all(demand.constraints, site.node)


def _constraint_figures(demand: Demand, site: Site) -> str:
    if demand.is_unreadable:
        return "a constraint cannot be read"
    unmet = _unmet(demand, site)
    return "not met: " + ", ".join(map(str, unmet)) if unmet else "all met"


def _constraint_fix(demand: Demand, site: Site) -> str:
    labels: list[str] = []
    for wanted in _unmet(demand, site):
        if not wanted.key.lower().startswith(NODE_LABEL) or wanted.operator is not Operator.EQUAL:
            return f"relax the constraint {wanted}"
        labels.append(f"--label-add {wanted.key[len(NODE_LABEL) :]}={wanted.value}")
    return f"docker node update {' '.join(labels)} {_name(site)}" if labels else "mend the service's constraints"


def _runs_platform(demand: Demand, site: Site) -> bool:
    have = site.platform
    return any(
        (not wanted.architecture or wanted.architecture == have.architecture)
        and (not wanted.os or wanted.os == have.os)
        for wanted in demand.platforms
    )


def _platform_figures(demand: Demand, site: Site) -> str:
    wanted = ", ".join(f"{platform.os}/{platform.architecture}" for platform in demand.platforms)
    return f"{site.platform.os}/{site.platform.architecture}; the image runs on {wanted}"


# --- host ports, replicas ----------------------------------------------------------


def _has_free_ports(demand: Demand, site: Site) -> bool:
    return not any(port in site.ports for port in demand.host_ports)


def _port_figures(demand: Demand, site: Site) -> str:
    taken = [f"{number}/{protocol}" for protocol, number in demand.host_ports if (protocol, number) in site.ports]
    return "taken: " + ", ".join(taken) if taken else "free"


def _replica_figures(demand: Demand, site: Site) -> str:
    return f"{site.by_service.get(demand.service_id, 0)} of at most {demand.max_replicas} here"


def _name(site: Site) -> str:
    return site.node.description.hostname or site.node.id


FILTERS: tuple[Filter, ...] = (
    Filter(
        name="Ready",
        one="1 node not available for new tasks",
        many="{n} nodes not available for new tasks",
        applies=lambda demand: True,
        admits=lambda demand, site: site.is_ready,
        figures=_ready_figures,
        fix=_ready_fix,
    ),
    Filter(
        name="Volume",
        one="1 node without the task's volume",
        many="{n} nodes without the task's volume",
        applies=lambda demand: bool(demand.home),
        admits=lambda demand, site: site.node.id == demand.home,
        figures=lambda demand, site: f"its local volume is on node {demand.home}",
        fix=lambda demand, site: "take the label skep.volume away, to begin with an empty volume elsewhere",
    ),
    Filter(
        name="Resource",
        one="insufficient resources on 1 node",
        many="insufficient resources on {n} nodes",
        applies=lambda demand: bool(demand.cpu_nano or demand.memory_bytes or demand.generic),
        admits=_has_resources,
        figures=_resource_figures,
        fix=_resource_fix,
        is_dynamic=True,
    ),
    Filter(
        name="Plugin",
        one="missing plugin on 1 node",
        many="missing plugin on {n} nodes",
        applies=lambda demand: bool(demand.plugins),
        admits=lambda demand, site: not _missing_plugins(demand, site),
        figures=_plugin_figures,
        fix=_plugin_fix,
    ),
    Filter(
        name="Constraint",
        one="scheduling constraints not satisfied on 1 node",
        many="scheduling constraints not satisfied on {n} nodes",
        applies=lambda demand: bool(demand.constraints) or demand.is_unreadable,
        admits=_is_admitted_by_constraints,
        figures=_constraint_figures,
        fix=_constraint_fix,
    ),
    Filter(
        name="Platform",
        one="unsupported platform on 1 node",
        many="unsupported platform on {n} nodes",
        applies=lambda demand: bool(demand.platforms),
        admits=_runs_platform,
        figures=_platform_figures,
        fix=lambda demand, site: f"use an image for {site.platform.os}/{site.platform.architecture}",
    ),
    Filter(
        name="HostPort",
        one="host-mode port already in use on 1 node",
        many="host-mode port already in use on {n} nodes",
        applies=lambda demand: bool(demand.host_ports),
        admits=_has_free_ports,
        figures=_port_figures,
        fix=lambda demand, site: f"stop what publishes it on node {_name(site)}, or publish another port",
        is_dynamic=True,
    ),
    Filter(
        name="MaxReplicas",
        one="max replicas per node limit exceed",
        many="max replicas per node limit exceed",
        applies=lambda demand: demand.max_replicas > 0,
        admits=lambda demand, site: site.by_service.get(demand.service_id, 0) < demand.max_replicas,
        figures=_replica_figures,
        fix=lambda demand, site: "raise --replicas-max-per-node, or add a node",
        is_dynamic=True,
    ),
)

_PLACES = {candidate.name: place for place, candidate in enumerate(FILTERS, 1)}
