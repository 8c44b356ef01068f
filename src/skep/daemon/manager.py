"""A manager's parts, put together: store, state, decisions, control port and control operations.

Edge: picks adapters. Opened when the node is, or becomes, a manager; closed when it stops or leaves.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from skep.agent.identity import NodeIdentity
from skep.core import cluster_status
from skep.core.cluster_status import ClusterStatus, papers_of
from skep.core.dispatch.dispatcher import Dispatcher
from skep.core.identity import addresses_of_pem
from skep.core.quorum import Voter
from skep.daemon import store_status, stores
from skep.daemon.config import split_address
from skep.daemon.council import Council
from skep.daemon.etcd_trust import EtcdTrust
from skep.daemon.lock import KeyLock
from skep.daemon.membership import Membership
from skep.daemon.own_certificate import renew_ended
from skep.daemon.peers import PeerDoor
from skep.daemon.store_status import Others
from skep.daemon.store_switch import MoveUncertain, StoreSwitch
from skep.daemon.stores import STORE_FILE, OpenStore, StorePlaces
from skep.daemon.supervise import Supervisor
from skep.edge import keyfile
from skep.edge.control import ControlListener
from skep.edge.control_client import HttpControlPort, is_refused
from skep.edge.etcd.settings import PEER_PORT
from skep.edge.sqlite import SqliteStore
from skep.lib.durations import SECOND
from skep.lib.ids import new_id
from skep.manager.ca import StandingAuthority
from skep.manager.control.backup import Backups
from skep.manager.control.cluster import MIN_CERTIFICATE_LIFE
from skep.manager.control.control import Surroundings, SwarmControl
from skep.manager.gate import Gate
from skep.manager.join import Admission
from skep.manager.leader import Leader
from skep.manager.logs import TaskLogs
from skep.manager.reception import Reception
from skep.manager.reign import Reign
from skep.manager.relay import Relay
from skep.manager.replica import Replica
from skep.manager.seal import DataKey, Seal
from skep.manager.sessions import Sessions
from skep.manager.shelf import Shelf
from skep.manager.standing import Standing
from skep.manager.vigil import Vigil
from skep.model.base import Nanoseconds
from skep.model.cluster import Cluster
from skep.model.errors import SkepError, Unavailable
from skep.model.identity import Credentials, Operator
from skep.model.node import Role
from skep.ports.clock import Clock, Dice
from skep.store.changes import Change

CONTROL_PORT = 2377
MOVE_AGAIN: Final = 5 * SECOND

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Means:
    """What every part of the daemon draws on. Attributes: min_certificate_life: the shortest a node's may be made."""

    clock: Clock
    dice: Dice
    min_certificate_life: Nanoseconds = MIN_CERTIFICATE_LIFE


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a manager tells the node it runs on.

    Attributes:
        fatal: The state can no longer be followed: the daemon has to start anew.
        moved: What the node remembers of its membership has changed, and is on disk.
    """

    fatal: Callable[[BaseException], None]
    moved: Callable[[Membership], None]


async def make_state(swarm_dir: Path, clock: Clock, changes: Sequence[Change]) -> None:
    """Make the store of a new swarm.

    Raises:
        StoreError: It cannot be written.
    """
    store = await SqliteStore.open(swarm_dir / STORE_FILE)
    replica = Replica(store, clock)
    try:
        await replica.open()
        await replica.commit(changes)
    finally:
        await replica.close()
        await store.close()


def open_seal(swarm_dir: Path) -> Seal:
    """The seal under the cluster's data key, as this manager keeps it unlocked; made if there is none."""
    return Seal(DataKey.of(keyfile.load_or_create_data_key(swarm_dir)))


