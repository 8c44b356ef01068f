"""How many of a network's addresses are in use, and whether there is room for a service.

Pure. Counted from the stored objects alone, so that any manager can answer; cost is that of the network's members.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from skep.core.allocate import ipam
from skep.core.allocate.endpoints import wanted_networks
from skep.core.allocate.ledger import address_space, claims_of
from skep.model.base import Object
from skep.model.errors import Conflict, SkepError
from skep.model.lifecycle import TaskState
from skep.model.network import Network
from skep.model.service import EndpointSpec, ResolutionMode, Service, ServiceSpec
from skep.model.task import Task
from skep.store.state import View


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one subnet.

    Attributes:
        in_use: Addresses that are somebody's or nobody's to have: gateway, auxiliary ones, first and last.
        available: What can still be given out.
        size: How many can be given out in all.
    """

    in_use: int
    available: int
    size: int


def usage_of(view: View, network: Network, *, is_to_come: bool = False) -> dict[str, Usage]:
    """Count a network's addresses, by subnet; none while it has no subnet.

    Args:
        is_to_come: Count as free what is about to be let go, and count the subnets that a network asks for and
            will have: they are given a moment after it was created.
    """
    held = {
        number
        for member in _members(view, network)
        if not (is_to_come and _is_going(member))
        for space, number in claims_of(member)
        if space == address_space(network.id)
    }
    found: dict[str, Usage] = {}
    for config in network.subnets or (ipam.asked_subnets(network.spec) if is_to_come else []):
        try:
            subnet = ipam.read_subnet(config)
        except SkepError:
            continue  # Not written by this allocator.
        found[config.subnet] = _usage(subnet, held | set(subnet.reserved))
    return found


def _usage(subnet: ipam.Subnet, taken: set[int]) -> Usage:
    inside = sum(1 for number in taken if subnet.first <= number <= subnet.last)
    dynamic = sum(1 for number in taken if subnet.low <= number <= subnet.high)
    reserved = sum(1 for number in set(subnet.reserved) if subnet.low <= number <= subnet.high)
    size = subnet.high - subnet.low + 1
    return Usage(in_use=inside + 2, available=size - dynamic, size=size - reserved)


def _members(view: View, network: Network) -> Iterator[Object]:
    """Everything that may hold one of a network's addresses."""
    yield from view.tasks.where("network", network.id)
    if network.spec.ingress:
        yield from view.services.values()
        yield from view.nodes.values()
    else:
        yield from view.services.where("network", network.id)


def check_room(view: View, spec: ServiceSpec) -> None:
    """Refuse a new service for which a network has too few addresses: its tasks would wait for ever.

    Args:
        spec: With network ids in place of names.
    Raises:
        Conflict: With Docker's wording and what is needed.
    """
    for wanted in wanted_networks(spec.task_template, Service(id="", spec=spec)):
        network = view.networks.get(wanted.target)
        usages = list(usage_of(view, network, is_to_come=True).values()) if network else []
        if network is None or not usages:
            continue  # Its addresses are not known yet.
        needed = _needed(spec)
        free, size = sum(usage.available for usage in usages), sum(usage.size for usage in usages)
        if needed > free:
            raise Conflict(
                f'could not find an available IP: network "{network.spec.name}" has {free} of {size} '
                f"addresses left and this service needs {needed} (one for each task"
                f"{'' if _is_dnsrr(spec) else ' and its virtual IP'}); use a network with a larger subnet"
            )


def _needed(spec: ServiceSpec) -> int:
    virtual_ip = 0 if _is_dnsrr(spec) else 1
    replicated = spec.mode.replicated
    if replicated is not None and replicated.replicas is not None:
        return virtual_ip + replicated.replicas
    return virtual_ip + 1  # How many nodes a global service or a job will fill is not known beforehand.


def _is_going(member: Object) -> bool:
    return (isinstance(member, Task) and member.desired_state > TaskState.COMPLETE) or (
        isinstance(member, Service) and member.removing
    )


def _is_dnsrr(spec: ServiceSpec) -> bool:
    return (spec.endpoint_spec or EndpointSpec()).mode == ResolutionMode.DNSRR
