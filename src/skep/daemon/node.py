"""This machine as a node: in a swarm or out of one, and the way between.

Edge: picks and owns the parts. Implements `api.backend.LocalNode`. What a member keeps is made ready beside its place
and moved there at once, and moved away at once before it is removed; so a daemon that is killed in between comes back
as a member or as none. A leave that was interrupted is finished at the next start. Long, because every way in and out
touches the same few fields under one lock.
"""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import msgspec
import structlog

from skep.agent.attachments import Attachments
from skep.agent.identity import NodeIdentity
from skep.api.backend import Control, InitRequest, JoinRequest, LocalState, RestoreRequest
from skep.core import quorum, recovery
from skep.core.recovery import Survivor
from skep.daemon import advertise, rejoin
from skep.daemon import membership as memberships
from skep.daemon.config import DaemonConfig
from skep.daemon.founding import found, founding_member
from skep.daemon.joining import join
from skep.daemon.manager import Hooks, ManagerParts, Means
from skep.daemon.membership import Membership, MembershipDamaged
from skep.daemon.restore import Place, restore
from skep.daemon.seat import Seat, clear
from skep.daemon.store_switch import StoreSwitch
from skep.daemon.stores import StorePlaces, begin_alone
from skep.daemon.worker import WorkerParts
from skep.edge import keyfile
from skep.edge.instance import engine_id
from skep.edge.keyfile import KeyFileError, WrongUnlockKey
from skep.model.errors import Conflict, NotManager, SkepError, Unauthenticated, Unavailable
from skep.model.identity import Credentials
from skep.model.node import Role
from skep.model.session import ManagerAddress
from skep.ports.dataplane import DataPlaneFailure
from skep.ports.runtime import EngineFacts, Runtime
from skep.ports.store import StoreError
from skep.ports.transport import TransportError

log = structlog.get_logger(__name__)

JOIN_S = 20.0
"""How long a join waits to be welcomed; after that it goes on in the background."""
NO_SWARM = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm '
    "and try again."
)
WORKER = (
    "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. Please run this "
    "command on a manager node or promote the current node to a manager."
)
LOCKED = (
    'Swarm is encrypted and needs to be unlocked before it can be used. Please use "docker swarm unlock" to unlock it.'
)
NOT_MEMBER = "This node is not part of a swarm"
NOT_OPEN = "this manager does not take part yet: {reason}"
MEMBER = 'This node is already part of a swarm. Use "docker swarm leave" to leave this swarm and join another one.'


