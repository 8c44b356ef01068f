"""What it takes when managers fall: the next leader's first decision, and 200 agents back after all were killed.

Edge: a lab of process nodes. The agents are simulated, their sessions are not: they join with the token, each with a
certificate of its own, from one process in the lab's client namespace. All managers' daemons are killed at one moment
and started again by their nodes; the time is from the kill to the last agent's welcome, the daemons' start included.
"""

import json
import os
import select
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.bench.figure import Bound, Figure
from tests.bench.labs import a_lab
from tests.e2e import manager_faults
from tests.e2e.conftest import Lab, wait_until
from tests.e2e.managers import Managers

from skep.edge.unix_http import EngineClient, EngineRefused, EngineUnreachable
from skep.lab import nodes
from skep.lab.layout import CLIENT, NodeLayout

N_AGENTS = 200
AT_MOST = Bound.AT_MOST
N_MANAGERS = int(os.environ.get("SKEP_BENCH_MANAGERS", "3"))
CONTROL_PORT = 2377
LOOK_S = 1.0
LIMIT_S = 120.0
CALM_S = 6.0
"""Between rounds: agents begin with short pauses again after a session that lasted."""


def measure(*, quick: bool) -> Sequence[Figure]:
    """How soon the next leader decides, then the return of all agents."""
    n_rounds = 1 if quick else 5
    with a_lab(engine="process", node_count=N_MANAGERS, manager_count=N_MANAGERS) as lab:
        figures = [
            Figure("the next decision after the leader was killed", "s", _fail_over(lab, "kill", n_rounds), AT_MOST, 3),
            Figure("after it was cut off", "s", _fail_over(lab, "cut", n_rounds), AT_MOST, 5),
            Figure("after it was frozen", "s", _fail_over(lab, "freeze", n_rounds), AT_MOST, 5),
        ]
        return [*figures, *_return(lab, n_rounds)]


def _fail_over(lab: Lab, kind: str, n_rounds: int) -> list[float]:
    """Seconds from the fault to the first task of a service that was made after it."""
    managers, taken = Managers(lab), []
    for number in range(n_rounds):
        leader = managers.leader()
        rest = [node for node in managers.nodes if node.name != leader.name]
        name = f"{kind}{number}"
        began = time.monotonic()
        manager_faults.strike(lab.layout, leader, kind)
        try:
            managers.wait_decision(name, rest)
            taken.append(time.monotonic() - began)
        finally:
            manager_faults.heal(lab.layout, leader, kind)
        managers.wait_whole()
        managers.remove(name, rest[0])
    return taken


def _return(lab: Lab, n_rounds: int) -> Sequence[Figure]:
    last: list[float] = []
    middle: list[float] = []
    with _agents(lab) as agents, _watch(lab) as watch:
        for _ in range(n_rounds):
            time.sleep(CALM_S)
            killed_at = agents.lose(lambda: _kill_daemons(lab))
            returned = [at - killed_at for at in agents.welcomed()]
            last.append(max(returned))
            middle.append(statistics.median(returned))
        wait_until(lambda: watch.n_ready == N_AGENTS + len(lab.nodes), "not every node is ready again", LIMIT_S)
    if watch.down:
        raise RuntimeError(f"declared down although only managers were gone: {sorted(watch.down)}")
    managers = f"{lab.layout.manager_count} managers on one machine; none of {N_AGENTS} nodes was declared down"
    return [
        Figure(f"{N_AGENTS} agents back after all managers were killed, the last", "s", last, AT_MOST, 5, managers),
        Figure("of those, the one in the middle", "s", middle),
    ]


def _managers(lab: Lab) -> list[NodeLayout]:
    return lab.nodes[: lab.layout.manager_count]


def _kill_daemons(lab: Lab) -> None:
    """All managers at one moment; what they ran goes on, and their nodes start them again."""
    for pid in [nodes.daemon_pid(node) for node in _managers(lab)]:
        os.kill(pid, signal.SIGKILL)


class Agents:
    """The process with the agents."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def lose(self, strike: Callable[[], None]) -> float:
        """Have them expect the loss of their sessions, and strike. Returns: when, by the monotonic clock."""
        assert self._process.stdin is not None
        self._process.stdin.write("round\n")
        self._process.stdin.flush()
        self.expect("ready")
        strike()
        return time.monotonic()

    def welcomed(self) -> list[float]:
        """Wait until all are back; when each was."""
        times: list[float] = json.loads(self._line())
        return times

    def expect(self, word: str) -> None:
        line = self._line()
        if line != word:
            raise RuntimeError(f"the agents said {line!r} instead of {word!r}")

    def _line(self) -> str:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], LIMIT_S)[0]:
            raise RuntimeError(f"the agents said nothing for {LIMIT_S:g} s")
        return self._process.stdout.readline().strip()


@contextmanager
def _agents(lab: Lab) -> Iterator[Agents]:
    """All of them, joined and welcomed."""
    token = lab.api("GET", "/swarm")["JoinTokens"]["Worker"]
    addresses = [f"{node.underlay}:{CONTROL_PORT}" for node in _managers(lab)]
    words = [sys.executable, "-m", "tests.bench.agents", str(N_AGENTS), token, *addresses]
    line = nodes.exec_command(lab.layout, CLIENT, words)
    repository = Path(__file__).parents[2]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=repository) as process:
        try:
            agents = Agents(process)
            agents.expect("joined")
            yield agents
        finally:
            process.kill()


class Watch:
    """Asks the managers all the time for the nodes' states. Attributes: down: names of nodes that ever were."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.down: set[str] = set()
        self.n_ready = 0

    def look(self) -> None:
        for node in _managers(self._lab):
            try:
                found = EngineClient(f"unix://{node.socket}", timeout_s=5).json("GET", "/nodes")
            except (EngineRefused, EngineUnreachable):
                continue  # It is being started.
            states = {each["Description"]["Hostname"]: each["Status"]["State"] for each in found}
            self.down |= {name for name, state in states.items() if state == "down"}
            self.n_ready = sum(state == "ready" for state in states.values())


@contextmanager
def _watch(lab: Lab) -> Iterator[Watch]:
    watch, is_over = Watch(lab), threading.Event()

    def look() -> None:
        while not is_over.wait(LOOK_S):
            watch.look()

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield watch
    finally:
        is_over.set()
        looking.join()
