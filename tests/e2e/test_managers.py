"""Several managers, as the docker CLI sees them: they come and go, one dies, too few are left, one begins anew."""

import json
import os
import random
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import Lab, make_lab, wait_until

from skep.lab import nodes

pytestmark = [pytest.mark.e2e, pytest.mark.kernel]
NOT_MANAGER = "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state."
RUN = ("service", "create", "--quiet", "--no-resolve-image", "--detach", "--name")
PROGRAM = ("x", "sleep", "9999")


def found(lab: Lab, node: str = "node1") -> dict[str, tuple[str, str]]:
    """Status and manager status of every node, by host name."""
    printed = lab.docker("node", "ls", "--format", "{{.Hostname}}/{{.Status}}/{{.ManagerStatus}}", node=node)
    rows = [line.split("/") for line in printed.split()]
    return {name: (status, manager) for name, status, manager in rows}


def managers(lab: Lab, node: str = "node1") -> dict[str, str]:
    return {name: manager for name, (_, manager) in found(lab, node).items() if manager}


def lags(lab: Lab, node: str) -> dict[str, int]:
    """How far each manager is behind, of those that say so, as one of them shows it."""
    rows = lab.api("GET", "/skep/cluster", node=node)["Managers"]
    return {row["Hostname"]: row["Lag"] for row in rows if row["Lag"] is not None}


def running(lab: Lab, service: str, node: str = "node1") -> dict[str, int]:
    """Process ids of a service's running tasks."""
    tasks: list[dict[str, Any]] = lab.api("GET", "/tasks", node=node)
    ids = {found["ID"] for found in lab.api("GET", "/services", node=node) if found["Spec"]["Name"] == service}
    return {
        task["ID"]: task["Status"]["ContainerStatus"]["PID"]
        for task in tasks
        if task["ServiceID"] in ids and task["Status"]["State"] == "running" and task["DesiredState"] == "running"
    }


def wait_running(lab: Lab, service: str, replicas: int, node: str = "node1", deadline_s: float = 30) -> dict[str, int]:
    wait_until(lambda: len(running(lab, service, node)) == replicas, f"{service} did not run", deadline_s)
    return running(lab, service, node)


def kill_manager(lab: Lab, name: str) -> int:
    """Kill a node's daemon and its etcd member, if it has one, at once; what it runs goes on. Returns how many."""
    node = lab.layout.node(name)
    init = nodes.init_pid(node)
    own = Path(f"/proc/{init}/ns/pid").readlink()
    doomed = [nodes.daemon_pid(node)]
    for comm in Path("/proc").glob("[0-9]*/comm"):
        try:
            if comm.read_text() == "etcd\n" and (comm.parent / "ns/pid").readlink() == own:
                doomed.append(int(comm.parent.name))
        except OSError:
            continue  # It has ended meanwhile.
    for pid in doomed:
        os.kill(pid, signal.SIGKILL)
    return len(doomed)


def refused(lab: Lab, *words: str, node: str = "node1") -> str:
    done = lab.docker_process(*words, node=node)
    assert done.returncode != 0, done.stdout
    return done.stderr.strip()


def insist(lab: Lab, *words: str, node: str = "node1") -> str:
    """Have something changed although a manager was just lost: refused within two seconds, it is asked again."""
    for _ in range(20):
        done = lab.docker_process(*words, node=node)
        if done.returncode == 0 or "name conflicts" in done.stderr:
            break  # The one before may have been stored all the same, as it said.
        assert "cannot store changes at present" in done.stderr, done.stderr
    return done.stdout


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """Nodes in no swarm yet."""
    yield from make_lab(tmp_path / "l", node_count=3, is_joined=False)


def join(lab: Lab, node: str, role: str) -> str:
    token = lab.docker("swarm", "join-token", "--quiet", role).strip()
    return lab.docker("swarm", "join", "--token", token, "192.168.77.1:2377", node=node)


