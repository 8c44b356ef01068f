"""A member's state made out of a backup, beside its place.

Edge: files, the store, the network to ask whether the swarm still lives. Everything is written into a directory of its
own, which counts for nothing until it is moved to its place: cut off anywhere, this machine is still in no swarm.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import structlog

from skep.agent.identity import accept_issued, new_key_request
from skep.api.backend import RestoreRequest
from skep.core import identity as certificates
from skep.core import recovery
from skep.core.recovery import Survivor
from skep.daemon import advertise
from skep.daemon.config import CONTROL_PORT, split_address
from skep.daemon.manager import Means
from skep.daemon.membership import Membership
from skep.daemon.stores import STORE_FILE
from skep.edge import addresses, keyfile
from skep.edge.control_client import HttpControlPort
from skep.edge.sqlite import SqliteStore
from skep.lib.ids import new_id
from skep.manager import backup as backups
from skep.manager.backup import BackupReader
from skep.manager.ca import CertificateAuthority
from skep.manager.replica import Replica
from skep.manager.seal import DataKey, Seal
from skep.model.backup import BackupDamaged, Head, SavedRow
from skep.model.base import Nanoseconds
from skep.model.cluster import Authority, Cluster
from skep.model.errors import Conflict, Unavailable
from skep.model.identity import Credentials, Identity
from skep.model.node import Node, Role
from skep.model.session import ManagerAddress
from skep.ports.store import Store, StoreError, Write, transactions
from skep.ports.transport import TransportError
from skep.store.changes import Put
from skep.store.state import View

log = structlog.get_logger(__name__)

FASTEST: Final[Nanoseconds] = 100_000
"""No swarm writes more often than every 0.1 ms: so far on revisions may be by now."""
LEAST_GAP: Final = 1_000_000
PROBE_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Restored:
    """Attributes: member: what the node is; credentials: its fresh certificate and key."""

    member: Membership
    credentials: Credentials


@dataclass(frozen=True, slots=True)
class Place:
    """This machine. Attributes: staging: an empty directory that is to become the member's."""

    staging: Path
    hostname: str
    means: Means


async def restore(place: Place, request: RestoreRequest, content: AsyncIterator[bytes]) -> Restored:
    """Fill the staging directory from a backup.

    Raises:
        InvalidSpec: The backup is damaged, or an address is not possible. Unauthenticated: the pass phrase is wrong.
        Unsupported: A newer Skep made it. Conflict: a manager of its swarm answers. Unavailable: the disk refuses.
    """
    try:
        return await _restore(place, request, content)
    except (StoreError, OSError) as error:
        raise Unavailable(f"the backup cannot be restored here: {error}") from error


async def _restore(place: Place, request: RestoreRequest, content: AsyncIterator[bytes]) -> Restored:
    reader = BackupReader()
    head = await _read_head(reader, content)
    key = await asyncio.to_thread(backups.derive, request.pass_phrase, head.scrypt)
    reader.unlock(key)
    begin_at = head.revision + max(place.means.clock.now() - head.created_at, 0) // FASTEST + LEAST_GAP
    store = await SqliteStore.open(place.staging / STORE_FILE, begin_at=begin_at)
    try:
        await _fill(store, reader, content)
        replica = Replica(store, place.means.clock)
        await replica.open()
        try:
            cluster = _cluster(replica.view)
            await replica.commit([Put(msgspec.structs.replace(cluster, backed_up_at=head.created_at))])
            return await _take_over(place, request, replica, _data_key(reader))
        finally:
            await replica.close()
    finally:
        await store.close()


async def _read_head(reader: BackupReader, content: AsyncIterator[bytes]) -> Head:
    async for piece in content:
        reader.feed(piece)
        if reader.head is not None:
            return reader.head
    reader.finish()
    raise BackupDamaged(backups.CUT_OFF)


async def _fill(store: Store, reader: BackupReader, content: AsyncIterator[bytes]) -> None:
    """Write every object as it was, and make sure that it was all."""
    await _write(store, list(reader.rows()))
    async for piece in content:
        reader.feed(piece)
        await _write(store, list(reader.rows()))
    reader.finish()


async def _write(store: Store, rows: Sequence[SavedRow]) -> None:
    writes = [Write(row.kind, row.id, row.value, 0) for row in rows]
    await asyncio.gather(*(store.commit(part) for part in transactions(writes)))  # The disk syncs once for all.


def _cluster(view: View) -> Cluster:
    if view.cluster is None:
        raise BackupDamaged("the backup holds no cluster; use another one")
    return view.cluster


