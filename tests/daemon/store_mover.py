"""One manager's move between stores as a process of its own, so that a test can end it anywhere.

Started with its settings as one line of JSON on stdin. It writes while the state moves to etcd, and says on stdout what
was acknowledged.
"""

import asyncio
import json
import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.factories import a_node

from skep.daemon import membership as memberships
from skep.daemon import stores
from skep.daemon.config import external_etcd
from skep.daemon.store_switch import StoreSwitch
from skep.daemon.stores import StorePlaces
from skep.edge import keyfile
from skep.edge.clock import SystemClock
from skep.edge.etcd.settings import CERTIFICATE, KEY, ROOT
from skep.manager.replica import Replica
from skep.model.errors import OutOfDate
from skep.model.identity import Credentials
from skep.store.changes import Put

KILLED = 9
ATTEMPTS = 5


def places_of(directory: Path, client_port: int, endpoints: Sequence[str] = ()) -> StorePlaces:
    """Args: endpoints: of an external etcd, whose certificates lie in the directory."""
    files = [directory / name for name in (ROOT, CERTIFICATE, KEY)]
    external = external_etcd(endpoints, *files) if endpoints else None
    return StorePlaces(directory / "swarm", directory / "run" / "etcd", client_port=client_port, external=external)


def credentials_of(directory: Path) -> Credentials:
    held = keyfile.load_credentials(directory / "swarm")
    assert held is not None
    return held


async def move(places: StorePlaces, peer_url: str, kill_at: str) -> None:
    """Move to the other kind of store than the state is in, and end at a step."""
    directory = places.swarm_dir.parent
    held = credentials_of(directory)
    member = memberships.load(places.swarm_dir)
    assert member is not None

    def reached(step: str) -> None:
        print(f"reached {step}", flush=True)
        if step == kill_at:
            os._exit(KILLED)

    switch = StoreSwitch(places, lambda: held, random.random, reached)
    if member.etcd is not None or member.is_external:
        await switch.to_sqlite(member)
        return
    opened = await stores.open_store(places, member, lambda: held, random.random)
    replica = Replica(opened.store, SystemClock())
    await replica.open()
    writing = asyncio.ensure_future(_write(replica))
    if places.external is None:
        _, opened = await switch.to_etcd(member, opened, replica, peer_url)
    else:
        _, opened = await switch.to_external(member, opened, replica)
    await _write_one(replica, f"{os.getpid()}-last")
    writing.cancel()
    await replica.close()
    await opened.close()


async def _write(replica: Replica) -> None:
    n = 0
    while True:
        await _write_one(replica, f"{os.getpid()}-{n}")
        n += 1
        await asyncio.sleep(0.005)


async def _write_one(replica: Replica, id: str) -> None:
    for _ in range(ATTEMPTS):
        try:
            await replica.commit([Put(a_node(id))])
            break
        except OutOfDate:
            pass  # The store was changed under it: worked out anew, as by everyone who writes.
    else:
        raise AssertionError(f"{id} cannot be written")
    print(f"acknowledged {id}", flush=True)


if __name__ == "__main__":
    settings = json.loads(sys.stdin.readline())
    where = places_of(Path(settings["directory"]), settings["client_port"], settings["endpoints"])
    asyncio.run(move(where, settings["peer_url"], settings["kill_at"]))
