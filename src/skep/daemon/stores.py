"""Where a manager keeps the swarm's state, and how one stands for leader there: a file, its own etcd member, or others.

Edge: picks adapters. The membership says which: one manager keeps a SQLite file, several keep etcd, each with a member
of its own, or all in an external one that the daemon is told of.
"""

import shutil
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from skep.daemon import membership as memberships
from skep.daemon.config import ExternalEtcd
from skep.daemon.membership import EtcdPlace, Membership
from skep.edge.etcd.election import EtcdCandidate
from skep.edge.etcd.external import StateMark, external_target
from skep.edge.etcd.gateway import Target
from skep.edge.etcd.member import EtcdMember
from skep.edge.etcd.members import Membership as Members
from skep.edge.etcd.settings import CLIENT_PORT, MemberSettings
from skep.edge.etcd.store import EtcdStore
from skep.edge.rebase import RebasedCandidate, RebasedStore
from skep.edge.sole_leadership import SoleCandidate
from skep.edge.sqlite import SqliteStore
from skep.model.errors import Unavailable
from skep.model.identity import Credentials
from skep.model.node import NO_ETCD
from skep.ports.leadership import Candidate
from skep.ports.store import Store

ETCD_PROGRAM: Final = Path("/usr/bin/etcd")
STORE_FILE: Final = "store.db"
FORMER_FILE: Final = "store.db.old"
FRESH_FILE: Final = "store.db.new"
LOG_SUFFIX: Final = "-wal"
"""SQLite's own name for the log beside a file; it is there where the file was not closed."""
ETCD_DIR: Final = "etcd"
NOT_NAMED: Final = (
    "this swarm's state is in an external etcd, and skepd was not told where: start it with --etcd and that etcd's "
    "certificates"
)


@dataclass(frozen=True, slots=True)
class StorePlaces:
    """Where things are on this machine.

    Attributes:
        swarm_dir: What must survive.
        run_dir: The etcd member's keys, pid and log; a reboot clears it.
        program: etcd itself.
        external: The etcd to keep the state in, if not one of the managers' own.
    """

    swarm_dir: Path
    run_dir: Path
    program: Path = ETCD_PROGRAM
    client_port: int = CLIENT_PORT
    external: ExternalEtcd | None = None

    @property
    def can_share(self) -> bool:
        """Whether this machine has what several managers keep the state in."""
        return self.external is not None or self.program.is_file()

    @property
    def store_file(self) -> Path:
        return self.swarm_dir / STORE_FILE

    @property
    def fresh_file(self) -> Path:
        """A store file that is being made."""
        return self.swarm_dir / FRESH_FILE

    @property
    def etcd_dir(self) -> Path:
        return self.swarm_dir / ETCD_DIR

    def check_sharing(self) -> None:
        """Raises: Unavailable: etcd is not installed here, and none elsewhere was named."""
        if not self.can_share:
            raise Unavailable(NO_ETCD.format(where="this manager's machine"))

    def external_target(self) -> Target:
        """How the external etcd is reached.

        Raises:
            Unavailable: None was named. InvalidSpec: its certificates cannot be used.
        """
        if self.external is None:
            raise Unavailable(NOT_NAMED)
        named = self.external
        return external_target(named.endpoints, named.root, named.certificate, named.key)


@dataclass(slots=True)
class OpenStore:
    """A store that is open, and what goes with it.

    Attributes:
        member, members: This manager's own etcd member, and all of them; None elsewhere.
        mark: In an external etcd, the mark that the state counts there; None elsewhere.
    """

    store: Store
    candidate: Candidate
    member: EtcdMember | None = None
    members: Members | None = None
    mark: StateMark | None = None
    closing: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def is_shared(self) -> bool:
        """Whether other managers can use it, too."""
        return self.members is not None or self.mark is not None

    async def close(self) -> None:
        """Let go; the etcd member runs on for the next daemon."""
        await self.closing.aclose()


def new_member(
    places: StorePlaces,
    member: Membership,
    place: EtcdPlace,
    credentials: Callable[[], Credentials],
    *,
    is_alone: bool = False,
) -> EtcdMember:
    """This manager's etcd member; nothing runs before its start. `is_alone`: see `MemberSettings`."""
    settings = MemberSettings(
        name=member.node_id,
        data_dir=places.etcd_dir,
        run_dir=places.run_dir,
        peer_url=place.peer_url,
        client_url=f"https://127.0.0.1:{places.client_port}",
        initial=place.initial,
        token=member.cluster_id,
        is_joining=place.is_joining,
        is_alone=is_alone,
        program=str(places.program),
    )
    return EtcdMember(settings, credentials)


async def open_store(
    places: StorePlaces, member: Membership, credentials: Callable[[], Credentials], fraction: Callable[[], float]
) -> OpenStore:
    """Open the store that the membership names, and put aside what a move that was cut off left of another.

    Raises:
        StoreError: It is damaged or in use, or etcd has no quorum; an etcd member runs on all the same.
        Unavailable, InvalidSpec: It is in an external etcd that was not named, or not well.
    """
    if member.is_external:
        await forget_etcd(places, member, credentials)
        forget_sqlite(places)
        return await open_external(places, member, fraction)
    if member.etcd is None:
        await forget_etcd(places, member, credentials)
        return await open_sqlite(places, member)
    forget_sqlite(places)
    etcd = new_member(places, member, member.etcd, credentials)
    try:
        await etcd.start()
        await etcd.wait_ready()
        return await open_etcd(member, etcd, fraction)
    except BaseException:
        await etcd.detach()
        raise


