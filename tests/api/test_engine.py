"""The docker CLI through the server to a real podman, streams and terminals included."""

import asyncio
import fcntl
import hashlib
import os
import pty
import random
import re
import shutil
import struct
import subprocess
import termios
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.contract import runtime_places
from tests.fakes.swarm import FakeNode

from skep.api.server import ApiServer
from skep.edge import machine
from skep.edge.clock import SystemClock
from skep.edge.engine_service import drop_stale_aliases
from skep.edge.podman import PodmanRuntime
from skep.lab import images

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(shutil.which("docker") is None, reason="the docker CLI is not installed"),
]
LIMIT_S = 60
IMAGE = "busy"


class Served:
    """A server over a private podman, on a thread of its own so that tests may block."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "docker.sock"
        self._runtime = PodmanRuntime(root=folder / "root", run_dir=folder / "run", cgroup_parent=f"/{folder.name}")
        self._folder = folder
        self._loop = asyncio.new_event_loop()
        self._up = threading.Event()
        self._stop = asyncio.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))

    def __enter__(self) -> "Served":
        self._thread.start()
        self._up.wait(LIMIT_S)
        if self._failure is not None:
            self._thread.join()
            raise self._failure
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    async def _serve(self) -> None:
        try:
            await self._runtime.start()
            server = ApiServer(FakeNode(self._folder, self._runtime.passthrough), SystemClock())
            await server.start_unix(self.socket)
        except BaseException as failure:
            self._failure = failure
            self._up.set()
            return
        self._up.set()
        await self._stop.wait()
        await server.close()
        await self._runtime.close()

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self._folder), "DOCKER_HOST": f"unix://{self.socket}"}

    def run(self, *words: str, stdin: bytes = b"", timeout_s: float = LIMIT_S) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["docker", *words], input=stdin, capture_output=True, env=self.environment, timeout=timeout_s
        )

    def do(self, *words: str, stdin: bytes = b"") -> str:
        result = self.run(*words, stdin=stdin)
        assert result.returncode == 0, f"docker {' '.join(words)}: {result}"
        return result.stdout.decode().strip()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    runtime_places.require_root()
    found = machine.probe(Path("/"))
    if not (found.podman_path and found.conmon_path and found.runtime):
        pytest.skip("podman, conmon and runc are not all installed")
    folder = tmp_path_factory.mktemp("e") / f"skep-api-{uuid.uuid4().hex[:8]}"
    folder.mkdir()
    try:
        with Served(folder) as served:
            served.do("import", "-", IMAGE, stdin=images.root_tar(images.busybox_root()))
            yield served
            if running := served.do("ps", "-aq"):
                served.do("rm", "-f", *running.split())
    finally:
        runtime_places.remove_folder(folder)
        drop_stale_aliases()


@pytest.fixture
def container(engine: Served) -> Iterator[str]:
    name = f"c{uuid.uuid4().hex[:8]}"
    script = "n=0; while :; do n=$((n+1)); echo line $n; sleep 0.1; done"
    engine.do("run", "-d", "--name", name, "--network", "none", IMAGE, "sh", "-c", script)
    yield name
    engine.do("rm", "-f", name)


def test_lists(engine: Served, container: str) -> None:
    assert container in engine.do("ps", "--format", "{{.Names}}").splitlines()
    assert f"{IMAGE}:latest" in engine.do("images", "--format", "{{.Repository}}:{{.Tag}}")
    assert engine.do("inspect", container, "--format", "{{.State.Status}}") == "running"
    assert {"bridge", "host", "none"} <= set(engine.do("network", "ls", "--format", "{{.Name}}").splitlines())
    assert "Images: 1" in engine.do("info")
    assert "sleep" in engine.do("top", container)


def test_exit_codes(engine: Served) -> None:
    for words in ((), ("--rm",)):
        result = engine.run("run", *words, "--network", "none", IMAGE, "sh", "-c", "echo out; echo err >&2; exit 5")
        assert (result.returncode, result.stdout, result.stderr) == (5, b"out\n", b"err\n")


def test_logs_follow_until_the_reader_leaves(engine: Served, container: str) -> None:
    follow = subprocess.Popen(
        ["docker", "logs", "-f", "--tail", "1", container], stdout=subprocess.PIPE, env=engine.environment
    )
    assert follow.stdout is not None
    try:
        numbers = [int(follow.stdout.readline().split()[1]) for _ in range(4)]
    finally:
        follow.kill()
        follow.wait()
        follow.stdout.close()
    assert numbers == list(range(numbers[0], numbers[0] + 4))


def test_three_megabytes_through_stdin(engine: Served, container: str) -> None:
    big = random.Random(7).randbytes(3_000_000)
    result = engine.run("exec", "-i", container, "sha256sum", stdin=big)
    assert result.stdout.split()[0].decode() == hashlib.sha256(big).hexdigest()
    assert engine.run("exec", "-i", container, "cat", stdin=big).stdout == big


def test_output_after_the_end_of_input(engine: Served, container: str) -> None:
    script = "cat > /dev/null; sleep 0.5; echo after; echo complaint >&2; exit 3"
    result = engine.run("exec", "-i", container, "sh", "-c", script, stdin=b"some input")
    assert (result.returncode, result.stdout, result.stderr) == (3, b"after\n", b"complaint\n")


def test_a_program_that_wants_no_input(engine: Served, container: str) -> None:
    result = engine.run("exec", "-i", container, "true", stdin=b"x" * 1_000_000)
    assert result.returncode == 0, result


def test_run_with_input(engine: Served) -> None:
    assert engine.do("run", "--rm", "-i", "--network", "none", IMAGE, "sort", "-r", stdin=b"a\nb\n") == "b\na"


def test_a_terminal(engine: Served, container: str) -> None:
    words = ["docker", "exec", "-it", container, "sh"]
    child, terminal = pty.fork()
    if child == 0:
        os.execvpe(words[0], words, engine.environment)  # noqa: S606 — a pty's child is made by fork
    try:
        assert read_until(terminal, rb"# ")
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0))
        os.write(terminal, b"stty size; echo done-$((1+1))\n")
        seen = read_until(terminal, rb"done-2")
        deadline = 20
        while b"33 101" not in seen and deadline:  # The CLI tells of a new size when it is told, a moment later.
            deadline -= 1
            os.write(terminal, b"sleep 0.1; stty size; echo done-$((1+1))\n")
            seen = read_until(terminal, rb"done-2")
        assert b"33 101" in seen
        os.write(terminal, b"sh -c 'echo begun-$((1+1)); exec sleep 100'\n")
        read_until(terminal, rb"begun-2")
        os.write(terminal, b"\x03")
        assert read_until(terminal, rb"# ")
        os.write(terminal, b"echo was-$((2+2))\n")
        assert read_until(terminal, rb"was-4")
        os.write(terminal, b"exit 7\n")
        read_until(terminal, rb"(?!)")
    finally:
        os.close(terminal)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7


def read_until(terminal: int, pattern: bytes) -> bytes:
    """Read until the pattern came or the other side closed."""
    seen = b""
    while not re.search(pattern, seen):
        try:
            chunk = os.read(terminal, 4096)
        except OSError:
            return seen
        if not chunk:
            return seen
        seen += chunk
    return seen


def test_saving_loading_and_copying(engine: Served, container: str, tmp_path: Path) -> None:
    saved = tmp_path / "image.tar"
    engine.do("tag", IMAGE, "again")
    engine.do("save", "-o", str(saved), "again")
    engine.do("rmi", "again")
    assert "again" in engine.do("load", "-i", str(saved))
    engine.do("rmi", "again")
    big = tmp_path / "big"
    big.write_bytes(random.Random(8).randbytes(5_000_000))
    engine.do("cp", str(big), f"{container}:/big")
    assert engine.do("exec", container, "sha256sum", "/big").split()[0] == hashlib.sha256(big.read_bytes()).hexdigest()
    back = tmp_path / "back"
    engine.do("cp", f"{container}:/big", str(back))
    assert back.read_bytes() == big.read_bytes()


def test_volumes_and_local_networks(engine: Served) -> None:
    assert engine.do("volume", "create", "data") == "data"
    assert "data" in engine.do("volume", "ls", "-q")
    assert engine.do("volume", "rm", "data") == "data"
    made = engine.do("network", "create", "mine")
    assert (
        engine.do("network", "inspect", "mine", "--format", "{{.Id}} {{.Scope}} {{.Driver}}") == f"{made} local bridge"
    )
    assert engine.do("network", "rm", "mine") == "mine"
    gone = engine.run("network", "inspect", "mine").stderr
    assert b"not found" in gone or b"No such network" in gone  # The words of newer and of older clients.


def test_events_of_containers(engine: Served) -> None:
    name = f"e{uuid.uuid4().hex[:8]}"
    engine.do("run", "--rm", "--name", name, "--network", "none", IMAGE, "true")
    until = str(int(time.time()) + 1)  # The CLI sends whole seconds.
    seen = engine.do(
        "events", "--since", "60s", "--until", until, "--filter", f"container={name}", "--format", "{{.Action}}"
    )
    assert [action for action in seen.split() if action in ("create", "start", "die")] == ["create", "start", "die"]


def test_refusals_of_the_engine_reach_the_user(engine: Served) -> None:
    assert b"no such container" in engine.run("exec", "nobody", "true").stderr.lower()
    assert b"no such container" in engine.run("attach", "nobody").stderr.lower()
    assert b"nothing-here" in engine.run("inspect", "nothing-here").stderr
