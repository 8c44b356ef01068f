"""Where the runtime contract is tried: one place per driver, each with a sandbox, an image and a way to start anew."""

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import pytest

from skep.edge import machine
from skep.edge.docker import DockerRuntime
from skep.edge.engine_service import drop_stale_aliases
from skep.edge.podman import PodmanRuntime
from skep.edge.process import ProcessRuntime
from skep.lab import images
from skep.ports.runtime import ContainerConfig, EngineUnreachable, Runtime
from skep.sim.engine import FakeEngine, FakeRuntime

IMAGE = "contract"
KERNEL_WORDS = ("cgroup", "kernel", "overlay", "operation not permitted", "not supported")
CLI_LIMIT_S = 60
Engine = TypeVar("Engine", PodmanRuntime, DockerRuntime)
AnyRuntime = TypeVar("AnyRuntime", bound=Runtime)


class Place(Protocol):
    """One driver's ground. Attributes: is_real: containers are processes of this kernel."""

    name: str
    is_real: bool
    sandbox: Path

    def open(self) -> Runtime:
        """A driver object on this ground, as a freshly started daemon makes one."""
        ...

    async def abandon(self, runtime: Runtime) -> None:
        """Drop a driver object as a killed daemon does."""
        ...

    def service_pids(self) -> Sequence[int]:
        """The engine's own processes, if it has any."""
        ...

    def wipe_run_dir(self) -> None:
        """Lose what a reboot loses."""
        ...


class FakePlace:
    name, is_real = "fake", False
    sandbox = Path("/run/netns/fake")

    def __init__(self) -> None:
        self.engine = FakeEngine([IMAGE], now=time.time_ns)

    def open(self) -> FakeRuntime:
        return FakeRuntime(self.engine)

    async def abandon(self, runtime: Runtime) -> None:
        await runtime.close()

    def service_pids(self) -> Sequence[int]:
        return ()

    def wipe_run_dir(self) -> None:
        pass


class RealPlace:
    """What real engines share. Attributes: folder: holds `root` and `run`."""

    is_real = True

    def __init__(self, folder: Path, sandbox: Path) -> None:
        self.sandbox = sandbox
        self.folder = folder

    def service_pids(self) -> Sequence[int]:
        return ()

    def wipe_run_dir(self) -> None:
        """Empty the run directory, and unmount what only the dead machine's kernel had mounted."""
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            mounted = line.split()[1]
            if mounted.startswith(f"{self.folder}/"):
                subprocess.run(["umount", mounted], check=True)
        shutil.rmtree(self.folder / "run")


class ProcessPlace(RealPlace):
    name = "process"

    def open(self) -> ProcessRuntime:
        return ProcessRuntime(
            root=self.folder / "root", run_dir=self.folder / "run", cgroup_parent=f"/{self.folder.name}"
        )

    async def abandon(self, runtime: Runtime) -> None:
        await runtime.close()


class ServicePlace(RealPlace, Generic[Engine]):
    """What engines with a service of their own share."""

    engine: type[Engine]

    def open(self) -> Engine:
        return self.engine(root=self.folder / "root", run_dir=self.folder / "run", cgroup_parent=f"/{self.folder.name}")

    async def abandon(self, runtime: Runtime) -> None:
        assert isinstance(runtime, self.engine)
        await runtime.detach()

    async def set_up(self) -> None:
        runtime = self.open()
        await runtime.start()
        await docker(runtime, "import", "-", IMAGE, stdin=images.root_tar(images.busybox_root()))
        await runtime.detach()

    def config(self, *args: str, image: str = IMAGE, name: str = "task") -> ContainerConfig:
        """A container of a task; without `args` it runs what its image says."""
        labels = {"com.docker.swarm.task.id": name}
        return ContainerConfig(name, image, self.sandbox, "bee", labels, args=args or None)


class PodmanPlace(ServicePlace[PodmanRuntime]):
    name, engine = "podman", PodmanRuntime

    def service_pids(self) -> Sequence[int]:
        return [int((self.folder / "run/podman.pid").read_text())]


class DockerPlace(ServicePlace[DockerRuntime]):
    name, engine = "docker", DockerRuntime

    def service_pids(self) -> Sequence[int]:
        """dockerd, its containerd and its shims, whose arguments name this folder; and the pauses the shims hold."""
        found: list[int] = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.fsencode(f"{self.folder}/") in (entry / "cmdline").read_bytes():
                    children = (entry / "task" / entry.name / "children").read_text().split()
                    found += [int(entry.name), *map(int, children)]
        return found


