"""From `service create` to running tasks on podman, and the memory of the daemons after a workload.

Edge: a lab of podman nodes.
"""

import statistics
import time
from collections.abc import Sequence
from typing import Any

from tests.bench.figure import Bound, Figure
from tests.bench.labs import Memory, a_lab, daemon_memory
from tests.e2e import programs
from tests.e2e.conftest import Lab, wait_until

POLL_S = 0.01
N_REPLICAS = 3
N_SERVICES = 100


def measure(*, quick: bool) -> Sequence[Figure]:
    """Both rows of starting, then memory on each kind of node."""
    n_runs = 3 if quick else 7
    with a_lab(engine="podman") as lab:
        lab.load_image(programs.write_archive(lab.layout.root))
        _start(lab, 0, [])  # The first one warms what a running swarm has warm.
        plain = [_start(lab, number, []) for number in range(n_runs)]
        port = {"Protocol": "tcp", "TargetPort": 9200, "PublishedPort": 9200, "PublishMode": "ingress"}
        published = [_start(lab, number, [port]) for number in range(n_runs)]
        _workload(lab)
        manager, *workers = (daemon_memory(node) for node in lab.nodes)
        return [
            Figure("create --replicas 3 to running", "s", plain, Bound.AT_MOST, 1.5),
            Figure("the same with a published port", "s", published, Bound.AT_MOST, 1.5),
            _memory("memory of a worker's daemon", workers, 90),
            _memory("memory of a manager's daemon", [manager], 120),
        ]


def _memory(name: str, found: Sequence[Memory], target: float) -> Figure:
    share = statistics.median(memory.share for memory in found)
    note = f"RSS after the workload; what it shares with the lab's other daemons counted by share, {share:.0f} MiB"
    return Figure(name, "MiB", [memory.resident for memory in found], Bound.AT_MOST, target, note)


def _start(lab: Lab, number: int, ports: list[dict[str, Any]]) -> float:
    """Seconds from the request to three running tasks, as the API tells; leaves nothing running."""
    name = f"web{number}{len(ports)}"
    spec = _spec(name, N_REPLICAS, ports)
    started = time.monotonic()
    service = lab.api("POST", "/services/create", spec)["ID"]
    while _n_running(lab, service) < N_REPLICAS:
        assert time.monotonic() - started < 60, lab.api("GET", "/tasks")
        time.sleep(POLL_S)
    took_s = time.monotonic() - started
    lab.api("DELETE", f"/services/{service}")
    wait_until(lambda: not lab.api("GET", "/tasks"), "the tasks did not go")
    return took_s


def _spec(name: str, n_replicas: int, ports: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "Name": name,
        "TaskTemplate": {"ContainerSpec": {"Image": programs.NAME, "StopGracePeriod": 1}},
        "Mode": {"Replicated": {"Replicas": n_replicas}},
        "EndpointSpec": {"Ports": ports},
    }


def _n_running(lab: Lab, service: str) -> int:
    tasks = lab.api("GET", f'/tasks?filters={{"service":["{service}"]}}')
    return sum(task["Status"]["State"] == "running" for task in tasks)


def _workload(lab: Lab) -> None:
    """What a small swarm does in a day: services, a running one that grows and shrinks, questions."""
    for number in range(N_SERVICES):
        port = {"TargetPort": 80, "PublishedPort": 20000 + number}
        lab.api("POST", "/services/create", _spec(f"idle{number}", 0, [port]))
    busy = lab.api("POST", "/services/create", _spec("busy", 2, []))["ID"]
    for n_replicas in (6, 2, 6):
        wait_until(lambda: bool(_n_running(lab, busy)), "the service did not start")
        seen = lab.api("GET", f"/services/{busy}")
        update = f"/services/{busy}/update?version={seen['Version']['Index']}"
        lab.api("POST", update, _spec("busy", n_replicas, []))
        wait_until(lambda wanted=n_replicas: _n_running(lab, busy) == wanted, "the service did not scale")
    for _ in range(50):
        for path in ("/services?status=true", "/tasks", "/nodes", "/networks", "/containers/json"):
            lab.api("GET", path)
