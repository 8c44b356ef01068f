"""How this manager's store fares: asked of it, and seen on its disk.

Edge: etcd's members, the file system. Works without a quorum too.
"""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from skep.daemon.stores import LOG_SUFFIX, OpenStore, StorePlaces
from skep.edge.etcd.members import Member, MemberStatus
from skep.edge.etcd.members import Membership as Members
from skep.edge.etcd.settings import QUOTA_BYTES
from skep.model.store_status import StoreMember, StoreStatus
from skep.ports.store import StoreUnavailable

LIMIT_S: Final = 2.0
NO_LEADER: Final = "no leader"
"""What etcd says beside its alarms when there is no quorum, which shows in its members already."""


async def look(opened: OpenStore, places: StorePlaces) -> StoreStatus:
    """Ask the store, for two seconds at most."""
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
    return StoreStatus(
        kind="etcd",
        version=status.version,
        size_bytes=status.size_bytes,
        limit_bytes=QUOTA_BYTES,
        free_bytes=free_bytes,
        alarms=[alarm for alarm in status.alarms if NO_LEADER not in alarm],
        members=[_member(member, status) for member in members],
    )


async def _ask(members: Members) -> tuple[MemberStatus, Sequence[Member]]:
    return await members.status(), await members.members()


def _member(member: Member, seen: MemberStatus) -> StoreMember:
    return StoreMember(
        node_id=member.name,
        is_voter=not member.is_learner,
        is_reachable=member.id in seen.reachable,
        lag=seen.lag if member.id == seen.id else None,
    )


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