class Node:
    """The daemon's node."""

    def __init__(
        self,
        config: DaemonConfig,
        hostname: str,
        runtime: Runtime,
        means: Means,
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        """Nothing happens before `start`.

        Args:
            on_fatal: Called when the daemon has to end and be started anew.
        """
        self._on_fatal = on_fatal
        self.hostname = hostname
        self.data_dir: Path = config.data_dir
        self.engine_id = engine_id(config.data_dir, means.dice.bytes)
        self.started_at = means.clock.now()
        self._config = config
        self._runtime = runtime
        self._means = means
        self._changing = asyncio.Lock()
        self._member: Membership | None = None
        self._identity: NodeIdentity | None = None
        self._seat: Seat | None = None
        self._worker: WorkerParts | None = None
        self._error = ""
        self._is_locked = False
        self._secret = b""
        self._under_way: set[asyncio.Task[None]] = set()
        self._places = StorePlaces(config.swarm_dir, config.run_dir / "etcd", external=config.external_etcd)

    # --- the daemon's life -----------------------------------------------------------

    async def start(self) -> None:
        """Start the engine and take up the membership this node had."""
        await self._runtime.start()
        for leftover in (self._staging, self._discarded):
            shutil.rmtree(leftover, ignore_errors=True)
        member = memberships.load(self._config.swarm_dir)
        if member is None:
            if self._config.swarm_dir.exists():
                raise MembershipDamaged(
                    f"{self._config.swarm_dir} holds a member's state but no membership; "
                    f"restore it from a backup, or remove it to be in no swarm"
                )
            return
        self._member = member
        credentials = keyfile.load_credentials(self._config.swarm_dir)
        if credentials is None:
            self._error = f"the certificate in {self._config.swarm_dir} is gone; restore it, or leave with --force"
            log.error("this node is a member but cannot take part", reason=self._error)
            return
        try:
            await self._enter(member, credentials)
        except SkepError as refusal:
            self._error = str(refusal)
            log.error("this node is a member but cannot take part", reason=self._error)
        if member.is_leaving:
            await self._depart("this node leaves the swarm")

    async def close(self) -> None:
        """Stop the daemon's part; containers, rules and membership stay."""
        await self._close_parts()
        await self._runtime.close()

    async def _enter(self, member: Membership, credentials: Credentials, secret: bytes = b"") -> None:
        """Take part; a locked manager only keeps its node as it was told last. `secret`: its data key, unlocked."""
        identity = NodeIdentity(credentials, self._keep_credentials, self._means.dice.fraction)
        self._member, self._identity, self._secret = member, identity, secret
        if member.role == Role.MANAGER and not member.is_leaving:
            self._is_locked = keyfile.is_locked(self._config.swarm_dir) and not secret
            if not self._is_locked:
                await self._take_seat(member, identity, secret)
        elif member.role == Role.WORKER:
            await clear(self._places, member, identity)  # A demotion may have been cut off.
        self._worker = WorkerParts(member, identity, self._runtime, self._means)
        await self._worker.start(self._config, self.hostname, self._was_removed)
        self._begin(self._follow_role())

    async def _take_seat(self, member: Membership, identity: NodeIdentity, secret: bytes = b"") -> None:
        self._seat = Seat(identity, self._means, self._places, Hooks(self._on_fatal, self._moved))
        await self._seat.take(member, lambda: self._known_managers(member), secret)

    def _moved(self, member: Membership) -> None:
        self._member = member

    def _keep_credentials(self, renewed: Credentials) -> None:
        keyfile.save_credentials(self._config.swarm_dir, renewed)
        self._begin(self._follow_role())  # Once they are in use.

    async def _follow_role(self) -> None:
        """Be what the certificate says: a worker that was promoted becomes a manager, and the other way round."""
        async with self._changing:
            member, identity = self._member, self._identity
            if member is None or identity is None or member.is_leaving:
                return
            if self._manager is not None:
                self._manager.refresh()
            if identity.identity.role == member.role:
                return
            log.info("this node's role has changed", role=identity.identity.role.value)
            if identity.identity.role == Role.MANAGER:
                await self._take_seat(self._remember(memberships.promoted(member, advertise.listening(""))), identity)
                return
            member = self._remember(memberships.demoted(member))
            seat, self._seat, self._is_locked = self._seat, None, False
            if seat is not None:
                await seat.close()
            await clear(self._places, member, identity)

    def _remember(self, member: Membership) -> Membership:
        memberships.save(self._config.swarm_dir, member)
        self._member = member
        return member

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something beside whatever asks for it."""
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _close_parts(self) -> None:
        worker, self._worker = self._worker, None
        seat, self._seat = self._seat, None
        if worker is not None:
            await worker.close()
        if seat is not None:
            await seat.close()

    @property
    def _manager(self) -> ManagerParts | None:
        return self._seat.parts if self._seat is not None else None

    # --- what the API asks -------------------------------------------------------------

    @property
    def passthrough(self) -> Path | None:
        return self._runtime.passthrough

    @property
    def credentials(self) -> Credentials | None:
        """What this node proves itself with, as of now; None out of any swarm."""
        return self._identity.credentials if self._identity is not None and self._member is not None else None

    @property
    def cluster_id(self) -> str:
        """Of the swarm this node is in; empty if none."""
        return self._member.cluster_id if self._member is not None else ""

    def is_stranger(self, node_id: str) -> bool:
        """Whether a node's certificate counts for nothing here.

        A manager knows which nodes were removed. A worker knows only who the managers are, and believes no one else.
        """
        if self._manager is not None:
            return self._manager.is_removed(node_id)
        managers = self._known_managers(self._member) if self._member is not None else ()
        return node_id not in {manager.node_id for manager in managers}

    def is_demoted(self, node_id: str) -> bool:
        """Whether a node is known to be no manager any more, whatever a certificate of it says."""
        return self._manager is not None and self._manager.is_demoted(node_id)

    async def engine_facts(self) -> EngineFacts:
        return await self._runtime.facts()

    @property
    def attachments(self) -> Attachments | None:
        return self._worker.attachments if self._worker is not None else None

    @property
    def local_state(self) -> LocalState:
        member = self._member
        if member is None:
            return LocalState()
        is_manager = self._manager is not None
        is_in = is_manager or (self._worker is not None and self._worker.is_connected)
        if self._is_locked:
            return LocalState(state="locked", node_id=member.node_id, node_addr=member.underlay)
        error = self._error or (self._worker.trouble if self._worker is not None else "")
        state = "error" if error else "active" if is_in or self._was_welcomed() else "pending"
        return LocalState(
            state=state,
            node_id=member.node_id,
            node_addr=member.underlay,
            has_control=is_manager,
            error=error or (NOT_OPEN.format(reason=self._seat.reason) if self._seat and not is_manager else ""),
            managers=self._known_managers(member),
        )

    def _was_welcomed(self) -> bool:
        """Whether some manager ever took this node in: without one, what it has goes on and it stays active."""
        return (self._config.swarm_dir / "agent" / "assignments").exists()

    def _known_managers(self, member: Membership) -> Sequence[ManagerAddress]:
        known = self._worker.managers if self._worker is not None else ()
        return known or member.managers

    def control(self) -> Control:
        if self._manager is not None:
            return self._manager.control
        if self._is_locked:
            raise NotManager(LOCKED)
        if self._seat is not None:
            raise Unavailable(NOT_OPEN.format(reason=self._seat.reason))
        raise NotManager(NO_SWARM if self._member is None else WORKER)

    # --- in ------------------------------------------------------------------------------

    async def init_swarm(self, request: InitRequest) -> str:
        """Make a one-manager swarm.

        Raises:
            NotManager: This node is in one.
            InvalidSpec: An address or setting is not possible; nothing was changed.
        """
        async with self._changing:
            if request.force_new_cluster:
                return await self._begin_alone()
            self._require_outside()
            member = founding_member(request, self._means)
            try:
                self._staging.mkdir(mode=0o700)
                credentials = await found(Place(self._staging, self.hostname, self._means), request, member)
                await self._settle(member, credentials)
            except BaseException:
                await self._undo()
                raise
            return member.node_id

    async def _begin_alone(self) -> str:
        """Go on as the only manager with the state this one holds; nodes and what they run stay.

        Raises:
            NotManager: This node holds no state. Unavailable: It did not work; it may be done again.
        """
        member, identity = self._member, self._identity
        if self._is_locked or member is None or identity is None or member.role != Role.MANAGER or member.is_entering:
            raise NotManager(LOCKED if self._is_locked else NO_SWARM if member is None else WORKER)
        if member.etcd is not None:
            council = self._manager.council if self._manager is not None else None
            secret = council.data_key if council is not None else self._secret
            if self._seat is not None:
                await self._seat.close()
            try:
                self._member = await self._bring_out(member, identity)
            except (StoreError, SkepError) as error:
                raise Unavailable(f"this manager cannot begin anew: {error}") from error
            finally:
                await self._take_seat(self._member or member, identity, secret)
        if self._seat is None:
            raise Unavailable("this manager is not open; try again")
        try:
            async with asyncio.timeout(JOIN_S):
                manager = await self._seat.wait_open()
        except TimeoutError as error:
            raise Unavailable(NOT_OPEN.format(reason=self._seat.reason)) from error
        survivor = Survivor(
            node_id=member.node_id,
            hostname=self.hostname,
            underlay=member.underlay,
            control_addr=member.control_addr,
            certificate_serial=identity.identity.serial,
        )
        await manager.control.writes.transact(lambda view: recovery.sole_manager(view, survivor))
        return member.node_id

    async def _bring_out(self, member: Membership, identity: NodeIdentity) -> Membership:
        """Take the state out of an etcd that has lost its other members, into a file.

        With --force-new-cluster etcd 3.4 drops what its log does not yet say to be committed, though its data may have
        it already: who joined it later would replay another history. So nobody ever joins that one.
        """
        alone = await begin_alone(self._places, member, lambda: identity.credentials)
        self._member = alone
        switch = StoreSwitch(self._places, lambda: identity.credentials, self._means.dice.fraction)
        return await switch.to_sqlite(alone)

    async def join_swarm(self, request: JoinRequest) -> None:
        """Join a swarm as what the token says; returns once a manager has welcomed this node.

        Raises:
            NotManager: This node is in one.
            InvalidSpec: Token or address is wrong; nothing was changed.
            Unavailable: No manager answered, or not in time; in the latter case it goes on trying.
        """
        async with self._changing:
            self._require_outside()
            member, credentials = await join(request, has_etcd=self._places.can_share)
            try:
                self._staging.mkdir(mode=0o700)
                await self._settle(member, credentials)
            except BaseException:
                await self._undo()
                raise
        await self._wait_welcome()

    async def rejoin_swarm(self, addrs: Sequence[str]) -> None:
        """Turn to managers at other addresses; see `api.backend.LocalNode`."""
        async with self._changing:
            if self._member is None or self._identity is None or self._worker is None:
                raise NotManager(NOT_MEMBER)
            managers = await rejoin.answering(addrs, self._identity.credentials)
            await self._worker.turn_to(managers)
        await self._wait_welcome()

    async def restore_swarm(self, request: RestoreRequest, content: AsyncIterator[bytes]) -> str:
        """Make this node the only manager of the swarm in a backup; see `api.backend.LocalNode`."""
        async with self._changing:
            self._require_outside()
            try:
                self._staging.mkdir(mode=0o700)
                restored = await restore(Place(self._staging, self.hostname, self._means), request, content)
                await self._settle(restored.member, restored.credentials)
            except BaseException:
                await self._undo()
                raise
            return restored.member.node_id

    async def _settle(self, member: Membership, credentials: Credentials) -> None:
        """Keep what was got, all of it at once, and take part.

        Raises:
            Unavailable: The control port is taken, or the kernel lacks something; the sentence says what.
        """
        keyfile.save_credentials(self._staging, credentials)
        memberships.save(self._staging, member)
        memberships.move(self._staging, self._config.swarm_dir)
        try:
            await self._enter(member, credentials)
        except (DataPlaneFailure, KeyFileError, TransportError) as failure:
            raise Unavailable(f"this node cannot take part in a swarm: {failure}") from failure

    async def _wait_welcome(self) -> None:
        worker = self._worker
        if worker is None:
            return
        try:
            async with asyncio.timeout(JOIN_S):
                await worker.wait_connected()
                if self._seat is not None:
                    await self._seat.wait_open()
        except TimeoutError as error:
            raise Unavailable(
                "Timeout was reached before node joined. The attempt to join the swarm will continue in the "
                'background. Use the "docker info" command to see the current swarm status of your node.'
            ) from error

    async def unlock_swarm(self, unlock_key: str) -> None:
        """Give a locked manager its key, and take part.

        Raises:
            NotManager: This node is in no swarm. Conflict: it is not locked. Unauthenticated: that is not the key.
        """
        async with self._changing:
            swarm_dir, member = self._config.swarm_dir, self._member
            if member is None:
                raise NotManager(NOT_MEMBER)
            if not self._is_locked:
                raise Conflict("swarm is not locked")
            try:
                secret = keyfile.unlock_data_key(swarm_dir, unlock_key)
                credentials = keyfile.load_credentials(swarm_dir)
            except WrongUnlockKey as error:
                raise Unauthenticated(str(error)) from error
            except KeyFileError as error:
                raise Unavailable(f"this manager cannot be unlocked: {error}") from error
            if credentials is None:
                raise Unavailable(f"the certificate in {swarm_dir} is gone; restore it, or leave with --force")
            await self._close_parts()
            await self._enter(member, credentials, secret)

    # --- out -----------------------------------------------------------------------------

    async def leave_swarm(self, *, is_forced: bool) -> None:
        """Leave: stop this node's tasks, remove everything the swarm put here, forget the identity.

        Raises:
            NotManager: It is in none; or it is the last manager and `is_forced` is False.
        """
        async with self._changing:
            if self._member is None:
                raise NotManager(NOT_MEMBER)
            if self._manager is not None and not is_forced:
                raise NotManager(quorum.refuse_leaving(await self._manager.voters()))
            if self._manager is not None:
                await self._manager.withdraw()
            await self._depart("this node leaves the swarm")

    def _was_removed(self) -> None:
        """The swarm removed this node, and its session has ended: forget it from outside that session."""
        self._begin(self._depart_removed())

    async def _depart_removed(self) -> None:
        async with self._changing:
            if self._member is not None:
                await self._depart("this node was removed from the swarm")

    async def _depart(self, reason: str) -> None:
        if self._member is not None:
            memberships.save(self._config.swarm_dir, msgspec.structs.replace(self._member, is_leaving=True))
        if self._worker is not None:
            await self._worker.vacate(reason)
        await self._undo()

    async def _undo(self) -> None:
        await self._close_parts()
        if self._member is not None and self._identity is not None:
            await clear(self._places, self._member, self._identity)
        self._wipe()
        self._member, self._error, self._is_locked = None, "", False

    @property
    def _staging(self) -> Path:
        """Where a member's state is made ready."""
        return self._config.swarm_dir.with_suffix(".new")

    @property
    def _discarded(self) -> Path:
        """Where a member's state is moved to be removed."""
        return self._config.swarm_dir.with_suffix(".gone")

    def _wipe(self) -> None:
        """Be no member any more, and remove what one keeps."""
        if self._config.swarm_dir.exists():
            memberships.move(self._config.swarm_dir, self._discarded)
        for directory in (self._staging, self._discarded):
            shutil.rmtree(directory, ignore_errors=True)

    def _require_outside(self) -> None:
        if self._member is not None:
            raise NotManager(MEMBER)
