"""From a node's intent to the facts its kernel must hold, and from one intent to the next by what changed.

Pure. Every item contributes facts of its own, given the scene (this node, its networks and its peers). While the scene
stays, a change of one item is the difference of that item's contributions; when the scene changes (a node or a network
comes or goes) everything is derived again and compared.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

from skep.core.mesh import naming, nft
from skep.core.mesh.facts import (
    Balance,
    Cable,
    CableSpec,
    Chain,
    Edits,
    Element,
    Fact,
    Facts,
    Forwarding,
    Hop,
    Neighbour,
    Route,
    Skeleton,
    Steering,
    Tunnel,
    TunnelSpec,
    Value,
    difference,
)
from skep.core.mesh.intent import NodeIntent, changes
from skep.model.assignment import (
    AssignedTask,
    Backend,
    BalancedService,
    NetworkEndpoint,
    OverlayNetwork,
    PublishedService,
)
from skep.model.network import IPAMConfig
from skep.model.service import PublishMode

MAIN_TABLE = 254


@dataclass(frozen=True, slots=True)
class Station:
    """What this node knows of itself. Attributes: underlay: its address; mtu: of its sandboxes and tunnels."""

    node_id: str
    underlay: str
    mtu: int


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A task's namespace as it was asked for.

    Attributes:
        interfaces: Network id and address with prefix, eth0 first.
        gateway_address: What it has towards its node; empty without.
        has_exit: Whether it may open connections through it.
    """

    task_id: str
    interfaces: tuple[tuple[str, str], ...]
    gateway_address: str = ""
    has_exit: bool = True


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """Another node. Attributes: mesh: its address in the ingress network with prefix, or empty."""

    underlay: str
    mac: str
    mesh: str


@dataclass(frozen=True, slots=True)
class Scene:
    """What an item's contribution depends on besides the item.

    Attributes:
        mesh: This node's ingress address with prefix; empty while there is none.
        ingress: None without an ingress network or without an address in it.
        networks: Overlays by id, without ingress.
        peers: The other nodes by id.
    """

    station: Station
    data_path_port: int
    mesh: str
    ingress: OverlayNetwork | None
    networks: Mapping[str, OverlayNetwork]
    peers: Mapping[str, Neighbourhood]


Sandboxes = Mapping[str, Sandbox]


def scene_of(intent: NodeIntent, station: Station) -> Scene:
    """What the intent says about the node's surroundings. Whether a peer is balanced does not count: a silent node's
    endpoints leave the services' backends, the way to them stays."""
    own = intent.peers.get(f"peer/{station.node_id}")
    mesh = own.mesh_address if own else ""
    ingress = next((network for network in intent.networks.values() if network.ingress), None)
    return Scene(
        station=station,
        data_path_port=intent.cluster.data_path_port if intent.cluster else 4789,
        mesh=mesh if ingress else "",
        ingress=ingress if mesh else None,
        networks={network.network_id: network for network in intent.networks.values() if not network.ingress},
        peers={
            peer.node_id: Neighbourhood(
                peer.underlay, naming.node_mac(peer.node_id), peer.mesh_address if ingress else ""
            )
            for peer in intent.peers.values()
            if peer.node_id != station.node_id and peer.underlay
        },
    )


def facts_of(intent: NodeIntent, station: Station, sandboxes: Sandboxes) -> dict[Fact, Value]:
    """Everything the node's kernel must hold."""
    scene = scene_of(intent, station)
    facts = scene_facts(scene)
    for endpoint in intent.endpoints.values():
        facts |= endpoint_facts(endpoint, scene)
    for service in intent.services.values():
        facts |= service_facts(service, scene)
    for published in intent.published.values():
        facts |= published_facts(published)
    for sandbox in sandboxes.values():
        facts |= sandbox_facts(sandbox, scene)
    for assigned in intent.tasks.values():
        facts |= host_port_facts(assigned, sandboxes)
    return facts


def revise(known: Facts, before: NodeIntent, after: NodeIntent, station: Station, sandboxes: Sandboxes) -> Edits:
    """What changes in the kernel from one intent to the next.

    Args:
        known: What is programmed, which is `facts_of(before, …)`.
        before, after: Tables they share cost nothing.
        sandboxes: Those that exist, in both.
    """
    is_same_scene = (
        before.peers is after.peers and before.networks is after.networks and before.cluster is after.cluster
    )
    scene = scene_of(after, station)
    if not is_same_scene and scene_of(before, station) != scene:
        return difference(known, facts_of(after, station, sandboxes))
    old_facts: dict[Fact, Value] = {}
    new_facts: dict[Fact, Value] = {}
    for old_endpoint, new_endpoint in changes(before.endpoints, after.endpoints):
        old_facts |= endpoint_facts(old_endpoint, scene) if old_endpoint else {}
        new_facts |= endpoint_facts(new_endpoint, scene) if new_endpoint else {}
    for old_service, new_service in changes(before.services, after.services):
        old_facts |= service_facts(old_service, scene) if old_service else {}
        new_facts |= service_facts(new_service, scene) if new_service else {}
    for old_published, new_published in changes(before.published, after.published):
        old_facts |= published_facts(old_published) if old_published else {}
        new_facts |= published_facts(new_published) if new_published else {}
    for old_task, new_task in changes(before.tasks, after.tasks):
        old_facts |= host_port_facts(old_task, sandboxes) if old_task else {}
        new_facts |= host_port_facts(new_task, sandboxes) if new_task else {}
    return exchange(known, old_facts, new_facts)


