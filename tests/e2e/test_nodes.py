"""Nodes that freeze, are cut off, or are emptied: what is restarted, how soon, and what every node then believes."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e import graceful
from tests.e2e.conftest import Lab, make_lab, under_load, wait_until
from tests.e2e.load import Request

from skep.lab import nodes, underlay

pytestmark = [pytest.mark.e2e, pytest.mark.engine, pytest.mark.kernel, pytest.mark.soak]

REPLICAS = 6
RATE = 50.0
PORT = graceful.PORT
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Three podman nodes, two web tasks on each."""
    root = tmp_path_factory.mktemp("nodes")
    for lab in make_lab(root / "l", engine="podman"):
        lab.load_image(graceful.write_archive(root))
        lab.docker("network", "create", "-d", "overlay", "backbone")
        lab.docker(
            "service", "create", "--quiet", "--no-resolve-image", "--name", "web", "--replicas", str(REPLICAS),
            "--network", "backbone", "-p", f"{PORT}:{PORT}", *graceful.STOPPING, "--update-monitor", "200ms",
            "--update-parallelism", "2", graceful.NAME, timeout_s=120,
        )  # fmt: skip
        lab.docker(
            "service", "create", "--quiet", "--no-resolve-image", "--name", "asker", "--mode", "global",
            "--network", "backbone", "--update-monitor", "200ms", "--stop-grace-period", "0s",
            graceful.NAME, "sleep", "10000",
        )  # fmt: skip
        yield lab


@pytest.fixture
def spread(lab: Lab) -> Lab:
    """The lab with two tasks on each node again."""
    wait_until(lambda: len(node_states(lab, "ready")) == 3, "not all nodes are ready")
    lab.docker("service", "update", "--quiet", "--force", "web", timeout_s=120)
    counts = [len([t for t in running(lab) if t["NodeID"] == node_id]) for node_id in node_states(lab, "ready")]
    assert counts == [2, 2, 2]
    return lab


def node_states(lab: Lab, state: str) -> list[str]:
    return [node["ID"] for node in lab.api("GET", "/nodes") if node["Status"]["State"] == state]


def tasks(lab: Lab) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = lab.api("GET", '/tasks?filters={"service":["web"]}')
    return found


def running(lab: Lab) -> list[dict[str, Any]]:
    """Tasks that are wanted and run, on nodes that are up."""
    up = node_states(lab, "ready")
    return [
        task
        for task in tasks(lab)
        if task["DesiredState"] == "running" and task["Status"]["State"] == "running" and task["NodeID"] in up
    ]


def container_id(task: dict[str, Any]) -> str:
    return str(task["Status"]["ContainerStatus"]["ContainerID"])


def address(task: dict[str, Any]) -> str:
    """On the overlay network."""
    attachments = task["NetworksAttachments"]
    return next(
        str(a["Addresses"][0]).partition("/")[0] for a in attachments if a["Network"]["Spec"]["Name"] == "backbone"
    )


class Askers:
    """Ask in a task on every node, over and over, what `tasks.web` is."""

    def __init__(self, lab: Lab) -> None:
        self.processes: dict[str, subprocess.Popen[str]] = {}
        for node in lab.nodes:
            node_id = lab.api("GET", f"/nodes/{node.name}")["ID"]
            (task,) = lab.api("GET", f'/tasks?filters={{"service":["asker"],"node":["{node_id}"]}}')
            pid = lab.docker("inspect", "-f", "{{.State.Pid}}", container_id(task), node=node.name).strip()
            inside = ["nsenter", "-t", pid, "-n", sys.executable, "-m", "tests.e2e.names", "127.0.0.11", "tasks.web."]
            line = nodes.exec_command(lab.layout, node.name, inside)
            self.processes[node.name] = subprocess.Popen(
                line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
            )

    def __enter__(self) -> "Askers":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> dict[str, list[tuple[float, frozenset[str]]]]:
        """Stop asking; by node, when it was asked and what the answer was."""
        answers: dict[str, list[tuple[float, frozenset[str]]]] = {}
        for name, process in self.processes.items():
            text, _ = process.communicate(timeout=10)
            lines = [json.loads(line) for line in text.splitlines() if line.endswith("]")]
            answers[name] = [(moment, frozenset(found)) for moment, found in lines]
        self.processes = {}
        return answers


