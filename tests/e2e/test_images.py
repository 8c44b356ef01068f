"""Images from a registry with a password, on podman nodes: pinned, pulled everywhere, kept secret, refreshed."""

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from tests.e2e.conftest import Lab, make_lab, wait_until
from tests.registry import HTPASSWD, PASSWORD, USER, RegistryServer, a_registry, an_image

from skep.lab import nodes
from skep.lab.layout import CLIENT, SUBNET

pytestmark = [pytest.mark.e2e, pytest.mark.engine, pytest.mark.kernel]
NEW_USER = "ops"
"""Knows the same password, as the file of users is made of one hash."""


class Ground:
    """A lab beside a registry. Attributes: config: what docker login would have left, in a folder."""

    def __init__(self, lab: Lab, registry: RegistryServer, folder: Path) -> None:
        self.lab = lab
        self.registry = registry
        self.config = folder / "login"
        self.users = folder / "registry" / "htpasswd"

    def log_in(self, user: str) -> None:
        assert "Login Succeeded" in self.docker("login", "-u", user, "-p", PASSWORD, self.registry.name)

    def docker(self, *words: str) -> str:
        """As someone who has logged in to the registry."""
        return self.lab.docker("--config", str(self.config), *words)

    def running(self, service: str) -> dict[str, str]:
        """The container of each running task, by node."""
        found: dict[str, str] = {}
        filters = quote(json.dumps({"service": {service: True}}))
        for task in self.lab.api("GET", f"/tasks?filters={filters}"):
            if task["Status"]["State"] == "running" and task["DesiredState"] == "running":
                found[task["NodeID"]] = task["Status"]["ContainerStatus"]["ContainerID"]
        return found

    def versions(self, service: str) -> set[str]:
        """What the running tasks of a service say in /version; "" for one that has ended since they were listed."""
        asked = (self.lab.docker_process("exec", each, "cat", "/version") for each in self.running(service).values())
        return {done.stdout if done.returncode == 0 else "" for done in asked}

    def wait_running(self, service: str, n: int) -> None:
        wait_until(lambda: len(self.running(service)) == n, f"{service} has no {n} running tasks", 60)


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    folder = tmp_path_factory.mktemp("images")
    options = ["--insecure-registry", f"{SUBNET}.0/24"]
    for lab in make_lab(folder / "l", engine="podman", node_count=2, options=options):
        launcher = nodes.exec_command(lab.layout, CLIENT, [])
        with a_registry(folder / "registry", lab.layout.client_address, launcher) as registry:
            made = Ground(lab, registry, folder)
            made.log_in(USER)
            yield made


def test_tasks_are_pinned_and_pulled_with_credentials_nobody_sees(ground: Ground) -> None:
    digest = ground.registry.push("team/app", "1", an_image("one"))
    image = f"{ground.registry.name}/team/app"
    create = ("service", "create", "-d", "-q", "--with-registry-auth", "--mode", "global", "--name", "app")
    said = ground.docker(*create, f"{image}:1")
    assert "could not be accessed" not in said
    ground.wait_running("app", 2)
    shown = ground.lab.docker("service", "inspect", "app")
    template = json.loads(shown)[0]["Spec"]["TaskTemplate"]
    assert template["ContainerSpec"]["Image"] == f"{image}:1@{digest}"
    assert [each["OS"] for each in template["Placement"]["Platforms"]] == ["linux"]
    assert ground.versions("app") == {"one"}
    tasks = json.dumps(ground.lab.api("GET", "/tasks"))
    secrets = (PASSWORD, base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode())
    assert not [secret for secret in secrets if secret in shown + tasks]
    assert not [path for node in ground.lab.nodes for path in _files_with(node.root, secrets)]
    _update_to_nothing(ground, image)


def _files_with(folder: Path, secrets: tuple[str, ...]) -> list[Path]:
    """Files of a node, its images' content aside, that hold a secret, plain or in base64."""
    line = ["grep", "-rlF", "--exclude-dir=storage", *(f"-e{secret}" for secret in secrets), str(folder)]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode in (0, 1, 2), done.stderr
    return [Path(path) for path in done.stdout.split("\n") if path]


def _update_to_nothing(ground: Ground, image: str) -> None:
    """A tag that is not there stops nothing, and says so in all places a user looks."""
    before = ground.running("app")
    ground.docker("service", "update", "-d", "-q", "--image", f"{image}:none", "app")

    def update_state() -> str:
        service = json.loads(ground.lab.docker("service", "inspect", "app"))[0]
        return str(service.get("UpdateStatus", {}).get("State", ""))

    wait_until(lambda: update_state() == "paused", "the update is not paused", 30)
    assert ground.running("app") == before
    listed = ground.lab.docker("service", "ps", "--no-trunc", "app")
    words = f"No such image: {image}:none ("
    assert words in listed
    assert "check the image's name and tag" in listed
    line = [sys.executable, "-m", "skep.cli", "-H", f"unix://{ground.lab.layout.node('node1').socket}"]
    why = subprocess.run([*line, "service", "why", "app"], capture_output=True, text=True, env=dict(os.environ))
    assert words in why.stdout + why.stderr
    assert ground.versions("app") == {"one"}


@pytest.mark.soak
def test_a_task_on_another_node_pulls_with_the_credentials_of_the_last_update(ground: Ground) -> None:
    ground.registry.push("team/moving", "1", an_image("first"))
    image = f"{ground.registry.name}/team/moving:1"
    ground.docker("service", "create", "-d", "-q", "--with-registry-auth", "--name", "moving", image)
    ground.wait_running("moving", 1)
    ((home, _),) = ground.running("moving").items()
    ground.users.write_text(
        HTPASSWD.replace(USER, NEW_USER, 1)
    )  # The credentials the service has are worth nothing now.
    ground.log_in(NEW_USER)
    ground.lab.docker("node", "update", "--availability", "drain", home)
    wait_until(
        lambda: "its credentials are refused" in ground.lab.docker("service", "ps", "--no-trunc", "moving"),
        "the refusal is not told",
        60,
    )
    assert list(ground.running("moving")) == [home]  # It goes on where it is, until there is another.
    ground.docker("service", "update", "-d", "-q", "--with-registry-auth", "--force", "moving")
    wait_until(lambda: list(ground.running("moving")) not in ([], [home]), "it does not move", 90)
    ground.lab.docker("node", "update", "--availability", "active", home)


@pytest.mark.soak
def test_nothing_stops_while_the_next_image_is_pulled(ground: Ground) -> None:
    """Stop-first, one task: it serves until the image of its successor is there, however long that takes."""
    ground.users.write_text(HTPASSWD)
    ground.log_in(USER)
    for tag in ("1", "2"):
        ground.registry.push("team/slow", tag, an_image(tag))
    image = f"{ground.registry.name}/team/slow"
    ground.docker("service", "create", "-d", "-q", "--with-registry-auth", "--name", "slow", f"{image}:1")
    ground.wait_running("slow", 1)
    before = ground.running("slow")
    with ground.registry.stalled():
        ground.docker("service", "update", "-d", "-q", "--no-resolve-image", "--image", f"{image}:2", "slow")
        wait_until(lambda: "Preparing" in ground.lab.docker("service", "ps", "slow"), "no task is preparing", 20)
        time.sleep(3)  # The old task stops within a fraction of that, once it is told to.
        assert ground.running("slow") == before
        assert "Preparing" in ground.lab.docker("service", "ps", "slow")
    wait_until(lambda: ground.versions("slow") == {"2"}, "the update does not end", 60)