async def docker(runtime: Runtime, *arguments: str, stdin: bytes = b"") -> str:
    """Use docker's own CLI on an engine; returns what it wrote, without surrounding blanks."""
    command = ["docker", "--host", f"unix://{runtime.passthrough}", *arguments]
    ended = await asyncio.to_thread(
        subprocess.run, command, input=stdin, check=True, capture_output=True, timeout=CLI_LIMIT_S
    )
    return ended.stdout.decode().strip()


@contextlib.asynccontextmanager
async def in_use(place: Place, runtime: AnyRuntime) -> AsyncIterator[AnyRuntime]:
    """Start a driver's object for one test; afterwards its containers go, and its engine is left to the next."""
    await runtime.start()
    try:
        yield runtime
    finally:
        for container in await runtime.list_containers():
            await runtime.remove(container.id)
        await place.abandon(runtime)


async def clear(place: Place) -> None:
    """Remove every container and let go of the engine for good."""
    runtime = place.open()
    await runtime.start()
    for container in await runtime.list_containers():
        await runtime.remove(container.id)
    await runtime.close()


@contextlib.contextmanager
def network_namespace() -> Iterator[Path]:
    name = f"skep-engine-{uuid.uuid4().hex[:8]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        yield Path("/run/netns", name)
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def require_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("containers and namespaces need root")


def remove_folder(folder: Path) -> None:
    """Remove a folder and the cgroups of its name; an engine's last clean-up may still be busy in them."""
    deadline = time.monotonic() + 5
    while True:
        with contextlib.suppress(OSError):
            remove_cgroups(folder.name)
            if folder.exists():
                shutil.rmtree(folder)
            return
        assert time.monotonic() < deadline, f"{folder} or its cgroups cannot be removed"
        time.sleep(0.05)


def remove_cgroups(parent: str) -> None:
    """Remove the empty cgroups that runtimes leave under a parent.

    Raises:
        OSError: One is not empty yet.
    """
    for top in {entry.resolve() for entry in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir())}:
        for folder, _, _ in os.walk(top / parent, topdown=False):
            Path(folder).rmdir()


@contextlib.contextmanager
def podman_place(parent: Path) -> Iterator[PodmanPlace]:
    require_root()
    found = machine.probe(parent)
    if not (found.podman_path and found.conmon_path and found.runtime):
        pytest.skip("podman, conmon and runc are not all installed")
    with _ground(parent) as (folder, sandbox):
        place = PodmanPlace(folder, sandbox)
        try:
            asyncio.run(place.set_up())
            yield place
        finally:
            asyncio.run(clear(place))


@contextlib.contextmanager
def docker_place(parent: Path) -> Iterator[DockerPlace]:
    require_root()
    found = machine.probe(parent)
    if not (found.dockerd_path and found.busybox_path and found.runtime):
        pytest.skip("dockerd, busybox-static and runc are not all installed")
    with dead_shim_sockets_removed(), _ground(parent) as (folder, sandbox):
        place = DockerPlace(folder, sandbox)
        try:
            asyncio.run(place.set_up())
        except EngineUnreachable as error:
            reason = kernel_reason(str(error))
            if reason:
                pytest.skip(reason)
            raise
        try:
            yield place
        finally:
            asyncio.run(clear(place))
            assert not place.service_pids()


def kernel_reason(failure: str) -> str:
    """Why to skip, where dockerd does not start for something this kernel lacks; else empty."""
    return f"kernel: {failure}" if any(word in failure.lower() for word in KERNEL_WORDS) else ""


@contextlib.contextmanager
def dead_shim_sockets_removed() -> Iterator[None]:
    """Remove what shims leave that were killed; containerd keeps their sockets in one place for the whole machine."""
    folder = Path("/run/containerd/s")
    before = set(folder.glob("*"))
    try:
        yield
    finally:
        for path in set(folder.glob("*")) - before:
            with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(FileNotFoundError):
                try:
                    probe.connect(str(path))
                except ConnectionRefusedError:
                    path.unlink()


@contextlib.contextmanager
def process_place(parent: Path) -> Iterator[ProcessPlace]:
    require_root()
    found = machine.probe(parent)
    if not (found.conmon_path and found.runtime):
        pytest.skip("conmon and runc are not both installed")
    with _ground(parent) as (folder, sandbox):
        place = ProcessPlace(folder, sandbox)
        try:
            yield place
        finally:
            asyncio.run(clear(place))


@contextlib.contextmanager
def _ground(parent: Path) -> Iterator[tuple[Path, Path]]:
    """A folder and a sandbox, and nothing left of either."""
    folder = parent / f"skep-engine-{uuid.uuid4().hex[:8]}"
    folder.mkdir()
    with network_namespace() as sandbox:
        try:
            yield folder, sandbox
        finally:
            mounts = Path("/proc/self/mounts").read_text()
            remove_folder(folder)
            drop_stale_aliases()
        assert str(folder) not in mounts