def names_right_since(answers: list[tuple[float, frozenset[str]]], wanted: frozenset[str]) -> float:
    """When the answers became what they were to the end: exactly the wanted addresses."""
    assert answers[-1][1] == wanted
    return max((asked_at for asked_at, found in answers if found != wanted), default=answers[0][0])


def balancing_right_since(requests: list[Request], wanted: frozenset[str]) -> float:
    """From when on a node sent new connections to wanted tasks only, and soon to every one of them."""
    is_wrong = [request.answer not in wanted or bool(request.error) for request in requests]
    right = requests[len(requests) - is_wrong[::-1].index(True) :] if any(is_wrong) else requests
    for first in range(len(right)):  # A task that runs joins a moment later.
        if {request.answer for request in right[first : first + 3 * REPLICAS]} == wanted:
            return right[first].began_s
    raise AssertionError(f"of {sorted(wanted)} only {sorted({request.answer for request in right})} were asked")


def late_since(moment_s: float, requests: list[Request]) -> list[Request]:
    """Requests begun since then that failed, or took long on a connection that is no older.

    A connection to a task on a silent node is not dropped: it goes on when the node does, or is reset when it is down;
    then the request is sent again.
    """

    def took_long(request: Request) -> bool:
        since_s = request.began_s if request.opened_s > moment_s else request.again_s
        return since_s > 0 and request.began_s + request.took_s - since_s > 1.0

    return [each for each in requests if each.began_s > moment_s and (each.error or took_long(each))]


@pytest.mark.soak
def test_a_freeze_of_4_s_restarts_no_container(spread: Lab) -> None:
    lab = spread
    before = {container_id(task) for task in running(lab)}
    node3 = lab.layout.node("node3")
    with under_load(lab, 12, RATE, f"http://{lab.layout.node('node1').underlay}:{PORT}/") as load:
        time.sleep(1)
        frozen_at = load.at_s
        nodes.freeze_node(node3, is_frozen=True)
        try:
            time.sleep(4)
        finally:
            nodes.freeze_node(node3, is_frozen=False)
        thawed_at = load.at_s
        recording = load.finish()
    late = late_since(frozen_at + 2.0, recording.requests)
    print(
        f"{len(recording.requests)} requests, {len(recording.failed)} failed, frozen for {thawed_at - frozen_at:.1f} s"
    )
    assert not late, late[:5]
    wait_until(lambda: len(running(lab)) == REPLICAS, "the node did not come back")
    assert {container_id(task) for task in running(lab)} == before
    assert all(task["Status"]["State"] == "running" for task in tasks(lab) if task["DesiredState"] == "running")


@pytest.mark.soak
def test_a_cut_of_10_s_moves_tasks_in_8_s_and_all_agree_2_s_after_it(spread: Lab) -> None:
    lab = spread
    node3 = lab.layout.node("node3")
    node3_id = lab.api("GET", "/nodes/node3")["ID"]
    lost = [task for task in running(lab) if task["NodeID"] == node3_id]
    assert len(lost) == 2
    urls = [f"http://{node.underlay}:{PORT}/" for node in lab.nodes]
    with Askers(lab) as askers, under_load(lab, 60, 3 * RATE, *urls) as load:
        underlay.set_link(lab.layout, node3, is_up=False)
        cut_s = load.at_s
        try:
            wait_until(
                lambda: len(running(lab)) == REPLICAS and node3_id not in node_states(lab, "ready"), "no move", 20
            )
            moved_s = load.at_s
            time.sleep(max(0.0, 10 - (load.at_s - cut_s)))
        finally:
            underlay.set_link(lab.layout, node3, is_up=True)
        healed_s = load.at_s
        wait_until(lambda: len(node_states(lab, "ready")) == 3, "the node did not come back")
        wait_until(lambda: all(ended(lab, task) for task in lost), "the surplus was not stopped")
        time.sleep(3)
        wanted = running(lab)
        began = load.began
        recording = load.end()
        answers = askers.end()
    assert len(wanted) == REPLICAS
    addresses, containers = ({address(t) for t in wanted}, {container_id(t)[:12] for t in wanted})
    agreed = {f"names on {name}": names_right_since(found, frozenset(addresses)) - began - healed_s
              for name, found in answers.items()}  # fmt: skip
    for node in lab.nodes:
        fresh = [r for r in recording.requests if r.host == node.underlay and not r.is_kept and r.began_s > moved_s]
        right_since = balancing_right_since(sorted(fresh, key=lambda r: r.began_s), frozenset(containers))
        agreed[f"balancing on {node.name}"] = right_since - healed_s
    print(f"replaced after {moved_s - cut_s:.1f} s")
    print("agreed after healing:", {what: round(after_s, 2) for what, after_s in agreed.items()})
    elsewhere = [r for r in recording.requests if r.host != node3.underlay and r.began_s > cut_s + 2.0]
    late = late_since(cut_s + 2.0, elsewhere)
    print(f"{len(recording.requests)} requests, {len(late)} of {len(elsewhere)} through the other nodes failed")
    assert moved_s - cut_s <= 8.0
    assert not late, late[:5]
    assert max(agreed.values()) <= 2.0, agreed
    for task in lost:
        status = lab.api("GET", f"/tasks/{task['ID']}")["Status"]
        assert (status["State"], status["ContainerStatus"].get("ExitCode", 0)) == ("shutdown", 0)


