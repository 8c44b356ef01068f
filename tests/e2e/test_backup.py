"""A swarm saved while it is written to, lost, and restored: on its own address, and on a new machine with another."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import Lab, make_lab, serve_who, under_load, wait_until, who_urls

from skep.lab import nodes

pytestmark = [pytest.mark.e2e, pytest.mark.kernel]

PHRASE = "correct horse battery staple"
SECRET = b"hunter2\n"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A manager and two workers, and a machine that is in no swarm."""
    for made in make_lab(tmp_path_factory.mktemp("lab") / "l", node_count=4, is_joined=False):
        made.docker("swarm", "init", "--advertise-addr", made.layout.node("node1").underlay)
        token = made.docker("swarm", "join-token", "-q", "worker").strip()
        for name in ("node2", "node3"):
            made.docker("swarm", "join", "--token", token, f"{made.layout.node('node1').underlay}:2377", node=name)
        yield made


@pytest.fixture(scope="module")
def phrase_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("phrase") / "phrase"
    path.write_text(PHRASE)
    return str(path)


def skep(lab: Lab, *words: str, node: str = "node1", check: bool = True) -> "subprocess.CompletedProcess[str]":
    line = [sys.executable, "-m", "skep.cli", "-H", f"unix://{lab.layout.node(node).socket}", *words]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done


def standing(lab: Lab, node: str = "node1") -> dict[str, Any]:
    """What has to be the same after a restore; versions and times of writing are not."""
    swarm = lab.api("GET", "/swarm", node=node)
    found: dict[str, Any] = {key: swarm[key] for key in ("ID", "Spec", "JoinTokens", "TLSInfo", "CreatedAt")}
    for kind in ("services", "secrets", "configs", "networks?filters=%7B%22scope%22%3A%5B%22swarm%22%5D%7D"):
        objects = lab.api("GET", f"/{kind}", node=node)
        kept = ("Spec", "Endpoint", "CreatedAt", "Name", "IPAM")
        found[kind] = {
            each.get("ID") or each["Id"]: {key: each[key] for key in kept if key in each} for each in objects
        }
    return found


def running(lab: Lab, node: str = "node1") -> dict[str, tuple[str, str]]:
    """Container and node of every running task, by task."""
    tasks = lab.api("GET", "/tasks?filters=%7B%22desired-state%22%3A%5B%22running%22%5D%7D", node=node)
    return {
        task["ID"]: (task["Status"]["ContainerStatus"]["ContainerID"], task["NodeID"])
        for task in tasks
        if task["Status"]["State"] == "running"
    }


def programs_of(lab: Lab, name: str) -> set[str]:
    """Process ids of the service's programs, as the node's own kernel knows them."""
    lines = lab.run(name, "ps", "-ewwo", "pid,args").splitlines()
    return {line.partition("busybox httpd")[0].strip() for line in lines if "busybox httpd" in line}


def ready(lab: Lab, node: str = "node1") -> set[str]:
    """Host names of nodes that hold a session."""
    nodes = lab.api("GET", "/nodes", node=node)
    return {each["Description"]["Hostname"] for each in nodes if each["Status"]["State"] == "ready"}


@contextmanager
def writing(lab: Lab) -> Iterator[list[str]]:
    """Make configs all the time; gives the names of those that were acknowledged."""
    made: list[str] = []
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            name = f"c{len(made)}"
            lab.api("POST", "/configs/create", {"Name": name, "Data": "eA=="})
            made.append(name)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield made
    finally:
        stop.set()
        thread.join()


def scale(lab: Lab, replicas: int, node: str = "node1") -> None:
    """Have more tasks on the workers, which only a session can tell them."""
    lab.docker("service", "scale", "--detach", f"who={replicas}", node=node)
    wait_until(
        lambda: sum(len(programs_of(lab, name)) for name in ("node2", "node3")) >= replicas,
        "no worker does what it is told",
    )


def secret_of_new_task(lab: Lab, name: str, node: str) -> str:
    """What a task that is made now reads in the secret."""
    script = "cat /run/secrets/key; while :; do sleep 1; done"
    words = ["service", "create", "--quiet", "--no-resolve-image", "--detach", "--name", name, "--secret", "key"]
    lab.docker(*words, "--stop-grace-period", "0s", "x", "/bin/sh", "-c", script, node=node)
    wait_until(lambda: lab.docker("service", "logs", "--raw", name, node=node, check=False).strip(), "nothing was read")
    return lab.docker("service", "logs", "--raw", name, node=node)


