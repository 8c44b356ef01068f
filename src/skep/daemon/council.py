"""The managers as members of the store: lets others in, takes them out, and knows whose vote counts.

Edge: etcd's members, through the manager's own. Every step may be asked again, of any manager: etcd itself sees to it
that they are taken one at a time. A manager that was demoted loses its membership before its certificate.
"""

import asyncio
import contextlib
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec
import structlog

from skep.core import quorum
from skep.core.quorum import Voter
from skep.daemon.membership import Membership
from skep.daemon.stores import OpenStore
from skep.edge.etcd.members import Member
from skep.edge.etcd.members import Membership as Members
from skep.manager.control.writes import Writes
from skep.model.council import Entry, EntryRequest, Progress
from skep.model.errors import Forbidden, SkepError, Unavailable
from skep.model.identity import Identity
from skep.model.node import ManagerStatus, Node, Role
from skep.ports.store import StoreUnavailable
from skep.store.changes import Batch, Put
from skep.store.state import View

log = structlog.get_logger(__name__)

VOTE_S: Final = 15.0
LOOK_S: Final = 2.0
UNUSED_S: Final = 45.0
"""A member without a vote that does not run for so long makes room: etcd takes one at a time."""
NOT_NOW: Final = "the managers cannot be changed at present: {error}"
DEMOTED: Final = "this node is to be no manager; promote it first (docker node promote {node_id})"


class Home(Protocol):
    """The manager that this council is part of."""

    @property
    def member(self) -> Membership: ...
    @property
    def opened(self) -> OpenStore: ...
    @property
    def is_leading(self) -> bool: ...

    async def stand(self, *, is_wanted: bool) -> None:
        """Stand for leader, or resign and stand no more; nothing if it is so."""
        ...

    async def widen(self) -> None:
        """Move the state to where several managers can keep it; nothing if it is there."""
        ...


