"""A service's endpoint: its published ports and one virtual IP per network.

Pure. What a service already has is kept wherever it still fits, so an update that adds a port moves no address.
Source: swarmkit/manager/allocator (portallocator.go, cnmallocator/networkallocator.go).
"""

from collections.abc import Iterable, Sequence

from skep.core.allocate import ipam
from skep.core.allocate.ledger import (
    Addressing,
    Cause,
    Ledger,
    Owner,
    Space,
    address_space,
    port_space,
)
from skep.core.allocate.pools import COOL_DOWN
from skep.lib.durations import SECOND
from skep.model.base import Nanoseconds
from skep.model.network import NetworkAttachmentConfig
from skep.model.service import (
    Endpoint,
    EndpointSpec,
    PortConfig,
    Protocol,
    PublishMode,
    ResolutionMode,
    Service,
    TaskSpec,
    VirtualIP,
)
from skep.store.state import View


class Refusal(Exception):
    """No number can be given now. Attributes: cause: what to wait for."""

    def __init__(self, reason: str, cause: Cause) -> None:
        super().__init__(reason)
        self.cause = cause


class Takings:
    """Numbers chosen for one object; given back together when one of them cannot be had."""

    def __init__(self, ledger: Ledger, owner: Owner, now: Nanoseconds) -> None:
        self.ledger = ledger
        self.owner = owner
        self.now = now
        self.taken: list[tuple[Space, int]] = []

    def address(self, network_id: str) -> str:
        """Choose an address on an allocated network, with its prefix length.

        Raises:
            Refusal: The network has none left.
        """
        space = address_space(network_id)
        number = self.ledger.choose(space, self.owner, self.now)
        if number is None:
            raise Refusal(self._exhausted(space, self.ledger.networks[network_id]), space)
        self.taken.append((space, number))
        return self.ledger.networks[network_id].write(number)

    def asked_address(self, network_id: str, asked: str) -> str:
        """Take the address that is asked for, with its prefix length.

        Raises:
            Refusal: It is not one of the network's, or another has it.
        """
        network, space = self.ledger.networks[network_id], address_space(network_id)
        try:
            number = ipam.number_of(asked)
        except ValueError:
            raise Refusal(f"invalid address {asked}: an IPv4 address is needed", ("network", network_id)) from None
        if not any(subnet.first < number < subnet.last for subnet in network.subnets):
            raise Refusal(
                f"invalid address {asked}: It does not belong to any of this network's subnets: {network}",
                ("network", network_id),
            )
        if not self.ledger.take(space, self.owner, number):
            raise Refusal(
                f"Address already in use: {asked} in network {network}; choose another or leave it to the swarm",
                ("number", *space, str(number)),
            )
        self.taken.append((space, number))
        return network.write(number)

    def dynamic_port(self, port: PortConfig, named: frozenset[int]) -> int:
        """Choose a published port.

        Args:
            named: Ports of that protocol which the same service asks for by number.
        Raises:
            Refusal: All dynamic ports of the protocol are taken.
        """
        space = port_space(port.protocol)
        number = self.ledger.choose(space, self.owner, self.now)
        passed_over: list[tuple[Space, int]] = []
        while number in named:
            passed_over.append((space, number))
            number = self.ledger.choose(space, self.owner, self.now)
        self.ledger.give_back(self.owner, passed_over)
        if number is None:
            raise Refusal(
                f"no {port.protocol} port of 30000-32767 is left for target port {port.target_port}; "
                "publish it on a port of your choice",
                space,
            )
        self.taken.append((space, number))
        return number

    def undo(self) -> None:
        """Give everything back."""
        self.ledger.give_back(self.owner, self.taken)

    def _exhausted(self, space: Space, network: Addressing) -> str:
        # The same whether some are about to be free: who waits is not told again when those go to others.
        return (
            f"no address is left in network {network}: {self.ledger.pools[space].size} can be given out, each again "
            f"{COOL_DOWN // SECOND} s after its last use; remove tasks or use a network with a larger subnet"
        )


def wanted_networks(template: TaskSpec, service: Service | None) -> list[NetworkAttachmentConfig]:
    """The networks a task attaches to, each once: its own list, or else the service's older one."""
    wanted = template.networks or (service.spec.networks if service else None) or []
    return list({attachment.target: attachment for attachment in wanted}.values())


def overlays(template: TaskSpec, service: Service | None, ledger: Ledger) -> list[NetworkAttachmentConfig]:
    """The networks a task attaches to by its own wish: the ingress network comes with published ports only."""
    return [item for item in wanted_networks(template, service) if item.target != ledger.ingress_id]


def has_ingress_ports(spec: EndpointSpec) -> bool:
    """Whether a service is reached through the routing mesh."""
    return any(port.publish_mode == PublishMode.INGRESS for port in spec.ports or [])


def is_allocated(service: Service, ledger: Ledger) -> bool:
    """Whether the endpoint is what the spec, as it is now, asks for."""
    endpoint = service.endpoint
    if endpoint is None or endpoint.spec != (service.spec.endpoint_spec or EndpointSpec()):
        return False
    have = [virtual_ip.network_id for virtual_ip in endpoint.virtual_ips or []]
    return have == vip_networks(service, ledger)


