"""A daemon or an engine that dies at any moment leaves nothing half-made, and what was acknowledged is kept."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e import programs
from tests.e2e.conftest import Lab, make_lab, wait_until

from skep.edge.unix_http import EngineRefused, EngineUnreachable
from skep.lab import nodes

pytestmark = [pytest.mark.e2e, pytest.mark.engine, pytest.mark.kernel]
CREATE_DELAYS_MS, REMOVE_DELAYS_MS = (0, 8, 25, 90), (3, 40)


def a_service(name: str, *networks: str) -> dict[str, Any]:
    container = {"Image": "x", "Command": ["sleep", "600"], "StopGracePeriod": 0}
    template = {"ContainerSpec": container, "Networks": [{"Target": network} for network in networks]}
    return {"Name": name, "TaskTemplate": template, "Mode": {"Replicated": {"Replicas": 2}}}


def kill_daemon(lab: Lab, name: str = "node1") -> None:
    """Kill a daemon and wait until the next one answers."""
    node = lab.layout.node(name)
    old = nodes.daemon_pid(node)
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: nodes.daemon_pid(node) not in (0, old), "no new daemon was started")
    wait_until(lambda: answers(lab, name), "the new daemon does not answer")


def answers(lab: Lab, name: str) -> bool:
    try:
        lab.api("GET", "/info", node=name)
    except (EngineUnreachable, EngineRefused, OSError):
        return False
    return True


class Change(threading.Thread):
    """One request on its way while the daemon dies. Attributes: is_acknowledged: the answer came, and was yes."""

    def __init__(self, lab: Lab, method: str, path: str, body: object = None, node: str = "node1") -> None:
        super().__init__()
        self._lab, self._request, self._node = lab, (method, path, body), node
        self.is_acknowledged = False
        self.start()

    def run(self) -> None:
        method, path, body = self._request
        try:
            self._lab.api(method, path, body, node=self._node)
        except (EngineUnreachable, EngineRefused, OSError):
            return
        self.is_acknowledged = True


def names(lab: Lab) -> set[str]:
    return {service["Spec"]["Name"] for service in lab.api("GET", "/services")}


def running(lab: Lab, service: str) -> int:
    found = lab.api("GET", f'/tasks?filters={{"service":["{service}"],"desired-state":["running"]}}')
    return sum(task["Status"]["State"] == "running" for task in found)


def leftovers(lab: Lab) -> list[str]:
    """Containers and sandboxes on every node."""
    found: list[str] = []
    for node in lab.nodes:
        containers = Path(node.data_dir, "engine", "containers")
        found += [str(path) for path in containers.iterdir()] if containers.exists() else []
        found += lab.run(node.name, "find", str(node.run_dir / "net"), "-name", "*.json").split()
    return found


@pytest.mark.soak
def test_a_daemon_killed_in_the_midst_of_changes(process_lab: Lab) -> None:
    lab = process_lab
    lab.docker("network", "create", "-d", "overlay", "back")
    kept = {}
    for delay_ms in CREATE_DELAYS_MS:
        name = f"s{delay_ms}"
        change = Change(lab, "POST", "/services/create", a_service(name, "back"))
        time.sleep(delay_ms / 1000)
        kill_daemon(lab)
        change.join()
        kept[name] = change.is_acknowledged
    there = names(lab)
    assert {name for name, is_acknowledged in kept.items() if is_acknowledged} <= there <= set(kept)
    for name in there:
        wait_until(lambda name=name: running(lab, name) == 2, f"{name} does not run in full")
    gone = set()
    for delay_ms, name in zip(REMOVE_DELAYS_MS, sorted(there), strict=False):
        change = Change(lab, "DELETE", f"/services/{name}")
        time.sleep(delay_ms / 1000)
        kill_daemon(lab, "node2" if delay_ms % 2 else "node1")
        change.join()
        if change.is_acknowledged:
            gone.add(name)
    assert not gone & names(lab)
    for name in names(lab):
        lab.docker("service", "rm", name)
    wait_until(lambda: not lab.api("GET", "/tasks"), "tasks remain")
    lab.docker("network", "rm", "back")
    wait_until(lambda: not leftovers(lab), "containers or sandboxes remain")


@pytest.fixture
def strangers(tmp_path: Path) -> Iterator[Lab]:
    yield from make_lab(tmp_path / "l", node_count=2, is_joined=False)


@pytest.mark.soak
def test_a_node_killed_while_it_joins_is_in_or_out(strangers: Lab) -> None:
    lab = strangers
    lab.docker("swarm", "init")
    token = lab.api("GET", "/swarm")["JoinTokens"]["Worker"]
    request = {"RemoteAddrs": ["192.168.77.1:2377"], "JoinToken": token, "ListenAddr": "0.0.0.0:2377"}
    for delay_ms in (5, 20, 40, 80):
        change = Change(lab, "POST", "/swarm/join", request, node="node2")
        time.sleep(delay_ms / 1000)
        kill_daemon(lab, "node2")
        change.join()
    wait_until(lambda: state(lab) in ("inactive", "active"), "it is neither in nor out")
    if state(lab) == "inactive":
        lab.api("POST", "/swarm/join", request, node="node2")
    wait_until(lambda: state(lab) == "active", "it cannot take part")


def state(lab: Lab) -> str:
    return str(lab.api("GET", "/info", node="node2")["Swarm"]["LocalNodeState"])


@pytest.fixture(scope="module")
def podman_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    yield from make_lab(tmp_path_factory.mktemp("gone") / "l", engine="podman", node_count=1)


def test_an_engine_that_is_killed_comes_back_and_tasks_never_notice(podman_node: Lab, tmp_path: Path) -> None:
    lab = podman_node
    lab.load_image(programs.write_archive(tmp_path))
    lab.docker("service", "create", "--quiet", "--no-resolve-image", "--name", "s", programs.NAME)
    (task,) = lab.api("GET", "/tasks")
    first = os_pids(lab, " system service --time=0")
    program = task["Status"]["ContainerStatus"]["PID"]
    for pid in first:
        lab.run("node1", "kill", "-9", pid)
    wait_until(
        lambda: bool(set(os_pids(lab, " system service --time=0")) - set(first)), "the engine is not started again"
    )
    wait_until(lambda: lab.docker_process("ps").returncode == 0, "the engine does not answer")
    (after,) = lab.api("GET", "/tasks")
    assert (after["ID"], after["Status"]["State"]) == (task["ID"], "running")
    assert after["Status"]["ContainerStatus"]["PID"] == program
    assert lab.run("node1", "kill", "-0", str(program), check=False) == ""
    lab.docker("service", "scale", "s=2")
    lab.docker("service", "rm", "s")


def os_pids(lab: Lab, words: str) -> list[str]:
    """Process ids, as the node sees them, of processes with these words in their command lines."""
    lines = lab.run("node1", "ps", "-ewwo", "pid,args").splitlines()
    return [line.split()[0] for line in lines if words in line and "ps -ewwo" not in line]
