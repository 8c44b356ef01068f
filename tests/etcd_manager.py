"""One manager's decisions as a process of its own, so that a test can kill it: gives each service a number of its own.

Started with its settings as one line of JSON on stdin. Numbers in use are counted from this manager's copy of the state
when it begins to lead, as addresses and ports are.
"""

import asyncio
import json
import random
import sys
from collections.abc import Callable

import msgspec

from skep.core.plan import NOTHING, Dirty, Plan
from skep.edge.clock import SystemClock
from skep.edge.etcd.election import EtcdCandidate
from skep.edge.etcd.gateway import Patience, Target
from skep.edge.etcd.store import EtcdStore
from skep.edge.tls_context import client_context
from skep.manager.loop import DecisionLoop
from skep.manager.reign import Reign
from skep.manager.replica import Replica
from skep.model.base import Nanoseconds
from skep.model.identity import MANAGER_NAME, Credentials
from skep.model.service import Service
from skep.store.changes import Put
from skep.store.state import View

CLUSTER = "numbers"
NUMBER, BY = "number", "by"


def numbered(service: Service, number: int, by: str) -> Service:
    labels = {**(service.spec.labels or {}), NUMBER: str(number), BY: by}
    return msgspec.structs.replace(service, spec=msgspec.structs.replace(service.spec, labels=labels))


def number_of(service: Service) -> int:
    """Its number; 0 before it has one."""
    return int((service.spec.labels or {}).get(NUMBER, 0))


def numbering(view: View, by: Callable[[], str]) -> Callable[[View, Dirty, Nanoseconds], Plan]:
    """A decision that numbers services upwards from what `view` holds now."""
    last = max((number_of(service) for service in view.services.values()), default=0)

    def decide(view: View, dirty: Dirty, now: Nanoseconds, /) -> Plan:
        nonlocal last
        changes = []
        for id in sorted(dirty.services):
            service = view.services.get(id)
            if service is not None and not number_of(service):
                last += 1
                changes.append(Put(numbered(service, last, by())))
        return Plan(tuple(changes)) if changes else NOTHING

    return decide


async def main() -> None:
    settings = json.loads(sys.stdin.readline())
    held = Credentials(**settings["credentials"])
    context = client_context(held.root, held)
    patience = Patience(**settings["patience"])
    target = Target(settings["endpoints"], lambda: context, MANAGER_NAME, patience)
    name = settings["name"]
    store = await EtcdStore.open(target, CLUSTER, name)
    replica = Replica(store, SystemClock())
    await replica.open()
    candidate = EtcdCandidate(target, CLUSTER, name, fraction=random.random)

    async def decide(lease: str) -> None:
        decision = numbering(replica.view, lambda: f"{name} {lease}")
        await DecisionLoop(replica, SystemClock(), [decision]).run(lease)

    print("ready", flush=True)
    await Reign(candidate, replica, decide).run()


if __name__ == "__main__":
    asyncio.run(main())
