"""What everyone is shown of the managers: which one leads, and which can be reached.

Pure. The leader keeps it on the nodes themselves. A manager is shown from the moment it is let in, which says where it
listens, until it is taken out; neither is decided here. Its daemon answers for it: a node that is down is no manager
that can be reached. Source: the words are of swarmkit api/types.proto, RaftMemberStatus.
"""

from collections.abc import Iterator

import msgspec

from skep.core.plan import NOTHING, Dirty, Plan
from skep.model.base import Nanoseconds
from skep.model.node import ManagerStatus, Node, NodeState
from skep.store.changes import Put
from skep.store.state import View

REACHABLE, UNREACHABLE = "reachable", "unreachable"


def reconcile(view: View, dirty: Dirty, leader_id: str, now: Nanoseconds) -> Plan:
    """Bring what is shown up to date.

    Args:
        leader_id: The node of the manager that decides.
    Returns:
        Puts of managers' nodes.
    """
    changes = tuple(Put(node) for node in _changed(view, dirty, leader_id, now))
    return Plan(changes) if changes else NOTHING


def _changed(view: View, dirty: Dirty, leader_id: str, now: Nanoseconds) -> Iterator[Node]:
    for id in sorted(dirty.nodes):
        node = view.nodes.get(id)
        if node is None or node.manager_status is None:
            continue
        shown = _shown(node, node.manager_status, leader_id)
        if shown != node.manager_status:
            yield msgspec.structs.replace(node, manager_status=shown, updated_at=now)


def _shown(node: Node, status: ManagerStatus, leader_id: str) -> ManagerStatus:
    is_leader = node.id == leader_id
    is_down = not is_leader and node.status.state in (NodeState.DOWN, NodeState.DISCONNECTED)
    return msgspec.structs.replace(status, leader=is_leader, reachability=UNREACHABLE if is_down else REACHABLE)