def exchange(known: Facts, old: Facts, new: Facts) -> Edits:
    """Take back what an item contributed and put what it contributes now."""
    return Edits(
        put={fact: value for fact, value in new.items() if known.get(fact) != value},
        remove={fact: value for fact, value in old.items() if fact not in new and known.get(fact) == value},
    )


def sandbox_edits(
    known: Facts, intent: NodeIntent, station: Station, old: Sandbox | None, new: Sandbox | None
) -> Edits:
    """What changes when a sandbox comes (`old` is None), goes (`new` is None) or is asked for differently."""
    scene = scene_of(intent, station)

    def contribution(sandbox: Sandbox | None) -> dict[Fact, Value]:
        if sandbox is None:
            return {}
        facts = sandbox_facts(sandbox, scene)
        assigned = intent.tasks.get(f"task/{sandbox.task_id}")
        if assigned is not None:
            facts |= host_port_facts(assigned, {sandbox.task_id: sandbox})
        return facts

    return exchange(known, contribution(old), contribution(new))


def scene_facts(scene: Scene) -> dict[Fact, Value]:
    """The node itself, its routers and the ways to its peers."""
    root = naming.root_space()
    facts: dict[Fact, Value] = {
        Skeleton(root): nft.node_skeleton(
            port=scene.data_path_port,
            mesh=_bare(scene.mesh),
            ingress_subnets=tuple(subnet.subnet for subnet in scene.ingress.subnets) if scene.ingress else (),
        )
    }
    for peer in scene.peers.values():
        facts[Element(root, "peers", peer.underlay)] = ""
        facts[Element(root, "nodes", peer.underlay)] = ""
    if scene.ingress is not None:
        facts |= _ingress_facts(scene, scene.ingress)
    for network in scene.networks.values():
        facts |= _router_facts(scene, network)
    return facts


def _ingress_facts(scene: Scene, ingress: OverlayNetwork) -> dict[Fact, Value]:
    root, device = naming.root_space(), naming.INGRESS_DEVICE
    addresses = (_bare(scene.mesh),)
    facts: dict[Fact, Value] = {Tunnel(root, device): _tunnel(scene, ingress, addresses)}
    for subnet in ingress.subnets:
        facts[Route(root, MAIN_TABLE, subnet.subnet)] = Hop("")  # Of an address no one has: refuse at once.
    for peer in scene.peers.values():
        facts[Forwarding(root, device, peer.mac)] = peer.underlay
        if not peer.mesh:
            continue
        mesh, number = _bare(peer.mesh), naming.peer_number(peer.mesh)
        mark = naming.peer_mark(number)
        facts[Element(root, "nodes", mesh)] = ""
        facts[Element(root, "zones", peer.mac)] = str(number)
        facts[Element(root, "marks", peer.mac)] = f"{mark:#010x}"
        facts[Route(root, MAIN_TABLE, f"{mesh}/32")] = Hop(device)
        facts[Neighbour(root, device, mesh)] = peer.mac
        facts[Route(root, mark, "0.0.0.0/0")] = Hop(device, mesh)
        facts[Steering(root, mark)] = mark
    return facts


def _router_facts(scene: Scene, network: OverlayNetwork) -> dict[Fact, Value]:
    space, device = naming.router_space(network.network_id), naming.TUNNEL_DEVICE
    gateways = tuple(gateway_of(subnet) for subnet in network.subnets)
    subnets = tuple(subnet.subnet for subnet in network.subnets)
    facts: dict[Fact, Value] = {
        Skeleton(space): nft.router_skeleton(tuple(zip(subnets, gateways, strict=True))),
        Tunnel(space, device): _tunnel(scene, network, gateways),
    }
    for subnet in subnets:
        # Makes the router answer ARP for every address of the subnet; what is neither here nor with a peer is refused.
        facts[Route(space, MAIN_TABLE, subnet)] = Hop(device)
    for peer in scene.peers.values():
        facts[Forwarding(space, device, peer.mac)] = peer.underlay
    return facts


def _tunnel(scene: Scene, network: OverlayNetwork, addresses: tuple[str, ...]) -> TunnelSpec:
    station = scene.station
    return TunnelSpec(
        vni=network.vni,
        port=scene.data_path_port,
        local=station.underlay,
        mac=naming.node_mac(station.node_id),
        mtu=station.mtu,
        addresses=addresses,
    )


