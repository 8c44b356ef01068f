"""How many managers may be missing, and which may go.

Pure. A change of the managers, like any write, needs more than half of them. Refusals are in Docker's words.
Source: swarmkit manager/state/raft/raft.go (CanRemoveMember), manager/controlapi/node.go; moby daemon/cluster/swarm.go.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

NO_LEADER: Final = (
    "The swarm does not have a leader. It's possible that too few managers are online. "
    "Make sure more than half of the managers are online."
)
LAST_DEMOTED: Final = "rpc error: code = FailedPrecondition desc = attempting to demote the last manager of the swarm"
QUORUM_LOST: Final = (
    "rpc error: code = FailedPrecondition desc = can't remove member from the raft: "
    "this would result in a loss of quorum"
)
NOT_DEMOTED: Final = (
    "rpc error: code = FailedPrecondition desc = node {node_id} is a cluster manager and is a member of the raft "
    "cluster. It must be demoted to worker before removal"
)
LEAVING: Final = "You are attempting to leave the swarm on a node that is participating as a manager. "
LAST_LEAVES: Final = (
    "Removing the last manager erases all current state of the swarm. Use `--force` to ignore this message. "
)
LEAVES_TOO_FEW: Final = (
    "Removing this node leaves {left} managers out of {total}. Without a Raft quorum your swarm will be inaccessible. "
)
ONLY_WAY: Final = (
    "The only way to restore a swarm that has lost consensus is to reinitialize it with `--force-new-cluster`. "
    "Use `--force` to suppress this message."
)


@dataclass(frozen=True, slots=True)
class Voter:
    """A manager whose vote counts. Attributes: is_reachable: as seen from who asks; itself it always reaches."""

    node_id: str
    is_reachable: bool = True


def needed(n_voters: int) -> int:
    """How many must agree; 0 voters need 1, which nobody has."""
    return n_voters // 2 + 1


def spare(voters: Sequence[Voter]) -> int:
    """How many of those reachable may still fail; negative where there is no quorum now."""
    return sum(voter.is_reachable for voter in voters) - needed(len(voters))


def can_remove(voters: Sequence[Voter], node_id: str) -> bool:
    """Whether enough are reachable once this one is gone."""
    rest = [voter for voter in voters if voter.node_id != node_id]
    return bool(rest) and spare(rest) >= 0


def refuse_demotion(voters: Sequence[Voter], node_id: str) -> str:
    """Why a manager may not become a worker; "" if it may. One whose vote does not count may always."""
    if all(voter.node_id != node_id for voter in voters):
        return ""
    if len(voters) == 1:
        return LAST_DEMOTED
    return "" if can_remove(voters, node_id) else QUORUM_LOST


def refuse_node_removal(voters: Sequence[Voter], node_id: str) -> str:
    """Why a node may not be removed from the swarm; "" if it may. Docker refuses this with `--force`, too."""
    if any(voter.node_id == node_id for voter in voters):
        return NOT_DEMOTED.format(node_id=node_id)
    return ""


def refuse_leaving(voters: Sequence[Voter]) -> str:
    """What a manager that would leave without `--force` is told."""
    n_reachable = sum(voter.is_reachable for voter in voters)
    n_missing = len(voters) - n_reachable
    if (n_reachable, n_missing) == (1, 0):
        return LEAVING + LAST_LEAVES
    if n_reachable - 2 <= n_missing:
        return LEAVING + LEAVES_TOO_FEW.format(left=n_reachable - 1, total=len(voters)) + ONLY_WAY
    return LEAVING + ONLY_WAY


def verdict(voters: Sequence[Voter]) -> str:
    """One sentence for an operator: what the swarm's managers can bear."""
    total, left = len(voters), spare(voters)
    n_reachable = sum(voter.is_reachable for voter in voters)
    if left < 0:
        return (
            f"no quorum: {n_reachable} of {total} managers are reachable and {needed(total)} are needed; nothing can "
            "be changed until more return, or until one begins anew with --force-new-cluster"
        )
    if total == 1:
        return "one manager: if it is lost, so is the swarm's state; add two more for fault tolerance"
    if total == 2:
        return "two managers bear no loss: either one's failure stops every change; add a third"
    if left == 0:
        return f"{n_reachable} of {total} managers are reachable; one more failure stops every change"
    advice = "; one fewer would bear as much" if total % 2 == 0 else ""
    return f"{n_reachable} of {total} managers are reachable; {left} more may fail{advice}"
