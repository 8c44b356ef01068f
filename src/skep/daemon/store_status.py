"""How this manager's store fares: asked of it, seen on its disk, and how far the other managers' members have come.

Edge: etcd's members, the control ports of other managers, the file system. Works without a quorum too.
"""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from skep.core import cluster_status
from skep.daemon.stores import LOG_SUFFIX, OpenStore, StorePlaces
from skep.edge.etcd.external import StateMark
from skep.edge.etcd.members import Member, MemberStatus
from skep.edge.etcd.members import Membership as Members
from skep.edge.etcd.settings import QUOTA_BYTES
from skep.model.council import Progress
from skep.model.identity import Credentials
from skep.model.store_status import EXTERNAL, StoreEndpoint, StoreMember, StoreStatus
from skep.ports.store import StoreUnavailable
from skep.ports.transport import CouncilPort, TransportError, Unreachable
from skep.store.state import View

log = structlog.get_logger(__name__)

LIMIT_S: Final = 2.0
PROGRESS_S: Final = 1.5
"""For all members at once: who has not said by then how far it is, is shown without that."""
NO_LEADER: Final = "no leader"
"""What etcd says beside its alarms when there is no quorum, which shows in its members already."""


@dataclass(frozen=True, slots=True)
class Others:
    """The other managers, and how they are asked.

    etcd 3.4 tells how far a member has come at that member's own client port, which listens on its own machine only.
    """

    port: CouncilPort
    credentials: Callable[[], Credentials]
    view: Callable[[], View]

    async def progress(self, node_id: str) -> Progress:
        """How far a manager's member has come. Raises: TransportError."""
        node = self.view().nodes.get(node_id)
        if node is None or node.manager_status is None or not node.manager_status.addr:
            raise Unreachable(f"it is not known where the manager {node_id} listens")
        return await self.port.progress(node.manager_status.addr, self.credentials())


async def look(opened: OpenStore, places: StorePlaces, others: Others) -> StoreStatus:
    """Ask the store for two seconds at most, and then every member that can be reached, for a moment more."""
    if opened.mark is not None:
        return await _look_outside(opened.mark, others.view())
    free_bytes = _free_bytes(places.swarm_dir)
    if opened.members is None:
        file = places.store_file
        size_bytes = _size(file) + _size(file.with_name(file.name + LOG_SUFFIX))
        return StoreStatus(kind="sqlite", size_bytes=size_bytes, free_bytes=free_bytes)
    try:
        async with asyncio.timeout(LIMIT_S):
            status, members = await _ask(opened.members)
    except (StoreUnavailable, TimeoutError) as error:
        reason = str(error) or f"it has not answered for {LIMIT_S:g} seconds"
        return StoreStatus(kind="etcd", limit_bytes=QUOTA_BYTES, free_bytes=free_bytes, failure=reason)
    reachable = [member for member in members if member.id in status.reachable and member.name]
    lags = await _lags(opened.members, others, status.id, reachable)
    return StoreStatus(
        kind="etcd",
        version=status.version,
        size_bytes=status.size_bytes,
        limit_bytes=QUOTA_BYTES,
        free_bytes=free_bytes,
        alarms=[alarm for alarm in status.alarms if NO_LEADER not in alarm],
        members=[
            StoreMember(
                node_id=member.name,
                is_voter=not member.is_learner,
                is_reachable=member.id in status.reachable,
                lag=lags.get(member.name),
            )
            for member in members
        ],
    )


async def _look_outside(mark: StateMark, view: View) -> StoreStatus:
    """How an external etcd fares; every manager that was let in can lead."""
    asked = await mark.look()
    found = [each.status for each in asked if each.status is not None]
    served = [status for status in found if status.leader]
    alarms = {alarm: None for status in found for alarm in status.errors if NO_LEADER not in alarm}
    return StoreStatus(
        kind=EXTERNAL,
        version=found[0].version if found else "",
        size_bytes=max((status.dbSize for status in found), default=0),
        alarms=list(alarms),
        members=[StoreMember(node_id=node.id) for node in view.nodes.values() if node.manager_status is not None],
        endpoints=[StoreEndpoint(url=each.endpoint, failure=each.reason) for each in asked],
        failure="" if served else "none of its endpoints answers" if not found else "its members have no leader",
    )


async def _ask(members: Members) -> tuple[MemberStatus, Sequence[Member]]:
    return await members.status(), await members.members()


async def _lags(members: Members, others: Others, own_id: int, asked: Sequence[Member]) -> Mapping[str, int]:
    """How far each is behind, by node id; those that do not say in time are left out."""

    async def hear(member: Member) -> Progress | None:
        try:
            async with asyncio.timeout(PROGRESS_S):
                # This one is asked again with the others: what was written since would make it look late.
                found = await (members.progress() if member.id == own_id else others.progress(member.name))
        except (StoreUnavailable, TransportError, TimeoutError) as error:
            log.info("a manager does not say how far it is", node=member.name, reason=str(error) or "no answer in time")
            return None
        return found if found.member_id == member.id else None

    heard = await asyncio.gather(*map(hear, asked))
    return cluster_status.lags({member.name: found for member, found in zip(asked, heard, strict=True) if found})


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0  # SQLite's log comes and goes.


def _free_bytes(directory: Path) -> int:
    try:
        found = os.statvfs(directory)
    except OSError:
        return 0
    return found.f_bavail * found.f_frsize
