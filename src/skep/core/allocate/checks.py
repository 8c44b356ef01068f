"""What can be refused at once, before anything is stored: ports and subnets that others have.

Pure. The allocator decides again when it gives the numbers out, because two requests may pass these checks together.
Source: swarmkit/manager/controlapi/service.go (validateEndpointSpec, checkPortConflicts).
"""

from collections.abc import Iterator

from skep.core.allocate import ipam
from skep.lib.ranges import RangeSet
from skep.model.errors import Conflict, InvalidSpec, SkepError
from skep.model.network import Network, NetworkSpec
from skep.model.service import EndpointSpec, PortConfig, Protocol, PublishMode, ResolutionMode, Service, ServiceSpec
from skep.store.state import View

CONTROL_PORT = 2377
LAST_PORT = 65535


def check_ports(view: View, spec: ServiceSpec, service_id: str = "") -> None:
    """Check a service's published ports against itself and all other services.

    Args:
        service_id: The service being updated, which does not conflict with itself; "" for a new one.
    Raises:
        InvalidSpec: With Docker's wording.
    """
    endpoint = spec.endpoint_spec or EndpointSpec()
    _check_endpoint(view, endpoint)
    for port in endpoint.ports or []:
        if port.published_port:
            for other, mode in _users(view, port):
                if other.id != service_id:
                    _check_pair(port, mode, other)


def check_attachments(view: View, spec: ServiceSpec) -> None:
    """Check the networks a service asks for, by their ids.

    Raises:
        InvalidSpec: It asks for the ingress network, or for one that does not exist.
    """
    for wanted in [*(spec.task_template.networks or []), *(spec.networks or [])]:
        network = view.networks.get(wanted.target)
        if network is None:
            raise InvalidSpec(f"network {wanted.target} not found; create it first")
        if network.spec.ingress:
            raise InvalidSpec(
                f'Service cannot be explicitly attached to the ingress network "{network.spec.name}"; '
                "publish a port instead"
            )


def _check_endpoint(view: View, endpoint: EndpointSpec) -> None:
    seen: set[tuple[Protocol, int]] = set()
    for port in endpoint.ports or []:
        is_ingress = port.publish_mode == PublishMode.INGRESS
        if endpoint.mode == ResolutionMode.DNSRR and is_ingress:
            raise InvalidSpec("EndpointSpec: port published with ingress mode can't be used with dnsrr mode")
        if not 1 <= port.target_port <= LAST_PORT or not 0 <= port.published_port <= LAST_PORT:
            raise InvalidSpec(
                f"EndpointSpec: port {port.published_port}:{port.target_port}/{port.protocol} is not in 1-65535"
            )
        if not port.published_port:
            continue
        key = (port.protocol, port.published_port)
        if key in seen:
            raise InvalidSpec("EndpointSpec: duplicate published ports provided")
        seen.add(key)
        data_path_port = view.cluster.data_path_port if view.cluster else 0
        if key in {(Protocol.TCP, CONTROL_PORT), (Protocol.UDP, data_path_port)}:
            raise InvalidSpec(
                f"port '{port.published_port}' is already in use by the swarm itself ({port.protocol}); publish another"
            )


def _users(view: View, port: PortConfig) -> Iterator[tuple[Service, PublishMode]]:
    for service in view.services.where("port", (port.protocol, port.published_port)):
        if service.removing:
            continue  # Its port is free once its last task is gone; the allocator waits for that.
        wanted = (service.spec.endpoint_spec.ports or []) if service.spec.endpoint_spec else []
        given = (service.endpoint.ports or []) if service.endpoint else []
        for candidate in (*wanted, *given):
            if (candidate.protocol, candidate.published_port) == (port.protocol, port.published_port):
                yield service, candidate.publish_mode


def _check_pair(port: PortConfig, mode: PublishMode, other: Service) -> None:
    """Two services may share a host-mode port: the scheduler keeps them on different nodes."""
    if PublishMode.INGRESS not in (port.publish_mode, mode):
        return
    how = "an ingress port" if mode == PublishMode.INGRESS else "a host-published port"
    raise InvalidSpec(
        f"port '{port.published_port}' is already in use by service '{other.spec.name}' ({other.id}) as {how}"
    )


def check_network(view: View, spec: NetworkSpec) -> None:
    """Check a network's driver and addressing against itself, other networks and the nodes' own addresses.

    Raises:
        InvalidSpec, Unsupported: It cannot be meant.
        Conflict: Its addresses belong to another network or to a node.
    """
    if spec.driver not in ("", "overlay"):
        raise InvalidSpec(f'network driver "{spec.driver}" cannot span a swarm; use "overlay"')
    if spec.ingress and any(network.spec.ingress for network in view.networks.values()):
        raise Conflict("an ingress network is already present; remove it before you create another")
    if not ipam.asked_subnets(spec):
        _check_pools(view)
    for subnet, config in zip(ipam.read_ipam(spec), ipam.asked_subnets(spec), strict=True):
        for other in view.networks.values():
            if _addresses(other).overlap(subnet.first, subnet.last):
                raise Conflict(
                    f"Pool overlaps with other one on this address space: {config.subnet} overlaps with network "
                    f'"{other.spec.name}"; choose another subnet'
                )
        for node in view.nodes.values():
            if _is_inside(node.status.addr, subnet):
                raise Conflict(
                    f"invalid subnet {config.subnet}: it contains {node.status.addr}, the address of node "
                    f'"{node.description.hostname}"; choose another subnet'
                )


def _check_pools(view: View) -> None:
    """Make sure that there is a subnet for one more network, after those that are still to get theirs."""
    cluster = view.cluster
    if cluster is None:
        return
    taken, n_waiting = RangeSet(), 0
    for network in view.networks.values():
        for first, last in _addresses(network):
            taken.add(first, last)
        n_waiting += not network.subnets and not ipam.asked_subnets(network.spec)
    pools, underlay = cluster.default_address_pools, list(_underlay(view))
    for _ in range(n_waiting + 1):
        free = ipam.next_subnet(pools, cluster.subnet_size, taken, underlay)
        if free is None:
            raise Conflict(
                "could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the "
                f"network: no /{cluster.subnet_size} is left in {', '.join(pools) or 'none'}; remove networks or give "
                "this one a subnet"
            )
        taken.add(free.first, free.last)


def _underlay(view: View) -> Iterator[int]:
    for node in view.nodes.values():
        try:
            yield ipam.number_of(node.status.addr)
        except ValueError:
            continue  # No address yet, or not IPv4: in no subnet's way.


def _addresses(network: Network) -> RangeSet:
    """What a network has, or will have when its wish is granted."""
    found = RangeSet()
    for config in network.subnets or ipam.asked_subnets(network.spec):
        try:
            subnet = ipam.read_subnet(config)
        except SkepError:
            continue  # It never gets these addresses.
        found.add(subnet.first, subnet.last)
    return found


def _is_inside(address: str, subnet: ipam.Subnet) -> bool:
    try:
        return subnet.first <= ipam.number_of(address) <= subnet.last
    except ValueError:
        return False  # No address yet, or not IPv4.
