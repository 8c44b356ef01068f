"""How a swarm's managers and their store fare, and what would break them next.

Pure. Every risk is one sentence with what to do about it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from skep.core import identity as certificates
from skep.core import quorum
from skep.core.quorum import Voter
from skep.lib.durations import DAY
from skep.model.base import Nanoseconds
from skep.model.council import Progress
from skep.model.node import Node, NodeState, Role
from skep.model.store_status import EXTERNAL, StoreMember, StoreStatus
from skep.store.state import View

LEADER, VOTER, FOLLOWER, LEARNER, ABSENT = "leader", "voter", "follower", "learner", "absent"
FAR_BEHIND: Final = 1_000
FULL: Final = 0.8
LEAST_FREE: Final = 512 * 1024**2
OLD_BACKUP: Final[Nanoseconds] = 7 * DAY
ROOT_ENDS_SOON: Final[Nanoseconds] = 90 * DAY


@dataclass(frozen=True, slots=True)
class ManagerRow:
    """One manager.

    Attributes:
        role: leader, voter, follower (with an external etcd, where managers have no votes), learner (no vote yet), or
            absent: asked to be a manager and not among them yet.
        lag: See `StoreMember`.
    """

    node_id: str
    hostname: str
    addr: str
    role: str
    is_reachable: bool
    is_self: bool
    lag: int | None = None


@dataclass(frozen=True, slots=True)
class Papers:
    """This manager's certificate. Attributes: renew_by: when it should have been renewed at the latest."""

    ends_at: Nanoseconds
    renew_by: Nanoseconds
    root_ends_at: Nanoseconds


def papers_of(certificate_pem: str, root_pem: str) -> Papers:
    """Read when this manager's certificate ends. `root_pem`: of several roots the one that ends first counts."""
    return Papers(
        ends_at=certificates.identity_of_pem(certificate_pem).expires_at,
        renew_by=certificates.renewal_at(certificate_pem, 1.0),
        root_ends_at=min(certificates.term_of(root)[1] for root in certificates.load_certificates(root_pem)),
    )


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """Attributes: managers: this one first. quorum: one sentence. risks: what would break it, the worst first."""

    managers: Sequence[ManagerRow]
    quorum: str
    has_quorum: bool
    risks: Sequence[str]
    store: StoreStatus
    revision: int
    papers: Papers
    backed_up_at: Nanoseconds


def lags(found: Mapping[str, Progress]) -> dict[str, int]:
    """How many changes each is behind the newest that any of them knows of.

    Args:
        found: By node id, of those that said; asked at the same time, or what came meanwhile counts as behind.
    """
    newest = max((each.committed for each in found.values()), default=0)
    # A member reads its two numbers one after the other: the one it has taken in may be the newer.
    return {node_id: max(0, newest - each.applied) for node_id, each in found.items()}


def judge(view: View, store: StoreStatus, papers: Papers, own_node_id: str, now: Nanoseconds) -> ClusterStatus:
    """Put together what is known of the managers.

    Args:
        own_node_id: Of the manager that is asked.
    """
    rows = _managers(view, store, own_node_id)
    is_external = store.kind == EXTERNAL
    voters = [Voter(row.node_id, row.is_reachable) for row in rows if row.role in (LEADER, VOTER)]
    backed_up_at = view.cluster.backed_up_at if view.cluster is not None else 0
    risks = [
        *(_sharing_risks(rows) if is_external else _voting_risks(voters)),
        *_manager_risks(rows),
        *_store_risks(store),
        *_paper_risks(papers, now),
        *_backup_risks(backed_up_at, now),
    ]
    return ClusterStatus(
        managers=rows,
        quorum=_outside_verdict(store) if is_external else quorum.verdict(voters),
        has_quorum=(is_external or quorum.spare(voters) >= 0) and not store.failure,
        risks=risks,
        store=store,
        revision=view.revision,
        papers=papers,
        backed_up_at=backed_up_at,
    )


def _managers(view: View, store: StoreStatus, own_node_id: str) -> list[ManagerRow]:
    """Those that keep the store, and those that are asked to."""
    members = {member.node_id: member for member in store.members} or {own_node_id: StoreMember(node_id=own_node_id)}
    asked = [node.id for node in view.nodes.values() if node.spec.role is Role.MANAGER and node.id not in members]
    rows = [_row(view.nodes.get(id), id, members.get(id), own_node_id) for id in [*members, *asked]]
    if store.kind == EXTERNAL:
        rows = [replace(row, role=FOLLOWER) if row.role == VOTER else row for row in rows]
    return sorted(rows, key=lambda row: (not row.is_self, row.hostname, row.node_id))


