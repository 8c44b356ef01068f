"""The cluster object: the swarm's own settings, trust and tokens.

Pure. Source: Docker API 1.51, definitions SwarmSpec, ClusterInfo.
"""

from skep.model.base import Labels, Nanoseconds, Object, Record, Wire, always, present_labels
from skep.model.sealed import Sealed
from skep.model.service import SECOND, LogDriver

DAY = 86_400 * SECOND


class OrchestrationConfig(Wire, frozen=True, kw_only=True):
    task_history_retention_limit: int | None = None


class RaftConfig(Wire, frozen=True, kw_only=True):
    """Kept for clients; Skep has no Raft of its own."""

    snapshot_interval: int = always(10000)
    keep_old_snapshots: int | None = None
    log_entries_for_slow_followers: int = always(500)
    election_tick: int = always(10)
    heartbeat_tick: int = always(1)


class DispatcherConfig(Wire, frozen=True, kw_only=True):
    heartbeat_period: Nanoseconds = 0


class ExternalCA(Wire, frozen=True, kw_only=True):
    protocol: str = "cfssl"
    url: str = ""
    options: Labels | None = None
    ca_cert: str = ""


class CAConfig(Wire, frozen=True, kw_only=True):
    node_cert_expiry: Nanoseconds = 0
    external_cas: list[ExternalCA] | None = None
    signing_ca_cert: str = ""
    signing_ca_key: str = ""
    force_rotate: int = 0


class TaskDefaults(Wire, frozen=True, kw_only=True):
    log_driver: LogDriver | None = None


class EncryptionConfig(Wire, frozen=True, kw_only=True):
    auto_lock_managers: bool = always(False)


class SwarmSpec(Wire, frozen=True, kw_only=True):
    name: str = always("")
    labels: Labels = present_labels()
    orchestration: OrchestrationConfig = always(OrchestrationConfig())
    raft: RaftConfig = always(RaftConfig())
    dispatcher: DispatcherConfig = always(DispatcherConfig())
    ca_config: CAConfig = always(CAConfig())
    task_defaults: TaskDefaults = always(TaskDefaults())
    encryption_config: EncryptionConfig = always(EncryptionConfig())


class JoinTokens(Wire, frozen=True, kw_only=True):
    worker: str = ""
    manager: str = ""


class TokenLimit(Record, frozen=True, kw_only=True):
    """How long a join token is good. Attributes: ends_at: 0 for ever; uses_left: for how many nodes, None for any."""

    ends_at: Nanoseconds = 0
    uses_left: int | None = None


class TokenLimits(Record, frozen=True, kw_only=True):
    """Of each of the `JoinTokens`; None for a token without limits."""

    worker: TokenLimit | None = None
    manager: TokenLimit | None = None


class RootRotation(Record, frozen=True, kw_only=True):
    """The next root, which issues all certificates already, while the nodes change over to it.

    Attributes:
        certificate_pem, sealed_key: As of `Authority`.
        cross_signed_pem: The next root's name and key, signed by the present root: who trusts only that one follows it.
    """

    certificate_pem: str
    sealed_key: Sealed
    cross_signed_pem: str


class Authority(Record, frozen=True, kw_only=True):
    """The cluster's certificate authority.

    Attributes:
        certificate_pem: The root that everyone trusts.
        sealed_key: Its private key (PKCS 8 DER), sealed under the cluster's data key.
        bridge_pem: What leads from this root to those before it, given along with every certificate: some programs,
            such as etcd, read their roots only when they start, and may miss some. Empty for the first root.
        rotation: Set from the moment another root was asked for until every node has a certificate of it.
    Source: swarmkit/api/objects.proto, RootCA and RootRotation.
    """

    certificate_pem: str
    sealed_key: Sealed
    bridge_pem: str = ""
    rotation: RootRotation | None = None


class Brake(Record, frozen=True, kw_only=True):
    """Too many nodes fell silent at once: nothing is rescheduled until they return or an operator says so.

    Attributes:
        nodes: Which ones are held, sorted; they stay as they were, out of balancing.
        is_released: An operator said to go on without them.
    """

    since: Nanoseconds
    nodes: list[str] = []
    is_released: bool = False


class Cluster(Object, frozen=True, kw_only=True):
    """The one cluster object.

    Attributes:
        token_limits: What limits the join tokens; Docker's API does not show it.
        default_address_pools: CIDRs from which overlay subnets are cut; subnet_size: their prefix length.
        data_path_port: VXLAN's UDP port.
        removed_nodes: Ids whose certificates are refused, with when that certificate ends at the latest.
        revoked_certificates: Serial numbers, as text, of managers' certificates that count no more, with until when.
        unlock_key: What unlocks a manager after a restart, as users see it, sealed; None while managers are not locked.
        brake: Set while the loss of many nodes at once is held; see `Brake`.
        backed_up_at: Moment of the state in the newest backup that is known; 0 for none.
    """

    spec: SwarmSpec = SwarmSpec()
    join_tokens: JoinTokens = JoinTokens()
    token_limits: TokenLimits = TokenLimits()
    authority: Authority | None = None
    default_address_pools: tuple[str, ...] = ("10.0.0.0/8",)
    subnet_size: int = 24
    data_path_port: int = 4789
    removed_nodes: dict[str, Nanoseconds] = {}
    revoked_certificates: dict[str, Nanoseconds] = {}
    brake: Brake | None = None
    unlock_key: Sealed | None = None
    backed_up_at: Nanoseconds = 0
