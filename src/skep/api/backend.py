"""What the HTTP routes need of the daemon: this node's part in a swarm, and the swarm's control operations.

Protocols only; `skep.daemon` brings the implementations. Every operation takes values that are already decoded, raises
`skep.model.errors`, and checks everything before it changes anything.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from skep.agent.attachments import Attachments
from skep.core.cluster_status import ClusterStatus
from skep.core.orchestrate.rebalance import Move
from skep.core.rehearsal import Rehearsal
from skep.model.base import Nanoseconds
from skep.model.cluster import Cluster, SwarmSpec
from skep.model.identity import Issued
from skep.model.network import Network, NetworkSpec
from skep.model.node import Node, NodeSpec, Role, TLSInfo
from skep.model.registry import NO_AUTH, AuthSource
from skep.model.secret import Config, ConfigSpec, Secret, SecretSpec
from skep.model.service import Service, ServiceSpec
from skep.model.session import ManagerAddress
from skep.model.task import Task
from skep.ports.bytestream import ByteStream
from skep.ports.logs import TaskLogEntry as TaskLogEntry
from skep.ports.runtime import EngineFacts, LogOptions
from skep.store.changes import Batch
from skep.store.state import View


@dataclass(frozen=True, slots=True)
class LocalState:
    """This node's part in a swarm.

    Attributes:
        state: inactive, pending, active, error or locked, as in Docker's LocalNodeState.
        has_control: It is a manager.
    """

    state: str = "inactive"
    node_id: str = ""
    node_addr: str = ""
    has_control: bool = False
    error: str = ""
    managers: Sequence[ManagerAddress] = ()


@dataclass(frozen=True, slots=True)
class InitRequest:
    """Source: POST /swarm/init. Addresses are as the user wrote them; empty means find out."""

    listen_addr: str = ""
    advertise_addr: str = ""
    data_path_addr: str = ""
    data_path_port: int = 0
    force_new_cluster: bool = False
    spec: SwarmSpec = field(default_factory=SwarmSpec)
    availability: str = "active"
    default_addr_pool: Sequence[str] = ()
    subnet_size: int = 0


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """Source: POST /swarm/join."""

    remote_addrs: Sequence[str]
    join_token: str
    listen_addr: str = ""
    advertise_addr: str = ""
    data_path_addr: str = ""
    availability: str = "active"


@dataclass(frozen=True, slots=True)
class RestoreRequest:
    """What else a backup is restored with. Addresses are as of `InitRequest`.

    Attributes:
        is_forced: Also while another manager of the swarm answers.
    """

    pass_phrase: str = field(repr=False)
    advertise_addr: str = ""
    listen_addr: str = ""
    data_path_addr: str = ""
    is_forced: bool = False


class Control(Protocol):
    """The swarm's control operations, on a manager. `reference` is a full id, a full name or a unique id prefix."""

    @property
    def view(self) -> View:
        """The state as of the last commit this manager saw."""
        ...

    async def catch_up(self) -> None:
        """Wait, a moment at most, until the view holds whatever was acknowledged anywhere before this call."""
        ...

    @property
    def is_stale(self) -> bool:
        """Whether the view may be out of date: too few managers answer."""
        ...

    @property
    def tls_info(self) -> TLSInfo: ...

    def watch(self) -> AsyncIterator[Batch]:
        """Every batch committed from now on; ends only with the daemon."""
        ...

    def find_service(self, reference: str) -> Service: ...
    def find_task(self, reference: str) -> Task: ...
    def find_node(self, reference: str) -> Node: ...
    def find_network(self, reference: str) -> Network: ...
    def cluster(self) -> Cluster: ...

    async def create_service(self, spec: ServiceSpec, *, auth: AuthSource = NO_AUTH) -> Service: ...

    async def update_service(
        self, reference: str, version: int, spec: ServiceSpec, *, auth: AuthSource = NO_AUTH, is_rollback: bool = False
    ) -> Service:
        """Replace a service's spec, or swap it with the previous one.

        Raises:
            OutOfDate: `version` is not the service's.
        """
        ...

    async def remove_service(self, reference: str) -> None: ...

    def rehearse_service(self, spec: ServiceSpec, *, reference: str = "") -> Rehearsal:
        """What would become of a new service, or of `reference` with another spec. Nothing is stored."""
        ...

    async def rebalance_service(self, reference: str, *, is_dry: bool) -> Sequence[Move]:
        """Have the tasks moved that would be better off elsewhere; with `is_dry` only say which."""
        ...

    async def update_node(self, reference: str, version: int, spec: NodeSpec) -> Node: ...
    async def remove_node(self, reference: str, *, is_forced: bool) -> None: ...
    async def create_network(self, spec: NetworkSpec) -> Network: ...
    async def remove_network(self, reference: str) -> None: ...

    async def update_cluster(
        self,
        version: int,
        spec: SwarmSpec,
        *,
        rotate_worker_token: bool = False,
        rotate_manager_token: bool = False,
        rotate_unlock_key: bool = False,
    ) -> Cluster: ...

    async def renew_join_token(self, role: Role, *, expiry: Nanoseconds, uses: int) -> Cluster:
        """Replace a role's join token by one that is good for so long and for so many nodes; 0 for no limit.

        Raises:
            InvalidSpec: A limit is negative, or beyond all bounds.
        """
        ...

    def unlock_key(self) -> str:
        """What unlocks a manager; empty while managers are not locked."""
        ...

    def find_secret(self, reference: str) -> Secret: ...
    def find_config(self, reference: str) -> Config: ...
    async def create_secret(self, spec: SecretSpec) -> Secret: ...
    async def update_secret(self, reference: str, version: int, spec: SecretSpec) -> Secret: ...
    async def remove_secret(self, reference: str) -> None: ...
    async def rotate_secret(self, reference: str, data: str) -> Secret:
        """Give a secret's name a new value, in base64, and update the services that use it."""
        ...

    async def rotate_config(self, reference: str, data: str) -> Config: ...
    async def create_config(self, spec: ConfigSpec) -> Config: ...
    async def update_config(self, reference: str, version: int, spec: ConfigSpec) -> Config: ...
    async def remove_config(self, reference: str) -> None: ...

    def service_logs(
        self, tasks: Sequence[Task], options: LogOptions, is_wanted: Callable[[Task], bool] | None = None
    ) -> AsyncIterator[TaskLogEntry]:
        """Log entries of tasks wherever they run, by time; a silent node is named in a stderr entry.

        Args:
            is_wanted: Of tasks that come up while the logs are followed; None lets them end with those given.
        """
        ...

    def issue_operator(self, name: str, csr: str, lifetime: Nanoseconds) -> Issued:
        """Certify a key for someone who uses the API from elsewhere; `lifetime` 0 for the usual one.

        Raises:
            InvalidSpec: The name, the lifetime or the request is not possible.
        """
        ...

    def save_backup(self, pass_phrase: str) -> AsyncIterator[bytes]:
        """A backup of the whole swarm, in pieces, as of the moment in which the first is asked for.

        Raises:
            InvalidSpec: The pass phrase is no protection.
        """
        ...

    async def note_backup(self, at: Nanoseconds) -> None:
        """Note that a backup of a moment is in its place.

        Raises:
            InvalidSpec: The moment is in the future.
        """
        ...

    async def cluster_status(self) -> ClusterStatus:
        """How the managers and their store fare; answers without a quorum, too."""
        ...

    def open_engine(self, node_id: str) -> ByteStream:
        """Open a connection to a node's container engine; whether it has one shows when it is first read.

        Raises:
            Unavailable: The node cannot be reached from this manager.
        """
        ...


