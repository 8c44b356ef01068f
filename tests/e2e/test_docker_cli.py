"""A session of the unmodified docker CLI, from `swarm init` to `service rm`, on a lab of podman nodes."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e import programs
from tests.e2e.conftest import Lab, make_lab, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.engine, pytest.mark.kernel]

BRISK = ("--update-monitor", "1s", "--stop-grace-period", "1s")
"""Do not watch a converged service for the usual 5 s, nor wait 10 s for a shell that ignores SIGTERM."""
NOT_MANAGER = (
    "Error response from daemon: This node is not a swarm manager. Worker nodes can't be used to view or modify "
    "cluster state. Please run this command on a manager node or promote the current node to a manager."
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Three nodes in no swarm, made into one by the CLI itself."""
    root = tmp_path_factory.mktemp("cli")
    for lab in make_lab(root / "l", engine="podman", is_joined=False):
        form_swarm(lab)
        lab.load_image(programs.write_archive(root))
        yield lab


def form_swarm(lab: Lab) -> None:
    """`swarm init`, then the printed join command on two nodes."""
    printed = lab.docker("swarm", "init", "--advertise-addr", "192.168.77.1")
    assert re.search(r"Swarm initialized: current node \([0-9a-z]{25}\) is now a manager\.", printed)
    line = re.search(r"docker (swarm join --token SWMTKN-1-[0-9a-z]{50}-[0-9a-z]{25} 192\.168\.77\.1:2377)", printed)
    assert line, printed
    for node in ("node2", "node3"):
        assert lab.docker(*line[1].split(), node=node) == "This node joined a swarm as a worker.\n"
    wait_until(lambda: lab.docker("node", "ls").count(" Ready ") == 3, "not all nodes were ready")


def rows(table: str) -> list[dict[str, str]]:
    """A table of the CLI as dictionaries by heading."""
    lines = [line for line in table.splitlines() if line.strip()]
    starts = [match.start() for match in re.finditer(r"(?<=\s{2})\S|^\S", lines[0])]
    spans = list(zip(starts, [*starts[1:], None], strict=True))
    names = [lines[0][start:end].strip() for start, end in spans]
    return [dict(zip(names, (line[start:end].strip() for start, end in spans), strict=True)) for line in lines[1:]]


def orphans(lab: Lab) -> list[str]:
    """Ids of tasks whose service was removed: they are being stopped."""
    services = {service["ID"] for service in lab.api("GET", "/services")}
    return [task["ID"] for task in lab.api("GET", "/tasks") if task["ServiceID"] not in services]


@pytest.fixture(scope="module")
def web(lab: Lab) -> Iterator[str]:
    """A service of three tasks on an overlay network, with everything the session asks for."""
    network_id = lab.docker("network", "create", "--driver", "overlay", "backbone").strip()
    assert re.fullmatch(r"[0-9a-z]{25}", network_id)
    created = lab.docker(
        "service", "create", "--no-resolve-image", "--name", "web", "--replicas", "3", "--network", "backbone",
        "-e", "COLOUR=amber", "-p", "8080:9200", "--mount", "type=tmpfs,target=/scratch",
        "--constraint", "node.platform.os==linux", "--limit-memory", "64m", *BRISK,
        "--hostname", "{{.Service.Name}}-{{.Task.Slot}}", programs.NAME,
    )  # fmt: skip
    assert "overall progress: 3 out of 3 tasks" in created
    assert re.search(r"verify: Service ([0-9a-z]{25} )?converged", created)
    yield "web"
    assert lab.docker("service", "rm", "web") == "web\n"
    wait_until(lambda: not lab.api("GET", "/tasks"), "the service's tasks did not go")
    assert lab.docker("network", "rm", "backbone") == "backbone\n"


def test_nodes_are_listed_inspected_and_updated(lab: Lab) -> None:
    listed = rows(lab.docker("node", "ls"))
    assert [row["HOSTNAME"] for row in listed] == ["node1", "node2", "node3"]
    assert [row["MANAGER STATUS"] for row in listed] == ["Leader", "", ""]
    assert listed[0]["ID"].endswith("*")
    pretty = lab.docker("node", "inspect", "--pretty", "node2")
    assert re.search(r"Hostname:\s+node2", pretty)
    assert re.search(r"State:\s+Ready", pretty)
    assert re.search(r"Address:\s+192\.168\.77\.2", pretty)
    assert lab.docker("node", "update", "--availability", "drain", "node3") == "node3\n"
    assert rows(lab.docker("node", "ls"))[2]["AVAILABILITY"] == "Drain"
    lab.docker("node", "update", "--availability", "active", "--label-add", "zone=b", "node3")
    inspected = json.loads(lab.docker("node", "inspect", "node3"))[0]
    assert inspected["Spec"] == {"Labels": {"zone": "b"}, "Role": "worker", "Availability": "active"}


def test_a_service_is_listed_and_inspected(lab: Lab, web: str) -> None:
    service = next(row for row in rows(lab.docker("service", "ls")) if row["NAME"] == web)
    assert (service["MODE"], service["REPLICAS"], service["PORTS"]) == ("replicated", "3/3", "*:8080->9200/tcp")
    assert service["IMAGE"] == f"{programs.NAME}:latest"
    tasks = rows(lab.docker("service", "ps", web))
    assert sorted(task["NODE"] for task in tasks) == ["node1", "node2", "node3"]
    assert {task["DESIRED STATE"] for task in tasks} == {"Running"}
    assert all(re.fullmatch(r"Running .+ ago", task["CURRENT STATE"]) for task in tasks)
    pretty = lab.docker("service", "inspect", "--pretty", web)
    for expected in ("Replicas:\t3", "Constraints:\t[node.platform.os==linux]", "PublishedPort = 8080", "COLOUR=amber"):
        assert expected in pretty