class ManagerParts:
    """A running manager."""

    def __init__(
        self, member: Membership, identity: NodeIdentity, means: Means, places: StorePlaces, hooks: Hooks
    ) -> None:
        """Nothing is opened before `start`."""
        self.member = member
        self._hooks = hooks
        self._identity = identity
        self._means = means
        self._places = places
        self._supervisor = Supervisor()
        self._reigning = Supervisor()
        self._is_standing = False
        self._widening = asyncio.Lock()
        self._opened: OpenStore | None = None
        self._replica: Replica | None = None
        self._reign: Reign | None = None
        self._leader: Leader | None = None
        self._listener: ControlListener | None = None
        self._reception: Reception | None = None
        self._control: SwarmControl | None = None
        self.council: Council | None = None

    @property
    def control(self) -> SwarmControl:
        """The control operations.

        Raises:
            Unavailable: They are not open yet.
        """
        if self._control is None:
            raise Unavailable("this manager is starting; try again in a moment")
        return self._control

    def is_removed(self, node_id: str) -> bool:
        """Whether a node's certificates are no longer accepted; while the state is not open, no node's are."""
        cluster = self._replica.view.cluster if self._replica is not None else None
        return cluster is None or node_id in cluster.removed_nodes

    def is_demoted(self, node_id: str) -> bool:
        """Whether a node is not known to be a manager, whatever a certificate of it says."""
        node = self._replica.view.nodes.get(node_id) if self._replica is not None else None
        return node is None or node.role is Role.WORKER

    @property
    def opened(self) -> OpenStore:
        """The store. Raises: Unavailable: it is not open yet."""
        if self._opened is None:
            raise Unavailable("this manager is starting; try again in a moment")
        return self._opened

    @property
    def is_leading(self) -> bool:
        return self._reign is not None and self._reign.lease is not None

    async def voters(self) -> Sequence[Voter]:
        """Whose vote counts; of a store that does not say, those that should have one, out of reach."""
        own = self.member.node_id
        try:
            return await self.council.voters() if self.council is not None else [Voter(own)]
        except Unavailable:
            nodes = self._replica.view.nodes.values() if self._replica is not None else ()
            return [Voter(node.id, node.id == own) for node in nodes if node.spec.role == Role.MANAGER]

    async def withdraw(self) -> None:
        """Leave the circle of managers for good, as far as the others can do without this one."""
        if self.council is not None:
            await self.council.withdraw()

    def refresh(self) -> None:
        """Take renewed credentials into use."""
        if self._opened is not None and self._opened.member is not None:
            self._opened.member.refresh()

    async def stand(self, *, is_wanted: bool) -> None:
        """Stand for leader, or resign and stand no more, as one that was demoted; nothing if it is so."""
        if self._reign is None or is_wanted == self._is_standing:
            return
        self._is_standing = is_wanted
        if is_wanted:
            self._reigning.keep("decisions", self._reign.run)
        else:
            await self._reigning.close()

    async def widen(self) -> None:
        """Move the state from SQLite to etcd, the external one if there is one; nothing if it is there.

        Raises:
            Unavailable, Conflict, InvalidSpec: It did not work; everything is as before.
        """
        async with self._widening:
            opened, replica, reign = self.opened, self._replica, self._reign
            if opened.is_shared or replica is None or reign is None or self._leader is None:
                return
            moving = asyncio.ensure_future(self._move(opened, replica))
            await asyncio.shield(moving)  # Whoever asked for it may have gone away.
            self._guard_peers(replica)
            await reign.change(self.opened.candidate, self._leader.renew)

    async def _move(self, opened: OpenStore, replica: Replica) -> None:
        switch = StoreSwitch(self._places, lambda: self._identity.credentials, self._means.dice.fraction)
        peer_url = peer_url_of(self.member, self._identity.credentials)
        try:
            self.member, self._opened = await (
                switch.to_etcd(self.member, opened, replica, peer_url)
                if self._places.external is None
                else switch.to_external(self.member, opened, replica)
            )
        except MoveUncertain as error:
            self._hooks.fatal(error)
            raise Unavailable(f"{error}; try again in a moment") from error
        self._hooks.moved(self.member)

    async def start(self, secret: bytes = b"") -> None:
        """Open everything; returns when the control port listens.

        Args:
            secret: The data key of a manager that was just unlocked, or let in; empty reads it from its file.
        Raises:
            StoreError, ListenFailed, Unavailable: What is wrong, and what to do.
        """
        clock, dice = self._means.clock, self._means.dice
        replica, cluster = await self._open_replica()
        secret = secret or keyfile.load_or_create_data_key(self._places.swarm_dir)
        seal = Seal(DataKey.of(secret))
        lock = KeyLock(self._places.swarm_dir, secret, seal)
        lock.follow(cluster)
        replica.observers.append(lock.observe)
        authority = StandingAuthority(lambda: replica.view, seal)
        leader = Leader(replica, clock, dice, own_node_id=self.member.node_id)
        self._leader = leader
        shelf = Shelf(lambda: replica.view, seal)

        async def lead(lease: str) -> None:
            await reception.preside(self._new_sessions(leader, replica, shelf), leader.run(lease))

        reign = self._reign = Reign(self.opened.candidate, replica, lead)
        standing = Standing(lambda: reign.candidate, lambda: replica.view, clock, own_node_id=self.member.node_id)
        relay = Relay(HttpControlPort(), lambda: self._identity.credentials, standing.leader_address)
        reception = self._reception = Reception(replica, standing, relay, clock)
        control = SwarmControl(
            replica,
            Surroundings(
                clock=clock,
                dice=dice,
                tls_info=lambda: authority().tls_facts,
                sealer=seal,
                min_certificate_life=self._means.min_certificate_life,
                logs=TaskLogs(reception.open_stream, clock),
                open_engine=reception.open_engine,
                is_stale=lambda: standing.is_stale,
                voters=self.voters,
                check_widening=self._places.check_sharing,
                save_backup=Backups(replica, clock, self.member.node_id, secret).save,
                cluster_status=self._cluster_status,
                certify=lambda csr, name, lifetime: authority().issue_operator(
                    csr,
                    Operator(name=name, cluster_id=self.member.cluster_id),
                    now=clock.now(),
                    lifetime=lifetime,
                ),
            ),
        )
        self._control = control
        council = Council(self, control.writes, secret, time.monotonic)
        replica.observers.append(council.observe)
        self.council = council
        admission = Admission.over(lambda: replica.view, authority, control.registry, clock)
        await renew_ended(self._identity, admission, split_address(self.member.control_addr, CONTROL_PORT)[0])
        gate = Gate(admission, reception, reception.carry, council)
        self._listener = ControlListener(gate, lambda: self._identity.credentials, self.member.cluster_id)
        host, port = split_address(self.member.listen_addr, CONTROL_PORT)
        await self._listener.start(host, port)
        vigil = Vigil(standing, lambda: reign.candidate, lambda: replica.view, clock, is_refused)
        await self.stand(is_wanted=True)
        self._supervisor.keep("standing", standing.run)
        self._supervisor.keep("vigil", vigil.run)
        self._supervisor.keep("managers", council.tend)
        self._supervisor.keep(
            "etcd's trust", EtcdTrust(lambda: self.opened, lambda: replica.view, clock, reign.hold).run
        )
        self._supervisor.watch("state", replica.wait_ended, self._hooks.fatal)
        self._guard_peers(replica)
        if self._places.external is not None and not self.opened.is_shared:
            self._supervisor.keep("move to the external etcd", self._move_out)

    async def _move_out(self) -> None:
        """Move the state to the etcd that was named; what hinders it is logged, and the swarm is served meanwhile."""
        reason = ""
        while not self.opened.is_shared:
            try:
                await self.widen()
            except SkepError as error:
                if str(error) != reason:
                    log.warning("the swarm's state is not in the external etcd yet, trying again", reason=str(error))
                reason = str(error)
                await self._means.clock.sleep(MOVE_AGAIN)

    async def _open_replica(self) -> tuple[Replica, Cluster]:
        """Raises: StoreError, Unavailable."""
        fraction = self._means.dice.fraction
        opened = await stores.open_store(self._places, self.member, lambda: self._identity.credentials, fraction)
        self._opened = opened
        self._replica = replica = Replica(opened.store, self._means.clock, is_shared=opened.is_shared)
        await replica.open()
        cluster = replica.view.cluster
        if cluster is None or cluster.authority is None:
            raise Unavailable("the store holds no cluster; leave the swarm with --force and make a new one")
        return replica, cluster

    def _new_sessions(self, leader: Leader, replica: Replica, shelf: Shelf) -> Sessions:
        """Those of one term, on the state as it is now."""
        clock, epoch = self._means.clock, new_id(self._means.dice.bytes)
        return Sessions(
            leader,
            Dispatcher(epoch, replica.view, clock.now()),
            lambda: replica.view,
            clock,
            epoch=epoch,
            files=shelf.answer,
            attachments=self.control.attachments.answer,
        )

    def _guard_peers(self, replica: Replica) -> None:
        """Let only managers reach this one's etcd member, once it has one."""
        if self.opened.members is None:
            return
        host = split_address(self.member.control_addr, CONTROL_PORT)[0]
        door = PeerDoor(lambda: replica.view, host, self.opened.members)
        replica.observers.append(door.observe)
        self._supervisor.keep("peers", door.run)

    async def _cluster_status(self) -> ClusterStatus:
        others = Others(HttpControlPort(), lambda: self._identity.credentials, lambda: self.control.view)
        status = await store_status.look(self.opened, self._places, others)
        view = self.control.view
        papers = papers_of(self._identity.credentials.certificate, self._identity.credentials.root)
        return cluster_status.judge(view, status, papers, self.member.node_id, self._means.clock.now())

    async def close(self) -> None:
        """Close everything; what agents run goes on, and so does an etcd member."""
        if self._reception is not None:
            self._reception.close()
        if self._listener is not None:
            await self._listener.close()
        await self._reigning.close()
        await self._supervisor.close()
        if self._replica is not None:
            await self._replica.close()
        if self._opened is not None:
            await self._opened.close()


def peer_url_of(member: Membership, held: Credentials) -> str:
    """Where a node's etcd member is reached by the others, and reaches them from.

    That is its certificate's address, by which the others know it: a machine with several is not always seen under the
    one that it advertises.
    """
    if member.etcd is not None:
        return member.etcd.peer_url
    host, certified = split_address(member.control_addr, CONTROL_PORT)[0], addresses_of_pem(held.certificate)
    host = certified[0] if certified and host not in certified else host
    return f"https://[{host}]:{PEER_PORT}" if ":" in host else f"https://{host}:{PEER_PORT}"
