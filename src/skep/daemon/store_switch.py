"""Moves a manager's state between SQLite and etcd; what the membership says is what counts.

Edge: files, the etcd member. The membership is written after the copy is proved and before anything new is
acknowledged. Cut off before, the old store still holds everything and the new one is made anew; cut off after, the new
one does, and the old one is only put aside. Done again, it resumes.
"""

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Final

import msgspec
import structlog

from skep.daemon import membership as memberships
from skep.daemon import stores
from skep.daemon.membership import EtcdPlace, Membership
from skep.daemon.stores import OpenStore, StorePlaces
from skep.edge.etcd.external import StateMark
from skep.edge.etcd.gateway import Target
from skep.edge.etcd.keys import Keys
from skep.edge.etcd.member import EtcdMember
from skep.edge.etcd.members import Membership as Members
from skep.edge.etcd.store import EtcdStore
from skep.edge.sqlite import SqliteStore
from skep.manager import store_copy
from skep.manager.replica import Replica
from skep.manager.store_copy import Copied, CopyDiffers
from skep.model import codec
from skep.model.errors import Conflict, Unavailable
from skep.model.identity import Credentials
from skep.model.node import Node, Role
from skep.ports.store import Row, StaleVersion, Store, StoreError

log = structlog.get_logger(__name__)

START_S: Final = 20.0
STAYS: Final = "the swarm's state could not be moved to etcd and stays where it is: {error}"
NOT_ALONE: Final = (
    "this swarm has {n} managers, which keep its state in etcd; demote the others first (docker node demote), "
    "then stop skepd here and try again"
)
IN_USE: Final = (
    "the external etcd holds a state of this swarm already, and this manager has another in its file; if the file is "
    "to count, remove that state (etcdctl del --prefix {prefix}) while no other manager uses it"
)


class MoveUncertain(Exception):
    """Which store counts shows at the next start; until then nothing may be written."""


def _nothing(_step: str) -> None:
    """No one looks on."""