async def open_sqlite(places: StorePlaces, member: Membership) -> OpenStore:
    """Open the file.

    Raises:
        StoreError: It is damaged, gone or in use; the text says what to do.
    """
    store = await SqliteStore.open(places.store_file, create=False)
    opened = OpenStore(rebased(store, member.base), SoleCandidate(member.node_id))
    opened.closing.push_async_callback(store.close)
    return opened


async def open_etcd(member: Membership, etcd: EtcdMember, fraction: Callable[[], float]) -> OpenStore:
    """Use an etcd member that runs.

    Args:
        fraction: The dice, for standing for leader.
    Raises:
        StoreUnavailable: There is no quorum at present.
    """
    return with_etcd(member, etcd, await EtcdStore.open(etcd.target, member.cluster_id, member.node_id), fraction)


def with_etcd(member: Membership, etcd: EtcdMember, store: Store, fraction: Callable[[], float]) -> OpenStore:
    """What goes with an etcd store that is open. Arguments as of `open_etcd`."""
    candidate = EtcdCandidate(etcd.target, member.cluster_id, member.node_id, fraction=fraction)
    members = Members(etcd.target)
    opened = OpenStore(rebased(store, member.base), RebasedCandidate(candidate, member.base), etcd, members)
    opened.closing.push_async_callback(etcd.detach)
    opened.closing.push_async_callback(store.close)
    opened.closing.push_async_callback(members.close)
    opened.closing.push_async_callback(candidate.close)
    return opened


async def open_external(places: StorePlaces, member: Membership, fraction: Callable[[], float]) -> OpenStore:
    """Use the external etcd. Arguments as of `open_etcd`; raises as `open_store`."""
    target = places.external_target()
    opened = with_external(member, target, await EtcdStore.open(target, member.cluster_id, member.node_id), fraction)
    try:
        await settle(opened)
    except BaseException:
        await opened.close()
        raise
    return opened


async def reach_external(places: StorePlaces, member: Membership) -> None:
    """Make sure that the external etcd can be used from here. Raises: Unavailable, InvalidSpec, StoreUnavailable."""
    store = await EtcdStore.open(places.external_target(), member.cluster_id, member.node_id)
    await store.close()


async def settle(opened: OpenStore) -> None:
    """Have an external etcd know that the state counts there, once the membership says so. Raises: StoreUnavailable."""
    if opened.mark is not None and not await opened.mark.is_set():
        await opened.mark.set()


def with_external(member: Membership, target: Target, store: Store, fraction: Callable[[], float]) -> OpenStore:
    """What goes with an external etcd's store that is open. Arguments as of `open_etcd`."""
    candidate = EtcdCandidate(target, member.cluster_id, member.node_id, fraction=fraction)
    mark = StateMark(target, member.cluster_id)
    opened = OpenStore(rebased(store, member.base), RebasedCandidate(candidate, member.base), mark=mark)
    opened.closing.push_async_callback(store.close)
    opened.closing.push_async_callback(mark.close)
    opened.closing.push_async_callback(candidate.close)
    return opened


def rebased(store: Store, base: int) -> Store:
    return RebasedStore(store, base) if base else store


async def begin_alone(places: StorePlaces, member: Membership, credentials: Callable[[], Credentials]) -> Membership:
    """Begin etcd anew from the data of this manager's member, without the others; offline, or with its store closed.

    Cut off anywhere it may be done again. What only the others held is lost.

    Returns:
        What the node is from now on; the same with a SQLite store.
    Raises:
        StoreUnavailable: etcd does not start; its own last words are in the text.
    """
    if member.etcd is None:
        return member
    await new_member(places, member, member.etcd, credentials).close()
    alone = new_member(places, member, member.etcd, credentials, is_alone=True)
    try:
        await alone.start()
        await alone.wait_ready()
    finally:
        await alone.close()
    own = {member.node_id: member.etcd.peer_url}
    place = msgspec.structs.replace(member.etcd, initial=own, is_joining=False)
    moved = msgspec.structs.replace(member, etcd=place)
    memberships.save(places.swarm_dir, moved)
    return moved


async def forget_etcd(places: StorePlaces, member: Membership, credentials: Callable[[], Credentials]) -> None:
    """End and remove an etcd member of this node that counts for nothing, as one from a move that was cut off."""
    if not places.etcd_dir.exists():
        return
    place = EtcdPlace(peer_url="https://127.0.0.1:1", initial={})
    await new_member(places, member, place, credentials).close()
    shutil.rmtree(places.etcd_dir)


def forget_sqlite(places: StorePlaces) -> None:
    """Put a file aside that is no longer the store, with its log: SQLite would take that for the next file's."""
    former = places.swarm_dir / FORMER_FILE
    log, former_log = (file.with_name(file.name + LOG_SUFFIX) for file in (places.store_file, former))
    if places.store_file.exists():
        former_log.unlink(missing_ok=True)  # Of the file that is now replaced.
        places.store_file.rename(former)
    if log.exists():
        log.rename(former_log)