def _data_key(reader: BackupReader) -> bytes:
    if reader.preface is None or len(reader.preface.data_key) != keyfile.DATA_KEY_BYTES:
        raise BackupDamaged("the backup holds no data key; use another one")
    return reader.preface.data_key


async def _take_over(place: Place, request: RestoreRequest, replica: Replica, secret: bytes) -> Restored:
    """Make this machine the one manager of the state."""
    cluster = _cluster(replica.view)
    if cluster.authority is None:
        raise BackupDamaged("the backup holds no certificate authority; use another one")
    member, known = _membership(place, request, replica.view, cluster)
    if not request.is_forced:
        await _refuse_living(replica.view, cluster.authority, member.control_addr)
    credentials = _certify(place, cluster, cluster.authority, secret, member)
    survivor = Survivor(
        node_id=member.node_id,
        hostname=place.hostname,
        underlay=member.underlay,
        control_addr=member.control_addr,
        certificate_serial=certificates.identity_of_pem(credentials.certificate).serial,
    )
    await replica.commit(recovery.sole_manager(replica.view, survivor))
    keyfile.save_data_key(place.staging, secret)
    log.info("a backup was restored", cluster=cluster.id, node=member.node_id, is_known=known)
    return Restored(member, credentials)


def _membership(place: Place, request: RestoreRequest, view: View, cluster: Cluster) -> tuple[Membership, bool]:
    """What this machine is from now on, and whether it was a manager of that swarm before."""
    listen_addr = advertise.listening(request.listen_addr)
    port = split_address(listen_addr, CONTROL_PORT)[1]
    own = {found.address for found in addresses.list_addresses()}
    managers = sorted(_managers(view), key=lambda node: (node.description.hostname != place.hostname, node.id))
    wanted = request.advertise_addr or next((_host(node) for node in managers if _host(node) in own), "")
    host, port = advertise.reachable(wanted, port)
    former = next(
        (node for node in managers if node.description.hostname == place.hostname and _host(node) == host), None
    )
    data_path = former.status.addr if former is not None and former.status.addr in own else ""
    node_id = former.id if former is not None else new_id(place.means.dice.bytes)
    member = Membership(
        cluster_id=cluster.id,
        node_id=node_id,
        role=Role.MANAGER,
        underlay=advertise.underlay(request.data_path_addr or data_path, host),
        control_addr=f"{host}:{port}",
        listen_addr=listen_addr,
        data_path_port=cluster.data_path_port,
        managers=[ManagerAddress(node_id=node_id, addr=f"{host}:{port}")],
    )
    return member, former is not None


def _managers(view: View) -> list[Node]:
    return [node for node in view.nodes.values() if node.manager_status is not None and node.manager_status.addr]


def _host(node: Node) -> str:
    return split_address(node.manager_status.addr, CONTROL_PORT)[0] if node.manager_status is not None else ""


async def _refuse_living(view: View, authority: Authority, own_addr: str) -> None:
    """Make sure that no manager of the swarm answers where the backup knows one.

    Raises:
        Conflict: One does.
    """

    async def lives(addr: str) -> bool:
        try:
            return (await HttpControlPort(PROBE_S).root(addr)).strip() == authority.certificate_pem.strip()
        except TransportError:
            return False

    others = [node.manager_status.addr for node in _managers(view) if node.manager_status is not None]
    asked = sorted(addr for addr in others if addr != own_addr)
    found = await asyncio.gather(*(lives(addr) for addr in asked))
    living = [addr for addr, is_living in zip(asked, found, strict=True) if is_living]
    if living:
        raise Conflict(
            f"the swarm of this backup still has a manager at {', '.join(living)}: two swarms would command the same "
            "nodes; join this machine to it instead, or stop skepd there and restore with --force"
        )


def _certify(place: Place, cluster: Cluster, authority: Authority, secret: bytes, member: Membership) -> Credentials:
    """A fresh certificate for this machine's part."""
    opened = CertificateAuthority.open(authority, Seal(DataKey.of(secret)))
    request = new_key_request()
    holder = Identity(node_id=member.node_id, role=Role.MANAGER, cluster_id=cluster.id)
    address = split_address(member.control_addr, CONTROL_PORT)[0]
    lifetime = cluster.spec.ca_config.node_cert_expiry
    now = place.means.clock.now()
    return accept_issued(request, opened.issue(request.csr, holder, now=now, lifetime=lifetime, address=address))
