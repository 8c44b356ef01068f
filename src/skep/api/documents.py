"""The swarm's objects as Docker's JSON.

Pure. Only what is derived or renamed is built here; specs and descriptions are Docker-shaped structures already and go
out as they are. What the docker CLI reads without looking is never null. Long: one function for each kind of object.
Source: Docker API 1.51, definitions Service, Task, Node, Network, Swarm.
"""

from collections.abc import Iterable, Mapping

import msgspec

from skep.api.wire import Document
from skep.core import allocate
from skep.core.mesh import naming
from skep.lib.durations import SECOND
from skep.lib.timestamps import format_rfc3339
from skep.model.assignment import OverlayNetwork
from skep.model.base import Object
from skep.model.cluster import Cluster
from skep.model.lifecycle import TaskState, is_terminal
from skep.model.network import Attachment, IPAMConfig, Network, NetworkSpec
from skep.model.node import Node, NodeState, TLSInfo
from skep.model.secret import Config, Secret
from skep.model.service import (
    DNSConfig,
    Placement,
    Replicated,
    ReplicatedJob,
    ResourceRequirements,
    RestartPolicy,
    Service,
    ServiceMode,
    ServiceSpec,
    UpdateConfig,
)
from skep.model.task import Task
from skep.store.state import View

_DEFAULT_STOP_GRACE = 10 * SECOND
_DEFAULT_RESTART_DELAY = 5 * SECOND


def _meta(value: Object) -> Document:
    return {
        "ID": value.id,
        "Version": {"Index": value.version},
        "CreatedAt": format_rfc3339(value.created_at),
        "UpdatedAt": format_rfc3339(value.updated_at),
    }


# --- services -------------------------------------------------------------------


def service(value: Service, *, with_defaults: bool = False) -> Document:
    """A service; `with_defaults` fills in what the user left to Swarm (`insertDefaults`)."""
    spec = msgspec.structs.replace(value.spec, mode=_shown_mode(value.spec.mode))
    document = _meta(value)
    document["Spec"] = _filled(spec) if with_defaults else spec
    if value.previous_spec is not None:
        document["PreviousSpec"] = value.previous_spec
    document["Endpoint"] = value.endpoint or {"Spec": {}}
    if value.update_status is not None and value.update_status.state:
        status = value.update_status
        shown: Document = {"State": status.state, "Message": status.message}
        if status.started_at:
            shown["StartedAt"] = format_rfc3339(status.started_at)
        if status.completed_at:
            shown["CompletedAt"] = format_rfc3339(status.completed_at)
        document["UpdateStatus"] = shown
    if value.job_status is not None:
        document["JobStatus"] = {
            "JobIteration": {"Index": value.job_status.iteration},
            "LastExecution": format_rfc3339(value.job_status.last_execution),
        }
    return document


def service_status(value: Service, view: View) -> Document:
    """How many of a service's tasks run and should. Source: swarmkit's ListServiceStatuses."""
    mode = value.spec.mode
    iteration = value.job_status.iteration if value.job_status else None
    is_job = mode.replicated_job is not None or mode.global_job is not None
    running = wanted = completed = 0
    for task in view.tasks.where("service", value.id):
        if is_job and task.job_iteration != iteration:
            continue
        running += task.status.state == TaskState.RUNNING and _is_heard_of(task, view)
        completed += task.status.state == TaskState.COMPLETE
        if is_job:  # The CLI adds those that completed to this.
            wanted += task.desired_state <= TaskState.COMPLETE and task.status.state != TaskState.COMPLETE
        else:
            wanted += task.desired_state <= TaskState.RUNNING and not task.yielding
    if mode.replicated_job is not None:
        wanted = mode.replicated_job.max_concurrent or 1
    elif mode.global_ is None and mode.global_job is None:
        wanted = 1 if mode.replicated is None or mode.replicated.replicas is None else mode.replicated.replicas
    return {"RunningTasks": running, "DesiredTasks": wanted, "CompletedTasks": completed}


def _is_heard_of(task: Task, view: View) -> bool:
    node = view.nodes.get(task.node_id)
    return node is not None and node.status.state != NodeState.DOWN


def _shown_mode(mode: ServiceMode) -> ServiceMode:
    """A mode with the numbers the CLI reads through pointers it does not check."""
    if mode.replicated_job is not None:
        concurrent = 1 if mode.replicated_job.max_concurrent is None else mode.replicated_job.max_concurrent
        total = mode.replicated_job.total_completions
        job = ReplicatedJob(max_concurrent=concurrent, total_completions=concurrent if total is None else total)
        return ServiceMode(replicated_job=job)
    if mode.global_ is not None or mode.global_job is not None:
        return mode
    replicas = mode.replicated.replicas if mode.replicated else None
    return ServiceMode(replicated=Replicated(replicas=1 if replicas is None else replicas))


