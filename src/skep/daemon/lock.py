"""Keeps a manager's data key as the swarm's setting says: as it is, or under the unlock key only.

Edge: the key file. Called at start and after every change of the cluster object, and the same again whenever it is
called, so a daemon that was killed between the swarm's change and the file's catches up at its next start.
"""

from pathlib import Path

import structlog

from skep.edge import keyfile
from skep.edge.keyfile import WrongUnlockKey
from skep.manager.control.cluster import UNLOCK_PURPOSE
from skep.manager.seal import Seal
from skep.model.cluster import Cluster
from skep.store.changes import Batch

log = structlog.get_logger(__name__)


class KeyLock:
    """Of one manager."""

    def __init__(self, swarm_dir: Path, secret: bytes, seal: Seal) -> None:
        self._swarm_dir = swarm_dir
        self._secret = secret
        self._seal = seal

    def observe(self, batch: Batch) -> None:
        """Take in a committed batch: give it to `Replica.observers`."""
        for event in batch.events:
            if isinstance(event.new, Cluster):
                self.follow(event.new)

    def follow(self, cluster: Cluster) -> None:
        """Have the key file as the cluster wants it; a disk that refuses is tried again at the next change."""
        try:
            if cluster.unlock_key is None:
                if not keyfile.has_data_key(self._swarm_dir):
                    keyfile.save_data_key(self._swarm_dir, self._secret)
                return
            unlock_key = self._seal.open(cluster.unlock_key, UNLOCK_PURPOSE).decode()
            if not self._is_under(unlock_key):
                keyfile.lock_data_key(self._swarm_dir, self._secret, unlock_key)
        except OSError as error:
            log.error("the data key cannot be kept as the swarm wants it", reason=str(error))

    def _is_under(self, unlock_key: str) -> bool:
        if not keyfile.is_locked(self._swarm_dir):
            return False
        try:
            return keyfile.unlock_data_key(self._swarm_dir, unlock_key) == self._secret
        except WrongUnlockKey:
            return False  # It is under an older one.
