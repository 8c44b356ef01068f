"""The control operations as the API sees them: everything under one roof.

Edge: asyncio through its parts. It is `skep.api.backend.Control` by shape; that Protocol lies in a layer above, so the
daemon, which passes one for the other, is where the type checker compares them.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from skep.core.cluster_status import ClusterStatus
from skep.core.orchestrate.rebalance import Move
from skep.core.quorum import Voter
from skep.core.rehearsal import Rehearsal
from skep.manager.attachments import Attachments
from skep.manager.catching_up import CatchingUp
from skep.manager.control import backup, find, operators
from skep.manager.control.cluster import MIN_CERTIFICATE_LIFE, ClusterSettings, Fresh
from skep.manager.control.files import Configs, Sealer, Secrets
from skep.manager.control.networks import Networks
from skep.manager.control.nodes import Nodes
from skep.manager.control.rotation import Rotation
from skep.manager.control.services import Services
from skep.manager.control.writes import Writes
from skep.manager.logs import newcomers
from skep.manager.registry import NodeRegistry
from skep.manager.replica import Replica, Subscription
from skep.model.base import Nanoseconds
from skep.model.cluster import Cluster, SwarmSpec
from skep.model.errors import Unavailable
from skep.model.identity import Issued
from skep.model.network import Network, NetworkSpec
from skep.model.node import Node, NodeSpec, Role, TLSInfo
from skep.model.registry import NO_AUTH, AuthSource
from skep.model.secret import Config, ConfigSpec, Secret, SecretSpec
from skep.model.service import Service, ServiceSpec
from skep.model.task import Task
from skep.ports.bytestream import ByteStream
from skep.ports.clock import Clock, Dice
from skep.ports.logs import LogSource, TaskLogEntry
from skep.ports.runtime import LogOptions
from skep.store.state import View


def nothing_lacks() -> None:
    """Where other managers can be taken in."""


def no_engine(node_id: str) -> ByteStream:
    """Where no node can be asked."""
    raise Unavailable(f"node {node_id} is not available")


def no_backup(pass_phrase: str) -> AsyncIterator[bytes]:
    """Where nothing can be saved."""
    raise Unavailable("this manager has no data key at hand to save; try another one")


async def no_status() -> ClusterStatus:
    """Where nobody knows of the managers."""
    raise Unavailable("this manager cannot tell how the others fare; try another one")


def no_authority(csr: str, name: str, lifetime: Nanoseconds) -> Issued:
    """Where nothing can be certified."""
    raise Unavailable("this manager has no certificate authority; try another one")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What control operations need besides the state.

    Attributes:
        tls_info: What the API says of the swarm's trust, as of now.
        sealer: Under the cluster's data key.
        open_engine: Connects to a node's container engine; see `manager.sessions`.
        is_stale: Whether the store has not answered for a while.
        certify: Signs an operator's certificate.
        min_certificate_life: The shortest a node's may be made.
        voters: Whose vote counts among the managers; see `core.quorum`. None for the managers the state tells of.
        check_widening: Raises `Unavailable` where this manager cannot share its state with another.
        save_backup: Under a pass phrase; see `manager.control.backup`.
        cluster_status: How the managers and their store fare.
    """

    clock: Clock
    dice: Dice
    tls_info: Callable[[], TLSInfo]
    sealer: Sealer
    logs: LogSource
    open_engine: Callable[[str], ByteStream] = no_engine
    is_stale: Callable[[], bool] = lambda: False
    certify: operators.Certify = no_authority
    min_certificate_life: Nanoseconds = MIN_CERTIFICATE_LIFE
    save_backup: Callable[[str], AsyncIterator[bytes]] = no_backup
    cluster_status: Callable[[], Awaitable[ClusterStatus]] = no_status
    voters: Callable[[], Awaitable[Sequence[Voter]]] | None = None
    check_widening: Callable[[], None] = nothing_lacks