def endpoint_facts(endpoint: NetworkEndpoint, scene: Scene) -> dict[Fact, Value]:
    """The way to a task on another node. One on this node has its sandbox instead."""
    peer = scene.peers.get(endpoint.node_id)
    if peer is None:
        return {}
    address = _bare(endpoint.address)
    if scene.ingress is not None and endpoint.network_id == scene.ingress.network_id:
        root, device = naming.root_space(), naming.INGRESS_DEVICE
        return {Route(root, MAIN_TABLE, f"{address}/32"): Hop(device), Neighbour(root, device, address): peer.mac}
    if endpoint.network_id in scene.networks:
        space = naming.router_space(endpoint.network_id)
        return {
            Element(space, "remotes", address): "",
            Neighbour(space, naming.TUNNEL_DEVICE, address): peer.mac,
        }
    return {}


def service_facts(service: BalancedService, scene: Scene) -> dict[Fact, Value]:
    """A virtual IP and who answers for it. Without backends there is nothing: the router refuses unknown addresses."""
    if not service.virtual_ip or not service.backends or service.network_id not in scene.networks:
        return {}
    space, chain = naming.router_space(service.network_id), f"svc_{service.service_id}"
    return {
        Chain(space, chain): Balance(_addresses(service.backends), policy=service.policy),
        Element(space, "vips", _bare(service.virtual_ip)): f"goto {chain}",
    }


def published_facts(published: PublishedService) -> dict[Fact, Value]:
    """A service's ports on every node; without backends they refuse."""
    facts: dict[Fact, Value] = {}
    addresses = _addresses(published.backends)
    for port in published.ports:
        if not port.published_port or port.publish_mode is not PublishMode.INGRESS:
            continue
        balance = Balance(addresses, port.protocol.value, port.target_port, published.policy)
        facts |= _published("pub", port.published_port, balance)
    return facts


def host_port_facts(assigned: AssignedTask, sandboxes: Sandboxes) -> dict[Fact, Value]:
    """A task's ports on its own node only, while its sandbox exists."""
    sandbox = sandboxes.get(assigned.task.id)
    endpoint = assigned.task.endpoint
    facts: dict[Fact, Value] = {}
    if sandbox is None or not sandbox.gateway_address or endpoint is None:
        return facts
    for port in endpoint.ports or []:
        if port.publish_mode is PublishMode.HOST:
            balance = Balance((sandbox.gateway_address,), port.protocol.value, port.target_port)
            facts |= _published("host", port.published_port or port.target_port, balance)
    return facts


def _published(kind: str, published_port: int, balance: Balance) -> dict[Fact, Value]:
    root, chain = naming.root_space(), f"{kind}_{balance.protocol}_{published_port}"
    return {
        Chain(root, chain): balance,
        Element(root, "published", f"{balance.protocol} . {published_port}"): f"goto {chain}",
    }


def sandbox_facts(sandbox: Sandbox, scene: Scene) -> dict[Fact, Value]:
    """A task's cables, and its addresses pinned to them."""
    facts: dict[Fact, Value] = {}
    mtu = scene.station.mtu
    if sandbox.gateway_address:
        root, device = naming.root_space(), naming.gateway_device(sandbox.task_id)
        facts |= _cable_facts(root, device, sandbox.gateway_address)
        facts[Cable(root, device)] = CableSpec(
            sandbox.task_id, naming.SANDBOX_GATEWAY_DEVICE, f"{sandbox.gateway_address}/32", mtu, is_gateway=True
        )
        if not sandbox.has_exit:
            facts[Element(root, "confined", f'"{device}"')] = ""
    for number, (network_id, address) in enumerate(sandbox.interfaces):
        if network_id not in scene.networks:
            continue
        space, device = naming.router_space(network_id), naming.port_device(sandbox.task_id)
        bare = _bare(address)
        facts |= _cable_facts(space, device, bare)
        facts[Cable(space, device)] = CableSpec(sandbox.task_id, f"eth{number}", address, mtu, is_gateway=False)
        facts[Element(space, "selves", f"{bare} . {bare}")] = ""
    return facts


def _cable_facts(space: str, device: str, address: str) -> dict[Fact, Value]:
    mac = naming.address_mac(address)
    return {
        Element(space, "pins", f'"{device}" . {mac} . {address}'): "",
        Neighbour(space, device, address): mac,
        Route(space, MAIN_TABLE, f"{address}/32"): Hop(device),
    }


def ways_to(space: str, address: str) -> tuple[Fact, Fact]:
    """The facts one of which is there as long as an address of a space belongs to a task, here or elsewhere."""
    return Route(space, MAIN_TABLE, f"{address}/32"), Element(space, "remotes", address)


def gateway_of(subnet: IPAMConfig) -> str:
    """The router's own address in a subnet: the allocated one, or its first."""
    return _bare(subnet.gateway) or str(ipaddress.IPv4Network(subnet.subnet)[1])


def _addresses(backends: list[Backend]) -> tuple[str, ...]:
    return tuple(_bare(backend.address) for backend in backends)


def _bare(address: str) -> str:
    return address.partition("/")[0]
