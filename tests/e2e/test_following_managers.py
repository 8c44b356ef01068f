"""Three managers on podman: streams through one that does not lead, a killed leader, and none left to agree."""

import hashlib
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e import programs
from tests.e2e.conftest import DOCKER, Lab, make_lab, wait_until
from tests.e2e.test_managers import found, kill_manager, running, wait_running

from skep.lab import nodes

pytestmark = [pytest.mark.e2e, pytest.mark.engine, pytest.mark.kernel, pytest.mark.soak]
RUN = ("service", "create", "--quiet", "--no-resolve-image", "--detach", "--name")
BIG = bytes(range(256)) * 12_000  # 3 MB
NAMES = ("node1", "node2", "node3")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    for made in make_lab(tmp_path / "l", engine="podman", manager_count=3):
        made.load_image(programs.write_archive(tmp_path))
        yield made


def leader(lab: Lab, at: str = "node1") -> str:
    return next((name for name, (_, shown) in found(lab, at).items() if shown == "Leader"), "")


def follower_and_task(lab: Lab) -> tuple[str, str]:
    """A manager that does not lead, and a running task of `web` on none of the two."""
    follower = next(name for name in NAMES if name != leader(lab))
    away = next(name for name in NAMES if name not in (leader(lab), follower))
    listed = lab.docker("service", "ps", "web", "--no-trunc", "--format", "{{.ID}} {{.Node}} {{.CurrentState}}")
    task = next(line.split()[0] for line in listed.splitlines() if line.split()[1:3] == [away, "Running"])
    return follower, task


def test_a_manager_that_does_not_lead_reaches_every_task(lab: Lab, tmp_path: Path) -> None:
    lab.docker(*RUN, "web", "--mode", "global", programs.NAME, "sh", "-c", "echo ready; sleep 9999")
    wait_running(lab, "web", 3)
    follower, task = follower_and_task(lab)

    assert "ready" in lab.docker("service", "logs", "web", node=follower)
    assert lab.docker("logs", task, node=follower).strip() == "ready"
    assert len(lab.docker("exec", task, "hostname", node=follower).strip()) == 12
    sent = tmp_path / "sent"
    sent.write_bytes(BIG)
    lab.docker("cp", str(sent), f"{task}:/sent", node=follower)
    assert lab.docker("exec", task, "sha256sum", "/sent", node=follower).split()[0] == hashlib.sha256(BIG).hexdigest()
    piped = lab.docker_process("exec", "-i", task, "cat", node=follower, stdin=b"to and fro\n")
    assert piped.stdout == "to and fro\n"

    command = [DOCKER or "docker", "-H", f"unix://{lab.layout.node(follower).socket}", "logs", "-f", task]
    following = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert following.stdout is not None
        assert following.stdout.readline() == "ready\n"
        lab.docker("exec", task, "sh", "-c", "echo later > /proc/1/fd/1", node=follower)
        assert following.stdout.readline() == "later\n"
    finally:
        following.terminate()
        following.wait(timeout=10)


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_a_leader_that_is_gone_takes_no_other_node_out_and_restarts_nothing(lab: Lab, how: str) -> None:
    lab.docker(*RUN, "web", "--replicas", "6", programs.NAME, "sleep", "9999")
    before = wait_running(lab, "web", 6)
    for _ in range(2):
        led = leader(lab)
        seen_by = next(name for name in NAMES if name != led)
        others = {name for name in NAMES if name != led}
        if how == "killed":
            kill_manager(lab, led)
        else:
            nodes.freeze_node(lab.layout.node(led), is_frozen=True)
        began = time.monotonic()
        while time.monotonic() - began < (12 if how == "killed" else 8):  # Later it is down, and its tasks replaced.
            shown = found(lab, seen_by)
            assert {shown[name][0] for name in others} == {"Ready"}
            time.sleep(0.2)
        if how == "frozen":
            assert leader(lab, seen_by) in others
            nodes.freeze_node(lab.layout.node(led), is_frozen=False)
        wait_until(lambda led=led: lab.docker_process("node", "ls", node=led).returncode == 0, f"{led} did not return")
        wait_until(lambda: {state for state, _ in found(lab).values()} == {"Ready"}, "a node is not ready")
        wait_until(lambda: "Leader" in {shown for _, shown in found(lab).values()}, "nobody leads")
    wait_until(lambda: running(lab, "web") == before, "a task was restarted or is not seen")


def test_without_a_quorum_reads_are_marked_and_changes_refused_soon(lab: Lab) -> None:
    lab.docker(*RUN, "web", programs.NAME, "sleep", "9999")
    wait_running(lab, "web", 1)
    for name in ("node2", "node3"):
        nodes.freeze_node(lab.layout.node(name), is_frozen=True)
    try:
        wait_until(lambda: "may be out of date" in lab.docker("info"), "it does not notice")
        head = lab.run(
            "node1", "curl", "-si", "--unix-socket", str(lab.layout.node("node1").socket), "http://d/services"
        )
        assert "Skep-Stale: true" in head
        assert json.loads(head.split("\n\n", 1)[1])[0]["Spec"]["Name"] == "web"
        for n in range(3):
            began = time.monotonic()
            refused = lab.docker_process("network", "create", "-d", "overlay", f"back{n}")
            took_s = time.monotonic() - began
            assert refused.returncode == 1
            assert "cannot store changes at present" in refused.stderr
            assert took_s < 3, "a docker command takes a while to start, the rest is ours"
    finally:
        for name in ("node2", "node3"):
            nodes.freeze_node(lab.layout.node(name), is_frozen=False)
    wait_until(lambda: "may be out of date" not in lab.docker("info"), "it does not recover")
    wait_until(lambda: lab.docker_process("network", "create", "-d", "overlay", "front").returncode == 0, "no change")
