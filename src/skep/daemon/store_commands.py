"""`skep cluster store sqlite`: moves a stopped manager's state from etcd back to a file.

Edge: files, the etcd member for as long as it takes.
"""

import asyncio
from pathlib import Path

from skep.daemon import membership as memberships
from skep.daemon.config import DaemonConfig, ExternalEtcd
from skep.daemon.membership import Membership, MembershipDamaged
from skep.daemon.store_switch import StoreSwitch
from skep.daemon.stores import StorePlaces
from skep.edge import keyfile
from skep.edge.clock import SystemDice
from skep.edge.etcd.settings import CLIENT_PORT
from skep.edge.instance import InstanceLock, InstanceRunning
from skep.edge.keyfile import KeyFileError
from skep.model.errors import Conflict, NotManager, SkepError, Unavailable
from skep.model.node import Role
from skep.ports.store import StoreError

FAILURES = (InstanceRunning, MembershipDamaged, KeyFileError, StoreError, OSError)


def to_sqlite(
    data_dir: Path, run_dir: Path, client_port: int = CLIENT_PORT, external: ExternalEtcd | None = None
) -> str:
    """Move the state of the manager in a data directory to a file.

    Args:
        client_port: On which its etcd member serves this machine.
        external: The etcd that its state is in, if not one of the managers' own.
    Returns:
        What was done, in one sentence.
    Raises:
        SkepError: It was not; everything is as before, and doing it again resumes.
    """
    config = DaemonConfig(data_dir=data_dir, run_dir=run_dir)
    try:
        if not config.swarm_dir.is_dir():
            raise NotManager(f"there is no member of a swarm in {data_dir}; name its place with --data-dir")
        with InstanceLock(data_dir):
            member = memberships.load(config.swarm_dir)
            _check(member)
            credentials = keyfile.load_credentials(config.swarm_dir)
            if member is None or credentials is None:
                raise Unavailable(f"the certificate in {config.swarm_dir} is gone; restore it first")
            was_in_etcd = member.etcd is not None or member.is_external
            places = StorePlaces(config.swarm_dir, config.run_dir / "etcd", client_port=client_port, external=external)
            switch = StoreSwitch(places, lambda: credentials, SystemDice().fraction)
            asyncio.run(switch.to_sqlite(member))
    except SkepError:
        raise
    except FAILURES as error:
        raise Unavailable(f"the state was not moved: {error}") from error
    if not was_in_etcd:
        return f"The state is in {places.store_file} already."
    return f"The state is in {places.store_file} now, every object checked. Start skepd again."


def _check(member: Membership | None) -> None:
    """Raises: NotManager, Conflict: this node has no state to move."""
    if member is None or member.role != Role.MANAGER:
        raise NotManager("this node is no manager, so it keeps no state; run this on the manager")
    if member.is_entering or member.is_leaving:
        raise Conflict("this node is on its way into or out of the managers; start skepd and let it finish first")
