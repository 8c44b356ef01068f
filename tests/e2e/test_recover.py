"""Three managers lose their quorum, then everything: one goes on by its plan, and a backup brings the rest back."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import Lab, make_lab, serve_who, wait_until
from tests.e2e.test_backup import PHRASE, programs_of, skep, standing

from skep.lab import nodes

pytestmark = [pytest.mark.e2e, pytest.mark.kernel, pytest.mark.soak, pytest.mark.timeout(600)]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    yield from make_lab(tmp_path / "l", node_count=4, manager_count=3)


def status(lab: Lab) -> Any:
    return lab.api("GET", "/skep/cluster")


def kill(lab: Lab, *names: str) -> None:
    for name in names:
        nodes.kill_node(lab.layout, lab.layout.node(name))


def boot_as_workers(lab: Lab, *names: str) -> None:
    """Start former managers and wait until they have found out what they are now."""
    for name in names:
        nodes.boot_node(lab.layout, lab.layout.node(name))

    def are_workers() -> bool:
        states = [lab.api("GET", "/info", node=name)["Swarm"] for name in names]
        return all(each["LocalNodeState"] == "active" and not each["ControlAvailable"] for each in states)

    wait_until(are_workers, "the former managers are no workers", 150)


def promote(lab: Lab, *names: str) -> None:
    lab.docker("node", "promote", *names)
    wait_until(lambda: lab.docker("node", "ls").count("Reachable") == len(names), "they are no managers", 150)


def test_one_manager_goes_on_and_a_backup_survives_them_all(lab: Lab, tmp_path: Path) -> None:
    serve_who(lab, "--constraint", "node.hostname==node4", replicas=2)
    kept = programs_of(lab, "node4")
    assert len(kept) == 2
    phrase, backup = tmp_path / "phrase", tmp_path / "swarm.skep"
    phrase.write_text(PHRASE)
    assert [row["Role"] for row in status(lab)["Managers"]].count("voter") == 2

    kill(lab, "node2", "node3")
    wait_until(lambda: not status(lab)["HasQuorum"], "nobody notices that the quorum is lost")
    without = skep(lab, "backup", "save", "--passphrase-file", str(phrase), str(backup))
    assert "could not note" in without.stderr
    plan = skep(lab, "cluster", "recover", "--plan").stdout
    assert plan.count("a worker: it demotes itself when it returns") == 2
    assert not status(lab)["HasQuorum"]
    skep(lab, "cluster", "recover", "--yes")
    found = status(lab)
    assert (found["HasQuorum"], len(found["Managers"])) == (True, 1)
    scale_on_node4(lab, 3)
    boot_as_workers(lab, "node2", "node3")
    promote(lab, "node2", "node3")
    assert kept <= programs_of(lab, "node4")

    skep(lab, "backup", "save", "--passphrase-file", str(phrase), str(backup), node="node2")
    before = standing(lab)
    kill(lab, "node1", "node2", "node3")
    shutil.rmtree(lab.layout.node("node1").data_dir / "swarm")
    nodes.boot_node(lab.layout, lab.layout.node("node1"))
    skep(lab, "backup", "restore", "--passphrase-file", str(phrase), str(backup))
    assert standing(lab) == before
    assert status(lab)["Store"]["Kind"] == "sqlite"
    scale_on_node4(lab, 4)
    boot_as_workers(lab, "node2", "node3")
    promote(lab, "node2", "node3")
    assert status(lab)["Store"]["Kind"] == "etcd"
    assert kept <= programs_of(lab, "node4")


def scale_on_node4(lab: Lab, replicas: int) -> None:
    """Only a node in session hears that there is to be one more."""
    lab.docker("service", "scale", "--detach", f"who={replicas}")
    wait_until(lambda: len(programs_of(lab, "node4")) == replicas, "the worker does not do what it is told")


def test_a_worker_that_starts_anew_finds_the_managers_that_are_left(lab: Lab) -> None:
    """It joined through node1, which is gone for good."""
    serve_who(lab, "--constraint", "node.hostname==node4", replicas=1)
    kept = programs_of(lab, "node4")
    kill(lab, "node1")
    old = nodes.daemon_pid(lab.layout.node("node4"))
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: nodes.daemon_pid(lab.layout.node("node4")) not in (0, old), "the daemon is not started anew")
    wait_until(lambda: lab.docker_process("node", "ls", node="node2").returncode == 0, "no manager answers")
    lab.docker("service", "scale", "--detach", "who=2", node="node2")
    wait_until(lambda: len(programs_of(lab, "node4")) == 2, "the worker has found no manager", 60)
    assert kept <= programs_of(lab, "node4")