@dataclass(slots=True)
class StoreSwitch:
    """One manager's way from one kind of store to the other.

    Attributes:
        fraction: The dice, for standing for leader.
        start_s: How long etcd may take to start.
        reached: Called with the name of each step that is done; tests end the process there.
    """

    places: StorePlaces
    credentials: Callable[[], Credentials]
    fraction: Callable[[], float]
    reached: Callable[[str], None] = _nothing
    start_s: float = START_S

    async def to_etcd(
        self, member: Membership, opened: OpenStore, replica: Replica, peer_url: str
    ) -> tuple[Membership, OpenStore]:
        """Move to etcd while the swarm is served; only writes wait, for a moment.

        Args:
            opened: The SQLite store; it is closed once it counts no more.
        Returns:
            What the node is from now on, and the store it has.
        Raises:
            Unavailable: It did not work; everything is as before. MoveUncertain: the daemon has to start anew.
        """
        self.places.check_sharing()
        await stores.forget_etcd(self.places, member, self.credentials)
        place = EtcdPlace(peer_url=peer_url, initial={member.node_id: peer_url})
        etcd = stores.new_member(self.places, member, place, self.credentials)
        async with AsyncExitStack() as undo:  # Until the new store is to count.
            undo.push_async_callback(etcd.close)
            await self._start(etcd)
            return await self._to(
                etcd.target,
                msgspec.structs.replace(member, etcd=place),
                lambda moved, raw: stores.with_etcd(moved, etcd, raw, self.fraction),
                (opened, replica, undo),
            )

    async def to_external(
        self, member: Membership, opened: OpenStore, replica: Replica
    ) -> tuple[Membership, OpenStore]:
        """Move to the external etcd while the swarm is served. See `to_etcd`.

        Raises:
            Conflict: That etcd holds a state of this swarm that counts.
        """
        target = self.places.external_target()
        await _check_unused(target, member)
        async with AsyncExitStack() as undo:
            return await self._to(
                target,
                msgspec.structs.replace(member, is_external=True),
                lambda moved, raw: stores.with_external(moved, target, raw, self.fraction),
                (opened, replica, undo),
            )

    async def _start(self, etcd: EtcdMember) -> None:
        try:
            await etcd.start()
            self.reached("started")
            await etcd.wait_ready(self.start_s)
        except StoreError as error:
            raise Unavailable(STAYS.format(error=error)) from error

    async def _to(
        self,
        target: Target,
        moved: Membership,
        with_store: Callable[[Membership, EtcdStore], OpenStore],
        old: tuple[OpenStore, Replica, AsyncExitStack],
    ) -> tuple[Membership, OpenStore]:
        """Copy, and have the copy count.

        Args:
            moved: What the node is then, but for its base.
            with_store: Makes of the store what goes with it.
            old: The store that counts until then, its replica, and what ends the new one until it is to count.
        """
        opened, replica, undo = old
        try:
            raw = await self._begin(moved, target, opened.store, undo)
            _, known = await raw.load()
            async with replica.paused():
                copied = await store_copy.copy(opened.store, raw, known=known, is_source_still=True)
                self.reached("copied")
                undo.pop_all()
                moved = msgspec.structs.replace(moved, base=copied.source_revision)
                fresh = with_store(moved, raw)
                await self._settle(moved, opened, replica, (fresh, copied))
        except StoreError as error:
            raise Unavailable(STAYS.format(error=error)) from error
        await opened.close()
        self.reached("closed")
        stores.forget_sqlite(self.places)
        log.info("the swarm's state is in etcd from now on", revision=moved.base)
        return moved, fresh

    async def _begin(self, member: Membership, target: Target, source: Store, undo: AsyncExitStack) -> EtcdStore:
        """Copy what is there, to shorten the pause. Raises: StoreError."""
        raw = await EtcdStore.open(target, member.cluster_id, member.node_id)
        undo.push_async_callback(raw.close)
        try:
            await store_copy.copy(source, raw)
        except (CopyDiffers, StaleVersion):
            pass  # It is written meanwhile.
        self.reached("copied early")
        return raw

    async def _settle(self, moved: Membership, old: OpenStore, replica: Replica, new: tuple[OpenStore, Copied]) -> None:
        """Have the new store, with what it holds, count. Raises: MoveUncertain."""
        fresh, copied = new
        rows = [replace(row, version=row.version + moved.base) for row in copied.rows]
        try:
            memberships.save(self.places.swarm_dir, moved)
            self.reached("recorded")
            await stores.settle(fresh)
            await replica.switch(fresh.store, copied.revision + moved.base, rows, is_shared=True)
        except BaseException as error:
            await old.close()  # Perhaps it counts no more: it must not acknowledge anything.
            raise MoveUncertain("the swarm's state was being moved to etcd; the daemon starts anew with it") from error

    async def to_sqlite(self, member: Membership) -> Membership:
        """Move back to a file, offline: no daemon runs on this node, and this is the only manager.

        Returns:
            What the node is from now on; the same again where it keeps a file already.
        Raises:
            Conflict: There are other managers. Unavailable: It did not work; everything is as before.
        """
        if member.is_external:
            return await self._from_external(member)
        if member.etcd is None:
            await stores.forget_etcd(self.places, member, self.credentials)
            return member
        stores.forget_sqlite(self.places)  # Of a move that was cut off: its log would damage the new file.
        etcd = stores.new_member(self.places, member, member.etcd, self.credentials)
        try:
            await etcd.start()
            await etcd.wait_ready(self.start_s)
            self.reached("started")
            await _check_alone(etcd)
            await self._copy_to_file(member, etcd.target)
        except StoreError as error:
            await etcd.close()
            raise Unavailable(f"the swarm's state could not be moved and stays in etcd: {error}") from error
        except BaseException:
            await etcd.detach()
            raise
        moved = self._have_file_count(member)
        await etcd.close()
        await stores.forget_etcd(self.places, moved, self.credentials)
        return moved

    async def _from_external(self, member: Membership) -> Membership:
        """See `to_sqlite`. What lies in the external etcd is removed once it does not count."""
        stores.forget_sqlite(self.places)
        target = self.places.external_target()
        try:
            await self._copy_to_file(member, target)
        except StoreError as error:
            raise Unavailable(f"the swarm's state could not be moved and stays in etcd: {error}") from error
        moved = self._have_file_count(member)
        mark = StateMark(target, member.cluster_id)
        try:
            await mark.forget_state()
        except StoreError as error:
            log.warning("the external etcd still holds what was moved", reason=str(error))
        finally:
            await mark.close()
        return moved

    def _have_file_count(self, member: Membership) -> Membership:
        self.places.fresh_file.rename(self.places.store_file)
        self.reached("renamed")
        moved = msgspec.structs.replace(member, etcd=None, is_external=False, base=0)
        memberships.save(self.places.swarm_dir, moved)
        self.reached("recorded")
        return moved

    async def _copy_to_file(self, member: Membership, source: Target) -> None:
        """Fill a new file, whose revisions go on. Raises: StoreError."""
        for leftover in self.places.swarm_dir.glob(self.places.fresh_file.name + "*"):
            leftover.unlink()
        raw = await EtcdStore.open(source, member.cluster_id, member.node_id)
        try:
            revision, rows = await stores.rebased(raw, member.base).load()
            if member.is_external:
                _check_sole(rows)
            target = await SqliteStore.open(self.places.fresh_file, begin_at=revision)
            try:
                await store_copy.copy(raw, target)
                self.reached("copied")
            finally:
                await target.close()
        finally:
            await raw.close()


async def _check_alone(etcd: EtcdMember) -> None:
    members = Members(etcd.target)
    try:
        others = len(await members.members()) - 1
    finally:
        await members.close()
    if others:
        raise Conflict(NOT_ALONE.format(n=others + 1))


def _check_sole(rows: Sequence[Row]) -> None:
    """Make sure that no other manager uses an external etcd. Raises: Conflict."""
    nodes = [codec.decode(row.kind, row.value, row.version) for row in rows if row.kind == "node"]
    n_managers = sum(isinstance(node, Node) and node.spec.role == Role.MANAGER for node in nodes)
    if n_managers > 1:
        raise Conflict(NOT_ALONE.format(n=n_managers))


async def _check_unused(target: Target, member: Membership) -> None:
    """Make sure that the external etcd holds at most the leftovers of a move. Raises: Conflict, Unavailable."""
    mark = StateMark(target, member.cluster_id)
    try:
        is_used = await mark.is_set()
    except StoreError as error:
        raise Unavailable(STAYS.format(error=error)) from error
    finally:
        await mark.close()
    if is_used:
        raise Conflict(IN_USE.format(prefix=Keys.of(member.cluster_id).prefix.decode()))
