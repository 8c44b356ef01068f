"""Managers as processes on three members of etcd, killed and frozen with their members: what the next one finds."""

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest
from tests.bench.figure import percentile
from tests.etcd_manager import BY, CLUSTER, number_of
from tests.etcd_members import BRISK, Members, running
from tests.factories import a_service

from skep.edge.clock import SystemClock
from skep.edge.etcd.election import EtcdCandidate
from skep.edge.etcd.settings import Timing
from skep.edge.etcd.store import EtcdStore
from skep.manager.replica import Replica
from skep.model.errors import NoQuorum
from skep.model.service import Service
from skep.ports.store import StoreUnavailable
from skep.store.changes import Batch, Put

pytestmark = [pytest.mark.anyio, pytest.mark.soak, pytest.mark.timeout(900)]

N_ROUNDS = int(os.environ.get("SKEP_SOAK_ROUNDS", "12"))
LIMIT_S = 90
ROOT = Path(__file__).parents[2]


@dataclass
class Witness:
    """What everyone can see, as it happens. Attributes: numbered: (time, number, by whom)."""

    numbered: list[tuple[float, int, str]] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    acked: set[str] = field(default_factory=set)
    is_over: bool = False

    def observe(self, batch: Batch) -> None:
        for event in batch.events:
            if not isinstance(event.new, Service) or not (number := number_of(event.new)):
                continue
            if isinstance(event.old, Service) and number_of(event.old):
                self.complaints.append(f"{event.id} was numbered twice")
            self.numbered.append((asyncio.get_running_loop().time(), number, (event.new.spec.labels or {})[BY]))

    def check(self, replica: Replica) -> None:
        """Nothing acknowledged is lost, no number given twice, no leader decided amid another's term."""
        assert self.complaints == []
        services = list(replica.view.services.values())
        assert self.acked <= {service.id for service in services}
        numbers = [number_of(service) for service in services]
        assert 0 not in numbers
        assert len(set(numbers)) == len(numbers)
        terms = [by for _, _, by in self.numbered]
        changes = [by for n, by in enumerate(terms) if n == 0 or by != terms[n - 1]]
        assert len(set(changes)) == len(changes), f"a leader decided again after another had: {changes}"


@dataclass
class Crew:
    """Three managers, each with its own member first."""

    members: Members
    processes: dict[int, asyncio.subprocess.Process] = field(default_factory=dict)

    async def launch(self, n: int) -> None:
        target = self.members.target(n, (n + 1) % 3, (n + 2) % 3)
        settings = {
            "name": f"m{n}",
            "endpoints": list(target.endpoints),
            "patience": asdict(BRISK),
            "credentials": {
                part: getattr(self.members.credentials[n], part) for part in ("certificate", "key", "root")
            },
        }
        process = await asyncio.create_subprocess_exec(
            *("setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "tests.etcd_manager"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"},
        )
        self.processes[n] = process
        assert process.stdin is not None
        process.stdin.write(json.dumps(settings).encode() + b"\n")
        await process.stdin.drain()

    async def kill(self, n: int) -> None:
        process = self.processes.pop(n)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _create(replica: Replica, witness: Witness) -> None:
    """A user who creates services all the time, and notes which were acknowledged."""
    n = 0
    while not witness.is_over:
        n += 1
        id = f"s{n:05}"
        with contextlib.suppress(NoQuorum):
            await replica.commit([Put(a_service(id))])
            witness.acked.add(id)
        await asyncio.sleep(0.03)


@contextlib.asynccontextmanager
async def observed(members: Members, witness: Witness) -> AsyncIterator[tuple[Replica, EtcdCandidate]]:
    """A copy of the state as a user's manager has it, and someone who knows who leads."""
    target = members.target(0, 1, 2, patience=BRISK)
    store = await EtcdStore.open(target, CLUSTER, "user")
    replica = Replica(store, SystemClock())
    await replica.open()
    replica.observers.append(witness.observe)
    asker = EtcdCandidate(target, CLUSTER, "nobody", fraction=random.random)
    creating = asyncio.ensure_future(_create(replica, witness))
    try:
        yield replica, asker
    finally:
        creating.cancel()
        await asyncio.gather(creating, return_exceptions=True)
        await asker.close()
        await replica.close()
        await store.close()


async def _leader(asker: EtcdCandidate) -> int:
    async with asyncio.timeout(LIMIT_S):
        while True:
            with contextlib.suppress(StoreUnavailable):
                if (leader := await asker.leader()) is not None:
                    return int(leader.node_id.removeprefix("m"))
            await asyncio.sleep(0.05)


async def _wait_decided(witness: Witness, since: float, not_by: str) -> float:
    """When somebody else first decided after a moment."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            for at, _, by in reversed(witness.numbered):
                if at < since:
                    break
                if not by.startswith(not_by):
                    first = next(at for at, _, by in witness.numbered if at >= since and not by.startswith(not_by))
                    return first - since
            await asyncio.sleep(0.01)


async def _strike(crew: Crew, witness: Witness, n: int, how: str) -> float:
    """Take the leader out, with its member or without; how long nobody decided."""
    since = asyncio.get_running_loop().time()
    process = crew.processes[n]
    if how == "frozen":
        process.send_signal(signal.SIGSTOP)
        took_s = await _wait_decided(witness, since, f"m{n} ")
        process.send_signal(signal.SIGCONT)  # Wakes up as a leader who does not know.
        return took_s
    if how == "killed with its member":
        crew.members.kill(n)
    await crew.kill(n)
    took_s = await _wait_decided(witness, since, f"m{n} ")
    if how == "killed with its member":
        crew.members.launch(n)
    await crew.launch(n)
    return took_s


async def test_leader_changes_lose_nothing_and_give_nothing_twice(tmp_path: Path) -> None:
    dice = random.Random(7)
    took: dict[str, list[float]] = {"killed": [], "killed with its member": [], "frozen": []}
    witness = Witness()
    with running(tmp_path, 3, timing=Timing()) as members:
        crew = Crew(members)
        try:
            for n in range(3):
                await crew.launch(n)
            async with observed(members, witness) as (replica, asker):
                await _wait_decided(witness, 0, "nobody")
                for number in range(N_ROUNDS):
                    how = list(took)[number % 3]
                    took[how].append(await _strike(crew, witness, await _leader(asker), how))
                    await asyncio.sleep(dice.uniform(1, 3))
                witness.is_over = True
                await _settle(replica)
                witness.check(replica)
        finally:
            for n in list(crew.processes):
                await crew.kill(n)
    print(f"\n{len(witness.acked)} acknowledged; seconds until the next leader decided:")
    for how, times in took.items():
        print(f"  {how}: p50 {percentile(times, 0.5):.2f}, worst {max(times):.2f} of {len(times)}")


async def _settle(replica: Replica) -> None:
    """Wait until every service has its number."""
    async with asyncio.timeout(LIMIT_S):
        await asyncio.sleep(2 * BRISK.commit_s)  # What is under way is known by then.
        while not all(number_of(service) for service in replica.view.services.values()):  # noqa: ASYNC110 — all of them
            await asyncio.sleep(0.1)
