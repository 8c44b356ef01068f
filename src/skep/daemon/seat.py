"""A node's seat among the managers: taken when its certificate makes it one, given up when it does not.

Edge: asyncio. With its state in a file a manager opens at once or says why not. With its state in etcd it needs the
others: it is let in, and opens, as soon as they answer, and the node does its work as a worker meanwhile.
"""

import asyncio
import shutil
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import structlog

from skep.agent.identity import NodeIdentity
from skep.daemon import membership as memberships
from skep.daemon import peers, stores
from skep.daemon.manager import Hooks, ManagerParts, Means, peer_url_of
from skep.daemon.membership import EtcdPlace, Membership
from skep.daemon.stores import StorePlaces
from skep.edge import keyfile
from skep.edge.control_client import HttpControlPort
from skep.edge.keyfile import KeyFileError
from skep.model.council import Entry, EntryRequest
from skep.model.errors import SkepError, Unavailable
from skep.model.node import Role
from skep.model.session import ManagerAddress
from skep.ports.store import StoreError
from skep.ports.transport import TransportError

log = structlog.get_logger(__name__)

AGAIN_S: Final = 0.5
START_S: Final = 20.0


class Seat:
    """One node's, while its certificate says that it is a manager.

    Attributes:
        parts: The manager, once it is open.
        reason: Why it is not; one sentence.
    """

    def __init__(self, identity: NodeIdentity, means: Means, places: StorePlaces, hooks: Hooks) -> None:
        self.parts: ManagerParts | None = None
        self.reason = "it is starting"
        self._identity = identity
        self._means = means
        self._places = places
        self._hooks = hooks
        self._opening: asyncio.Task[None] | None = None
        self._opened = asyncio.Event()

    async def take(
        self, member: Membership, managers: Callable[[], Sequence[ManagerAddress]], secret: bytes = b""
    ) -> None:
        """Open the manager: at once with its state in a file, else in the background.

        Args:
            managers: Where the others are.
            secret: The data key of one that was just unlocked.
        Raises:
            StoreError, ListenFailed, Unavailable: What is wrong with one that keeps a file.
        """
        if member.etcd is None and not member.is_external and not member.is_entering:
            await self._open(member, secret)
        else:
            self._opening = asyncio.create_task(self._keep_opening(member, managers, secret), name="manager")

    async def wait_open(self) -> ManagerParts:
        """Wait until the manager is open."""
        while self.parts is None:
            await self._opened.wait()
        return self.parts

    async def close(self) -> None:
        """Close the manager; what agents run goes on, and so does an etcd member."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
            self._opening = None
        self._opened.clear()
        parts, self.parts = self.parts, None
        if parts is not None:
            await parts.close()

    async def _open(self, member: Membership, secret: bytes) -> None:
        parts = ManagerParts(member, self._identity, self._means, self._places, self._hooks)
        try:
            await parts.start(secret)
        except BaseException:
            await parts.close()
            raise
        self.parts = parts
        self._opened.set()

    async def _keep_opening(
        self, member: Membership, managers: Callable[[], Sequence[ManagerAddress]], secret: bytes
    ) -> None:
        entrance = Entrance(self._identity, self._places, managers)
        is_in_doubt = False
        while True:
            try:
                if member.is_entering or is_in_doubt:
                    member, secret = await entrance.enter(member)
                await self._open(member, secret)
            except (SkepError, StoreError, TransportError, KeyFileError, OSError) as error:
                # Perhaps the others went on without this one, and took it out: they are asked, too.
                is_in_doubt = isinstance(error, StoreError) and not member.is_external
                if str(error) != self.reason:
                    log.warning("this manager does not take part yet, trying again", reason=str(error))
                self.reason = str(error)
            else:
                return self._settle(member)
            await asyncio.sleep(AGAIN_S)

    def _settle(self, member: Membership) -> None:
        """Remember what was let in: from now on the node finds its way back by itself."""
        if member.is_entering and self.parts is not None:
            self.parts.member = msgspec.structs.replace(member, is_entering=False)
            memberships.save(self._places.swarm_dir, self.parts.member)
            self._hooks.moved(self.parts.member)


class Entrance:
    """How a manager comes to the state: one that holds none yet, or what nobody else goes by any more."""

    def __init__(
        self, identity: NodeIdentity, places: StorePlaces, managers: Callable[[], Sequence[ManagerAddress]]
    ) -> None:
        self._identity = identity
        self._places = places
        self._managers = managers
        self._port = HttpControlPort()

    async def enter(self, member: Membership) -> tuple[Membership, bytes]:
        """Be let in by any manager, start the own member of the store, and get a vote for it.

        Returns:
            What this node is once it has opened, `is_entering` still set, and the cluster's data key.
        Raises:
            Unavailable, InvalidSpec, StoreUnavailable, TransportError: Not now; all of it may be done again.
        """
        self._places.check_sharing()
        held = self._identity.credentials
        if self._identity.identity.role != Role.MANAGER:
            raise Unavailable("its certificate is not a manager's yet")
        request = EntryRequest(
            peer_url=peer_url_of(member, held),
            control_addr=member.control_addr,
            has_data=self._places.etcd_dir.exists(),
        )
        addr, entry = await self._ask(member, request)
        if entry.is_external:
            moved = msgspec.structs.replace(member, etcd=None, is_external=True, base=entry.base)
            await stores.reach_external(self._places, moved)
            await self._port.vote(addr, held, request)
            return moved, entry.data_key
        if entry.is_new:
            if not member.is_entering:
                log.warning("the others went on without this manager: it begins anew with their state")
                member = msgspec.structs.replace(member, is_entering=True)
                memberships.save(self._places.swarm_dir, member)
            await stores.forget_etcd(self._places, member, lambda: self._identity.credentials)
        place = EtcdPlace(peer_url=request.peer_url, initial=entry.initial, is_joining=True)
        moved = msgspec.structs.replace(member, etcd=place, base=entry.base)
        etcd = stores.new_member(self._places, moved, place, lambda: self._identity.credentials)
        try:
            await etcd.start()
            await etcd.wait_ready(START_S)
            await self._port.vote(addr, held, request)
        finally:
            await etcd.detach()
        return moved, entry.data_key

    async def _ask(self, member: Membership, request: EntryRequest) -> tuple[str, Entry]:
        """Raises: TransportError: nobody lets it in, with the last one's reason. Unavailable: there is nobody else."""
        failure: TransportError | None = None
        for manager in [*self._managers(), *member.managers]:
            if manager.node_id != member.node_id:
                try:
                    return manager.addr, await self._port.enter(manager.addr, self._identity.credentials, request)
                except TransportError as error:
                    failure = error
        raise failure or Unavailable("no other manager is known")


async def clear(places: StorePlaces, member: Membership, identity: NodeIdentity) -> None:
    """Remove what a manager kept; nothing where nothing is."""
    if places.etcd_dir.exists():
        await stores.forget_etcd(places, member, lambda: identity.credentials)
        await peers.open_port()
    for leftover in places.swarm_dir.glob(f"{stores.STORE_FILE}*"):
        leftover.unlink()
    keyfile.forget_data_key(places.swarm_dir)
    shutil.rmtree(places.run_dir, ignore_errors=True)
