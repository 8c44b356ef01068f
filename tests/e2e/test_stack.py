"""Stacks on podman nodes: the voting application by the docker CLI and by skep's own, and how deployments end."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e import programs
from tests.e2e.conftest import Lab, make_lab, wait_until
from tests.e2e.test_docker_cli import rows

from skep.lab import nodes

pytestmark = [pytest.mark.e2e, pytest.mark.engine, pytest.mark.kernel]
EXAMPLE = Path(__file__).parents[2] / "examples" / "voting-app"
COMPOSE, ORDER = EXAMPLE / "compose.yaml", EXAMPLE / "compose.order.yaml"
SERVICES = ("db", "redis", "result", "vote", "worker")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    if not (shutil.which("redis-server") and list(Path("/usr/lib/postgresql").glob("*/bin/postgres"))):
        pytest.skip("redis-server or postgresql-15 is not installed; tools/setup test installs them")
    root = tmp_path_factory.mktemp("stack")
    for lab in make_lab(root / "l", engine="podman"):
        subprocess.run([sys.executable, EXAMPLE / "make_images.py", root], check=True)
        for archive in (*(root / f"{name}.tar" for name in SERVICES), programs.write_archive(root)):
            lab.load_image(archive)
            archive.unlink()
        yield lab


def skep(
    lab: Lab, *words: str, stdin: str = "", timeout_s: float = 90, **variables: str
) -> "subprocess.CompletedProcess[str]":
    """Run skep's own command line against node1."""
    line = [sys.executable, "-m", "skep.cli", "-H", f"unix://{lab.layout.node('node1').socket}", *words]
    env = {**os.environ, **variables}
    return subprocess.run(line, input=stdin, capture_output=True, text=True, timeout=timeout_s, env=env)


def ask(lab: Lab, node: str, port: int, path: str) -> str:
    url = f"http://{lab.layout.node(node).underlay}:{port}/cgi-bin/{path}"
    return lab.run("client", "curl", "-s", "--max-time", "5", url, check=False)


def vote(lab: Lab, choice: str, *names: str) -> None:
    """Vote once through each of some nodes; a vote that is sent again because no answer came counts once."""
    for name in names:
        path = f"vote?choice={choice}&voter={uuid.uuid4()}"
        wait_until(lambda name=name, path=path: f"voted {choice}" in ask(lab, name, 5000, path), "no vote was taken")


def wait_counted(lab: Lab, node: str, cats: int, dogs: int) -> None:
    expected = [f"cats {cats}", f"dogs {dogs}"]
    wait_until(
        lambda: ask(lab, node, 5001, "result").split("\n")[:2] == expected,
        f"{expected} was not counted",
        30,
    )


def containers(lab: Lab) -> set[str]:
    tasks = lab.api("GET", '/tasks?filters={"desired-state":["running"]}')
    return {task["Status"].get("ContainerStatus", {}).get("ContainerID", "") for task in tasks}


def wait_gone(lab: Lab, stack: str) -> None:
    def is_gone() -> bool:
        networks = {network["Name"] for network in lab.api("GET", "/networks")}
        return not lab.api("GET", "/tasks") and not any(name.startswith(f"{stack}_") for name in networks)

    wait_until(is_gone, f"{stack} did not go")


@pytest.fixture
def poll(lab: Lab) -> Iterator[Lab]:
    """The lab, from which the voting application and its volume are removed afterwards."""
    yield lab
    skep(lab, "stack", "rm", "poll")
    wait_gone(lab, "poll")
    wait_until(lambda: lab.docker_process("volume", "rm", "-f", "poll_data").returncode == 0, "its volume did not go")


def outlive_node3(lab: Lab) -> None:
    """Kill it, go on voting and counting from the 3 cats and 1 dog before, and bring it back."""
    victim = lab.layout.node("node3")
    nodes.kill_node(lab.layout, victim)
    try:
        vote(lab, "cats", "node1", "node2")
        vote(lab, "dogs", "node1", "node2")
        wait_counted(lab, "node1", 5, 3)
        wait_counted(lab, "node2", 5, 3)
    finally:
        nodes.boot_node(lab.layout, victim)
    wait_until(lambda: all(n["Status"]["State"] == "ready" for n in lab.api("GET", "/nodes")), "it is not back", 60)


