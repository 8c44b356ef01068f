"""Round after round a manager falls, the leader as often as not, while the swarm is written to and serves requests.

After each round every acknowledged write is on every manager, once; no container was started anew; no request through
the mesh was lost but on a node that was cut off. How soon the next leader decides is measured from the fault to the
first task of a service that was made after it.
"""

import json
import os
import random
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.bench.figure import percentile
from tests.e2e import manager_faults, programs
from tests.e2e.conftest import Lab, make_lab, serve_who, under_load, wait_until, who_urls
from tests.e2e.load import Request
from tests.e2e.managers import LIMIT_S, Managers, tasks_path

from skep.lab.layout import NodeLayout

N_ROUNDS = int(os.environ.get("SKEP_MANAGER_ROUNDS", "40"))
WRITES_PER_S = float(os.environ.get("SKEP_MANAGER_WRITES", "200"))
FAULTS = os.environ.get("SKEP_MANAGER_FAULTS", ",".join(manager_faults.KINDS)).split(",")
SEED = int(os.environ.get("SKEP_MANAGER_SEED", "1"))
N_MANAGERS, N_NODES = 3, 5
MESH_PER_S = 10.0
MESH_LIMIT_S = 60.0
"""What was lost stays so; a machine that is busy with three managers, their etcd and their users answers late."""
DECIDES_S = {"kill": 3.0, "freeze": 5.0, "cut": 5.0}
"""Within so long the next leader decides, in 99 of 100 rounds in which the leader fell."""
MAX_TOLD = 50
AMID_S = 0.5
REROUTED_S = 3.0
"""After a link is healed, requests that were sent into it may still be waiting for their retransmission."""

pytestmark = [pytest.mark.e2e, pytest.mark.kernel, pytest.mark.soak]


@dataclass
class Round:
    """One fault. Times are of the mesh load's clock. Attributes: decided_s: from the fault to the next decision."""

    number: int
    kind: str
    victim: str
    was_leader: bool
    began_s: float = 0.0
    healed_s: float = 0.0
    decided_s: float = 0.0
    settled_s: float = 0.0
    findings: dict[str, Any] = field(default_factory=dict)

    def excuses(self, request: Request, underlay: str) -> bool:
        """Whether a request was lost on the node that was cut off."""
        window = self.began_s - AMID_S <= request.began_s <= self.healed_s + REROUTED_S
        return self.kind == "cut" and request.host == underlay and window

    def __str__(self) -> str:
        who = f"{self.victim}{' (leader)' if self.was_leader else ''}"
        found = self.findings
        return (
            f"round {self.number}: {self.kind} {who}: decided after {self.decided_s:.2f} s, "
            f"whole after {self.settled_s:.1f} s; writes: {found['acknowledged']} acknowledged, "
            f"{found['refused']} refused, {found['unknown']} broken off, {found['held_back']} held back; "
            f"refusals: {[text[:60] for text in found['refusals']]}"
        )