def test_a_service_is_scaled_updated_and_removed(lab: Lab) -> None:
    lab.docker("service", "create", "--quiet", "--no-resolve-image", "--name", "grow", *BRISK, programs.NAME)
    scaled = lab.docker("service", "scale", "grow=5")
    assert "grow scaled to 5" in scaled
    assert "overall progress: 5 out of 5 tasks" in scaled

    def replicas() -> str:
        return lab.docker("service", "ls", "--filter", "name=grow", "--format", "{{.Replicas}}").strip()

    assert replicas() == "5/5"
    lab.docker("service", "update", "--detach", "--replicas", "2", "grow")
    wait_until(lambda: replicas() == "2/2", "it was not scaled down")
    assert lab.docker("service", "rm", "grow") == "grow\n"
    assert replicas() == ""
    wait_until(lambda: not orphans(lab), "its tasks did not go")


def test_options_reach_the_container(lab: Lab, web: str) -> None:
    seen = lab.run("client", "curl", "-s", "http://192.168.77.2:8080/cgi-bin/environment")
    assert "COLOUR=amber" in seen
    assert re.search(r"tmpfs /scratch tmpfs", seen)
    names = {lab.run("client", "curl", "-s", "http://192.168.77.1:8080/cgi-bin/who").split()[0] for _ in range(3)}
    assert names == {"web-1", "web-2", "web-3"}
    limits = {
        json.loads(lab.docker("inspect", container, node="node2"))[0]["HostConfig"]["Memory"]
        for container in lab.docker("ps", "-q", "--filter", "name=web", node="node2").split()
    }
    assert limits == {64 << 20}


def test_node_ps_shows_where_tasks_run(lab: Lab, web: str) -> None:
    names = {task["NAME"].partition(".")[0] for task in rows(lab.docker("node", "ps", "node2"))}
    assert names == {"web"}
    assert {task["NODE"] for task in rows(lab.docker("node", "ps", "node2", "node3"))} == {"node2", "node3"}


def test_logs_of_a_service_come_from_every_node(lab: Lab) -> None:
    lab.docker(
        "service", "create", "--quiet", "--no-resolve-image", "--name", "talk", "--mode", "global", *BRISK,
        programs.NAME, "sh", "-c", "echo hello from $(hostname); echo trouble >&2; sleep 1000",
    )  # fmt: skip
    try:
        done = lab.docker_process("service", "logs", "talk")
        said = re.findall(r"^talk\.0?\S*@(node\d)\s+\| hello from", done.stdout, re.MULTILINE)
        assert sorted(said) == ["node1", "node2", "node3"], done.stdout
        assert done.stderr.count("| trouble") == 3
    finally:
        lab.docker("service", "rm", "talk")


def test_networks_are_created_listed_inspected_and_removed(lab: Lab) -> None:
    lab.docker("network", "create", "-d", "overlay", "--subnet", "10.77.0.0/24", "--label", "team=red", "blue")
    listed = {row["NAME"]: row for row in rows(lab.docker("network", "ls"))}
    assert (listed["blue"]["DRIVER"], listed["blue"]["SCOPE"]) == ("overlay", "swarm")
    assert (listed["ingress"]["DRIVER"], listed["ingress"]["SCOPE"]) == ("overlay", "swarm")
    inspected = json.loads(lab.docker("network", "inspect", "blue"))[0]
    assert inspected["IPAM"]["Config"][0]["Subnet"] == "10.77.0.0/24"
    assert inspected["Labels"] == {"team": "red"}
    clash = lab.docker_process("network", "create", "-d", "overlay", "blue")
    assert clash.returncode == 1
    assert "network with name blue already exists" in clash.stderr
    assert lab.docker("network", "rm", "blue") == "blue\n"


def test_a_network_in_use_is_kept(lab: Lab, web: str) -> None:
    refused = lab.docker_process("network", "rm", "backbone")
    assert refused.returncode == 1
    assert "is in use by service" in refused.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("node", "ls"),
        ("node", "inspect", "node1"),
        ("node", "ps", "node1"),
        ("node", "update", "--availability", "drain", "node1"),
        ("network", "create", "--driver", "overlay", "nope"),
        ("service", "create", "--name", "nope", "busybox"),
        ("service", "ls"),
        ("service", "ps", "web"),
        ("service", "inspect", "web"),
        ("service", "logs", "web"),
        ("service", "update", "--replicas", "2", "web"),
        ("service", "scale", "web=2"),
        ("service", "rm", "web"),
        ("swarm", "join-token", "worker"),
    ],
    ids=" ".join,
)
def test_a_worker_refuses_with_dockers_sentence(lab: Lab, words: tuple[str, ...]) -> None:
    done = lab.docker_process(*words, node="node2")
    assert done.returncode == 1
    assert NOT_MANAGER in done.stderr + done.stdout


def test_engine_commands_work_on_every_socket(lab: Lab, tmp_path: Path, web: str) -> None:
    listed = lab.docker("ps", "--format", "{{.Names}}", node="node3").split()
    own = [name for name in listed if name.startswith("web.")]
    assert own
    assert lab.docker("exec", own[0], "hostname", node="node3").startswith("web-")
    sent = bytes(range(256)) * 4096
    (tmp_path / "sent").write_bytes(sent)
    done = lab.docker_process("exec", "-i", own[0], "md5sum", node="node3", stdin=sent)
    assert done.stdout.split()[0] == hashlib.md5(sent, usedforsecurity=False).hexdigest()
    assert programs.NAME in lab.docker("images", "--format", "{{.Repository}}", node="node3")