class SwarmControl:
    """Implements `api.backend.Control` on an opened replica.

    Attributes:
        writes: Of users' operations; those of the manager itself take turns with them.
        registry: For the control port, which lets nodes in; its writes take turns with those of users.
        attachments: For sessions: places of nodes' plain containers on networks; likewise.
    """

    def __init__(self, replica: Replica, surroundings: Surroundings) -> None:
        self.writes = writes = Writes(replica, surroundings.clock, surroundings.dice)
        self._replica = replica
        self._surroundings = surroundings
        self._catching_up = CatchingUp(replica)
        self._services = Services(writes, surroundings.sealer)
        self._networks = Networks(writes, replica.watch)
        self._nodes = Nodes(writes, surroundings.voters, surroundings.check_widening)
        self._settings = ClusterSettings(writes, surroundings.sealer, surroundings.min_certificate_life)
        self._secrets = Secrets(writes, surroundings.sealer)
        self._configs = Configs(writes)
        self._rotation = Rotation(writes, surroundings.sealer)
        self.registry = NodeRegistry(writes, surroundings.check_widening)
        self.attachments = Attachments(writes, replica.watch)

    @property
    def view(self) -> View:
        return self._replica.view

    @property
    def tls_info(self) -> TLSInfo:
        return self._surroundings.tls_info()

    @property
    def is_stale(self) -> bool:
        return self._surroundings.is_stale()

    async def catch_up(self) -> None:
        await self._catching_up.wait()

    def watch(self) -> Subscription:
        return self._replica.watch()

    # --- finding ---------------------------------------------------------------

    def find_service(self, reference: str) -> Service:
        return find.find_service(self.view, reference)

    def find_task(self, reference: str) -> Task:
        return find.find_task(self.view, reference)

    def find_node(self, reference: str) -> Node:
        return find.find_node(self.view, reference)

    def find_network(self, reference: str) -> Network:
        return find.find_network(self.view, reference)

    def find_secret(self, reference: str) -> Secret:
        return find.find_secret(self.view, reference)

    def find_config(self, reference: str) -> Config:
        return find.find_config(self.view, reference)

    def cluster(self) -> Cluster:
        return find.the_cluster(self.view)

    # --- services ----------------------------------------------------------------

    async def create_service(self, spec: ServiceSpec, *, auth: AuthSource = NO_AUTH) -> Service:
        return await self._services.create(spec, auth)

    async def update_service(
        self, reference: str, version: int, spec: ServiceSpec, *, auth: AuthSource = NO_AUTH, is_rollback: bool = False
    ) -> Service:
        if is_rollback:
            return await self._services.roll_back(reference, version, auth)
        return await self._services.update(reference, version, spec, auth)

    async def remove_service(self, reference: str) -> None:
        await self._services.remove(reference)

    def rehearse_service(self, spec: ServiceSpec, *, reference: str = "") -> Rehearsal:
        return self._services.rehearse(spec, reference)

    async def rebalance_service(self, reference: str, *, is_dry: bool) -> list[Move]:
        return await self._services.rebalance(reference, is_dry=is_dry)

    def service_logs(
        self, tasks: Sequence[Task], options: LogOptions, is_wanted: Callable[[Task], bool] | None = None
    ) -> AsyncIterator[TaskLogEntry]:
        coming = newcomers(self._replica, is_wanted) if is_wanted is not None and options.follow else None
        return self._surroundings.logs.logs(tasks, options, coming)

    def open_engine(self, node_id: str) -> ByteStream:
        return self._surroundings.open_engine(node_id)

    def issue_operator(self, name: str, csr: str, lifetime: Nanoseconds) -> Issued:
        return operators.issue_operator(self._surroundings.certify, name, csr, lifetime)

    def save_backup(self, pass_phrase: str) -> AsyncIterator[bytes]:
        return self._surroundings.save_backup(pass_phrase)

    async def note_backup(self, at: Nanoseconds) -> None:
        await backup.note(self.writes, at)

    async def cluster_status(self) -> ClusterStatus:
        return await self._surroundings.cluster_status()

    # --- nodes, networks, the cluster ------------------------------------------------

    async def update_node(self, reference: str, version: int, spec: NodeSpec) -> Node:
        return await self._nodes.update(reference, version, spec)

    async def remove_node(self, reference: str, *, is_forced: bool) -> None:
        await self._nodes.remove(reference, is_forced=is_forced)

    async def create_network(self, spec: NetworkSpec) -> Network:
        return await self._networks.create(spec)

    async def remove_network(self, reference: str) -> None:
        await self._networks.remove(reference)

    async def update_cluster(
        self,
        version: int,
        spec: SwarmSpec,
        *,
        rotate_worker_token: bool = False,
        rotate_manager_token: bool = False,
        rotate_unlock_key: bool = False,
    ) -> Cluster:
        return await self._settings.update(
            version, spec, Fresh(rotate_worker_token, rotate_manager_token, rotate_unlock_key)
        )

    async def renew_join_token(self, role: Role, *, expiry: Nanoseconds, uses: int) -> Cluster:
        return await self._settings.renew_token(role, expiry=expiry, uses=uses)

    def unlock_key(self) -> str:
        return self._settings.shown_unlock_key()

    # --- secrets and configs -----------------------------------------------------------

    async def create_secret(self, spec: SecretSpec) -> Secret:
        return await self._secrets.create(spec)

    async def update_secret(self, reference: str, version: int, spec: SecretSpec) -> Secret:
        return await self._secrets.update(reference, version, spec)

    async def remove_secret(self, reference: str) -> None:
        await self._secrets.remove(reference)

    async def rotate_secret(self, reference: str, data: str) -> Secret:
        return await self._rotation.secret(reference, data)

    async def rotate_config(self, reference: str, data: str) -> Config:
        return await self._rotation.config(reference, data)

    async def create_config(self, spec: ConfigSpec) -> Config:
        return await self._configs.create(spec)

    async def update_config(self, reference: str, version: int, spec: ConfigSpec) -> Config:
        return await self._configs.update(reference, version, spec)

    async def remove_config(self, reference: str) -> None:
        await self._configs.remove(reference)
