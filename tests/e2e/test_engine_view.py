"""Containers of tasks on other nodes through a manager: the unmodified docker CLI, a pty, and mutual TLS."""

import fcntl
import hashlib
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.e2e import programs
from tests.e2e.conftest import DOCKER, Lab, make_lab, wait_until

from skep.edge.keyfile import CREDENTIALS_FILE
from skep.lab import nodes

pytestmark = [pytest.mark.e2e, pytest.mark.engine, pytest.mark.kernel]

API_PORT = 2376
BIG = bytes(range(256)) * 12_000  # 3 MB


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    root = tmp_path_factory.mktemp("view")
    options = ["--api-listen", f"tcp://0.0.0.0:{API_PORT}"]
    for lab in make_lab(root / "l", engine="podman", options=options):
        lab.load_image(programs.write_archive(root))
        lab.docker(
            "service", "create", "--quiet", "--detach", "--no-resolve-image", "--name", "web", "--replicas", "3",
            "--restart-delay", "0s", "--stop-grace-period", "1s", programs.NAME, "sh", "-c",
            "trap exit TERM; echo ready; while :; do sleep 0.1; done",
        )  # fmt: skip
        wait_running(lab)
        yield lab


def wait_running(lab: Lab) -> None:
    wait_until(lambda: len(running(lab)) == 3, "the tasks did not run")


@dataclass(frozen=True)
class Run:
    """A task that runs. Attributes: node: name of its node."""

    id: str
    slot: int
    node: str
    container_id: str

    @property
    def name(self) -> str:
        return f"web.{self.slot}.{self.id}"


def running(lab: Lab) -> list[Run]:
    names = {node["ID"]: node["Description"]["Hostname"] for node in lab.api("GET", "/nodes")}
    return [
        Run(task["ID"], task["Slot"], names[task["NodeID"]], task["Status"]["ContainerStatus"]["ContainerID"])
        for task in lab.api("GET", "/tasks?filters=%7B%22desired-state%22%3A%5B%22running%22%5D%7D")
        if task["Status"]["State"] == "running"
    ]


def elsewhere(lab: Lab) -> Run:
    return next(run for run in running(lab) if run.node == "node2")


@pytest.fixture
def away(lab: Lab) -> Run:
    """A task that runs on a worker."""
    wait_until(lambda: any(run.node == "node2" for run in running(lab)), "nothing runs on node2")
    return elsewhere(lab)


# --- one-shot commands ------------------------------------------------------------------


def test_any_name_of_a_task_will_do(lab: Lab, away: Run) -> None:
    for name in (away.container_id, away.container_id[:12], away.id, f"web.{away.slot}", away.name):
        assert json.loads(lab.docker("inspect", "--type", "container", name))[0]["Id"] == away.container_id
        assert lab.docker("exec", name, "hostname").strip() == away.container_id[:12]


def test_a_manager_lists_tasks_everywhere_and_plain_containers_only_here(lab: Lab) -> None:
    lab.docker("run", "-d", "--name", "plain", "--network", "none", programs.NAME, "sleep", "1000", node="node2")
    try:
        listed = lab.docker("ps", "--no-trunc", "--format", "{{.ID}}").split()
        assert sorted(listed) == sorted(run.container_id for run in running(lab))
        here = lab.docker("ps", "--no-trunc", "--format", "{{.Names}}", node="node2").split()
        assert "plain" in here
        assert len(here) == 2
        refused = lab.docker_process("logs", "plain")
        assert refused.returncode == 1
        assert "plain" in refused.stderr
    finally:
        lab.docker("rm", "-f", "plain", node="node2")


def test_logs_top_and_stats(lab: Lab, away: Run) -> None:
    assert lab.docker("logs", away.id).strip() == "ready"
    assert "sleep 0.1" in lab.docker("top", f"web.{away.slot}")
    stats = lab.docker("stats", "--no-stream", "--format", "{{.ID}} {{.PIDs}}", away.container_id).split()
    assert away.container_id.startswith(stats[0])
    assert int(stats[1]) >= 1


