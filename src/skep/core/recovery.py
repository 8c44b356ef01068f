"""A swarm that goes on with one manager: after the loss of a quorum, or from a backup.

Pure. What the swarm runs and whom it trusts stay as they are. Only who manages it changes: the survivor alone. Other
managers are asked to be workers, so one that comes back finds itself demoted; whether a node lives is left to its
heartbeats, for its tasks may well be running. Asked again on the result, nothing changes.
Source: `--force-new-cluster` of moby/daemon/cluster and swarmkit/manager/state/raft.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from skep.model.errors import Unavailable
from skep.model.node import ManagerStatus, Node, NodeDescription, NodeSpec, NodeStatus, Role
from skep.store.changes import Change, Put
from skep.store.state import View

NO_CLUSTER: Final = "there is no cluster in this state; nothing can be recovered from it"
SOLE: Final = "the only manager, and leader"
DEMOTED: Final = "a worker: it demotes itself when it returns, and is Down until then"
LOST: Final = (
    "changes that only the lost managers have acknowledged, if this manager had not heard of them yet",
    "the votes of the other managers: promote nodes again once they are back (skep node promote)",
)
STEPS: Final = (
    "copy the state this manager holds out of etcd into a file of its own, checked object by object",
    "make every other manager a worker in that state",
    "decide alone from then on; running tasks, the mesh and the agents' sessions go on",
)
DANGER: Final = (
    "if the other managers still have a quorum among themselves, there will be two swarms that command the same nodes: "
    "stop skepd on them first"
)


@dataclass(frozen=True, slots=True)
class Survivor:
    """The manager that goes on.

    Attributes:
        underlay: Address other nodes send VXLAN to.
        control_addr: host:port of its control listener.
        certificate_serial: Of the certificate it has now; "" leaves what is noted.
    """

    node_id: str
    hostname: str
    underlay: str
    control_addr: str
    certificate_serial: str = ""


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of a node. Attributes: was, becomes: in words."""

    node_id: str
    hostname: str
    was: str
    becomes: str


@dataclass(frozen=True, slots=True)
class RecoveryPlan:
    """What recovering means, for an operator to read. Attributes: fates: of managers, and of nodes that lead them."""

    steps: Sequence[str]
    fates: Sequence[Fate]
    losses: Sequence[str]
    danger: str
    n_unchanged: int


def sole_manager(view: View, survivor: Survivor) -> list[Change]:
    """Make one manager the only one.

    Args:
        survivor: May be new to the swarm.
    Returns:
        Puts of the nodes that are or become managers, and of the cluster where a brake was held; in any order.
    Raises:
        Unavailable: The state holds no cluster.
    """
    cluster = view.cluster
    if cluster is None:
        raise Unavailable(NO_CLUSTER)
    changes: list[Change] = []
    if cluster.brake is not None:  # Who is missing is judged anew: the swarm's shape is another one.
        changes.append(Put(msgspec.structs.replace(cluster, brake=None)))
    changes.extend(Put(node) for node in _nodes(view, survivor))
    return changes


def _nodes(view: View, survivor: Survivor) -> Iterator[Node]:
    own = view.nodes.get(survivor.node_id)
    wanted = _surviving(own, survivor)
    if wanted != own:
        yield wanted
    for node in view.nodes.values():
        if node.id != survivor.node_id and _is_manager(node):
            yield msgspec.structs.replace(
                node, spec=msgspec.structs.replace(node.spec, role=Role.WORKER), manager_status=None
            )


def _surviving(own: Node | None, survivor: Survivor) -> Node:
    status = ManagerStatus(leader=True, addr=survivor.control_addr)
    if own is None:
        return Node(
            id=survivor.node_id,
            spec=NodeSpec(role=Role.MANAGER),
            role=Role.MANAGER,
            description=NodeDescription(hostname=survivor.hostname),
            status=NodeStatus(addr=survivor.underlay),
            manager_status=status,
            certificate_serial=survivor.certificate_serial,
        )
    return msgspec.structs.replace(
        own,
        spec=msgspec.structs.replace(own.spec, role=Role.MANAGER),
        role=Role.MANAGER,
        status=msgspec.structs.replace(own.status, addr=survivor.underlay),
        manager_status=status,
        certificate_serial=survivor.certificate_serial or own.certificate_serial,
    )


def _is_manager(node: Node) -> bool:
    """Whether it is, or is asked to be. One that only still has a manager's certificate is on its way out already."""
    return node.spec.role is Role.MANAGER or node.manager_status is not None


def plan(view: View, own_node_id: str) -> RecoveryPlan:
    """Say what `sole_manager` would do for this node.

    Raises:
        Unavailable: The state holds no cluster.
    """
    if view.cluster is None:
        raise Unavailable(NO_CLUSTER)
    managers = [node for node in view.nodes.values() if node.id == own_node_id or _is_manager(node)]
    managers.sort(key=lambda node: (node.id != own_node_id, node.description.hostname, node.id))
    fates = [
        Fate(
            node_id=node.id,
            hostname=node.description.hostname,
            was=_was(node),
            becomes=SOLE if node.id == own_node_id else DEMOTED,
        )
        for node in managers
    ]
    is_sole = all(node.id == own_node_id for node in managers)
    return RecoveryPlan(
        steps=STEPS,
        fates=fates,
        losses=() if is_sole else LOST,
        danger="" if is_sole else DANGER,
        n_unchanged=len(view.nodes) - len(managers),
    )


def blind_plan() -> RecoveryPlan:
    """As `plan`, where the state cannot be read before it has been recovered."""
    return RecoveryPlan(STEPS, (), LOST, DANGER, 0)


def _was(node: Node) -> str:
    status = node.manager_status
    if status is None:
        return "manager" if node.spec.role is Role.MANAGER else "worker"
    return "leader" if status.leader else f"manager ({status.reachability})"
