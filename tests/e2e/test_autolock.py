"""A locked manager comes back from a restart only with its key; its tasks run on meanwhile."""

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.conftest import Lab, make_lab, wait_until

from skep.lab import nodes

pytestmark = [pytest.mark.e2e, pytest.mark.kernel]


def restart_daemon(lab: Lab) -> None:
    node = lab.nodes[0]
    old = nodes.daemon_pid(node)
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: nodes.daemon_pid(node) not in (0, old), "the daemon was not started anew")
    wait_until(lambda: lab.docker_process("version").returncode == 0, "the daemon did not answer")


def state(lab: Lab) -> str:
    return str(json.loads(lab.docker("info", "--format", "{{json .Swarm.LocalNodeState}}")))


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    yield from make_lab(tmp_path / "l", node_count=1, is_joined=False)


def test_a_manager_is_locked_and_unlocked(lab: Lab) -> None:
    printed = lab.docker("swarm", "init", "--autolock", "--advertise-addr", "192.168.77.1")
    found = re.search(r"SWMKEY-1-\S+", printed)
    assert found
    key = found[0]
    assert key in lab.docker("swarm", "unlock-key")
    lab.docker("service", "create", "--quiet", "--no-resolve-image", "--name", "s", "--detach", "x", "sleep", "999")
    wait_until(lambda: "1/1" in lab.docker("service", "ls"), "the service did not run")
    restart_daemon(lab)
    assert state(lab) == "locked"
    refused = lab.docker_process("service", "ls")
    assert "Swarm is encrypted and needs to be unlocked" in refused.stderr
    wrong = lab.docker_process("swarm", "unlock", stdin=b"SWMKEY-1-" + b"A" * 43 + b"\n")
    assert "invalid key provided" in wrong.stderr
    assert lab.docker_process("swarm", "unlock", stdin=key.encode() + b"\n").returncode == 0
    wait_until(lambda: state(lab) == "active", "the manager did not come back")
    wait_until(lambda: "1/1" in lab.docker("service", "ls"), "the service was lost")
    lab.docker("swarm", "update", "--autolock=false")
    restart_daemon(lab)
    wait_until(lambda: state(lab) == "active", "an unlocked manager did not come back by itself")