def test_managers_come_and_go_and_one_dies(lab: Lab) -> None:
    # Four beats of silence make a node down: with these a busy machine has time to start a killed daemon again.
    lab.docker("swarm", "init", "--advertise-addr", "192.168.77.1", "--dispatcher-heartbeat", "5s")
    lab.docker(*RUN, "s", "--replicas", "3", *PROGRAM)
    old = lab.docker("swarm", "join-token", "--quiet", "manager").strip()
    lab.docker("swarm", "join-token", "--rotate", "manager")
    assert "A valid join token is necessary" in refused(
        lab, "swarm", "join", "--token", old, "192.168.77.1:2377", node="node2"
    )
    tasks = wait_running(lab, "s", 3)

    assert join(lab, "node2", "manager") == "This node joined a swarm as a manager.\n"
    assert "two-manager configuration" in lab.docker("info")
    assert join(lab, "node3", "worker") == "This node joined a swarm as a worker.\n"
    assert NOT_MANAGER in refused(lab, "node", "ls", node="node3")
    assert lab.docker("node", "promote", "node3") == "Node node3 promoted to a manager in the swarm.\n"
    wait_until(lambda: lab.docker_process("node", "ls", node="node3").returncode == 0, "node3 became no manager")
    three = [("Ready", "Leader"), ("Ready", "Reachable"), ("Ready", "Reachable")]
    for node in lab.nodes:
        wait_until(lambda name=node.name: sorted(found(lab, name).values()) == three, f"{node.name} sees no three")
        wait_until(lambda name=node.name: len(lags(lab, name)) == 3, f"{node.name} does not hear how far all are")
    assert "two-manager" not in lab.docker("info")
    assert running(lab, "s") == tasks

    leader, other, third = sorted(managers(lab), key=lambda name: managers(lab)[name])
    insist(lab, *RUN, "t", *PROGRAM, node=third)  # Asked of one that does not lead.
    wait_running(lab, "t", 1, other)
    assert kill_manager(lab, leader) == 2
    began = time.monotonic()
    insist(lab, *RUN, "u", *PROGRAM, node=other)
    wait_running(lab, "u", 1, other)
    print(f"decided {time.monotonic() - began:.1f} s after the leader was killed")
    wait_until(lambda: lab.docker_process("node", "ls", node=leader).returncode == 0, f"{leader} did not come back")
    wait_until(lambda: len(running(lab, "s")) == 3, "what ran is not all seen again")
    assert running(lab, "s") == tasks

    wait_until(lambda: "Leader" in managers(lab).values(), "nobody leads")
    insist(lab, "node", "demote", "node3")
    wait_until(lambda: NOT_MANAGER in lab.docker("node", "ls", node="node3", check=False), "node3 is a manager still")
    wait_until(lambda: set(managers(lab)) == {"node1", "node2"}, "node3 is shown as a manager still")
    leaving = refused(lab, "swarm", "leave", node="node2")
    assert "Removing this node leaves 1 managers out of 2." in leaving
    assert "It must be demoted to worker before removal" in refused(lab, "node", "rm", "--force", "node2")
    assert lab.docker("swarm", "leave", "--force", node="node2") == "Node left the swarm.\n"
    insist(lab, "node", "demote", "node2")  # The other managers do without it, so that they can change this.
    wait_until(lambda: managers(lab) == {"node1": "Leader"}, "node2 is shown as a manager still")
    insist(lab, "node", "rm", "--force", "node2")
    assert set(found(lab)) == {"node1", "node3"}
    assert refused(lab, "node", "demote", "node1").endswith("attempting to demote the last manager of the swarm")
    assert running(lab, "s") == tasks


def test_without_a_quorum_one_manager_begins_anew(lab: Lab) -> None:
    lab.docker("swarm", "init", "--advertise-addr", "192.168.77.1")
    lab.docker(*RUN, "s", "--replicas", "2", *PROGRAM)
    tasks = wait_running(lab, "s", 2)
    lab.docker("swarm", "init", "--force-new-cluster", "--advertise-addr", "192.168.77.1")  # Of one, nothing changes.
    assert running(lab, "s") == tasks
    join(lab, "node2", "manager")
    nodes.kill_node(lab.layout, lab.layout.node("node2"))
    began = time.monotonic()
    why = refused(lab, *RUN, "t", *PROGRAM)
    assert time.monotonic() - began < 6  # Two seconds, and what a busy machine takes beside.
    assert "cannot store changes at present: too few managers answer" in why
    assert "s" in lab.docker("service", "ls", "--format", "{{.Name}}").split()

    printed = lab.docker("swarm", "init", "--force-new-cluster", "--advertise-addr", "192.168.77.1")
    assert "is now a manager." in printed
    assert managers(lab) == {"node1": "Leader"}
    insist(lab, *RUN, "u", "--constraint", "node.hostname==node1", *PROGRAM)
    wait_running(lab, "u", 1)
    assert running(lab, "s") == tasks
    nodes.boot_node(lab.layout, lab.layout.node("node2"))
    wait_until(
        lambda: NOT_MANAGER in lab.docker("node", "ls", node="node2", check=False), "node2 takes itself for a manager"
    )
    wait_until(lambda: found(lab)["node2"] == ("Ready", ""), "node2 did not come back as a worker")
    state = json.loads((lab.layout.node("node2").data_dir / "swarm" / "membership.json").read_text())
    assert state["role"] == "worker"


