"""Whole labs for end-to-end tests: made from nothing, removed whatever happens."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.e2e import programs
from tests.e2e.load import Request

from skep.edge.unix_http import EngineClient
from skep.lab import lab as labs
from skep.lab import layout, nodes
from skep.lab.layout import LabLayout, NodeLayout

DOCKER = shutil.which("docker")


@dataclass
class Lab:
    """A running lab with short ways to use it."""

    layout: LabLayout

    @property
    def nodes(self) -> list[NodeLayout]:
        return self.layout.nodes

    def docker(self, *words: str, node: str = "node1", check: bool = True, timeout_s: float = 60) -> str:
        """Run the unmodified docker CLI against a node; returns what it printed, stderr after stdout."""
        done = self.docker_process(*words, node=node, timeout_s=timeout_s)
        text = done.stdout + done.stderr
        assert not check or done.returncode == 0, f"docker {' '.join(words)} gave {done.returncode}:\n{text}"
        return text

    def docker_process(
        self, *words: str, node: str = "node1", timeout_s: float = 60, stdin: bytes | None = None
    ) -> "subprocess.CompletedProcess[str]":
        socket = self.layout.node(node).socket
        done = subprocess.run(
            [DOCKER or "docker", "-H", f"unix://{socket}", *words],
            input=stdin,
            capture_output=True,
            timeout=timeout_s,
        )
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        )

    def api(self, method: str, path: str, body: object = None, *, node: str = "node1") -> Any:
        return EngineClient(f"unix://{self.layout.node(node).socket}").json(method, path, body)

    def run(self, where: str, *command: str, check: bool = True, timeout_s: float = 60) -> str:
        """Run a command inside a node or as the client."""
        line = nodes.exec_command(self.layout, where, command)
        done = subprocess.run(line, capture_output=True, text=True, timeout=timeout_s)
        assert not check or done.returncode == 0, f"{command} in {where}: {done.returncode} {done.stderr}"
        return done.stdout

    def load_image(self, archive: Path) -> None:
        """Load an image archive on every node, as a user would."""
        for node in self.nodes:
            self.docker("load", "-i", str(archive), node=node.name)

    def logs(self) -> str:
        return "\n".join(
            f"--- {node.name}\n" + "\n".join(node.log_file.read_text(errors="replace").splitlines()[-40:])
            for node in self.nodes
            if node.log_file.exists()
        )


def wait_until(condition: Any, what: str, deadline_s: float = 30.0) -> None:
    nodes.wait_until(condition, what, deadline_s)


def make_lab(root: Path, **asked: Any) -> Iterator[Lab]:
    """Yield a lab in `root` and remove it afterwards."""
    is_joined = asked.pop("is_joined", True)
    defaults: dict[str, Any] = {"node_count": 3, "manager_count": 1, "engine": "process", "options": []}
    plan = layout.plan_lab(root, **{**defaults, **asked})
    labs.up(plan, is_joined=is_joined, say=lambda _: None)
    lab = Lab(plan)
    try:
        yield lab
    finally:
        labs.down(plan.root)


@pytest.fixture(scope="module")
def process_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Three nodes whose tasks are plain processes."""
    yield from make_lab(tmp_path_factory.mktemp("lab") / "l")


@pytest.fixture(scope="module")
def podman_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Three nodes on podman."""
    root = tmp_path_factory.mktemp("lab")
    for lab in make_lab(root / "l", engine="podman"):
        lab.load_image(programs.write_archive(root))
        yield lab


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Any:
    """Put the daemons' last words beside a failure."""
    report = yield
    if report.when == "call" and report.failed and isinstance(item, pytest.Function):
        for value in item.funcargs.values():
            if isinstance(value, Lab):
                report.sections.append(("skepd logs", value.logs()))
    return report


@dataclass
class Load:
    """A load under way; `finish` waits for its end and answers what was recorded."""

    process: "subprocess.Popen[str]"
    began: float

    def end(self) -> "Recording":
        """Stop asking now, and wait for what is under way."""
        self.process.terminate()
        return self.finish()

    def finish(self) -> "Recording":
        text, _ = self.process.communicate(timeout=120)
        assert self.process.returncode == 0
        return Recording([Request(**record) for record in json.loads(text)])

    @property
    def at_s(self) -> float:
        return time.monotonic() - self.began


@dataclass
class Recording:
    requests: list[Request]

    @property
    def failed(self) -> list[Request]:
        return [request for request in self.requests if request.error]

    def check_none_failed(self) -> None:
        print(f"{len(self.requests)} requests, {len(self.failed)} failed")
        assert not self.failed, self.failed[:5]
        assert self.requests


@contextmanager
def under_load(lab: Lab, length_s: float, rate: float, *urls: str) -> Iterator[Load]:
    """Ask URLs from the client's namespace while the body runs."""
    line = nodes.exec_command(
        lab.layout, "client", [sys.executable, "-m", "tests.e2e.load", str(length_s), str(rate), *urls]
    )
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        yield Load(process, time.monotonic())
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def serve_who(lab: Lab, *words: str, name: str = "who", replicas: int = 3) -> None:
    """Run the program of tests.e2e.programs as a service published on 9200, and wait until every node answers."""
    create = ["service", "create", "--quiet", "--no-resolve-image", "--update-monitor", "100ms", "--name", name]
    options, command = ([], []) if lab.layout.engine != "process" else programs.process_words(lab.layout.root)
    lab.docker(*create, "--replicas", str(replicas), "-p", "9200:9200", *options, *words, programs.NAME, *command)


def who_urls(lab: Lab, *names: str) -> list[str]:
    chosen = names or tuple(node.name for node in lab.nodes)
    return [f"http://{lab.layout.node(name).underlay}:9200{programs.PATH}" for name in chosen]