def vip_networks(service: Service, ledger: Ledger) -> list[str]:
    """On which networks a service has a virtual IP, in order: the ingress network first.

    An ingress network that does not exist is "", which no endpoint has.
    """
    spec = service.spec.endpoint_spec or EndpointSpec()
    if spec.mode != ResolutionMode.VIP:
        return []
    ingress = [ledger.ingress_id] if has_ingress_ports(spec) else []
    return ingress + [item.target for item in overlays(service.spec.task_template, service, ledger)]


def ready_network(view: View, ledger: Ledger, network_id: str) -> None:
    """Make sure that addresses of a network can be given out.

    Raises:
        Refusal: It is missing, or has no subnet itself.
    """
    if not network_id:
        raise Refusal(
            "ports are published in ingress mode, but there is no ingress network; "
            "create one with `docker network create --ingress --driver overlay ingress`",
            ("ingress",),
        )
    if network_id in ledger.networks:
        return
    network = view.networks.get(network_id)
    if network is None:
        raise Refusal(f"network {network_id} not found", ("network", network_id))
    why = network.reason or "it has no subnet yet"
    raise Refusal(f'network "{network.spec.name}" cannot be used: {why}', ("network", network_id))


def allocate_endpoint(service: Service, view: View, ledger: Ledger, now: Nanoseconds) -> Endpoint:
    """Choose what a service's endpoint lacks.

    Raises:
        Refusal: Something cannot be had; nothing is held for it then that was not before.
    """
    takings = Takings(ledger, ("service", service.id), now)
    spec = service.spec.endpoint_spec or EndpointSpec()
    try:
        networks = [*vip_networks(service, ledger), *needed_networks(service, ledger)]
        for network_id in networks:
            ready_network(view, ledger, network_id)
        ports = _ports(service, spec, view, takings)
        virtual_ips = _virtual_ips(service, takings)
    except Refusal:
        takings.undo()
        raise
    return Endpoint(spec=spec, ports=ports or None, virtual_ips=virtual_ips or None)


def needed_networks(service: Service, ledger: Ledger) -> list[str]:
    """Networks that a service's tasks join whether or not it has virtual IPs there."""
    spec = service.spec.endpoint_spec or EndpointSpec()
    ingress = [ledger.ingress_id] if has_ingress_ports(spec) else []
    return ingress + [item.target for item in overlays(service.spec.task_template, service, ledger)]


def _virtual_ips(service: Service, takings: Takings) -> list[VirtualIP]:
    held = {item.network_id: item.addr for item in (service.endpoint.virtual_ips or [] if service.endpoint else [])}
    return [
        VirtualIP(network_id=network_id, addr=held.get(network_id) or takings.address(network_id))
        for network_id in vip_networks(service, takings.ledger)
    ]


def _ports(service: Service, spec: EndpointSpec, view: View, takings: Takings) -> list[PortConfig]:
    chosen: list[PortConfig] = []
    spare = _dynamic_ports(service)
    for port in spec.ports or []:
        if port.publish_mode == PublishMode.HOST:
            chosen.append(port)
        elif port.published_port:
            _refuse_taken(service, port, view, takings.ledger)
            chosen.append(port)
        else:
            kept = _take_spare(spare, port)
            number = kept or takings.dynamic_port(port, _named_ports(spec, port.protocol))
            chosen.append(_published(port, number))
    return chosen


def _named_ports(spec: EndpointSpec, protocol: Protocol) -> frozenset[int]:
    """Ports of a protocol that a service asks for by number."""
    return frozenset(port.published_port for port in spec.ports or [] if port.protocol == protocol)


def _published(port: PortConfig, number: int) -> PortConfig:
    return PortConfig(
        name=port.name,
        protocol=port.protocol,
        target_port=port.target_port,
        published_port=number,
        publish_mode=port.publish_mode,
    )


def _dynamic_ports(service: Service) -> list[PortConfig]:
    """Ports the service was given before, without those its spec now names itself."""
    named = {(port.protocol, port.published_port) for port in _spec_ports(service.spec.endpoint_spec)}
    before: Sequence[PortConfig] = (service.endpoint.ports or []) if service.endpoint else []
    return [
        port
        for port in before
        if port.publish_mode == PublishMode.INGRESS and (port.protocol, port.published_port) not in named
    ]


def _spec_ports(spec: EndpointSpec | None) -> Iterable[PortConfig]:
    return (spec.ports or []) if spec else []


def _take_spare(spare: list[PortConfig], port: PortConfig) -> int:
    for index, candidate in enumerate(spare):
        if (candidate.protocol, candidate.target_port) == (port.protocol, port.target_port):
            return spare.pop(index).published_port
    return 0


def _refuse_taken(service: Service, port: PortConfig, view: View, ledger: Ledger) -> None:
    space = port_space(port.protocol)
    holder = ledger.holder(space, port.published_port)
    if holder is None or holder == service.id:
        return
    other = view.services.get(holder)
    name = other.spec.name if other else "unknown"
    raise Refusal(
        f"port '{port.published_port}' is already in use by service '{name}' ({holder}) as an ingress port",
        ("number", *space, str(port.published_port)),
    )
