"""What a node remembers of being in a swarm, in one small file written whole.

Edge: one file, and the directory it lies in, which comes and goes as a whole.
"""

import os
from pathlib import Path

import msgspec

from skep.model.base import Record
from skep.model.codec import MALFORMED
from skep.model.node import Role
from skep.model.session import ManagerAddress


class MembershipDamaged(Exception):
    """The file is there but cannot be read; the text says what to do."""


class EtcdPlace(Record, frozen=True, kw_only=True):
    """A manager's own etcd member, as it was first started: the same words find it again.

    Attributes:
        peer_url: Where the other members reach it.
        initial: Peer URLs by node id, this one's included, as of its first start.
    """

    peer_url: str
    initial: dict[str, str]
    is_joining: bool = False


class Membership(Record, frozen=True, kw_only=True):
    """A node's place in its swarm.

    Attributes:
        control_addr: host:port other nodes reach this node's control listener at, while it is a manager.
        listen_addr: host:port that listener is bound to.
        underlay: Address other nodes send VXLAN to.
        managers: Where managers were last known to be.
        etcd: A manager's own member, where the managers keep the swarm's state in etcd; None for SQLite.
        is_external: The state is in an etcd that is not the managers' own, which the daemon is told of each time.
        base: What the store's revisions begin at, because another one held the state before; see `edge.rebase`.
        is_entering: A manager that the others have not let in yet: it holds no state.
        is_leaving: It was told to leave and has not finished stopping its tasks.
    """

    cluster_id: str
    node_id: str
    role: Role
    underlay: str
    control_addr: str = ""
    listen_addr: str = ""
    data_path_port: int = 4789
    managers: list[ManagerAddress] = []
    etcd: EtcdPlace | None = None
    is_external: bool = False
    base: int = 0
    is_entering: bool = False
    is_leaving: bool = False


def promoted(member: Membership, listen_addr: str) -> Membership:
    """A worker's membership once its certificate is a manager's; the others have still to let it in.

    Args:
        listen_addr: Where it listens if it was never told; others reach it at its underlay then.
    """
    port = listen_addr.rpartition(":")[2]
    return msgspec.structs.replace(
        member,
        role=Role.MANAGER,
        control_addr=member.control_addr or f"{member.underlay}:{port}",
        listen_addr=member.listen_addr or listen_addr,
        is_entering=True,
    )


def demoted(member: Membership) -> Membership:
    """A manager's membership once its certificate is a worker's."""
    return msgspec.structs.replace(member, role=Role.WORKER, etcd=None, is_external=False, base=0, is_entering=False)


def membership_file(swarm_dir: Path) -> Path:
    return swarm_dir / "membership.json"


def load(swarm_dir: Path) -> Membership | None:
    """What the node remembers; None if it is in no swarm.

    Raises:
        MembershipDamaged: The file is not what was written.
    """
    path = membership_file(swarm_dir)
    try:
        return msgspec.json.decode(path.read_bytes(), type=Membership)
    except FileNotFoundError:
        return None
    except (OSError, *MALFORMED) as error:
        raise MembershipDamaged(
            f"{path} cannot be read ({error}); restore it from a backup, or remove {swarm_dir} and join again"
        ) from error


def save(swarm_dir: Path, membership: Membership) -> None:
    """Write durably: after this a power cut finds either the old text or the new."""
    path = membership_file(swarm_dir)
    fresh = path.with_suffix(".new")
    with fresh.open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(membership)))
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)
    _sync(swarm_dir)


def move(source: Path, target: Path) -> None:
    """Move a directory durably, replacing nothing."""
    _sync(source)
    source.rename(target)
    _sync(target.parent)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
