"""What a load through the mesh notices of faults: of a daemon's death nothing, of a node's only what was on its way."""

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.e2e import programs
from tests.e2e.conftest import Lab, make_lab, serve_who, under_load, wait_until, who_urls

from skep.lab import nodes

pytestmark = [pytest.mark.e2e, pytest.mark.engine, pytest.mark.kernel]
RATE = 60.0


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    root = tmp_path_factory.mktemp("faults")
    for lab in make_lab(root / "l", engine="podman"):
        lab.load_image(programs.write_archive(root))
        serve_who(lab)
        yield lab


def running(lab: Lab) -> list[dict[str, Any]]:
    """Tasks that are meant to run and do, on nodes that are up."""
    up = {node["ID"] for node in lab.api("GET", "/nodes") if node["Status"]["State"] == "ready"}
    filters = '{"service":["who"],"desired-state":["running"]}'
    tasks = lab.api("GET", f"/tasks?filters={filters}")
    return [task for task in tasks if task["Status"]["State"] == "running" and task["NodeID"] in up]


def containers(lab: Lab) -> set[str]:
    return {task["Status"]["ContainerStatus"]["ContainerID"] for task in running(lab)}


def test_killing_any_daemon_loses_no_request_and_restarts_nothing(lab: Lab) -> None:
    before = containers(lab)
    assert len(before) == 3
    with under_load(lab, 30, RATE, *who_urls(lab)) as load:
        for name in ("node2", "node1", "node3", "node1"):
            time.sleep(2)
            node = lab.layout.node(name)
            old = nodes.daemon_pid(node)
            os.kill(old, signal.SIGKILL)
            wait_until(
                lambda old=old, node=node: nodes.daemon_pid(node) not in (0, old), f"{name}'s daemon is not back"
            )
            wait_until(lambda name=name: _answers(lab, name), f"{name} does not answer")
        recording = load.finish()
    recording.check_none_failed()
    wait_until(lambda: containers(lab) == before, "a container was restarted")


def _answers(lab: Lab, node: str) -> bool:
    return lab.docker_process("info", node=node).returncode == 0


def test_killing_a_container_loses_only_what_it_was_answering(lab: Lab) -> None:
    victim = next(task for task in running(lab) if _name_of(lab, task["NodeID"]) == "node2")
    with under_load(lab, 12, RATE, *who_urls(lab, "node1", "node3")) as load:
        time.sleep(3)
        os_pid = lab.docker("inspect", "-f", "{{.State.Pid}}", _container(victim), node="node2").strip()
        killed_at = load.at_s
        lab.run("node2", "kill", "-9", os_pid)
        recording = load.finish()
    lost = [request for request in recording.failed if not killed_at - 0.5 <= request.began_s <= killed_at + 0.5]
    print(f"{len(recording.requests)} requests, {len(recording.failed)} in flight on the killed container")
    assert not lost, lost[:5]
    assert len(recording.failed) <= RATE / 2
    wait_until(lambda: len(running(lab)) == 3, "the container was not replaced", 15)


def test_flushed_tables_are_repaired_within_a_second(lab: Lab) -> None:
    with under_load(lab, 10, RATE, *who_urls(lab)) as load:
        time.sleep(3)
        began = load.at_s
        lab.run("node2", "nft", "flush", "ruleset")
        flushed_at = load.at_s
        recording = load.finish()
    late = [request for request in recording.failed if not began <= request.began_s <= flushed_at + 1.0]
    print(f"{len(recording.requests)} requests, {len(recording.failed)} within the second of the flush")
    assert not late, late[:5]


def test_a_dead_node_is_avoided_in_2_s_and_replaced_in_8_s(lab: Lab) -> None:
    with under_load(lab, 14, RATE, *who_urls(lab, "node1", "node2")) as load:
        time.sleep(2)
        dead_at = load.at_s
        nodes.kill_node(lab.layout, lab.layout.node("node3"))
        wait_until(lambda: len(running(lab)) == 3, "the tasks do not run elsewhere", 12)
        replaced_s = load.at_s - dead_at
        recording = load.finish()
    slow = [r for r in recording.requests if r.began_s > dead_at + 2.0 and (r.error or r.took_s > 1.0)]
    print(f"replaced after {replaced_s:.1f} s; {len(recording.requests)} requests, {len(recording.failed)} failed")
    assert not slow, slow[:5]
    assert replaced_s <= 8.0
    nodes.boot_node(lab.layout, lab.layout.node("node3"))
    wait_until(lambda: all(n["Status"]["State"] == "ready" for n in lab.api("GET", "/nodes")), "it is not back")
    assert len(running(lab)) == 3


def _name_of(lab: Lab, node_id: str) -> str:
    return str(lab.api("GET", f"/nodes/{node_id}")["Description"]["Hostname"])


def _container(task: dict[str, Any]) -> str:
    return str(task["Status"]["ContainerStatus"]["ContainerID"])
