"""One node as the scheduler sees it: what it offers, what is taken, and how it has been doing.

Pure. Taken is what tasks hold from ASSIGNED until they were seen to stop; counted for ranking are only those that shall
go on.
"""

from collections.abc import Iterable

from skep.core.schedule.demand import Demand, HostPort, canonical, count_generic, host_ports, reservations
from skep.lib.durations import MINUTE
from skep.model.base import Nanoseconds
from skep.model.lifecycle import TaskState
from skep.model.node import Availability, Node, NodeState
from skep.model.service import DiscreteGenericResource, GenericResource, NamedGenericResource
from skep.model.task import Task

FAILURE_WINDOW = 5 * MINUTE
MAX_FAILURES = 5


def is_counted(task: Task) -> bool:
    """Whether a task shall go on, and so counts when tasks are spread."""
    return task.desired_state <= TaskState.COMPLETE and not task.yielding


class Site:
    """A node with what its tasks hold. Made empty; tasks are added and removed one by one."""

    __slots__ = (
        "by_service",
        "cpu_free",
        "cpu_used",
        "failures",
        "generic_used",
        "is_ready",
        "memory_free",
        "memory_used",
        "names_used",
        "node",
        "platform",
        "ports",
        "total",
    )

    def __init__(self, node: Node) -> None:
        self.cpu_used = 0
        self.memory_used = 0
        self.generic_used: dict[str, int] = {}
        self.names_used: set[tuple[str, str]] = set()
        self.ports: dict[HostPort, int] = {}
        self.by_service: dict[str, int] = {}
        self.total = 0
        self.failures: dict[tuple[str, int], list[Nanoseconds]] = {}
        self.update(node)

    def update(self, node: Node) -> None:
        """Take in the node as it is now."""
        self.node = node
        self.is_ready = node.status.state == NodeState.READY and node.spec.availability == Availability.ACTIVE
        self.platform = canonical(node.description.platform)
        offered = node.description.resources
        self.cpu_free = offered.nano_cpus - self.cpu_used  # Asked far more often than it changes.
        self.memory_free = offered.memory_bytes - self.memory_used

    def generic_free(self, kind: str) -> int:
        """How many of a kind no task has claimed."""
        offered = count_generic(self.node.description.resources.generic_resources or [])
        return offered.get(kind, 0) - self.generic_used.get(kind, 0)

    def claim(self, demand: Demand) -> list[GenericResource]:
        """Choose which generic resources a task gets: by name where the node names them."""
        chosen: list[GenericResource] = []
        for kind, number in demand.generic:
            names = [name for name in self._names(kind) if (kind, name) not in self.names_used]
            if names:
                chosen += [_named(kind, name) for name in names[:number]]
            else:
                chosen.append(GenericResource(discrete_resource_spec=DiscreteGenericResource(kind=kind, value=number)))
        return chosen

    def add(self, task: Task) -> None:
        """A task takes what it asks for."""
        self._hold(task, 1)
        if is_counted(task):
            self.count(task.service_id, 1)

    def remove(self, task: Task) -> None:
        """A task, exactly as it was added, lets go."""
        self._hold(task, -1)
        if is_counted(task):
            self.count(task.service_id, -1)

    def count(self, service_id: str, change: int) -> None:
        """Count a task for ranking, or stop counting it."""
        self.total += change
        number = self.by_service.get(service_id, 0) + change
        if number:
            self.by_service[service_id] = number
        else:
            del self.by_service[service_id]

    def fail(self, task: Task) -> None:
        """A task that was placed here failed."""
        moments = self.failures.setdefault((task.service_id, task.spec_version), [])
        moments.append(task.status.timestamp)
        del moments[: -4 * MAX_FAILURES]

    def recent_failures(self, demand: Demand, now: Nanoseconds) -> int:
        """Failures of this service at this spec version, if there were enough of them to matter; else 0."""
        moments = self.failures.get((demand.service_id, demand.spec_version)) if self.failures else None
        if moments is None:
            return 0
        number = sum(1 for moment in moments if moment > now - FAILURE_WINDOW)
        if not number and max(moments) <= now - FAILURE_WINDOW:
            del self.failures[demand.service_id, demand.spec_version]
        return number if number >= MAX_FAILURES else 0

    def _names(self, kind: str) -> Iterable[str]:
        for resource in self.node.description.resources.generic_resources or []:
            named = resource.named_resource_spec
            if named is not None and named.kind == kind:
                yield named.value

    def _hold(self, task: Task, sign: int) -> None:
        if task.spec.resources is not None:
            reserved = reservations(task.spec)
            self.cpu_used += sign * reserved.nano_cpus
            self.memory_used += sign * reserved.memory_bytes
            self.cpu_free -= sign * reserved.nano_cpus
            self.memory_free -= sign * reserved.memory_bytes
        if task.generic_resources:
            self._hold_generic(task.generic_resources, sign)
        for port in host_ports(task.endpoint.ports) if task.endpoint and task.endpoint.ports else ():
            self.ports[port] = self.ports.get(port, 0) + sign
            if not self.ports[port]:
                del self.ports[port]

    def _hold_generic(self, resources: list[GenericResource], sign: int) -> None:
        for kind, number in count_generic(resources).items():
            self.generic_used[kind] = self.generic_used.get(kind, 0) + sign * number
        for resource in resources:
            named = resource.named_resource_spec
            if named is not None and sign > 0:
                self.names_used.add((named.kind, named.value))
            elif named is not None:
                self.names_used.discard((named.kind, named.value))


def _named(kind: str, name: str) -> GenericResource:
    return GenericResource(named_resource_spec=NamedGenericResource(kind=kind, value=name))