def _filled(spec: ServiceSpec) -> ServiceSpec:
    """Swarm's defaults in place of what was left out. Source: swarmkit/api/defaults/service.go."""
    template = spec.task_template
    container = template.container_spec
    if container is not None:
        container = msgspec.structs.replace(
            container,
            stop_grace_period=_or(container.stop_grace_period, _DEFAULT_STOP_GRACE),
            dns_config=container.dns_config or DNSConfig(),
        )
    restart = template.restart_policy or RestartPolicy()
    filled = msgspec.structs.replace(
        template,
        container_spec=container,
        resources=template.resources or ResourceRequirements(),
        restart_policy=msgspec.structs.replace(
            restart, delay=_or(restart.delay, _DEFAULT_RESTART_DELAY), max_attempts=_or(restart.max_attempts, 0)
        ),
        placement=template.placement or Placement(),
    )
    return msgspec.structs.replace(
        spec,
        task_template=filled,
        update_config=spec.update_config or UpdateConfig(),
        rollback_config=spec.rollback_config or UpdateConfig(),
    )


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


# --- tasks -----------------------------------------------------------------------


def task(value: Task, view: View) -> Document:
    """A task, with the networks it is attached to spelled out."""
    document = _meta(value)
    document["Labels"] = {}
    document["Spec"] = value.spec
    if value.service_id:
        document["ServiceID"] = value.service_id
    if value.slot:
        document["Slot"] = value.slot
    if value.node_id:
        document["NodeID"] = value.node_id
    document["Status"] = _task_status(value)
    document["DesiredState"] = value.desired_state.label
    document["NetworksAttachments"] = [
        _attachment(attachment, network)
        for attachment in value.attachments
        if (network := view.networks.get(attachment.network_id)) is not None
    ]
    if value.generic_resources:
        document["GenericResources"] = value.generic_resources
    if value.job_iteration is not None:
        document["JobIteration"] = {"Index": value.job_iteration}
    document["Volumes"] = None
    return document


def _task_status(value: Task) -> Document:
    status = value.status
    document: Document = {
        "Timestamp": format_rfc3339(status.timestamp or value.created_at),
        "State": status.state.label,
        "Message": status.message,
        "PortStatus": {"Ports": status.ports} if status.ports else {},
    }
    if status.err:
        document["Err"] = status.err
    if status.container is not None:
        exit_code = status.container.exit_code
        document["ContainerStatus"] = {
            "ContainerID": status.container.container_id,
            "PID": status.container.pid,
            "ExitCode": 0 if exit_code is None else exit_code,
        }
    return document


def _attachment(value: Attachment, network: Network) -> Document:
    spec = network.spec
    shown_spec: Document = {
        "Name": spec.name,
        "Labels": spec.labels,
        "DriverConfiguration": {"Name": spec.driver},
        "IPAMOptions": {"Driver": {"Name": "default"}},
        "Scope": "swarm",
    }
    if spec.ingress:
        shown_spec["Ingress"] = True
    shown: Document = _meta(network)
    shown |= {
        "Spec": shown_spec,
        "DriverState": {"Name": spec.driver, "Options": _driver_options(network)},
        "IPAMOptions": {"Driver": {"Name": "default"}, "Configs": network.subnets},
    }
    return {"Network": shown, "Addresses": [value.address] if value.address else []}


# --- nodes -----------------------------------------------------------------------


def node(value: Node) -> Document:
    """A node; workers have no ManagerStatus, which is how the CLI tells."""
    document = _meta(value)
    document |= {
        "Spec": value.spec,
        "Description": value.description,
        "Status": {"State": value.status.state.value, "Message": value.status.message, "Addr": value.status.addr},
    }
    if value.manager_status is not None:
        status = value.manager_status
        shown: Document = {"Reachability": status.reachability, "Addr": status.addr}
        if status.leader:
            shown["Leader"] = True
        document["ManagerStatus"] = shown
    return document


# --- networks ----------------------------------------------------------------------


def network(value: Network) -> Document:
    """An overlay network as `network ls` and `inspect` read it."""
    spec = value.spec
    configs = value.subnets or spec.ipam.config or []
    return {
        "Name": spec.name,
        "Id": value.id,
        "Created": format_rfc3339(value.created_at),
        "Scope": "swarm",
        "Driver": spec.driver,
        "EnableIPv4": True,
        "EnableIPv6": spec.enable_ipv6,
        "IPAM": {"Driver": spec.ipam.driver, "Options": spec.ipam.options, "Config": [_ipam(each) for each in configs]},
        "Internal": spec.internal,
        "Attachable": spec.attachable,
        "Ingress": spec.ingress,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {},
        "Options": _driver_options(value),
        "Labels": spec.labels,
    }


def joined_network(value: OverlayNetwork, tasks: Iterable[Task]) -> Document:
    """A network as a worker knows it that takes part in it. Args: tasks: the node's, attachments among them."""
    spec = NetworkSpec(
        name=value.name,
        internal=value.internal,
        ingress=value.ingress,
        attachable=value.attachable,
        options=value.options,
    )
    document = network(Network(id=value.network_id, spec=spec, vni=value.vni, subnets=value.subnets))
    members = (task for task in tasks if any(each.network_id == value.network_id for each in task.attachments))
    document["Containers"] = _containers(members, value.network_id)
    return document