class LocalNode(Protocol):
    """This node: its swarm membership, its engine, its control operations if it is a manager."""

    @property
    def hostname(self) -> str: ...
    @property
    def data_dir(self) -> Path: ...
    @property
    def engine_id(self) -> str:
        """A stable id of this daemon, for /info."""
        ...

    @property
    def started_at(self) -> int:
        """Nanoseconds since 1970."""
        ...

    @property
    def local_state(self) -> LocalState: ...

    @property
    def passthrough(self) -> Path | None:
        """Unix socket of the node's own engine; see `Runtime.passthrough`."""
        ...

    async def engine_facts(self) -> EngineFacts: ...

    @property
    def attachments(self) -> Attachments | None:
        """Plain containers of this node on the swarm's networks; None while it takes part in none."""
        ...

    def control(self) -> Control:
        """The control operations.

        Raises:
            NotManager: with Docker's sentence for a node out of any swarm, or for a worker.
        """
        ...

    async def init_swarm(self, request: InitRequest) -> str:
        """Make a one-manager swarm; returns this node's id."""
        ...

    async def join_swarm(self, request: JoinRequest) -> None: ...
    async def rejoin_swarm(self, addrs: Sequence[str]) -> None:
        """Turn to managers at these addresses; returns once one has welcomed this node.

        Raises:
            NotManager: It is in no swarm. Unavailable: no manager of its swarm answers there.
        """
        ...

    async def restore_swarm(self, request: RestoreRequest, content: AsyncIterator[bytes]) -> str:
        """Make this node the only manager of the swarm in a backup; returns this node's id.

        Raises:
            NotManager: It is in a swarm. InvalidSpec: an address is not possible, or the backup is damaged.
            Unauthenticated: The pass phrase is wrong. Conflict: a manager of that swarm answers.
        """
        ...

    async def unlock_swarm(self, unlock_key: str) -> None:
        """Give a locked manager its key.

        Raises:
            NotManager: It is in no swarm. Conflict: it is not locked. Unauthenticated: that is not the key.
        """
        ...

    async def leave_swarm(self, *, is_forced: bool) -> None: ...
