"""Moves a manager's state between SQLite and etcd; what the membership says is what counts.

Edge: files, the etcd member. The membership is written after the copy is proved and before anything new is
acknowledged. Cut off before, the old store still holds everything and the new one is made anew; cut off after, the new
one does, and the old one is only put aside. Done again, it resumes.
"""

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Final

import msgspec
import structlog

from skep.daemon import membership as memberships
from skep.daemon import stores
from skep.daemon.membership import EtcdPlace, Membership
from skep.daemon.stores import OpenStore, StorePlaces
from skep.edge.etcd.member import EtcdMember
from skep.edge.etcd.members import Membership as Members
from skep.edge.etcd.store import EtcdStore
from skep.edge.sqlite import SqliteStore
from skep.manager import store_copy
from skep.manager.replica import Replica
from skep.manager.store_copy import Copied, CopyDiffers
from skep.model.errors import Conflict, Unavailable
from skep.model.identity import Credentials
from skep.ports.store import StaleVersion, Store, StoreError

log = structlog.get_logger(__name__)

START_S: Final = 20.0


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
        self.places.check_program()
        await stores.forget_etcd(self.places, member, self.credentials)
        place = EtcdPlace(peer_url=peer_url, initial={member.node_id: peer_url})
        etcd = stores.new_member(self.places, member, place, self.credentials)
        async with AsyncExitStack() as undo:  # Until the new store is to count.
            undo.push_async_callback(etcd.close)
            try:
                raw = await self._begin(member, etcd, opened.store, undo)
                _, known = await raw.load()
                async with replica.paused():
                    copied = await store_copy.copy(opened.store, raw, known=known, is_source_still=True)
                    self.reached("copied")
                    undo.pop_all()
                    moved = msgspec.structs.replace(member, etcd=place, base=copied.source_revision)
                    fresh = stores.with_etcd(moved, etcd, raw, self.fraction)
                    await self._settle(moved, opened, replica, (fresh, copied))
            except StoreError as error:
                raise Unavailable(
                    f"the swarm's state could not be moved to etcd and stays where it is: {error}"
                ) from error
        await opened.close()
        self.reached("closed")
        stores.forget_sqlite(self.places)
        log.info("the swarm's state is in etcd from now on", revision=moved.base)
        return moved, fresh

    async def _begin(self, member: Membership, etcd: EtcdMember, source: Store, undo: AsyncExitStack) -> EtcdStore:
        """Start etcd and copy what is there, to shorten the pause. Raises: StoreError."""
        await etcd.start()
        self.reached("started")
        await etcd.wait_ready(self.start_s)
        raw = await EtcdStore.open(etcd.target, member.cluster_id, member.node_id)
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
            await self._copy_to_file(member, etcd)
        except StoreError as error:
            await etcd.close()
            raise Unavailable(f"the swarm's state could not be moved and stays in etcd: {error}") from error
        except BaseException:
            await etcd.detach()
            raise
        self.places.fresh_file.rename(self.places.store_file)
        self.reached("renamed")
        moved = msgspec.structs.replace(member, etcd=None, base=0)
        memberships.save(self.places.swarm_dir, moved)
        self.reached("recorded")
        await etcd.close()
        await stores.forget_etcd(self.places, moved, self.credentials)
        return moved

    async def _copy_to_file(self, member: Membership, etcd: EtcdMember) -> None:
        """Fill a new file, whose revisions go on. Raises: StoreError."""
        for leftover in self.places.swarm_dir.glob(self.places.fresh_file.name + "*"):
            leftover.unlink()
        raw = await EtcdStore.open(etcd.target, member.cluster_id, member.node_id)
        try:
            revision, _ = await stores.rebased(raw, member.base).load()
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
        raise Conflict(
            f"this swarm has {others + 1} managers, which keep its state in etcd; demote the others first "
            "(docker node demote), then stop skepd here and try again"
        )