class Writes:
    """The process of `tests.e2e.api_load`."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def look(self, managers: list[NodeLayout]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"sockets": [str(node.socket) for node in managers]}) + "\n")
        self._process.stdin.flush()
        found: dict[str, Any] = json.loads(self.line())
        return found

    def line(self) -> str:
        assert self._process.stdout is not None
        assert select.select([self._process.stdout], [], [], 3 * LIMIT_S)[0], "the load says nothing"
        return self._process.stdout.readline()


@contextmanager
def writing(managers: list[NodeLayout]) -> Iterator[Writes]:
    line = [sys.executable, "-m", "tests.e2e.api_load", str(WRITES_PER_S), *(str(node.socket) for node in managers)]
    repository = Path(__file__).parents[2]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=repository) as process:
        try:
            writes = Writes(process)
            assert writes.line() == "started\n"
            yield writes
        finally:
            process.kill()


@dataclass
class Trial:
    """The lab and what is asked of it."""

    lab: Lab
    dice: random.Random

    @property
    def managers(self) -> Managers:
        return Managers(self.lab)

    def running(self) -> dict[str, tuple[str, str]]:
        """By task, its container and when it was started there."""
        found: dict[str, tuple[str, str]] = {}
        for task in self.lab.api("GET", tasks_path(**{"desired-state": "running"})):
            status = task["Status"]
            if status["State"] == "running":
                found[task["ID"]] = (status["ContainerStatus"]["ContainerID"], str(status["ContainerStatus"]["PID"]))
        return found

    def run(self, number: int, writes: Writes, at_s: Any) -> Round:
        managers = self.managers
        leader = managers.leader()
        others = [node for node in managers.nodes if node.name != leader.name]
        victim = leader if self.dice.random() < 0.5 else self.dice.choice(others)
        kind = self.dice.choice(FAULTS)
        round_ = Round(number, kind, victim.name, victim.name == leader.name)
        rest = [node for node in managers.nodes if node.name != victim.name]
        length_s = self.dice.uniform(2, 4)
        round_.began_s = at_s()
        print(f"{kind} {victim.name} at {time.strftime('%H:%M:%S', time.gmtime())}", flush=True)
        began = time.monotonic()
        manager_faults.strike(self.lab.layout, victim, kind)
        try:
            managers.wait_decision(f"probe{number}", rest)
            round_.decided_s = time.monotonic() - began
            if kind != "kill":
                time.sleep(max(0.0, began + length_s - time.monotonic()))
        finally:
            manager_faults.heal(self.lab.layout, victim, kind)
        round_.healed_s = at_s()
        managers.wait_whole()
        round_.settled_s = time.monotonic() - began
        managers.remove(f"probe{number}", rest[0])
        round_.findings = writes.look(managers.nodes)
        return round_


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    for lab in make_lab(tmp_path / "l", node_count=N_NODES, manager_count=N_MANAGERS):
        # What requests ask for runs on workers: on a manager that is cut off they would be lost by right.
        serve_who(lab, "--constraint", "node.role==worker", replicas=4)
        options, command = programs.process_words(lab.layout.root)
        lab.docker(
            *("service", "create", "--quiet", "--no-resolve-image", "--name", "everywhere", "--mode", "global"),
            *(*options, programs.NAME, *command),
        )
        yield lab


@pytest.mark.timeout(300 + 45 * N_ROUNDS)
def test_managers_fall_and_nothing_is_lost(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKEP_LOAD_TIMEOUT_S", str(MESH_LIMIT_S))
    trial = Trial(lab, random.Random(SEED))
    wait_until(lambda: len(trial.running()) == 4 + N_NODES, "not everything runs", LIMIT_S)
    before = trial.running()
    rounds: list[Round] = []
    with under_load(lab, 3600 * 6, MESH_PER_S, *who_urls(lab)) as mesh, writing(trial.managers.nodes) as writes:
        began = time.monotonic()
        for number in range(N_ROUNDS):
            time.sleep(trial.dice.uniform(0, 1))
            rounds.append(trial.run(number, writes, lambda: mesh.at_s))
            print(rounds[-1], flush=True)
            _check(rounds[-1], before, trial.running())
        length_s = time.monotonic() - began
        recording = mesh.end()
    places = {node.name: node.underlay for node in lab.nodes}
    through = [r for r in recording.requests if not any(each.excuses(r, places[each.victim]) for each in rounds)]
    lost = [request for request in through if request.error]
    n_cut = len(recording.requests) - len(through)
    print(f"mesh: {len(recording.requests)} requests, {n_cut} of them to nodes cut off, {len(lost)} of the others lost")
    taken = [request.took_s for request in through]
    print(
        f"  one of the others takes {percentile(taken, 0.5) * 1000:.0f} ms (p50), {percentile(taken, 0.99):.2f} s (p99)"
    )
    _tell(rounds, length_s)
    for request in lost[:MAX_TOLD]:
        print(_about(request, rounds))
    assert not lost, f"{len(lost)} requests were lost"
    for kind, limit_s in DECIDES_S.items():
        times = [each.decided_s for each in rounds if each.kind == kind and each.was_leader]
        assert not times or percentile(times, 0.99) <= limit_s, f"{kind}: {sorted(times)[-5:]}"


def _about(request: Request, rounds: list[Round]) -> str:
    """A lost request and the fault before it."""
    earlier = [each for each in rounds if each.began_s <= request.began_s] or rounds[:1]
    where = f"{request.host} {'kept' if request.is_kept else 'new'} at {request.began_s:.1f} s: {request.error}"
    return f"{where}, {request.began_s - earlier[-1].began_s:.2f} s after {str(earlier[-1])[:60]}"


def _check(round_: Round, before: dict[str, tuple[str, str]], now: dict[str, tuple[str, str]]) -> None:
    found = round_.findings
    assert not found["lost"], found["lost"][:5]
    assert not found["twice"], found["twice"][:5]
    assert not found["unwanted"], found["unwanted"][:5]
    assert now == before, "a container was started anew"


def _tell(rounds: list[Round], length_s: float) -> None:
    acknowledged = sum(each.findings["acknowledged"] for each in rounds)
    latencies = [taken for each in rounds for taken in each.findings["latencies_s"]]
    print(
        f"{len(rounds)} rounds in {length_s:.0f} s; "
        f"{acknowledged} acknowledged writes are all there, {acknowledged / length_s:.0f}/s"
    )
    print(
        f"  a write takes {percentile(latencies, 0.5) * 1000:.0f} ms (p50), {percentile(latencies, 0.99):.2f} s (p99)"
    )
    for kind in manager_faults.KINDS:
        for was_leader in (True, False):
            times = [each.decided_s for each in rounds if (each.kind, each.was_leader) == (kind, was_leader)]
            if times:
                who = "the leader" if was_leader else "another manager"
                print(
                    f"  {kind} {who}: next decision p50 {percentile(times, 0.5):.2f} s, "
                    f"p99 {percentile(times, 0.99):.2f} s, worst {max(times):.2f} s of {len(times)}"
                )