def test_the_voting_application_by_the_docker_cli(poll: Lab) -> None:
    lab = poll
    created = lab.docker("stack", "deploy", "--resolve-image", "never", "-c", str(COMPOSE), "poll")
    for line in ("network poll_front", "network poll_back", *(f"service poll_{name}" for name in SERVICES)):
        assert f"Creating {line}\n" in created
    try:
        wait_until(lambda: "5001" in _ports(lab) and _all_run(lab), "the stack does not run", 60)
    finally:
        print(lab.docker("stack", "ps", "--no-trunc", "poll"))
    vote(lab, "cats", "node1", "node2", "node3")
    vote(lab, "dogs", "node2")
    wait_counted(lab, "node3", 3, 1)
    listed = rows(lab.docker("stack", "ls"))  # Older clients have a third column.
    assert [(row["NAME"], row["SERVICES"]) for row in listed] == [("poll", "5")]
    listed = {row["NAME"]: row["REPLICAS"] for row in rows(lab.docker("stack", "services", "poll"))}
    assert listed == {f"poll_{n}": "2/2" if n in ("vote", "result") else "1/1" for n in SERVICES}
    tasks = rows(lab.docker("stack", "ps", "poll"))
    assert len(tasks) == 7
    assert {task["NODE"] for task in tasks if task["NAME"].startswith("poll_db")} == {"node1"}
    if re.search(r"^  config ", lab.docker("stack", "--help"), re.MULTILINE):  # Clients from 23.0 on have it.
        assert "image: voting/worker" in lab.docker("stack", "config", "-c", str(COMPOSE))

    seen_by_skep = skep(lab, "stack", "deploy", "--dry-run", "-c", str(COMPOSE), "poll")
    assert seen_by_skep.stdout == "Nothing to change in poll\n", seen_by_skep.stdout + seen_by_skep.stderr
    before = containers(lab)
    again = lab.docker("stack", "deploy", "--resolve-image", "never", "-c", str(COMPOSE), "poll")
    assert again.count("Updating service") == 5
    time.sleep(2)  # Nothing is to happen, and for that there is no condition to wait for.
    assert containers(lab) == before
    wait_counted(lab, "node1", 3, 1)
    outlive_node3(lab)

    removed = lab.docker("stack", "rm", "poll")
    assert removed.count("Removing service") == 5
    assert removed.count("Removing network") == 2
    wait_gone(lab, "poll")


def _ports(lab: Lab) -> str:
    return lab.docker("stack", "services", "--format", "{{.Ports}}", "poll")


def _all_run(lab: Lab) -> bool:
    replicas = lab.docker("stack", "services", "--format", "{{.Replicas}}", "poll").split()
    return len(replicas) == 5 and all(now == wanted for now, wanted in (text.split("/") for text in replicas))


@pytest.mark.soak
def test_the_voting_application_by_skep_outlives_a_node(poll: Lab) -> None:
    lab = poll
    words = ("stack", "deploy", "-c", str(COMPOSE), "-c", str(ORDER), "poll")
    planned = skep(lab, *words[:2], "--dry-run", *words[2:])
    assert planned.returncode == 0, planned.stderr
    assert "+ service poll_vote (voting/vote:latest, 2 replicas)" in planned.stdout.splitlines()
    assert not lab.api("GET", "/services")

    deployed = skep(lab, *words)
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr
    lines = deployed.stdout.splitlines()
    order = [line.removeprefix("Creating service poll_") for line in lines if line.startswith("Creating service")]
    assert sorted(order[:2]) == ["db", "redis"]
    assert lines.index("poll_db: 1/1 converged") < lines.index("Creating service poll_worker")
    assert lines[-1] == "Stack poll converged"
    vote(lab, "cats", "node1", "node2", "node3")
    vote(lab, "dogs", "node3")
    wait_counted(lab, "node2", 3, 1)

    before, began = containers(lab), time.monotonic()
    again = skep(lab, *words)
    print(f"a second deployment took {time.monotonic() - began:.1f} s")
    assert (again.returncode, again.stdout) == (0, "Stack poll runs as described; nothing was changed\n")
    assert containers(lab) == before

    outlive_node3(lab)
    assert skep(lab, "stack", "services", "--format", "{{.Name}}", "poll").stdout.split() == [
        f"poll_{name}" for name in SERVICES
    ]
    removed = skep(lab, "stack", "rm", "poll")
    assert removed.returncode == 0, removed.stderr
    wait_gone(lab, "poll")


def compose(*, rest: dict[str, Any] | None = None, **services: dict[str, Any]) -> str:
    """A Compose file, as JSON is YAML: services of the test's own image, and other sections."""
    whole: dict[str, Any] = {}
    for name, service in services.items():
        whole[name] = {
            "image": programs.NAME,
            "command": ["sleep", "10000"],
            "stop_grace_period": "1s",
            **service,
        }
        whole[name].setdefault("deploy", {}).setdefault("update_config", {}).setdefault("monitor", "1s")
    return json.dumps({"version": "3.8", "services": whole, **(rest or {})})


@pytest.fixture
def little(lab: Lab) -> Iterator[Lab]:
    yield lab
    skep(lab, "stack", "rm", "little")
    wait_gone(lab, "little")


def deploy(lab: Lab, text: str, *words: str, timeout: str = "30s") -> "subprocess.CompletedProcess[str]":
    return skep(lab, "stack", "deploy", "-c", "-", "--timeout", timeout, *words, "little", stdin=text)


