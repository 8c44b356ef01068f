"""The members of an etcd cluster: who they are, how they fare, and how one comes and goes.

Edge: the gateway. A new member begins as a learner, which has no vote and so endangers no quorum, and votes once it has
caught up. Each step may be asked again after a break: what is so already is a success.
"""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

from skep.edge.etcd import wire
from skep.edge.etcd.gateway import Away, Gateway, GatewayError, Refusal, Target
from skep.model.council import Progress
from skep.ports.store import StoreUnavailable

T = TypeVar("T")

LIST: Final = "/v3/cluster/member/list"
ADD: Final = "/v3/cluster/member/add"
PROMOTE: Final = "/v3/cluster/member/promote"
REMOVE: Final = "/v3/cluster/member/remove"
TRANSFER: Final = "/v3/maintenance/transfer-leadership"
STATUS: Final = "/v3/maintenance/status"
CHANGE_S: Final = 15.0
"""etcd changes its members only while all have been connected for five seconds, and takes up to seven for it."""
CAUGHT_UP_S: Final = 120.0
BEHIND: Final = "in sync with leader"
SILENT: Final = "etcd does not say how it fares ({error})"
ACTIVE_PEER: Final = re.compile(r'etcd_network_active_peers\{Local="[0-9a-f]+",Remote="([0-9a-f]+)"\} ([0-9.e+]+)')


class MemberRefused(StoreUnavailable):
    """etcd will not change its members so; the text says why."""


@dataclass(frozen=True, slots=True)
class Member:
    """Attributes: name: the node's id; "" until it has started for the first time."""

    id: int
    name: str
    peer_url: str
    is_learner: bool


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """How the asked member fares.

    Attributes:
        leader_id: 0 while it knows of none.
        used_bytes: Of `size_bytes`; defragmenting frees the rest.
        reachable: Ids of the members it is connected to, itself included.
        alarms: What etcd holds to be wrong, such as that space ran out.
    """

    id: int
    version: str
    leader_id: int
    is_learner: bool
    size_bytes: int
    used_bytes: int
    reachable: frozenset[int]
    alarms: Sequence[str]


class Membership:
    """The members, asked and changed through any of them. Made in a running event loop."""

    def __init__(self, target: Target) -> None:
        self._gateway = Gateway(target)

    async def close(self) -> None:
        await self._gateway.close()

    async def members(self) -> Sequence[Member]:
        """All, in the order of their ids. Raises: StoreUnavailable: no endpoint answers."""
        answer = await self._ask(LIST, wire.Nothing(), wire.MemberList)
        found = [_member(fields) for fields in answer.members]
        return sorted(found, key=lambda member: member.id)

    async def add(self, peer_url: str) -> Member:
        """Let a member in as a learner; it may start now, with all peer URLs and `is_joining`.

        Raises:
            MemberRefused: Not now; etcd takes one learner at a time. StoreUnavailable.
        """
        if (known := await self._find(peer_url)) is not None:
            return known
        try:
            await self._ask(ADD, wire.MemberFields(peerURLs=[peer_url], isLearner=True), wire.Nothing)
        except MemberRefused:
            if (known := await self._find(peer_url)) is None:
                raise
            return known
        added = await self._find(peer_url)
        if added is None:
            raise StoreUnavailable("etcd has not taken the new member in; try again")
        return added

    async def promote(self, member_id: int, *, limit_s: float = CAUGHT_UP_S) -> None:
        """Give a learner its vote, once it has caught up.

        Raises:
            MemberRefused: It is no member any more, or does not catch up. StoreUnavailable.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + limit_s
        while True:
            found = next((member for member in await self.members() if member.id == member_id), None)
            if found is not None and not found.is_learner:
                return
            try:
                await self._ask(PROMOTE, wire.MemberFields(ID=member_id), wire.Nothing)
            except MemberRefused as refusal:
                if found is None or BEHIND not in str(refusal) or loop.time() > until:
                    raise
                await asyncio.sleep(0.1)

    async def remove(self, member_id: int) -> None:
        """Take a member out; ask `core.quorum` first, whether it may go.

        Raises:
            MemberRefused, StoreUnavailable.
        """
        try:
            await self._ask(REMOVE, wire.MemberFields(ID=member_id), wire.Nothing)
        except MemberRefused:
            if any(member.id == member_id for member in await self.members()):
                raise

    async def hand_over(self) -> None:
        """Have another member lead etcd, if the nearest one does; so taking that one out interrupts nothing.

        Raises:
            MemberRefused, StoreUnavailable: There is none, or it will not.
        """
        status = await self.status()
        if status.leader_id != status.id:
            return
        for member in await self.members():
            if member.id != status.id and not member.is_learner and member.id in status.reachable:
                await self._ask(TRANSFER, wire.Transfer(targetID=member.id), wire.Nothing)
                return

    async def status(self) -> MemberStatus:
        """How the nearest endpoint's member fares; works without a quorum, too.

        Raises:
            StoreUnavailable: It does not answer.
        """
        endpoint = self._gateway.endpoint
        answer = await self._status(endpoint)
        try:
            metrics = await self._gateway.get(endpoint, "/metrics", limit_s=self._gateway.patience.attempt_s)
        except GatewayError as error:
            raise StoreUnavailable(SILENT.format(error=error)) from error
        own = answer.header.member_id
        peers = ((int(peer, 16), float(n)) for peer, n in ACTIVE_PEER.findall(metrics.decode(errors="replace")))
        return MemberStatus(
            id=own,
            version=answer.version,
            leader_id=answer.leader,
            is_learner=answer.isLearner,
            size_bytes=answer.dbSize,
            used_bytes=answer.dbSizeInUse,
            reachable=frozenset([own, *(peer for peer, n in peers if n > 0)]),
            alarms=answer.errors,
        )

    async def progress(self) -> Progress:
        """How far the nearest endpoint's member has come; works without a quorum, too.

        Raises:
            StoreUnavailable: It does not answer.
        """
        answer = await self._status(self._gateway.endpoint)
        return Progress(member_id=answer.header.member_id, committed=answer.raftIndex, applied=answer.raftAppliedIndex)

    async def _status(self, endpoint: str) -> wire.StatusAnswer:
        body, limit_s = wire.encode(wire.Nothing()), self._gateway.patience.attempt_s
        try:
            return await self._gateway.attempt(endpoint, STATUS, body, wire.StatusAnswer, limit_s=limit_s)
        except GatewayError as error:
            raise StoreUnavailable(SILENT.format(error=error)) from error

    async def _find(self, peer_url: str) -> Member | None:
        return next((member for member in await self.members() if member.peer_url == peer_url), None)

    async def _ask(self, path: str, request: msgspec.Struct, answer: type[T]) -> T:
        limit_s = max(CHANGE_S, self._gateway.patience.attempt_s)
        try:
            return await self._gateway.ask(path, request, answer, limit_s=limit_s)
        except Refusal as refusal:
            raise MemberRefused(f"etcd refuses the change of its members: {refusal}") from refusal
        except Away as error:
            raise StoreUnavailable(f"etcd cannot change its members at present ({error})") from error


def _member(fields: wire.MemberFields) -> Member:
    id = fields.ID if isinstance(fields.ID, int) else 0
    return Member(id, fields.name, next(iter(fields.peerURLs), ""), fields.isLearner)
