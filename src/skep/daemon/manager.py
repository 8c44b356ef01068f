"""A manager's parts, put together: store, state, decisions, control port and control operations.

Edge: picks adapters. Opened when the node is, or becomes, a manager; closed when it stops or leaves.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from skep.agent.identity import NodeIdentity
from skep.core.dispatch.dispatcher import Dispatcher
from skep.daemon.config import split_address
from skep.daemon.lock import KeyLock
from skep.daemon.membership import Membership
from skep.daemon.supervise import Supervisor
from skep.edge import keyfile
from skep.edge.control import ControlListener
from skep.edge.sole_leadership import SoleCandidate
from skep.edge.sqlite import SqliteStore
from skep.lib.ids import new_id
from skep.manager.ca import CertificateAuthority
from skep.manager.control.backup import Backups
from skep.manager.control.control import Surroundings, SwarmControl
from skep.manager.gate import Gate
from skep.manager.join import Admission
from skep.manager.leader import Leader
from skep.manager.logs import TaskLogs
from skep.manager.reign import Reign
from skep.manager.replica import Replica
from skep.manager.seal import DataKey, Seal
from skep.manager.sessions import Sessions
from skep.manager.shelf import Shelf
from skep.model.errors import Unavailable
from skep.model.identity import Operator
from skep.model.session import AttachmentAnswered, AttachmentWanted
from skep.ports.clock import Clock, Dice
from skep.ports.store import Store

STORE_FILE = "store.db"
CONTROL_PORT = 2377


@dataclass(frozen=True, slots=True)
class Means:
    """What every part of the daemon draws on."""

    clock: Clock
    dice: Dice


async def open_state(swarm_dir: Path, clock: Clock, *, is_new: bool = False) -> tuple[Store, Replica]:
    """Open the store and load the state.

    Args:
        is_new: Make the store; otherwise a missing one is damage.
    Raises:
        StoreError: The store is damaged or in use; the text says what to do.
    """
    store = await SqliteStore.open(swarm_dir / STORE_FILE, create=is_new)
    replica = Replica(store, clock)
    try:
        await replica.open()
    except BaseException:
        await store.close()
        raise
    return store, replica


def open_seal(swarm_dir: Path) -> Seal:
    """The seal under the cluster's data key, as this manager keeps it unlocked; made if there is none."""
    return Seal(DataKey.of(keyfile.load_or_create_data_key(swarm_dir)))


class ManagerParts:
    """A running manager."""

    def __init__(
        self, membership: Membership, identity: NodeIdentity, means: Means, on_fatal: Callable[[BaseException], None]
    ) -> None:
        """Nothing is opened before `start`.

        Args:
            on_fatal: Called when the state can no longer be followed: the daemon has to start anew.
        """
        self._on_fatal = on_fatal
        self._membership = membership
        self._identity = identity
        self._means = means
        self._supervisor = Supervisor()
        self._store: Store | None = None
        self._replica: Replica | None = None
        self._listener: ControlListener | None = None
        self._sessions: Sessions | None = None
        self._control: SwarmControl | None = None

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

    async def start(self, swarm_dir: Path, secret: bytes = b"") -> None:
        """Open everything; returns when the control port listens.

        Args:
            secret: The data key of a manager that was just unlocked; empty reads it from its file.
        Raises:
            StoreError, ListenFailed, Unavailable: What is wrong, and what to do.
        """
        clock, dice = self._means.clock, self._means.dice
        self._store, replica = await open_state(swarm_dir, clock)
        self._replica = replica
        cluster = replica.view.cluster
        if cluster is None or cluster.authority is None:
            raise Unavailable("the store holds no cluster; leave the swarm with --force and make a new one")
        secret = secret or keyfile.load_or_create_data_key(swarm_dir)
        seal = Seal(DataKey.of(secret))
        lock = KeyLock(swarm_dir, secret, seal)
        lock.follow(cluster)
        replica.observers.append(lock.observe)
        authority = CertificateAuthority.open(cluster.authority, seal)
        leader = Leader(replica, clock, dice, own_node_id=self._membership.node_id)
        epoch = new_id(dice.bytes)
        dispatcher = Dispatcher(epoch, replica.view, clock.now())
        shelf = Shelf(lambda: replica.view, seal)

        async def answer_attachment(node_id: str, wanted: AttachmentWanted) -> AttachmentAnswered:
            return await control.attachments.answer(node_id, wanted)  # Made below, of what these sessions are.

        sessions = Sessions(
            leader,
            dispatcher,
            lambda: replica.view,
            clock,
            epoch=epoch,
            files=shelf.answer,
            attachments=answer_attachment,
        )
        replica.observers.append(sessions.observe)
        self._sessions = sessions
        control = SwarmControl(
            replica,
            Surroundings(
                clock=clock,
                dice=dice,
                tls_info=lambda: authority.tls_facts,
                sealer=seal,
                logs=TaskLogs(sessions.open_stream, clock),
                open_engine=sessions.open_engine,
                save_backup=Backups(replica, clock, self._membership.node_id, secret).save,
                certify=lambda csr, name, lifetime: authority.issue_operator(
                    csr,
                    Operator(name=name, cluster_id=self._membership.cluster_id),
                    now=clock.now(),
                    lifetime=lifetime,
                ),
            ),
        )
        self._control = control
        admission = Admission.over(lambda: replica.view, lambda: authority, control.registry, clock)
        self._listener = ControlListener(
            Gate(admission, sessions), lambda: self._identity.credentials, self._membership.cluster_id
        )
        host, port = split_address(self._membership.listen_addr, CONTROL_PORT)
        await self._listener.start(host, port)
        reign = Reign(SoleCandidate(self._membership.node_id), replica, leader.run)
        self._supervisor.keep("decisions", reign.run)
        self._supervisor.keep("sessions", sessions.run)
        self._supervisor.watch("state", replica.wait_ended, self._on_fatal)

    async def close(self) -> None:
        """Close everything; what agents run goes on."""
        if self._sessions is not None:
            self._sessions.close()
        if self._listener is not None:
            await self._listener.close()
        await self._supervisor.close()
        if self._replica is not None:
            await self._replica.close()
        if self._store is not None:
            await self._store.close()
