"""What a node is told: an assignment set of keyed items, and the delta between two of them.

Pure. An item is one fact a node must act on: a task to run, a peer to hear, a network to route, an endpoint to
reach, a service to balance. Items are whole values under stable keys, so a delta is "put these, remove those" and a
change of one service touches that service's items only. A node computes its kernel's intent from its items.
"""

from skep.model.base import Labels, Record
from skep.model.network import IPAMConfig
from skep.model.service import PortConfig
from skep.model.task import Task

ItemKey = str
"""`task/<id>`, `peer/<node>`, `network/<id>`, `endpoint/<network>/<task>`, `service/<network>/<service>`,
`published/<service>`, `cluster`."""


class Peer(Record, frozen=True, kw_only=True, tag="peer"):
    """Another node of the swarm (or this one).

    Attributes:
        underlay: Its underlay address. mesh_address: its address in the ingress network, with prefix.
        balanced: False while it is silent: its endpoints are left out of balancing.
    """

    node_id: str
    hostname: str = ""
    underlay: str
    mesh_address: str = ""
    balanced: bool = True

    @property
    def key(self) -> ItemKey:
        return f"peer/{self.node_id}"


class OverlayNetwork(Record, frozen=True, kw_only=True, tag="network"):
    """A network this node takes part in. Attributes: subnets: each with subnet and gateway."""

    network_id: str
    name: str
    vni: int
    subnets: list[IPAMConfig]
    internal: bool = False
    ingress: bool = False
    attachable: bool = False
    options: Labels = {}

    @property
    def key(self) -> ItemKey:
        return f"network/{self.network_id}"


class NetworkEndpoint(Record, frozen=True, kw_only=True, tag="endpoint"):
    """A task's address on one network, wherever it runs.

    Attributes:
        address: Without prefix.
        names: What resolves to it besides its service: task name, hostname, container id (as known).
    """

    network_id: str
    task_id: str
    node_id: str
    address: str
    names: list[str] = []

    @property
    def key(self) -> ItemKey:
        return f"endpoint/{self.network_id}/{self.task_id}"


class Backend(Record, frozen=True, kw_only=True):
    """A task that takes traffic now. Attributes: address: without prefix, on the network in question."""

    task_id: str
    node_id: str
    address: str


class BalancedService(Record, frozen=True, kw_only=True, tag="service"):
    """A service on one overlay network: its names, its virtual IP and who answers for it.

    Attributes:
        names: Service name first, then aliases.
        virtual_ip: Without prefix; empty for dnsrr services.
        backends: Sorted by task id; tasks being drained or silent are not in it.
        policy: `skep.lb.policy`.
    """

    network_id: str
    service_id: str
    names: list[str]
    virtual_ip: str = ""
    backends: list[Backend] = []
    policy: str = "round-robin"

    @property
    def key(self) -> ItemKey:
        return f"service/{self.network_id}/{self.service_id}"


class PublishedService(Record, frozen=True, kw_only=True, tag="published"):
    """A service with ports in the ingress mesh.

    Attributes:
        ports: Ingress-mode ones only, published_port never 0.
        backends: As in `BalancedService`, by ingress address.
    """

    service_id: str
    ports: list[PortConfig]
    backends: list[Backend] = []
    policy: str = "round-robin"

    @property
    def key(self) -> ItemKey:
        return f"published/{self.service_id}"


class AssignedTask(Record, frozen=True, kw_only=True, tag="task"):
    """A task this node must bring to `task.desired_state`.

    Attributes:
        drained: True once every reachable node took it out of balancing, or the limit passed: it may be stopped.
    """

    task: Task
    drained: bool = False

    @property
    def key(self) -> ItemKey:
        return f"task/{self.task.id}"


class ClusterFacts(Record, frozen=True, kw_only=True, tag="cluster"):
    """What every node of the cluster shares. Attributes: ingress_network_id: empty when there is none."""

    cluster_id: str
    data_path_port: int = 4789
    ingress_network_id: str = ""

    @property
    def key(self) -> ItemKey:
        return "cluster"


Item = Peer | OverlayNetwork | NetworkEndpoint | BalancedService | PublishedService | AssignedTask | ClusterFacts


class Delta(Record, frozen=True, kw_only=True):
    """How to get from one version of a node's assignment set to the next.

    Attributes:
        base: The version it applies to; 0 means it is the full set and replaces everything.
        version: What the node holds afterwards.
    """

    base: int
    version: int
    put: list[Item] = []
    remove: list[ItemKey] = []
