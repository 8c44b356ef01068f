"""The cluster object: its settings, its join tokens, and how it begins.

Edge: asyncio through `Writes`; the checks are pure. Source: swarmkit/manager/controlapi/cluster.go,
moby/daemon/cluster/convert/swarm.go (what an update leaves out stays as it was).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Final

import msgspec

from skep.lib.durations import DAY, HOUR, MILLISECOND, format_duration
from skep.manager.control import authority
from skep.manager.control.find import the_cluster
from skep.manager.control.writes import Writes
from skep.manager.seal import Sealer
from skep.model.base import Nanoseconds
from skep.model.cluster import (
    Authority,
    CAConfig,
    Cluster,
    DispatcherConfig,
    JoinTokens,
    OrchestrationConfig,
    RaftConfig,
    SwarmSpec,
    TokenLimit,
)
from skep.model.errors import InvalidSpec, Unavailable, Unsupported
from skep.model.identity import new_token, new_unlock_key
from skep.model.network import Network, NetworkSpec
from skep.model.node import Availability, ManagerStatus, Node, NodeSpec, NodeStatus, Role
from skep.model.sealed import Sealed
from skep.store.changes import Change, Put
from skep.store.state import View

NAME: Final = "default"
LOG_DRIVER: Final = "json-file"
UNLOCK_PURPOSE: Final = "unlock-key"
MIN_CERTIFICATE_LIFE: Final = HOUR
LONGEST_TOKEN_LIFE: Final = 3650 * DAY
MOST_TOKEN_USES: Final = 1_000_000
DEFAULTS: Final = SwarmSpec(
    name=NAME,
    orchestration=OrchestrationConfig(task_history_retention_limit=5),
    raft=RaftConfig(keep_old_snapshots=0),
    dispatcher=DispatcherConfig(heartbeat_period=500 * MILLISECOND),
    ca_config=CAConfig(node_cert_expiry=90 * DAY),
)
NOTHING_ASKED: Final = SwarmSpec()
DATA_PATH_PORTS: Final = (1024, 49151)
SUBNET_SIZES: Final = (8, 29)


@dataclass(frozen=True, slots=True)
class Founding:
    """What a new swarm begins with.

    Attributes:
        spec: As the user sent it; what is left out gets its default.
        address_pools, subnet_size, data_path_port: Empty and 0 for the defaults.
        node_id: The first manager's. underlay: its address; control_addr: host:port of its control listener.
        certificate_serial: Of the certificate it has.
        unlock_key: Sealed, if the spec asks for locked managers.
        min_certificate_life: The shortest that may be asked for.
    """

    cluster_id: str
    authority: Authority
    node_id: str
    hostname: str
    underlay: str
    control_addr: str
    certificate_serial: str = ""
    spec: SwarmSpec = NOTHING_ASKED
    availability: Availability = Availability.ACTIVE
    address_pools: tuple[str, ...] = ()
    subnet_size: int = 0
    data_path_port: int = 0
    unlock_key: Sealed | None = None
    min_certificate_life: Nanoseconds = MIN_CERTIFICATE_LIFE


def first_objects(founding: Founding, tokens: JoinTokens, ingress_id: str) -> list[Change]:
    """The objects of a new swarm, for one transaction: cluster, ingress network, first manager.

    Raises:
        InvalidSpec, Unsupported: A setting is not possible.
    """
    first, last = DATA_PATH_PORTS
    if founding.data_path_port and not first <= founding.data_path_port <= last:
        raise InvalidSpec(f"swarm: data path port must be in the range {first}-{last}")
    pools = checked_pools(founding.address_pools, founding.subnet_size)
    cluster = Cluster(
        id=founding.cluster_id,
        spec=founding_spec(founding.spec, founding.min_certificate_life),
        join_tokens=tokens,
        authority=founding.authority,
        default_address_pools=pools or ("10.0.0.0/8",),
        subnet_size=founding.subnet_size or 24,
        data_path_port=founding.data_path_port or 4789,
        unlock_key=founding.unlock_key,
    )
    ingress = Network(id=ingress_id, spec=NetworkSpec(name="ingress", ingress=True))
    node = Node(
        id=founding.node_id,
        spec=NodeSpec(role=Role.MANAGER, availability=founding.availability),
        role=Role.MANAGER,
        status=NodeStatus(addr=founding.underlay),
        manager_status=ManagerStatus(leader=True, addr=founding.control_addr),
        certificate_serial=founding.certificate_serial,
        manager_serials=[founding.certificate_serial] if founding.certificate_serial else [],
    )
    named = msgspec.structs.replace(node.description, hostname=founding.hostname)
    return [Put(cluster), Put(ingress), Put(msgspec.structs.replace(node, description=named))]


def checked_pools(pools: tuple[str, ...], subnet_size: int) -> tuple[str, ...]:
    """Address pools in their proper spelling.

    Raises:
        InvalidSpec: One is no IPv4 block, two overlap, or the subnets do not fit.
    """
    smallest, largest = SUBNET_SIZES
    if subnet_size and not smallest <= subnet_size <= largest:
        raise InvalidSpec(
            f"subnet size {subnet_size} is not possible; choose a prefix length of {smallest} to {largest}"
        )
    blocks: list[IPv4Network] = []
    for text in pools:
        try:
            block = IPv4Network(text)
        except ValueError as error:
            raise InvalidSpec(
                f"invalid default address pool {text}: {error}; write one such as 10.20.0.0/16"
            ) from error
        if any(block.overlaps(other) for other in blocks):
            raise InvalidSpec(f"invalid default address pool {text}: it overlaps with another one")
        if block.prefixlen > (subnet_size or 24):
            raise InvalidSpec(
                f"invalid CIDR: subnet size {subnet_size or 24} must be equal to or greater than the pool's own "
                f"prefix length, which is {block.prefixlen}"
            )
        blocks.append(block)
    return tuple(str(block) for block in blocks)


def founding_spec(wanted: SwarmSpec, min_certificate_life: Nanoseconds = MIN_CERTIFICATE_LIFE) -> SwarmSpec:
    """A new swarm's spec: what is left out gets its default; a root that is new need not be rotated, only counted.

    Raises:
        InvalidSpec, Unsupported.
    """
    if wanted.ca_config.external_cas:
        raise Unsupported("external certificate authorities are not possible; the swarm uses its own")
    if wanted.ca_config.signing_ca_cert or wanted.ca_config.signing_ca_key:
        raise Unsupported("a new swarm makes its own root; bring another one later with `swarm ca --rotate --ca-cert`")
    return merged_spec(DEFAULTS, wanted, min_certificate_life)


def merged_spec(old: SwarmSpec, new: SwarmSpec, min_certificate_life: Nanoseconds = MIN_CERTIFICATE_LIFE) -> SwarmSpec:
    """A spec with everything `new` says, and `old` where it says nothing.

    Raises:
        InvalidSpec, Unsupported.
    """
    if new.name not in ("", old.name):
        raise InvalidSpec("modification of cluster name is not allowed")
    if (driver := new.task_defaults.log_driver) and driver.name not in ("", LOG_DRIVER):
        raise Unsupported(
            f"{driver.name} as the log driver of all tasks is not possible: the nodes' engines log as {LOG_DRIVER}; "
            "leave TaskDefaults.LogDriver out"
        )
    if new.dispatcher.heartbeat_period < 0:
        raise InvalidSpec("heartbeat time period cannot be a negative duration")
    if (new.orchestration.task_history_retention_limit or 0) < 0:
        raise InvalidSpec("task history retention limit cannot be negative")
    life = new.ca_config.node_cert_expiry
    if life and life < min_certificate_life:
        raise InvalidSpec(f"minimum certificate expiry time is: {format_duration(min_certificate_life)}")
    return msgspec.structs.replace(
        old,
        labels=new.labels or old.labels,
        orchestration=_merged_orchestration(old.orchestration, new.orchestration),
        raft=_merged_raft(old.raft, new.raft),
        dispatcher=DispatcherConfig(
            heartbeat_period=new.dispatcher.heartbeat_period or old.dispatcher.heartbeat_period
        ),
        ca_config=_merged_ca_config(old.ca_config, new.ca_config),
        encryption_config=new.encryption_config,
        task_defaults=new.task_defaults if new.task_defaults.log_driver else old.task_defaults,
    )


def _merged_ca_config(old: CAConfig, new: CAConfig) -> CAConfig:
    """Never with a root that was brought along: its key is a secret, and without it a repeated update would fail."""
    return CAConfig(
        node_cert_expiry=new.node_cert_expiry or old.node_cert_expiry,
        force_rotate=new.force_rotate or old.force_rotate,
    )


def _merged_orchestration(old: OrchestrationConfig, new: OrchestrationConfig) -> OrchestrationConfig:
    return old if new.task_history_retention_limit is None else new


def _merged_raft(old: RaftConfig, new: RaftConfig) -> RaftConfig:
    return RaftConfig(
        snapshot_interval=new.snapshot_interval or old.snapshot_interval,
        keep_old_snapshots=old.keep_old_snapshots if new.keep_old_snapshots is None else new.keep_old_snapshots,
        log_entries_for_slow_followers=new.log_entries_for_slow_followers or old.log_entries_for_slow_followers,
        election_tick=new.election_tick or old.election_tick,
        heartbeat_tick=new.heartbeat_tick or old.heartbeat_tick,
    )


@dataclass(frozen=True, slots=True)
class Fresh:
    """What to make anew."""

    worker_token: bool = False
    manager_token: bool = False
    unlock_key: bool = False

    @property
    def tokens(self) -> Sequence[Role]:
        """The roles of which the join tokens are to be made anew."""
        asked = ((Role.WORKER, self.worker_token), (Role.MANAGER, self.manager_token))
        return [role for role, is_asked in asked if is_asked]


NOTHING_FRESH: Final = Fresh()


def is_locking(spec: SwarmSpec) -> bool:
    return spec.encryption_config.auto_lock_managers


class ClusterSettings:
    """Operations on the cluster object."""

    def __init__(
        self, writes: Writes, sealer: Sealer, min_certificate_life: Nanoseconds = MIN_CERTIFICATE_LIFE
    ) -> None:
        self._writes = writes
        self._sealer = sealer
        self._min_certificate_life = min_certificate_life

    async def update(self, version: int, spec: SwarmSpec, fresh: Fresh = NOTHING_FRESH) -> Cluster:
        """Change settings of the cluster as of `version`, and make new tokens and keys; members do not feel those.

        Another root, where one is asked for, is followed by the nodes from then on; see `core.trust`.
        """

        def operation(view: View) -> list[Change]:
            old = the_cluster(view)
            self._writes.revisions.check("cluster", old, version)
            merged = merged_spec(old.spec, spec, self._min_certificate_life)
            unlock_key = self._unlock_key(old, is_fresh=fresh.unlock_key) if is_locking(merged) else None
            changed = msgspec.structs.replace(
                old, spec=merged, authority=self._authority(old, spec.ca_config), unlock_key=unlock_key
            )
            for role in fresh.tokens:
                changed = self._with_token(changed, role, None)
            return [Put(changed)]

        await self._writes.transact(operation)
        return the_cluster(self._writes.view)

    def shown_unlock_key(self) -> str:
        """What unlocks a manager, as users see it; empty while managers are not locked."""
        sealed = the_cluster(self._writes.view).unlock_key
        return self._sealer.open(sealed, UNLOCK_PURPOSE).decode() if sealed is not None else ""

    def _unlock_key(self, old: Cluster, *, is_fresh: bool) -> Sealed:
        if old.unlock_key is not None and not is_fresh:
            return old.unlock_key
        return self._sealer.seal(new_unlock_key(self._writes.random_bytes).encode(), UNLOCK_PURPOSE)

    async def renew_token(self, role: Role, *, expiry: Nanoseconds = 0, uses: int = 0) -> Cluster:
        """Replace a role's join token by one that is good for so long and for so many nodes; 0 for no limit.

        Raises:
            InvalidSpec: A limit is negative, or beyond all bounds.
        """
        if not 0 <= expiry <= LONGEST_TOKEN_LIFE or not 0 <= uses <= MOST_TOKEN_USES:
            raise InvalidSpec(
                f"a join token lives up to {format_duration(LONGEST_TOKEN_LIFE)} and lets in up to {MOST_TOKEN_USES} "
                "nodes; choose smaller limits, or leave them out for a token without"
            )
        ends_at = self._writes.clock.now() + expiry if expiry else 0
        limit = TokenLimit(ends_at=ends_at, uses_left=uses or None) if expiry or uses else None
        await self._writes.transact(lambda view: [Put(self._with_token(the_cluster(view), role, limit))])
        return the_cluster(self._writes.view)

    def _authority(self, old: Cluster, wanted: CAConfig) -> Authority | None:
        if old.authority is None:
            return None
        n_forced = old.spec.ca_config.force_rotate
        return authority.changed(old.authority, wanted, n_forced, self._sealer, self._writes.clock.now())

    def _with_token(self, cluster: Cluster, role: Role, limit: TokenLimit | None) -> Cluster:
        if cluster.authority is None:
            raise Unavailable("the swarm's certificate authority is not set up; join tokens cannot be made")
        token = str(new_token(cluster.authority.certificate_pem, self._writes.random_bytes))
        return msgspec.structs.replace(
            cluster,
            join_tokens=msgspec.structs.replace(cluster.join_tokens, **{role.value: token}),
            token_limits=msgspec.structs.replace(cluster.token_limits, **{role.value: limit}),
        )
