"""What the Engine API of a manager takes: creating services, listing them with their tasks, telling listeners.

Edge: a lab of one process node, asked over its own socket. Listeners read in a process of their own, so that what
they cost the client's process is not counted as the daemon's.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.bench.figure import Bound, Figure, interleaved
from tests.bench.labs import a_lab
from tests.e2e.conftest import Lab, wait_until

N_SERVICES, N_REPLICAS = 1000, 10
N_PART = 100
N_LISTENERS = 200
N_BATCH = 300
WITH, WITHOUT = "with", "without"


def measure(*, quick: bool) -> Sequence[Figure]:
    """Creating, listeners, then the list when every service has its tasks."""
    n_rounds = 2 if quick else 5
    with a_lab(engine="process", node_count=1) as lab:
        created = _create(lab, "s", N_SERVICES)
        rates = [1 / statistics.mean(created[at : at + N_PART]) for at in range(0, N_SERVICES, N_PART)]
        listening = _listening(lab, n_rounds)
        _give_tasks(lab)
        listed = [_list_ms(lab) for _ in range(5 if quick else 15)]
    return [
        Figure(f"create {N_SERVICES} services one after another", "/s", rates, Bound.AT_LEAST, 200),
        listening,
        Figure(f"list {N_SERVICES} services, {N_SERVICES * N_REPLICAS} tasks", "ms", listed, Bound.AT_MOST, 100),
    ]


def _spec(name: str, n_replicas: int) -> dict[str, Any]:
    """A service whose tasks no node may run: they exist and wait."""
    return {
        "Name": name,
        "TaskTemplate": {
            "ContainerSpec": {"Image": "none", "Command": ["true"]},
            "Placement": {"Constraints": ["node.labels.bench==none"]},
        },
        "Mode": {"Replicated": {"Replicas": n_replicas}},
    }


def _create(lab: Lab, prefix: str, count: int) -> list[float]:
    """Seconds that each creation took."""
    taken: list[float] = []
    for number in range(count):
        started = time.perf_counter()
        lab.api("POST", "/services/create", _spec(f"{prefix}{number}", 0))
        taken.append(time.perf_counter() - started)
    return taken


def _remove(lab: Lab, prefixes: tuple[str, ...]) -> None:
    for service in lab.api("GET", "/services"):
        if service["Spec"]["Name"].startswith(prefixes):
            lab.api("DELETE", f"/services/{service['ID']}")


def _list_ms(lab: Lab) -> float:
    started = time.perf_counter()
    listed = lab.api("GET", "/services?status=true")
    took_s = time.perf_counter() - started
    assert len(listed) == N_SERVICES
    assert sum(service["ServiceStatus"]["DesiredTasks"] for service in listed) == N_SERVICES * N_REPLICAS
    return took_s * 1000


def _give_tasks(lab: Lab) -> None:
    for service in lab.api("GET", "/services"):
        update = f"/services/{service['ID']}/update?version={service['Version']['Index']}"
        lab.api("POST", update, _spec(service["Spec"]["Name"], N_REPLICAS))
    wanted = N_SERVICES * N_REPLICAS
    wait_until(lambda: len(lab.api("GET", "/tasks")) >= wanted, "the tasks were not made", 60)


# --- listeners ----------------------------------------------------------------------------


def _listening(lab: Lab, n_rounds: int) -> Figure:
    rates: dict[str, list[float]] = {WITH: [], WITHOUT: []}
    for number, order in enumerate(interleaved(n_rounds, (WITH, WITHOUT))):
        for variant in order:
            if variant == WITH:
                with _listeners(lab):
                    taken = _create(lab, f"w{number}-", N_BATCH)
            else:
                taken = _create(lab, f"x{number}-", N_BATCH)
            rates[variant].append(1 / statistics.mean(taken))
            _remove(lab, ("w", "x"))
    ratios = [one / other for one, other in zip(rates[WITH], rates[WITHOUT], strict=True)]
    medians = {variant: statistics.median(rates[variant]) for variant in rates}
    note = f"{medians[WITH]:.0f}/s and {medians[WITHOUT]:.0f}/s"
    return Figure(f"the same with {N_LISTENERS} listeners to events", "x", ratios, Bound.AT_LEAST, 0.90, note, medians)


@contextmanager
def _listeners(lab: Lab) -> Iterator[None]:
    line = [sys.executable, "-m", "tests.bench.listeners", str(lab.nodes[0].socket), str(N_LISTENERS)]
    process = subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"
        yield
        text, _ = process.communicate("", timeout=30)
        heard = int(text)
        assert heard >= N_LISTENERS * N_BATCH, f"only {heard} events were heard"
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