@pytest.mark.soak
def test_a_change_is_planned_field_by_field_made_and_pruned(little: Lab) -> None:
    old = compose(a={"environment": {"X": "1"}, "labels": {"l": "1"}}, b={})
    new = compose(a={"environment": {"X": "2", "Y": "3"}, "deploy": {"replicas": 2}})
    assert deploy(little, old).returncode == 0
    planned = deploy(little, new, "--dry-run", "--prune")
    assert planned.stdout.splitlines() == [
        "~ service little_a",
        '    TaskTemplate.ContainerSpec.Labels.l: "1" -> (none)',
        '    TaskTemplate.ContainerSpec.Env.X: "X=1" -> "X=2"',
        '    TaskTemplate.ContainerSpec.Env.Y: (none) -> "Y=3"',
        "    Mode.Replicated.Replicas: 1 -> 2",
        "- service little_b",
    ]
    changed = deploy(little, new, "--prune")
    assert changed.returncode == 0, changed.stdout + changed.stderr
    assert skep(little, "stack", "services", "--format", "{{.Name}} {{.Replicas}}", "little").stdout == "little_a 2/2\n"


@pytest.mark.soak
@pytest.mark.parametrize(
    ("service", "timeout", "code", "reason"),
    [
        ({"command": ["sh", "-c", "exit 3"], "restart": "no"}, "30s", 1, "little_a.1 is failed on node"),
        ({"command": ["/no/such/program"], "restart": "no"}, "30s", 1, "little_a.1 is"),
        ({"deploy": {"placement": {"constraints": ["node.labels.no==where"]}}}, "30s", 2, "scheduling constraints"),
        ({"healthcheck": {"test": "false", "interval": "1s", "start_period": "1m"}}, "4s", 3, "little_a.1 is starting"),
    ],
    ids=["failed", "not startable", "unplaceable", "timed out"],
)
def test_a_deployment_that_does_not_converge_says_why(
    little: Lab, service: dict[str, Any], timeout: str, code: int, reason: str
) -> None:
    done = deploy(little, compose(a=service), timeout=timeout)
    assert (done.returncode, reason in done.stderr) == (code, True), done.stdout + done.stderr


@pytest.mark.soak
def test_a_rolled_back_update_is_a_failure(little: Lab) -> None:
    careful = {"deploy": {"update_config": {"failure_action": "rollback", "monitor": "2s"}}}
    assert deploy(little, compose(a=careful)).returncode == 0
    broken = deploy(little, compose(a={**careful, "command": ["sh", "-c", "exit 3"]}))
    assert broken.returncode == 1, broken.stdout + broken.stderr
    assert "little_a: rollback" in broken.stderr
    tasks = little.api("GET", "/services/little_a")["Spec"]["TaskTemplate"]["ContainerSpec"]["Args"]
    assert tasks == ["sleep", "10000"]


@pytest.mark.soak
def test_what_depends_on_a_failure_is_not_started(little: Lab) -> None:
    text = compose(
        job={"command": ["sh", "-c", "exit 3"], "restart": "no"},
        web={"depends_on": {"job": {"condition": "service_completed_successfully"}}},
    )
    done = deploy(little, text)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "little_web was not deployed: it waits for job" in done.stderr
    assert [service["Spec"]["Name"] for service in little.api("GET", "/services")] == ["little_job"]
    mended = text.replace("exit 3", "exit 0")
    done = deploy(little, mended)
    assert done.returncode == 0, done.stdout + done.stderr


def test_secrets_and_configs_reach_their_tasks_by_both_command_lines(little: Lab, tmp_path: Path) -> None:
    def text(content: str = "from the file") -> str:
        (tmp_path / "key").write_text(content)
        web = {
            "secrets": [{"source": "key", "target": "my-key", "mode": 0o400}],
            "configs": [{"source": "conf", "target": "/etc/conf"}],
            "ports": ["9201:9200"],
            "command": ["httpd", "-f", "-p", "9200", "-h", "/www"],
        }
        rest = {"secrets": {"key": {"file": "./key"}}, "configs": {"conf": {"file": "./conf"}}}
        return compose(web=web, rest=rest)

    (tmp_path / "conf").write_text("config here\n")
    file = tmp_path / "compose.yaml"
    file.write_text(text())
    by_docker = ("stack", "deploy", "--resolve-image", "never", "-c", str(file), "little")
    created = little.docker(*by_docker)
    assert "Creating secret little_key\n" in created
    by_skep = ("stack", "deploy", "-c", str(file), "little")
    assert skep(little, *by_skep).returncode == 0
    task = little.api("GET", '/tasks?filters={"desired-state":["running"]}')[0]
    node = little.api("GET", f"/nodes/{task['NodeID']}")["Description"]["Hostname"]
    container = task["Status"]["ContainerStatus"]["ContainerID"]
    seen = little.docker("exec", container, "cat", "/run/secrets/my-key", "/etc/conf", node=node)
    assert seen == "from the fileconfig here\n"

    before = containers(little)
    little.docker(*by_docker)
    again = skep(little, *by_skep)
    assert (again.returncode, again.stdout) == (0, "Stack little runs as described; nothing was changed\n")
    assert containers(little) == before
    file.write_text(text("another"))
    refused = skep(little, *by_skep)
    assert refused.returncode == 1
    assert 'the content of secret "little_key" has changed' in refused.stderr