def _row(node: Node | None, node_id: str, member: StoreMember | None, own_node_id: str) -> ManagerRow:
    status = node.manager_status if node is not None else None
    role = ABSENT if member is None else VOTER if member.is_voter else LEARNER
    if status is not None and status.leader and role == VOTER:
        role = LEADER
    return ManagerRow(
        node_id=node_id,
        hostname=node.description.hostname if node is not None else "",
        addr=status.addr if status is not None else "",
        role=role,
        is_reachable=member is not None and member.is_reachable and not _is_silent(node),
        is_self=node_id == own_node_id,
        lag=member.lag if member is not None else None,
    )


def _is_silent(node: Node | None) -> bool:
    """Whether the leader has noticed already what this manager's own connections do not show yet."""
    if node is None:
        return False
    status = node.manager_status
    is_unreachable = status is not None and status.reachability == "unreachable"
    return is_unreachable or node.status.state is NodeState.DOWN


def _outside_verdict(store: StoreStatus) -> str:
    """One sentence for an operator, where the managers' own number matters for nothing but their being there."""
    if store.failure:
        return f"no quorum: {store.failure}; nothing can be changed until the external etcd serves again"
    n_answering = sum(not endpoint.failure for endpoint in store.endpoints)
    return f"the external etcd answers at {n_answering} of {len(store.endpoints)} endpoints; any one manager suffices"


def _voting_risks(voters: Sequence[Voter]) -> Iterator[str]:
    left = quorum.spare(voters)
    if left < 0:
        yield "changes are refused now: start the managers that are missing, or run `skep cluster recover` on one"
    elif left == 0 and len(voters) > 1:
        yield "the loss of any one manager that is reachable stops every change: mend or replace what is missing first"


def _sharing_risks(rows: Sequence[ManagerRow]) -> Iterator[str]:
    if sum(row.is_reachable for row in rows if row.role in (LEADER, FOLLOWER)) == 1:
        yield "nothing is decided while the one manager that is reachable is away: add another"


def _manager_risks(rows: Sequence[ManagerRow]) -> Iterator[str]:
    for row in rows:
        name = row.hostname or row.node_id or "a manager that has not started yet"
        if row.role == ABSENT:
            yield f"{name} is asked to be a manager and is not one yet: see its log, or demote it"
        elif not row.is_reachable:
            yield f"{name} cannot be reached: start it, or replace it (skep node demote, then skep node rm)"
        elif row.role == LEARNER:
            yield f"{name} has no vote yet: it still takes the state in"
        elif row.lag is not None and row.lag > FAR_BEHIND:
            yield f"{name} is {row.lag} changes behind: see that its disk and network are fast enough"


def _store_risks(store: StoreStatus) -> Iterator[str]:
    if store.failure:
        yield f"the store does not say how it fares: {store.failure}"
    for endpoint in store.endpoints:
        if endpoint.failure:
            yield f"the external etcd does not answer at {endpoint.url}: {endpoint.failure}"
    for alarm in store.alarms:
        yield f"the store has raised an alarm ({alarm}): changes are refused until its cause is gone and it is disarmed"
    if store.limit_bytes and store.size_bytes > FULL * store.limit_bytes:
        share = round(100 * store.size_bytes / store.limit_bytes)
        yield f"the store is {share} % full, and refuses changes at its limit: remove services and configs not in use"
    if 0 < store.free_bytes < LEAST_FREE:
        yield f"{store.free_bytes // 1024**2} MiB are free on the store's disk: once it is full, changes are refused"


def _paper_risks(papers: Papers, now: Nanoseconds) -> Iterator[str]:
    if now > papers.renew_by:
        yield "this manager's certificate should have been renewed by now: see the log of skepd for why it is not"
    if now > papers.root_ends_at - ROOT_ENDS_SOON:
        yield "the swarm's root certificate ends soon: make another one (docker swarm ca --rotate)"


def _backup_risks(backed_up_at: Nanoseconds, now: Nanoseconds) -> Iterator[str]:
    if not backed_up_at:
        yield "no backup is known: make one (skep backup save FILE)"
    elif now - backed_up_at > OLD_BACKUP:
        yield f"the newest backup that is known is {(now - backed_up_at) // DAY} days old (skep backup save FILE)"
