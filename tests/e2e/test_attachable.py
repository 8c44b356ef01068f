"""Plain containers on attachable networks, with the unmodified docker CLI on a manager and on a worker."""

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from tests.e2e import programs
from tests.e2e.conftest import Lab, make_lab, wait_until
from tests.e2e.test_daemon_deaths import kill_daemon

from skep.lab import nodes

pytestmark = [pytest.mark.e2e, pytest.mark.engine, pytest.mark.kernel]

SLEEP = (programs.NAME, "sleep", "1000")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    root = tmp_path_factory.mktemp("attach")
    for lab in make_lab(root / "l", engine="podman", node_count=2):
        lab.load_image(programs.write_archive(root))
        lab.docker("network", "create", "-d", "overlay", "--attachable", "--subnet", "10.60.0.0/24", "net1")
        lab.docker("network", "create", "-d", "overlay", "closed")
        lab.docker(
            "service", "create", "--quiet", "--detach", "--no-resolve-image", "--name", "web", "--network", "net1",
            programs.NAME,
        )  # fmt: skip
        yield lab


@pytest.fixture
def containers(lab: Lab) -> Iterator[None]:
    """Remove every plain container afterwards, and look that nothing of them is left."""
    yield
    for node in lab.nodes:
        plain = lab.docker("ps", "-aq", "--filter", "label=plain", node=node.name).split()
        if plain:
            lab.docker("rm", "-f", *plain, node=node.name)
    wait_until(lambda: not attached(lab), "containers are still attached")
    for node in lab.nodes:
        wait_until(lambda name=node.name: not plain_sandboxes(lab, name), "a sandbox is left over")


def run(lab: Lab, node: str, name: str, *options: str, network: str = "net1") -> None:
    lab.docker("run", "-d", "--label", "plain", "--name", name, "--network", network, *options, *SLEEP, node=node)


def attached(lab: Lab) -> dict[str, Any]:
    """The plain containers on net1, of all nodes, by name."""
    [network] = json.loads(lab.docker("network", "inspect", "--verbose", "net1"))
    return {each["Name"]: each for each in network["Attachments"]}


def plain_sandboxes(lab: Lab, node: str) -> list[str]:
    listed = lab.run(node, "ls", str(lab.layout.node(node).run_dir / "net" / "netns"))
    return [name for name in listed.split() if name.startswith("plain-")]


def address(lab: Lab, node: str, name: str, network: str = "net1") -> str:
    return lab.docker(
        "inspect", "-f", f'{{{{(index .NetworkSettings.Networks "{network}").IPAddress}}}}', name, node=node
    ).strip()


def reaches(lab: Lab, node: str, name: str, target: str) -> bool:
    done = lab.docker_process("exec", name, "ping", "-c", "1", "-W", "2", target, node=node)
    return done.returncode == 0


@pytest.mark.usefixtures("containers")
def test_containers_of_two_nodes_find_each_other_and_services(lab: Lab) -> None:
    run(lab, "node1", "left", "--network-alias", "port", "--ip", "10.60.0.77")
    run(lab, "node2", "right")
    for name in ("right", "left", "port"):
        assert reaches(lab, "node1", "left", name)
        wait_until(lambda name=name: reaches(lab, "node2", "right", name), f"{name} is not found")
    assert address(lab, "node1", "left") == "10.60.0.77"

    def served() -> str:
        url = f"http://web:9200{programs.PATH}"
        return lab.docker("exec", "right", "timeout", "3", "wget", "-qO-", url, node="node2", check=False)

    wait_until(lambda: address(lab, "node2", "right") in served(), "the service does not answer")
    [network] = json.loads(lab.docker("network", "inspect", "net1"))
    [here] = [each for each in network["Containers"].values() if each["Name"] == "left"]
    assert here["IPv4Address"] == "10.60.0.77/24"
    assert lab.docker("inspect", "-f", "{{.HostConfig.NetworkMode}} {{.Mounts}}", "left").strip() == "net1 []"
    assert "attachment" not in lab.docker("service", "ls") + lab.docker("node", "ps", "self")
    assert "net1" in lab.docker("network", "ls", "--format", "{{.Name}}", node="node2")
    [network] = json.loads(lab.docker("network", "inspect", "net1", node="node2"))
    assert "right" in [each["Name"] for each in network["Containers"].values()]
    refused = lab.docker_process("network", "rm", "net1")
    assert "is in use by" in refused.stderr
    refused = lab.docker_process("run", "--rm", "--network", "closed", *SLEEP, node="node2")
    assert "network closed not manually attachable" in refused.stderr


