"""The items that objects turn into: what a node is told of a network, a peer, a service, a task.

Pure. One object, one item or none; nothing here knows who is told.
"""

from collections.abc import Iterable

from skep.core import templates
from skep.core.allocate.endpoints import wanted_networks
from skep.model.assignment import (
    Backend,
    BalancedService,
    ClusterFacts,
    NetworkEndpoint,
    OverlayNetwork,
    Peer,
    PublishedService,
)
from skep.model.cluster import Cluster
from skep.model.errors import InvalidSpec
from skep.model.lifecycle import TaskState, is_terminal
from skep.model.network import Attachment, Network
from skep.model.node import Node, NodeState
from skep.model.service import EndpointSpec, PublishMode, ResolutionMode, Service
from skep.model.task import Task

POLICY_LABEL = "skep.lb.policy"
DEFAULT_POLICY = "round-robin"
SHORT_ID = 12
"""Docker's short container id, which is a name on its networks."""


def bare(address: str) -> str:
    """An address without its prefix length."""
    return address.partition("/")[0]


def cluster_facts(cluster: Cluster, ingress_id: str) -> ClusterFacts:
    return ClusterFacts(cluster_id=cluster.id, data_path_port=cluster.data_path_port, ingress_network_id=ingress_id)


def is_serving(node: Node | None) -> bool:
    """Whether a node's endpoints may take traffic."""
    return node is not None and node.balanced and node.status.state != NodeState.DOWN


def peer(node: Node, ingress_id: str) -> Peer | None:
    """None while the node's underlay address is not known."""
    if not node.status.addr:
        return None
    mesh = node.ingress.address if node.ingress and node.ingress.network_id == ingress_id else ""
    return Peer(
        node_id=node.id,
        hostname=node.description.hostname,
        underlay=node.status.addr,
        mesh_address=mesh,
        balanced=is_serving(node),
    )


def overlay(network: Network) -> OverlayNetwork | None:
    """None while the network has no numbers."""
    if not network.vni:
        return None
    return OverlayNetwork(
        network_id=network.id,
        name=network.spec.name,
        vni=network.vni,
        subnets=network.subnets,
        internal=network.spec.internal,
        ingress=network.spec.ingress,
        attachable=network.spec.attachable,
        options=network.spec.options,
    )


def is_wanted(task: Task) -> bool:
    """Whether the task shall go on; a job's task shall until it completes."""
    return task.desired_state <= TaskState.COMPLETE


def is_present(task: Task) -> bool:
    """Whether the task has, or is about to have, a sandbox on its node."""
    return bool(task.node_id) and task.status.state >= TaskState.ASSIGNED and not is_terminal(task.status.state)


def takes_traffic(task: Task) -> bool:
    """Whether the task itself may be balanced to; its node has a say too."""
    return task.status.state == TaskState.RUNNING and is_wanted(task) and task.status.is_accepting


def addressed(task: Task) -> Iterable[Attachment]:
    return (attachment for attachment in task.attachments if attachment.address)


def endpoint(task: Task, attachment: Attachment, node: Node | None) -> NetworkEndpoint:
    return NetworkEndpoint(
        network_id=attachment.network_id,
        task_id=task.id,
        node_id=task.node_id,
        address=bare(attachment.address),
        names=_names(task, node) if is_wanted(task) else [],
    )


def _names(task: Task, node: Node | None) -> list[str]:
    if task.is_attachment:
        return [name for attachment in task.attachments for name in attachment.aliases]
    names = [task.name]
    wanted = task.spec.container_spec.hostname if task.spec.container_spec else ""
    if wanted:
        names.append(_hostname(wanted, task, node))
    container = task.status.container
    if container and container.container_id:
        names.append(container.container_id[:SHORT_ID])
    return [name for name in dict.fromkeys(names) if name]


def _hostname(wanted: str, task: Task, node: Node | None) -> str:
    if "{{" not in wanted:
        return wanted
    platform = node.description.platform if node else None
    names = templates.NodeNames(
        node_id=task.node_id,
        hostname=node.description.hostname if node else "",
        os=platform.os if platform else "",
        architecture=platform.architecture if platform else "",
    )
    try:
        return templates.expand(wanted, templates.fields(task, names))
    except InvalidSpec:
        return ""  # The agent refuses to start such a task, with the reason.


def backend(task: Task, attachment: Attachment) -> Backend:
    return Backend(task_id=task.id, node_id=task.node_id, address=bare(attachment.address))


def balanced(service: Service, ingress_id: str) -> list[BalancedService]:
    """A service on each overlay it is attached to, without backends; empty while not allocated or when it is going."""
    if service.endpoint is None or service.removing:
        return []
    mode = (service.endpoint.spec or EndpointSpec()).mode
    virtual_ips = {item.network_id: bare(item.addr) for item in service.endpoint.virtual_ips or []}
    return [
        BalancedService(
            network_id=wanted.target,
            service_id=service.id,
            names=list(dict.fromkeys([service.spec.name, *(wanted.aliases or [])])),
            virtual_ip=virtual_ips.get(wanted.target, ""),
            policy=service.spec.labels.get(POLICY_LABEL, DEFAULT_POLICY),
        )
        for wanted in wanted_networks(service.spec.task_template, service)
        if wanted.target != ingress_id and (mode == ResolutionMode.DNSRR or wanted.target in virtual_ips)
    ]


def published(service: Service) -> PublishedService | None:
    """A service in the routing mesh, without backends; None if it has no ports there or is going."""
    if service.endpoint is None or service.removing:
        return None
    ports = [
        port
        for port in service.endpoint.ports or []
        if port.publish_mode == PublishMode.INGRESS and port.published_port
    ]
    policy = service.spec.labels.get(POLICY_LABEL, DEFAULT_POLICY)
    return PublishedService(service_id=service.id, ports=ports, policy=policy) if ports else None