def test_a_swarm_comes_back_on_its_own_address(lab: Lab, tmp_path: Path, phrase_file: str) -> None:
    serve_who(lab, "--constraint", "node.role==worker", replicas=4)
    lab.docker("network", "create", "-d", "overlay", "net1")
    assert lab.docker_process("secret", "create", "key", "-", stdin=SECRET).returncode == 0
    backup = tmp_path / "swarm.skep"
    with writing(lab) as made:
        wait_until(lambda: len(made) >= 20, "nothing was written")
        acknowledged = set(made)
        skep(lab, "backup", "save", "--passphrase-file", phrase_file, str(backup))
    shown = skep(lab, "backup", "inspect", "--passphrase-file", phrase_file, "--format", "json", str(backup))
    counts = json.loads(shown.stdout)["Objects"]
    assert len(acknowledged) <= counts["config"] <= len(made)
    assert (counts["node"], counts["secret"], counts["service"]) == (3, 1, 1)
    before, tasks = standing(lab), running(lab)
    kept = {name: programs_of(lab, name) for name in ("node2", "node3")}
    assert [len(kept[name]) for name in kept] == [2, 2]
    n_saved = counts["config"]
    with under_load(lab, 60, 50, *who_urls(lab, "node2", "node3")) as load:
        lab.docker("swarm", "leave", "--force")
        assert not (lab.layout.node("node1").data_dir / "swarm").exists()
        wrong = tmp_path / "wrong"
        wrong.write_text("another phrase")
        refused = skep(lab, "backup", "restore", "--passphrase-file", str(wrong), str(backup), check=False)
        assert "does not open this backup" in refused.stderr
        assert lab.api("GET", "/info")["Swarm"]["LocalNodeState"] == "inactive"
        done = skep(lab, "backup", "restore", "--passphrase-file", phrase_file, str(backup))
        assert "this node" in done.stdout
        wait_until(lambda: len(ready(lab)) == 3, "the nodes did not return")
        wait_until(lambda: running(lab) == tasks, "the tasks are other ones")
        recording = load.end()
    recording.check_none_failed()
    after = standing(lab)
    saved = sorted(after["configs"].values(), key=lambda each: each["CreatedAt"])
    assert len(saved) == n_saved
    before["configs"] = {id: value for id, value in before["configs"].items() if id in after["configs"]}
    assert acknowledged <= {value["Spec"]["Name"] for value in saved}
    assert after == before
    assert {name: programs_of(lab, name) for name in kept} == kept
    scale(lab, 6)
    assert all(kept[name] <= programs_of(lab, name) for name in kept)
    assert secret_of_new_task(lab, "reader", "node1") == SECRET.decode()
    versions = [each["Version"]["Index"] for each in lab.api("GET", "/services")]
    assert min(versions) > json.loads(shown.stdout)["Revision"]


@pytest.mark.soak
def test_a_new_machine_with_another_address_takes_over(lab: Lab, tmp_path: Path, phrase_file: str) -> None:
    backup = tmp_path / "swarm.skep"
    skep(lab, "backup", "save", "--passphrase-file", phrase_file, str(backup))
    living = skep(lab, "backup", "restore", "--passphrase-file", phrase_file, str(backup), node="node4", check=False)
    assert "still has a manager at 192.168.77.1:2377" in living.stderr
    before = standing(lab)
    kept = {name: programs_of(lab, name) for name in ("node2", "node3")}
    nodes.kill_node(lab.layout, lab.layout.node("node1"))
    skep(lab, "backup", "restore", "--passphrase-file", phrase_file, str(backup), node="node4")
    lost = skep(lab, "node", "rejoin", "192.168.77.250:2377", node="node2", check=False)
    assert "192.168.77.250:2377" in lost.stderr
    for name in ("node2", "node3"):
        skep(lab, "node", "rejoin", "192.168.77.4", node=name)
    wait_until(lambda: ready(lab, "node4") >= {"node2", "node3", "node4"}, "the nodes did not return")
    assert standing(lab, "node4") == before
    scale(lab, 8, "node4")
    assert all(kept[name] <= programs_of(lab, name) for name in kept)
    managers = [each for each in lab.api("GET", "/nodes", node="node4") if each.get("ManagerStatus")]
    assert [each["ManagerStatus"]["Addr"] for each in managers] == ["192.168.77.4:2377"]
