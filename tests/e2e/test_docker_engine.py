"""A swarm whose nodes run Docker Engine: the mesh, exec and logs, and daemons that die while it serves."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.contract.runtime_places import kernel_reason
from tests.e2e import programs
from tests.e2e.conftest import Lab, make_lab, serve_who, under_load, wait_until, who_urls

from skep.lab import lab as labs
from skep.lab import nodes
from skep.lab.underlay import LabFailure

pytestmark = [pytest.mark.e2e, pytest.mark.engine, pytest.mark.kernel]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    root = tmp_path_factory.mktemp("docker")
    making = make_lab(root / "l", engine="docker", node_count=2)
    try:
        made = next(making)
    except LabFailure as failure:
        reason = kernel_reason(str(failure))
        if reason:
            pytest.skip(reason)
        raise
    try:
        # A machine under load may take longer than the usual six seconds to start a daemon again.
        made.docker("swarm", "update", "--dispatcher-heartbeat", "30s")
        made.load_image(programs.write_archive(root))
        serve_who(made, "--stop-grace-period", "0s")
        yield made
    finally:
        making.close()


def test_every_node_answers_for_three_replicas(lab: Lab) -> None:
    for url in who_urls(lab):
        lines = lab.run("client", "sh", "-c", f"for n in $(seq 30); do curl -s -m 5 {url}; done").splitlines()
        names = [line.split()[0] for line in lines]
        assert sorted(names.count(name) for name in set(names)) == [10, 10, 10]
        assert {line.split()[1] for line in lines} == {lab.layout.client_address}


def test_containers_are_reached_from_the_manager_and_pauses_are_not_shown(lab: Lab) -> None:
    listed = lab.docker("ps", "-a", "--format", "{{.ID}} {{.Image}}").splitlines()
    assert [line.split()[1] for line in listed] == [f"{programs.NAME}:latest"] * 3
    for container in [line.split()[0] for line in listed]:
        assert lab.docker("exec", container, "hostname").strip() == container
    last = lab.docker("ps", "-n", "1", "--format", "{{.Image}}").splitlines()
    assert last == [f"{programs.NAME}:latest"]
    lab.docker("exec", container, "sh", "-c", "echo buzz >/proc/1/fd/1")
    wait_until(lambda: lab.docker("logs", container) == "buzz\n", "docker logs does not have the line")
    wait_until(lambda: lab.docker("service", "logs", "--raw", "who") == "buzz\n", "docker service logs has not")


def programs_running(lab: Lab) -> dict[str, tuple[str, int]]:
    """Container and first process of every running task, by task id."""
    found: dict[str, tuple[str, int]] = {}
    for task in lab.api("GET", "/tasks"):
        if task["Status"]["State"] == "running":
            status = task["Status"]["ContainerStatus"]
            found[task["ID"]] = (status["ContainerID"], status["PID"])
    return found


def service_pid(lab: Lab, name: str) -> int:
    """Of a node's dockerd, as the host sees it."""
    socket = os.fsencode(f"unix://{lab.layout.node(name).run_dir}/engine/docker.sock")
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().split(b"\0")
        except OSError:
            continue
        if socket in words:
            return int(file.parent.name)
    return 0


@pytest.mark.parametrize("victim", ["skepd", pytest.param("dockerd", marks=pytest.mark.soak)])
def test_a_killed_daemon_comes_back_and_no_request_is_lost(lab: Lab, victim: str) -> None:
    wait_until(lambda: len(programs_running(lab)) == 3, "there are not three tasks")
    before = programs_running(lab)
    node = lab.layout.node("node2")
    find = {"skepd": lambda: nodes.daemon_pid(node), "dockerd": lambda: service_pid(lab, "node2")}[victim]
    first = find()
    with under_load(lab, 60, 20, *who_urls(lab)) as load:
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: find() not in (0, first), f"{victim} is not started again")
        wait_until(lambda: lab.docker_process("ps", node="node2").returncode == 0, "the engine does not answer")
        load.end().check_none_failed()
    assert programs_running(lab) == before
    lab.docker("service", "scale", "who=4")
    assert before.items() <= programs_running(lab).items()
    lab.docker("service", "scale", "who=3")


@pytest.mark.soak
def test_a_node_that_lost_its_power_serves_again(lab: Lab) -> None:
    node = lab.layout.node("node2")
    nodes.kill_node(lab.layout, node)
    nodes.boot_node(lab.layout, node)
    labs.wait_ready(lab.layout, node)
    wait_until(lambda: len(programs_running(lab)) == 3, "the lost tasks are not replaced")
    lab.docker("service", "update", "--quiet", "--force", "who")
    for url in who_urls(lab):
        assert lab.run("client", "curl", "-s", "-m", "5", url)
    # Every pause is of a task that runs: what the power cut left is swept up.
    engine = ("docker", "-H", f"unix://{node.run_dir}/engine/docker.sock", "ps", "-q")
    pauses = lab.run(node.name, *engine, "-a", "--filter", "label=skep.pause").split()
    tasks = lab.run(node.name, *engine, "--filter", "label=com.docker.swarm.task.id").split()
    assert len(pauses) == len(tasks) > 0