def test_logs_follow_from_another_node(lab: Lab, away: Run) -> None:
    process = subprocess.Popen([*docker_command(lab), "logs", "-f", away.name], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        lab.docker("exec", away.id, "sh", "-c", "echo later > /proc/1/fd/1")
        assert process.stdout.readline() == "later\n"
    finally:
        process.terminate()
        process.wait(timeout=10)


def test_files_are_copied_both_ways(lab: Lab, away: Run, tmp_path: Path) -> None:
    sent = tmp_path / "sent"
    sent.write_bytes(BIG)
    lab.docker("cp", str(sent), f"web.{away.slot}:/tmp-sent")
    digest = lab.docker("exec", away.id, "sha256sum", "/tmp-sent").split()[0]
    assert digest == hashlib.sha256(BIG).hexdigest()
    lab.docker("cp", f"{away.id}:/tmp-sent", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == BIG


@pytest.mark.parametrize("command", ["kill", "stop"])
def test_a_task_that_is_ended_by_hand_is_replaced(lab: Lab, command: str) -> None:
    wait_running(lab)
    ended = elsewhere(lab)
    lab.docker(command, f"web.{ended.slot}")

    def is_replaced() -> bool:
        now = running(lab)
        return len(now) == 3 and ended.id not in {run.id for run in now}

    wait_until(is_replaced, f"the task was not replaced after {command}")


# --- terminals ----------------------------------------------------------------------------


def docker_command(lab: Lab) -> list[str]:
    return [DOCKER or "docker", "-H", f"unix://{lab.layout.node('node1').socket}"]


@pytest.fixture(scope="module")
def certificates(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An operator's certificate, as the command gives it out."""
    directory = tmp_path_factory.mktemp("operator") / "certs"
    socket = lab.layout.node("node1").socket
    words = ["-H", f"unix://{socket}", "swarm", "client-cert", "alice", "--directory", str(directory)]
    skep = str(Path(sys.executable).with_name("skep"))
    done = subprocess.run([skep, *words], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return directory


def tls_command(lab: Lab, certificates: Path) -> list[str]:
    address = f"tcp://{lab.layout.node('node1').underlay}:{API_PORT}"
    files = [f"--tls{name}={certificates / f'{file}.pem'}" for name, file in
             (("cacert", "ca"), ("cert", "cert"), ("key", "key"))]  # fmt: skip
    line = [DOCKER or "docker", "-H", address, "--tlsverify", *files]
    return nodes.exec_command(lab.layout, "client", line)


@pytest.fixture(params=["socket", "tls", "skep"])
def docker(request: pytest.FixtureRequest, lab: Lab) -> list[str]:
    """The docker CLI, on the manager's socket and from the client over mutual TLS; skep in the same words."""
    if request.param == "skep":
        return [str(Path(sys.executable).with_name("skep")), "-H", f"unix://{lab.layout.node('node1').socket}"]
    if request.param == "socket":
        return docker_command(lab)
    return tls_command(lab, request.getfixturevalue("certificates"))


class Terminal:
    """A command on a pseudo-terminal."""

    def __init__(self, command: Sequence[str], rows: int, columns: int) -> None:
        self._ours, theirs = pty.openpty()
        self.resize(rows, columns)
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, close_fds=True
        )
        os.close(theirs)
        self.said = b""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: bytes) -> None:
        os.write(self._ours, text)

    def expect(self, pattern: bytes, within_s: float = 15) -> "re.Match[bytes]":
        """Read until a pattern appears; what was read is gone."""
        limit = time.monotonic() + within_s
        while (match := re.search(pattern, self.said)) is None:
            ready, _, _ = select.select([self._ours], [], [], max(limit - time.monotonic(), 0))
            assert ready, f"{pattern!r} did not come; it said {self.said!r}"
            try:
                self.said += os.read(self._ours, 65_536)
            except OSError as error:
                raise AssertionError(f"{pattern!r} did not come before the end; it said {self.said!r}") from error
        self.said = self.said[match.end() :]
        return match

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(timeout=10)
        os.close(self._ours)


@contextmanager
def terminal(command: Sequence[str], rows: int = 33, columns: int = 101) -> Iterator[Terminal]:
    made = Terminal(command, rows, columns)
    try:
        yield made
    finally:
        made.close()


def test_a_terminal_on_another_node(docker: list[str], away: Run) -> None:
    with terminal([*docker, "exec", "-it", f"web.{away.slot}", "sh"]) as shell:
        shell.expect(rb"# ")

        def size_is(wanted: bytes) -> bool:
            shell.type(b"echo size:$(stty size):\n")
            return shell.expect(rb"size:([\d ]*):")[1] == wanted  # Before it has one, stty fails and says none.

        wait_until(lambda: size_is(b"33 101"), "the terminal did not take its size")
        shell.resize(44, 122)
        os.kill(shell.process.pid, signal.SIGWINCH)
        wait_until(lambda: size_is(b"44 122"), "the terminal did not take its new size")
        # The child says so itself: it has the terminal by then, and Ctrl-C cannot come between shell and sleep.
        shell.type(b"sh -c \"echo beg''un; exec sleep 1000\"; echo not''reached\n")
        shell.expect(rb"begun\r\n")
        shell.type(b"\x03")
        shell.type(b"echo interrupted:$?:\n")
        assert shell.expect(rb"interrupted:(\d+):")[1] == b"130"
        assert b"notreached" not in shell.said
        shell.type(b"exit 42\n")
        assert shell.process.wait(timeout=15) == 42


def test_our_own_command_line_reads_the_same_variables(lab: Lab, certificates: Path) -> None:
    address = f"tcp://{lab.layout.node('node1').underlay}:{API_PORT}"
    skep = str(Path(sys.executable).with_name("skep"))
    line = nodes.exec_command(lab.layout, "client", [skep, "-H", address, "service", "ls"])
    named = {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(certificates)}
    done = subprocess.run(line, env={**os.environ, **named}, capture_output=True, text=True, timeout=30)
    assert "web" in done.stdout, done.stderr
    plain = subprocess.run(
        line, env={**os.environ, "DOCKER_TLS_VERIFY": ""}, capture_output=True, text=True, timeout=30
    )
    assert plain.returncode == 1
    assert "Cannot connect" in plain.stderr


def test_three_megabytes_through_stdin(docker: list[str], away: Run) -> None:
    done = subprocess.run(
        [*docker, "exec", "-i", away.container_id, "sha256sum"], input=BIG, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0].decode() == hashlib.sha256(BIG).hexdigest()
    back = subprocess.run([*docker, "exec", "-i", away.id, "cat"], input=BIG, capture_output=True, timeout=60)
    assert back.stdout == BIG


def test_exit_codes_and_output_apart(docker: list[str], away: Run) -> None:
    done = subprocess.run(
        [*docker, "exec", away.id, "sh", "-c", "echo out; echo err >&2; exit 7"], capture_output=True, timeout=30
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")


def test_attach_shows_what_a_task_says(docker: list[str], away: Run) -> None:
    process = subprocess.Popen(
        [*docker, "attach", "--no-stdin", "--sig-proxy=false", away.name], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        limit = time.monotonic() + 20
        while not select.select([process.stdout], [], [], 0.2)[0]:
            assert time.monotonic() < limit, "nothing came of what the task says"
            subprocess.run([*docker, "exec", away.id, "sh", "-c", "echo heard > /proc/1/fd/1"], check=True, timeout=30)
        assert process.stdout.readline() == "heard\n"
    finally:
        process.kill()
        process.wait(timeout=10)


def node_certificates(lab: Lab, node: str, directory: Path) -> Path:
    """A node's own credentials, as an intruder would take them from its disk."""
    held = json.loads((lab.layout.node(node).data_dir / "swarm" / CREDENTIALS_FILE).read_text())
    directory.mkdir()
    for file, field in (("ca", "root"), ("cert", "certificate"), ("key", "key")):
        (directory / f"{file}.pem").write_text(held[field])
    return directory


def test_nodes_over_tcp_and_one_that_was_removed(lab: Lab, tmp_path: Path) -> None:
    """The last test: it takes a node away."""
    worker = tls_command(lab, node_certificates(lab, "node3", tmp_path / "worker"))
    manager = tls_command(lab, node_certificates(lab, "node1", tmp_path / "manager"))

    def run(line: list[str]) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(line, capture_output=True, text=True, timeout=30)

    assert run([*manager, "node", "ls", "-q"]).returncode == 0
    assert "a worker may not do this" in run([*worker, "node", "ls", "-q"]).stderr
    lab.docker("node", "rm", "--force", "node3")
    removed_at = time.monotonic()
    wait_until(lambda: "a worker may not do this" not in run([*worker, "node", "ls", "-q"]).stderr, "it was let in")
    assert time.monotonic() - removed_at < 2
    assert run([*worker, "version", "--format", "{{.Server.Version}}"]).returncode != 0