@pytest.mark.soak
def test_a_newcomers_key_is_locked_as_the_others_are(lab: Lab) -> None:
    printed = lab.docker("swarm", "init", "--autolock", "--advertise-addr", "192.168.77.1")
    words = re.search(r"SWMKEY-1-\S+", printed)
    assert words
    assert lab.docker_process("secret", "create", "word", "-", stdin=b"open sesame").returncode == 0
    join(lab, "node2", "manager")
    swarm_dir = lab.layout.node("node2").data_dir / "swarm"
    wait_until((swarm_dir / "data-key.locked").exists, "node2 did not lock its key")
    assert not (swarm_dir / "data-key").exists()
    kill_manager(lab, "node2")
    wait_until(lambda: state(lab, "node2") == "locked", "node2 is not locked")
    assert lab.docker_process("swarm", "unlock", stdin=words[0].encode() + b"\n", node="node2").returncode == 0
    wait_until(lambda: lab.docker_process("node", "ls", node="node2").returncode == 0, "node2 was not unlocked")
    wait_until(lambda: "Leader" in managers(lab, "node2").values(), "nobody leads")
    insist(lab, "swarm", "update", "--autolock=false", node="node2")
    wait_until((swarm_dir / "data-key").exists, "node2 did not unlock its key")


@pytest.mark.soak
def test_all_managers_return_after_their_machines_were_off(lab: Lab) -> None:
    lab.docker("swarm", "init", "--advertise-addr", "192.168.77.1")
    join(lab, "node2", "manager")
    join(lab, "node3", "manager")
    lab.docker(*RUN, "s", "--replicas", "2", *PROGRAM)
    for node in lab.nodes:
        nodes.kill_node(lab.layout, node)
    first, second, _ = lab.nodes
    nodes.boot_node(lab.layout, first)
    why = refused(lab, "service", "ls")  # Alone it knows nothing for sure.
    assert "does not take part yet" in why
    assert "Error: this manager does not take part yet" in lab.docker("info", check=False)
    nodes.boot_node(lab.layout, second)
    wait_until(lambda: lab.docker_process("node", "ls").returncode == 0, "two of three did not make a quorum", 60)
    wait_running(lab, "s", 2, deadline_s=60)
    wait_until(lambda: found(lab)["node3"] == ("Down", "Unreachable"), "node3 is not shown as lost", 60)
    insist(lab, "node", "demote", "node3")
    wait_until(lambda: lab.docker_process("node", "rm", "node3").returncode == 0, "node3 could not be removed")
    assert set(managers(lab)) == {"node1", "node2"}


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3))
def test_promotions_during_which_managers_are_killed_come_to_their_end(lab: Lab, seed: int) -> None:
    """The first manager, whose state moves, and the newcomers die again and again, wherever they are just then."""
    dice = random.Random(seed)
    lab.docker("swarm", "init", "--advertise-addr", "192.168.77.1")
    join(lab, "node2", "worker")
    join(lab, "node3", "worker")
    lab.docker(*RUN, "s", "--replicas", "3", *PROGRAM)
    wait_running(lab, "s", 3)
    for name in ("node2", "node3"):
        lab.docker("node", "promote", name)
    for _ in range(8):
        name = dice.choice([node.name for node in lab.nodes])
        length_s = dice.uniform(0.05, 1.5)
        time.sleep(length_s)  # The fault's own moment, not a wait for something.
        if nodes.daemon_pid(lab.layout.node(name)):
            kill_manager(lab, name)
    three = {"node1", "node2", "node3"}
    for name in three:
        wait_until(lambda name=name: name in answering(lab), f"{name} became no manager", 90)
    wait_until(lambda: {name for name, (_, seen) in found(lab).items() if seen} == three, "not all are managers", 60)
    # A node whose daemon dies time and again may be silent for so long that its tasks are replaced.
    wait_until(lambda: len(running(lab, "s")) == 3, "what ran is not all seen again", 60)
    insist(lab, *RUN, "t", *PROGRAM, node="node3")
    wait_running(lab, "t", 1)


def answering(lab: Lab) -> set[str]:
    return {node.name for node in lab.nodes if lab.docker_process("node", "ls", node=node.name).returncode == 0}


def state(lab: Lab, node: str) -> str:
    return lab.docker("info", "--format", "{{.Swarm.LocalNodeState}}", node=node, check=False).strip()
