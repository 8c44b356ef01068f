"""In and out of a swarm, whatever happens in between: a node is a member or it is none, and what it left is gone."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.conftest import Lab, make_lab, serve_who, wait_until

from skep.lab import nodes

pytestmark = [pytest.mark.e2e, pytest.mark.engine, pytest.mark.kernel]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    yield from make_lab(tmp_path / "l", node_count=2)


def kill_daemon(lab: Lab, name: str) -> None:
    """kill -9 a node's daemon and wait for the next one to answer."""
    node = lab.layout.node(name)
    old = nodes.daemon_pid(node)
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: nodes.daemon_pid(node) not in (0, old), f"{name} has no daemon")
    wait_until(lambda: lab.docker_process("info", node=name).returncode == 0, f"{name} does not answer")


def local_state(lab: Lab, name: str) -> str:
    return str(lab.api("GET", "/info", node=name)["Swarm"]["LocalNodeState"])


def traces(lab: Lab, name: str) -> str:
    """What a swarm puts on a node: our table and our devices."""
    return lab.run(
        name, "sh", "-c", "nft list tables; ip -o link | grep -E 'vx-|skg'; ls /proc/self/ns >/dev/null; true"
    )


def test_a_node_that_leaves_takes_everything_along(lab: Lab) -> None:
    serve_who(lab, "--stop-grace-period", "0s", replicas=2)
    assert "skep" in traces(lab, "node2")
    assert lab.docker("swarm", "leave", node="node2") == "Node left the swarm.\n"
    assert local_state(lab, "node2") == "inactive"
    assert traces(lab, "node2").strip() == ""
    wait_until(lambda: "Down" in lab.docker("node", "ls"), "it is not seen to be gone")
    refused = lab.docker_process("swarm", "leave", node="node2")
    assert "This node is not part of a swarm" in refused.stderr


def test_a_leave_that_was_interrupted_is_finished(lab: Lab) -> None:
    serve_who(lab, "--stop-grace-period", "3s", replicas=2)  # The first process of a sandbox ignores SIGTERM: 3 s.
    socket = lab.layout.node("node2").socket
    leaving = subprocess.Popen(["docker", "-H", f"unix://{socket}", "swarm", "leave"], stderr=subprocess.DEVNULL)
    time.sleep(1)
    kill_daemon(lab, "node2")
    leaving.wait(timeout=30)
    assert local_state(lab, "node2") == "inactive"
    assert traces(lab, "node2").strip() == ""


def test_a_removed_node_goes_and_may_come_back_as_another(lab: Lab) -> None:
    first = lab.api("GET", "/info", node="node2")["Swarm"]["NodeID"]
    refused = lab.docker_process("node", "rm", "node2")
    assert "is not down and can't be removed" in refused.stderr
    lab.docker("node", "rm", "--force", "node2")
    wait_until(lambda: local_state(lab, "node2") == "inactive", "it did not go")
    token = lab.docker("swarm", "join-token", "-q", "worker").strip()
    lab.docker("swarm", "join", "--token", token, "192.168.77.1:2377", node="node2")
    assert lab.api("GET", "/info", node="node2")["Swarm"]["NodeID"] != first
    wait_until(lambda: lab.docker("node", "ls").count(" Ready ") == 2, "it did not come back")


def test_the_last_manager_leaves_by_force_only(lab: Lab) -> None:
    refused = lab.docker_process("swarm", "leave")
    assert refused.returncode == 1
    assert "Removing the last manager erases all current state of the swarm. Use `--force`" in refused.stderr
    lab.docker("swarm", "leave", "--force")
    assert local_state(lab, "node1") == "inactive"
    lab.docker("swarm", "init", "--advertise-addr", "192.168.77.1")
    assert local_state(lab, "node1") == "active"


def test_a_lost_certificate_is_said_and_nothing_is_wiped(lab: Lab) -> None:
    swarm_dir = lab.layout.node("node1").data_dir / "swarm"
    kept = (swarm_dir / "credentials.json").read_bytes()
    (swarm_dir / "credentials.json").unlink()
    kill_daemon(lab, "node1")
    assert local_state(lab, "node1") == "error"
    assert (swarm_dir / "store.db").exists()
    (swarm_dir / "credentials.json").write_bytes(kept)
    (swarm_dir / "credentials.json").chmod(0o600)
    kill_daemon(lab, "node1")
    assert local_state(lab, "node1") == "active"
    assert lab.docker("node", "ls").count("node") == 2
