"""A backup of the swarm while it serves.

Edge: asyncio, the replica, a thread for the slow key. What is saved is the view at one revision, so it is the same on
every store and needs no quorum. Objects do not change once they are made: keeping them costs nothing while the file is
written as fast as its reader takes it.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import msgspec

import skep
from skep.lib.durations import MINUTE
from skep.manager import backup as backups
from skep.manager.control.find import the_cluster
from skep.manager.control.writes import Writes
from skep.manager.replica import Replica
from skep.model.backup import Head, check_new_pass_phrase
from skep.model.base import Nanoseconds
from skep.model.errors import InvalidSpec
from skep.ports.clock import Clock
from skep.store.changes import Change, Put
from skep.store.state import View

AHEAD: Final = 5 * MINUTE
"""So much may the clock of whoever saved be ahead of ours."""


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


async def note(writes: Writes, at: Nanoseconds) -> None:
    """Note that a backup of a moment is in its place, so that users can be told how old the newest one is.

    Raises:
        InvalidSpec: No state is of that moment.
    """
    if not 0 < at <= writes.clock.now() + AHEAD:
        raise InvalidSpec("a backup's moment must lie in the past; is the clock of this machine right?")

    def operation(view: View) -> list[Change]:
        cluster = the_cluster(view)
        return [Put(msgspec.structs.replace(cluster, backed_up_at=at))] if at > cluster.backed_up_at else []

    await writes.transact(operation)