@dataclass
class Council:
    """Of one manager. Implements `manager.gate.CouncilService`."""

    home: Home
    writes: Writes
    data_key: bytes
    seconds: Callable[[], float]

    def __post_init__(self) -> None:
        self._changing = asyncio.Lock()
        self._unused: dict[int, float] = {}
        self._changed = asyncio.Event()

    def observe(self, batch: Batch) -> None:
        """Take in a committed batch: give it to `Replica.observers`."""
        if any(event.kind == "node" for event in batch.events):
            self._changed.set()

    # --- in ------------------------------------------------------------------------------

    async def enter(self, identity: Identity, request: EntryRequest) -> Entry:
        """Let a manager in, as a member without a vote.

        Raises:
            Forbidden: It is to be no manager. Unavailable, NoQuorum: Not at present, or etcd is missing here.
        """
        node_id = identity.node_id
        self._check_wanted(node_id)
        async with self._changing:
            await self.home.widen()
            base = self.home.member.base
            if self.home.opened.mark is not None:  # Shown as a manager once it says that it reaches that etcd.
                return Entry(initial={}, base=base, data_key=self.data_key, is_new=False, is_external=True)
            await self._show(node_id, request)
            members = self._members()
            try:
                added = await self._add(members, node_id, request)
                found = await members.members()
            except StoreUnavailable as error:
                raise Unavailable(NOT_NOW.format(error=error)) from error
        log.info("a manager is let in", node=node_id, peer=request.peer_url)
        return Entry(
            initial={member.name or node_id: member.peer_url for member in found if member.name}
            | {node_id: request.peer_url},
            base=base,
            data_key=self.data_key,
            is_new=not added.name,
        )

    async def _show(self, node_id: str, request: EntryRequest) -> None:
        """Have a node be known as a manager: the others let it in by that, and nodes find it once it leads."""
        status = ManagerStatus(addr=request.control_addr)
        await self.writes.transact(lambda view: [Put(node) for node in _with_status(view, node_id, status)])

    def _check_wanted(self, node_id: str) -> None:
        node = self.writes.view.nodes.get(node_id)
        if node is None:
            raise Unavailable("this manager does not know the node yet; try again")
        if node.spec.role != Role.MANAGER:
            raise Forbidden(DEMOTED.format(node_id=node_id))

    async def _add(self, members: Members, node_id: str, request: EntryRequest) -> Member:
        """Raises: StoreUnavailable."""
        reachable = (await members.status()).reachable
        for member in await members.members():
            is_own = member.name == node_id or member.peer_url == request.peer_url
            is_other_life = is_own and (member.peer_url != request.peer_url or bool(member.name) > request.has_data)
            if is_other_life or (not is_own and self._is_unused(member, reachable)):
                log.warning("a member that does not run is removed", peer=member.peer_url)
                await members.remove(member.id)
        return await members.add(request.peer_url)

    def _is_unused(self, member: Member, reachable: Container[int]) -> bool:
        """Whether it was let in and never came, or went away before it had a vote."""
        if not member.is_learner or (member.name and member.id in reachable):
            self._unused.pop(member.id, None)
            return False
        return self.seconds() - self._unused.setdefault(member.id, self.seconds()) > UNUSED_S

    async def vote(self, identity: Identity, request: EntryRequest) -> None:
        """Give a manager its vote; returns once it counts. With an external etcd it has none, and is let in by this.

        Raises:
            Forbidden: It is to be no manager. Unavailable: It was not let in, or has not caught up yet.
        """
        self._check_wanted(identity.node_id)
        if self.home.opened.mark is not None:
            await self._show(identity.node_id, request)
            log.info("a manager is let in", node=identity.node_id)
            return
        members = self._members()
        try:
            found = next((each for each in await members.members() if each.peer_url == request.peer_url), None)
            if found is None:
                raise Unavailable("this manager was not let in yet; ask for that first")
            await members.promote(found.id, limit_s=VOTE_S)
        except StoreUnavailable as error:
            raise Unavailable(NOT_NOW.format(error=error)) from error
        log.info("a manager has a vote", node=identity.node_id)

    async def progress(self, identity: Identity) -> Progress:
        """How far this manager's member has come; a quorum is not needed.

        Raises:
            Forbidden: Who asks is to be no manager. Unavailable: There is no member, or it does not say.
        """
        self._check_wanted(identity.node_id)
        try:
            return await self._members().progress()
        except StoreUnavailable as error:
            raise Unavailable(f"this manager's store does not say how far it is: {error}") from error

    # --- out -----------------------------------------------------------------------------

    async def voters(self) -> Sequence[Voter]:
        """Whose vote counts, and whom this manager reaches.

        Raises:
            Unavailable: etcd does not say.
        """
        members = self.home.opened.members
        if self.home.opened.mark is not None:
            # Any one of them suffices, as etcd has a quorum of its own.
            return [Voter(node.id) for node in self.writes.view.nodes.values() if node.manager_status is not None]
        if members is None:
            return [Voter(self.home.member.node_id)]
        try:
            reachable = (await members.status()).reachable
            return [
                Voter(member.name, member.id in reachable)
                for member in await members.members()
                if member.name and not member.is_learner
            ]
        except StoreUnavailable as error:
            raise Unavailable(NOT_NOW.format(error=error)) from error

    async def withdraw(self) -> None:
        """Take this manager out, if the others can do without it; for one that leaves for good."""
        members = self.home.opened.members
        if members is None:
            return
        own = self.home.member.node_id
        try:
            if quorum.can_remove(await self.voters(), own):
                await members.hand_over()
                for member in await members.members():
                    if member.name == own:
                        await members.remove(member.id)
        except (StoreUnavailable, SkepError) as error:
            log.warning("this manager stays a member of the store: demote its node elsewhere", reason=str(error))

    async def tend(self) -> None:
        """While this manager leads, take out whoever is to be no manager; until cancelled.

        One that is itself to be none leaves that to another, which leads at once.
        """
        while True:
            if self.home.opened.is_shared:
                try:
                    await self._tend(self.home.opened.members)
                except (StoreUnavailable, SkepError) as error:
                    log.info("the managers are not as they should be yet", reason=str(error))
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._changed.wait()

    async def _tend(self, members: Members | None) -> None:
        """Do it once. Args: members: None with an external etcd. Raises: StoreUnavailable, SkepError."""
        is_wanted = _is_wanted(self.writes.view, self.home.member.node_id)
        await self.home.stand(is_wanted=is_wanted)
        if not is_wanted and members is not None:
            await members.hand_over()
        elif is_wanted and self.home.is_leading:
            await self._tidy(members)

    async def _tidy(self, members: Members | None) -> None:
        """Raises: StoreUnavailable, SkepError."""
        view = self.writes.view
        staying: set[str] = set()
        if members is not None:
            async with self._changing:
                await self._take_out(members, view)
            staying = {member.name for member in await members.members()}
        demoted = [node.id for node in view.nodes.values() if _is_demoted(node) and node.id not in staying]
        if demoted:
            await self.writes.transact(lambda now: [Put(node) for node in _cleared(now, demoted)])

    async def _take_out(self, members: Members, view: View) -> None:
        """Remove the members of those who are to be no managers. Raises: StoreUnavailable, SkepError."""
        for member in await members.members():
            if not member.name or _is_wanted(view, member.name):
                continue
            if member.is_learner or quorum.can_remove(await self.voters(), member.name):
                await members.remove(member.id)
                log.info("a manager is taken out", node=member.name)

    def _members(self) -> Members:
        members = self.home.opened.members
        if members is None:
            raise Unavailable("this manager keeps the state alone, in a file; promote another to share it")
        return members


def _is_wanted(view: View, node_id: str) -> bool:
    node = view.nodes.get(node_id)
    return node is not None and node.spec.role == Role.MANAGER


def _is_demoted(node: Node) -> bool:
    return node.spec.role != Role.MANAGER and node.manager_status is not None


def _with_status(view: View, node_id: str, status: ManagerStatus) -> Iterator[Node]:
    node = view.nodes.get(node_id)
    if node is not None and (node.manager_status is None or node.manager_status.addr != status.addr):
        yield msgspec.structs.replace(node, manager_status=status)


def _cleared(view: View, node_ids: Sequence[str]) -> Iterator[Node]:
    for id in node_ids:
        node = view.nodes.get(id)
        if node is not None and _is_demoted(node):
            yield msgspec.structs.replace(node, manager_status=None)