def ended(lab: Lab, task: dict[str, Any]) -> bool:
    return str(lab.api("GET", f"/tasks/{task['ID']}")["Status"]["State"]) not in ("starting", "running")


class Watch:
    """Counts, over and over, how many tasks serve; `fewest` is the least there ever were."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.fewest = REPLICAS
        self.most = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._is_over.wait(0.05):
            count = len(running(self.lab))
            self.fewest, self.most = min(self.fewest, count), max(self.most, count)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()


def test_a_drain_starts_elsewhere_before_it_stops_here_and_within_the_updates_limits(spread: Lab) -> None:
    lab = spread
    node3_id = lab.api("GET", "/nodes/node3")["ID"]
    try:
        with Watch(lab) as watch:
            lab.docker("node", "update", "--availability", "drain", "node3")
            wait_until(
                lambda: all(task["Status"]["State"] not in ("starting", "running")
                            for task in tasks(lab) if task["NodeID"] == node3_id),
                "the node is not empty",
            )  # fmt: skip
            wait_until(lambda: len(running(lab)) == REPLICAS, "the tasks do not run elsewhere")
    finally:
        lab.docker("node", "update", "--availability", "active", "node3")
    assert watch.fewest == REPLICAS
    assert watch.most <= REPLICAS + 2


def test_a_paused_node_keeps_its_tasks_and_gets_no_new_ones(spread: Lab) -> None:
    lab = spread
    node3_id = lab.api("GET", "/nodes/node3")["ID"]
    before = {task["ID"] for task in running(lab) if task["NodeID"] == node3_id}
    lab.docker("node", "update", "--availability", "pause", "node3")
    try:
        lab.docker("service", "update", "--quiet", "--replicas", str(REPLICAS + 2), "web")
        assert {task["ID"] for task in running(lab) if task["NodeID"] == node3_id} == before
    finally:
        lab.docker("node", "update", "--availability", "active", "node3")
        lab.docker("service", "update", "--quiet", "--replicas", str(REPLICAS), "web")


@pytest.mark.soak
def test_an_at_most_one_service_never_runs_on_both_sides_of_a_cut(lab: Lab) -> None:
    lab.docker(
        "service", "create", "--quiet", "--no-resolve-image", "--name", "single", "--label",
        "skep.partition=at-most-one", "--constraint", "node.role==worker", "--stop-grace-period", "1s",
        "--update-monitor", "200ms", graceful.NAME, "sleep", "10000",
    )  # fmt: skip
    try:

        def holders() -> list[str]:  # Workers list their own containers only.
            workers = lab.nodes[1:]
            return [n.name for n in workers if lab.docker("ps", "-q", "--filter", "name=single", node=n.name).strip()]

        (home,) = holders()
        seen: list[tuple[float, list[str]]] = []
        began = time.monotonic()
        underlay.set_link(lab.layout, lab.layout.node(home), is_up=False)
        try:
            while not seen or seen[-1][1] in ([home], []):
                assert time.monotonic() - began < 60, seen
                seen.append((time.monotonic() - began, holders()))
        finally:
            underlay.set_link(lab.layout, lab.layout.node(home), is_up=True)
        stopped_s = next(moment for moment, found in seen if not found)
        print(f"stopped by itself after {stopped_s:.1f} s, runs elsewhere after {seen[-1][0]:.1f} s")
        assert all(len(found) <= 1 for _, found in seen), seen
        wait_until(lambda: len(node_states(lab, "ready")) == 3, "the node did not come back")
        assert len(holders()) == 1
    finally:
        lab.docker("service", "rm", "single")
