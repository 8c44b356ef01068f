"""How many of a network's addresses are in use, and whether there is room for a service.

Pure. Counted from the stored objects alone, so that any manager can answer; cost is that of the network's members.
"""

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
    """Attributes: size: how many addresses a network gives out in all; used: how many of those are somebody's."""

    size: int
    used: int

    @property
    def free(self) -> int:
        return max(self.size - self.used, 0)


def usage_of(view: View, network: Network, *, is_to_come: bool = False) -> Usage:
    """Count a network's addresses; nothing of one that has no subnet yet.

    Args:
        is_to_come: Count as free what is about to be let go.
    """
    subnets = []
    for config in network.subnets:
        try:
            subnets.append(ipam.read_subnet(config))
        except SkepError:
            continue  # Not written by this allocator.
    inside = [(subnet.low, subnet.high) for subnet in subnets]
    reserved = {number for subnet in subnets for number in subnet.reserved}
    size = sum(last - first + 1 for first, last in inside)
    used = {number for number in reserved if any(first <= number <= last for first, last in inside)}
    members = (
        *view.tasks.where("network", network.id),
        *view.services.where("network", network.id),
        *(view.nodes.values() if network.spec.ingress else ()),
        *(view.services.values() if network.spec.ingress else ()),
    )
    for member in members:
        if is_to_come and _is_going(member):
            continue
        used |= {
            number
            for space, number in claims_of(member)
            if space == address_space(network.id) and any(first <= number <= last for first, last in inside)
        }
    return Usage(size, len(used))


def check_room(view: View, spec: ServiceSpec) -> None:
    """Refuse a new service for which a network has too few addresses: its tasks would wait for ever.

    Args:
        spec: With network ids in place of names.
    Raises:
        Conflict: With Docker's wording and what is needed.
    """
    for wanted in wanted_networks(spec.task_template, Service(id="", spec=spec)):
        network = view.networks.get(wanted.target)
        if network is None or not network.vni:
            continue  # Its addresses are not known yet.
        needed, usage = _needed(spec), usage_of(view, network, is_to_come=True)
        if needed > usage.free:
            raise Conflict(
                f'could not find an available IP: network "{network.spec.name}" has {usage.free} of {usage.size} '
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