@pytest.mark.soak
@pytest.mark.parametrize("node", ["node1", "node2"])
def test_refusals(lab: Lab, node: str) -> None:
    def refusal(*words: str) -> str:
        done = lab.docker_process("run", "--rm", *words, programs.NAME, "true", node=node)
        assert done.returncode == 125
        return done.stderr.splitlines()[0].removeprefix("docker: Error response from daemon: ")

    denied = "rpc error: code = PermissionDenied desc = network closed not manually attachable"
    assert refusal("--network", "closed") == f"Could not attach to network closed: {denied}"
    assert refusal("--network", "nope") == "network nope not found"
    assert "It does not belong to any of this network's subnets" in refusal("--network", "net1", "--ip", "10.9.9.9")
    assert "Address already in use" in refusal("--network", "net1", "--ip", "10.60.0.1")
    assert not attached(lab)


@pytest.mark.soak
@pytest.mark.usefixtures("containers")
def test_an_address_is_held_while_its_container_runs(lab: Lab) -> None:
    run(lab, "node2", "held", "--ip", "10.60.0.80")
    run(lab, "node1", "asker")
    lab.docker("stop", "-t", "0", "held", node="node2")
    assert "held" not in attached(lab)
    assert not reaches(lab, "node1", "asker", "held")
    lab.docker("start", "held", node="node2")
    wait_until(lambda: reaches(lab, "node1", "asker", "held"), "it is not back")
    assert address(lab, "node2", "held") == "10.60.0.80"
    before = attached(lab)["held"]["EndpointID"]
    lab.docker("restart", "-t", "0", "held", node="node2")
    assert attached(lab)["held"]["EndpointID"] == before
    assert reaches(lab, "node1", "asker", "held")


@pytest.mark.soak
@pytest.mark.usefixtures("containers")
def test_a_container_of_another_network_joins_and_leaves(lab: Lab) -> None:
    run(lab, "node2", "joiner", network="bridge")
    run(lab, "node1", "asker")
    lab.docker("network", "connect", "--alias", "late", "net1", "joiner", node="node2")
    wait_until(lambda: reaches(lab, "node1", "asker", "late"), "it is not found")
    assert reaches(lab, "node2", "joiner", "asker")
    again = lab.docker_process("network", "connect", "net1", "joiner", node="node2")
    assert "endpoint with name joiner already exists in network net1" in again.stderr
    lab.docker("restart", "-t", "0", "joiner", node="node2")
    wait_until(lambda: reaches(lab, "node1", "asker", "late"), "it is lost after a restart")
    lab.docker("network", "disconnect", "net1", "joiner", node="node2")
    assert set(attached(lab)) == {"asker"}
    assert "127.0.0.11" not in lab.docker("exec", "joiner", "cat", "/etc/resolv.conf", node="node2")


@pytest.mark.usefixtures("containers")
def test_a_killed_daemon_keeps_what_lives_and_gives_back_what_ended(lab: Lab) -> None:
    for name in ("living", "dying"):
        run(lab, "node2", name)
    run(lab, "node1", "asker")
    known = attached(lab)
    pid = int(lab.docker("inspect", "-f", "{{.State.Pid}}", "dying", node="node2"))
    node = lab.layout.node("node2")
    os.kill(nodes.daemon_pid(node), signal.SIGSTOP)
    lab.run("node2", "kill", "-9", str(pid))
    kill_daemon(lab, "node2")
    wait_until(lambda: "dying" not in attached(lab), "what has ended still has its address")
    assert attached(lab)["living"] == known["living"]
    assert reaches(lab, "node1", "asker", "living")
    wait_until(lambda: reaches(lab, "node2", "living", "asker"), "its names are not answered any more")