def _ipam(value: IPAMConfig) -> Document:
    shown: Document = {"Subnet": value.subnet}
    if value.ip_range:
        shown["IPRange"] = value.ip_range
    if value.gateway:
        shown["Gateway"] = value.gateway
    if value.auxiliary_addresses:
        shown["AuxiliaryAddresses"] = value.auxiliary_addresses
    return shown


def _driver_options(value: Network) -> Mapping[str, str]:
    vni = {"com.docker.network.driver.overlay.vxlanid_list": str(value.vni)} if value.vni else {}
    # Why it has no addresses: Docker has no field for that, and its CLI shows all options.
    reason = {"skep.reason": value.reason} if value.reason else {}
    return {**vni, **reason, **value.spec.options}


def network_containers(value: Network, node_id: str, view: View) -> Document:
    """The tasks and plain containers on this node that are on the network, by container id."""
    return _containers((each for each in _members(value, view) if each.node_id == node_id), value.id)


def _containers(members: Iterable[Task], network_id: str) -> Document:
    found: Document = {}
    for member in members:
        plain = member.spec.network_attachment_spec
        container = member.status.container
        if plain is not None:
            found[plain.container_id] = _endpoint(member, network_id, _first_name(member))
        elif container is not None and container.container_id:
            found[container.container_id] = _endpoint(member, network_id, member.name)
    return found


def _endpoint(member: Task, network_id: str, name: str) -> Document:
    address = _address(member, network_id)
    return {
        "Name": name,
        "EndpointID": member.id,
        "MacAddress": naming.address_mac(address.partition("/")[0]) if address else "",
        "IPv4Address": address,
        "IPv6Address": "",
    }


def network_status(value: Network, view: View) -> Document:
    """How many of its addresses are in use. Source: Docker API 1.52, NetworkStatus; sent to older clients, too."""
    return {
        "IPAM": {
            "Subnets": {
                subnet: {"IPsInUse": usage.in_use, "DynamicIPsAvailable": usage.available}
                for subnet, usage in allocate.usage_of(view, value).items()
            }
        }
    }


def network_attachments(value: Network, view: View) -> list[Document]:
    """The plain containers on the network, of all nodes, for `inspect --verbose`."""
    found: list[Document] = []
    for member in _members(value, view):
        plain = member.spec.network_attachment_spec
        if plain is not None:
            node = view.nodes.get(member.node_id)
            found.append(
                _endpoint(member, value.id, _first_name(member))
                | {"ContainerID": plain.container_id, "Node": node.description.hostname if node else member.node_id}
            )
    return sorted(found, key=lambda document: str(document["Name"]))


def _first_name(member: Task) -> str:
    return next((alias for each in member.attachments for alias in each.aliases), "")


def network_services(value: Network, view: View) -> Document:
    """Every service on the network with its running tasks anywhere, for `inspect --verbose`."""
    found: dict[str, list[Document]] = {}
    for member in _members(value, view):
        node_of = view.nodes.get(member.node_id)
        host = node_of.status.addr if node_of else ""
        endpoint: Document = {
            "Name": member.name,
            "EndpointID": member.id,
            "EndpointIP": _address(member, value.id).partition("/")[0],
            "Info": {"Host IP": host},
        }
        found.setdefault(member.service_id, []).append(endpoint)
    return {
        each.spec.name: {"VIP": _virtual_ip(each, value.id), "Ports": [], "LocalLBIndex": 0, "Tasks": tasks}
        for service_id, tasks in found.items()
        if (each := view.services.get(service_id)) is not None
    }


def _members(value: Network, view: View) -> Iterable[Task]:
    return (each for each in view.tasks.where("network", value.id) if not is_terminal(each.status.state))


def _address(value: Task, network_id: str) -> str:
    return next((each.address for each in value.attachments if each.network_id == network_id), "")


def _virtual_ip(value: Service, network_id: str) -> str:
    addresses = (value.endpoint.virtual_ips if value.endpoint else None) or []
    return next((each.addr.partition("/")[0] for each in addresses if each.network_id == network_id), "")


# --- the swarm, secrets, configs ------------------------------------------------------


def cluster(value: Cluster, trust: TLSInfo) -> Document:
    """The swarm as /info shows it, without its tokens."""
    return _meta(value) | {
        "Spec": value.spec,
        "TLSInfo": trust,
        "RootRotationInProgress": value.authority is not None and value.authority.rotation is not None,
        "DefaultAddrPool": value.default_address_pools,
        "SubnetSize": value.subnet_size,
        "DataPathPort": value.data_path_port,
    }


def swarm(value: Cluster, trust: TLSInfo) -> Document:
    """The swarm with its join tokens."""
    return cluster(value, trust) | {
        "JoinTokens": {"Worker": value.join_tokens.worker, "Manager": value.join_tokens.manager}
    }


def secret(value: Secret) -> Document:
    """A secret without its value."""
    return _meta(value) | {"Spec": msgspec.structs.replace(value.spec, data="")}


def config(value: Config) -> Document:
    """A config with its value."""
    return _meta(value) | {"Spec": {**msgspec.to_builtins(value.spec), "Data": msgspec.to_builtins(value.data)}}
