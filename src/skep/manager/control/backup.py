"""A backup of the swarm while it serves.

Edge: asyncio, the replica, a thread for the slow key. What is saved is the view at one revision, so it is the same on
every store and needs no quorum. Objects do not change once they are made: keeping them costs nothing while the file is
written as fast as its reader takes it.
"""

import asyncio
from collections.abc import AsyncIterator

import skep
from skep.manager import backup as backups
from skep.manager.control.find import the_cluster
from skep.manager.replica import Replica
from skep.model.backup import Head, check_new_pass_phrase
from skep.ports.clock import Clock


class Backups:
    """Of one manager."""

    def __init__(self, replica: Replica, clock: Clock, node_id: str, data_key: bytes) -> None:
        """Prepare.

        Args:
            data_key: The cluster's: without it no secret in a backup could be read again.
        """
        self._replica = replica
        self._clock = clock
        self._node_id = node_id
        self._data_key = data_key

    async def save(self, pass_phrase: str) -> AsyncIterator[bytes]:
        """The whole backup, in pieces; the state is that of the moment in which the first is asked for.

        Raises:
            InvalidSpec: The pass phrase is no protection. NotManager: the state is not loaded yet.
        """
        check_new_pass_phrase(pass_phrase)
        view = self._replica.view
        scrypt = backups.new_scrypt()
        head = Head(
            cluster_id=the_cluster(view).id,
            node_id=self._node_id,
            revision=view.revision,
            created_at=self._clock.now(),
            skep=skep.__version__,
            scrypt=scrypt,
        )
        objects = [value for _, value in view.objects()]
        key = await asyncio.to_thread(backups.derive, pass_phrase, scrypt)
        for piece in backups.write(head, key, self._data_key, objects):
            yield piece
            await asyncio.sleep(0)  # Whoever reads at once must not keep the manager from its work.
