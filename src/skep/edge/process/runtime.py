"""The runtime port on plain programs: the host's own file system, read-only, in a prepared sandbox; images are labels.

Edge: conmon and runc as child processes, small files, pidfds. For labs of simulation size and for tests: it needs no
image and no engine service, and costs 2 MB per container. It is no wall against hostile programs.
"""

import asyncio
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import msgspec

import skep
from skep.edge import crilog, machine, oci_exec, oci_values
from skep.edge.endings import Endings
from skep.edge.exitwatch import ExitWatch
from skep.edge.mount_sources import check_bind_sources
from skep.edge.podman.images import image_candidates
from skep.edge.process.bundle import Ground, write_bundle
from skep.edge.process.host_root import expose_host
from skep.edge.process.launch import Launcher
from skep.edge.process.records import Record, Records
from skep.model.base import Nanoseconds
from skep.ports.runtime import (
    Container,
    ContainerConfig,
    ContainerRejected,
    ContainerState,
    EngineFacts,
    EngineUnreachable,
    ExecResult,
    LogEntry,
    LogOptions,
    NoSuchContainer,
    RuntimeFailure,
)

TASK_LABEL = "com.docker.swarm.task.id"
SECOND = 1_000_000_000
NO_WALL = (
    "this node runs plain programs of its own file system instead of images (the process driver): use it for labs and "
    "tests only"
)


class ProcessRuntime:
    """Containers under `root` and `run_dir`; implements `skep.ports.runtime.Runtime`."""

    def __init__(self, *, root: Path, run_dir: Path, cgroup_parent: str = "") -> None:
        self._root = root.absolute()
        self._run_dir = run_dir.absolute()
        self._cgroup_parent = cgroup_parent.rstrip("/") or "/skep"
        self._records = Records(self._root, self._run_dir)
        self._machine = machine.probe(self._root)
        self._launcher = Launcher(self._machine.conmon_path, self._machine.runtime_path, self._records.runtime_root)
        self._endings = Endings(self._look, _send)
        self._watch = ExitWatch(self._endings.settle)
        self._changing: dict[str, asyncio.Lock] = {}

    @property
    def passthrough(self) -> Path | None:
        return None

    async def start(self) -> None:
        if not (self._machine.conmon_path and self._machine.runtime_path):
            raise EngineUnreachable("the process driver needs conmon and runc: install the packages conmon and runc")
        self._records.load()

    async def close(self) -> None:
        await self._watch.close()

    async def facts(self) -> EngineFacts:
        return EngineFacts(
            name="process",
            version=skep.__version__,
            os="linux",
            architecture=machine.architecture(),
            cpu_nano=machine.cpu_count() * SECOND,
            memory_bytes=machine.memory_total_bytes(),
            problems=(NO_WALL, *self._machine.problems()),
        )

    async def ensure_image(self, image: str, *, registry_auth: str = "") -> str:
        return f"sha256:{hashlib.sha256(image_candidates(image)[0].encode()).hexdigest()}"

    async def create(self, config: ContainerConfig) -> str:
        known = self._records.by_name(config.name)
        if known is not None:
            return known.id
        check_bind_sources(config.mounts)
        container_id = secrets.token_hex(32)
        config = replace(config, hostname=config.hostname or container_id[:12])
        volumes, anonymous = self._volumes(config)
        staging = self._records.staging(container_id)
        try:
            (staging / "rootfs").mkdir()
            targets = [*(mount.target for mount in config.mounts), *(file.target for file in config.files)]
            ground = Ground(
                rootfs=self._records.places(container_id).rootfs,
                host_mounts=expose_host(staging / "rootfs", targets),
                volumes=volumes,
                hidden=(self._root, self._run_dir),
                cgroup=f"{self._cgroup_parent}/{container_id[:16]}",
                init_path=self._machine.init_path,
            )
            (staging / "config.json").write_bytes(msgspec.json.encode(write_bundle(config, ground)))
            record = Record(
                id=container_id,
                name=config.name,
                image=config.image,
                labels=dict(config.labels),
                created_at=time.time_ns(),
                stop_signal=oci_values.signal_number(config.stop_signal or "SIGTERM"),
                tty=config.tty,
                open_stdin=config.open_stdin,
                anonymous_volumes=anonymous,
            )
            for folder in volumes.values():
                folder.mkdir(parents=True, exist_ok=True)
            self._records.add(record, staging)
        except (RuntimeFailure, OSError):
            shutil.rmtree(staging, ignore_errors=True)
            raise
        return container_id

    async def run(self, container_id: str) -> Container:
        async with self._changing.setdefault(container_id, asyncio.Lock()):
            record = self._need(container_id)
            if self._records.observe(record).state is ContainerState.CREATED:
                await self._launch(record)
        return await self.inspect(container_id)

    async def inspect(self, container_id: str) -> Container:
        return self._observe(self._need(container_id))

    async def list_containers(self) -> Sequence[Container]:
        return [self._observe(record) for record in self._records if TASK_LABEL in record.labels]

    async def stop(self, container_id: str, *, grace: Nanoseconds) -> None:
        record = self._need(container_id)
        await self._endings.stop(self._records.observe(record), record.stop_signal, grace)

    async def remove(self, container_id: str) -> None:
        async with self._changing.setdefault(container_id, asyncio.Lock()):
            record = self._records.get(container_id)
            if record is not None:
                container = self._records.observe(record)
                if container.state is ContainerState.RUNNING:
                    await self._endings.kill(container)
                    await self._endings.settle(container_id)
                await self._launcher.delete(record.id)
                self._records.drop(record)
                for name in record.anonymous_volumes:
                    shutil.rmtree(self._root / "volumes" / name, ignore_errors=True)
        self._changing.pop(container_id, None)

    def exits(self) -> AsyncIterator[str]:
        return self._watch.exits()

    async def logs(self, container_id: str, options: LogOptions) -> AsyncIterator[LogEntry]:
        record = self._need(container_id)

        async def wait_end() -> None:
            await self._endings.wait_exited(record.id)

        async for entry in crilog.read_log(self._records.places(record.id).log, options, wait_end):
            yield entry

    async def exec(self, container_id: str, command: Sequence[str], *, timeout: Nanoseconds) -> ExecResult:
        record = self._need(container_id)
        if self._records.observe(record).state is not ContainerState.RUNNING:
            raise NoSuchContainer(f"Container {container_id} is not running")
        return await oci_exec.exec_in(self._launcher.runtime, record.id, command, timeout=timeout)

    # --- inside ------------------------------------------------------------------

    def _need(self, container_id: str) -> Record:
        record = self._records.get(container_id)
        if record is None:
            raise NoSuchContainer(f"No such container: {container_id}")
        return record

    def _observe(self, record: Record) -> Container:
        container = self._records.observe(record)
        if container.state is ContainerState.RUNNING and container.pid:
            self._watch.watch(container.id, container.pid)
        return container

    def _volumes(self, config: ContainerConfig) -> tuple[Mapping[str, Path], list[str]]:
        """Folders of a container's volumes by target, and the names of those made for it alone."""
        folders: dict[str, Path] = {}
        anonymous: list[str] = []
        for mount in config.mounts:
            if mount.type != "volume":
                continue
            wanted = mount.volume_options
            driver = wanted.driver_config.name if wanted is not None and wanted.driver_config is not None else ""
            if driver not in ("", "local"):
                raise ContainerRejected(f'error looking up volume plugin {driver}: plugin "{driver}" not found')
            if not mount.source:
                anonymous.append(secrets.token_hex(32))
            name = mount.source or anonymous[-1]
            if "/" in name or name.startswith("."):
                raise ContainerRejected(f'"{name}" includes invalid characters for a local volume name')
            subpath = wanted.subpath if wanted is not None else ""
            if ".." in Path(subpath).parts or subpath.startswith("/"):
                raise ContainerRejected(f'volume-subpath "{subpath}" must be relative and stay inside the volume')
            folders[mount.target] = self._root / "volumes" / name / subpath
        return folders, anonymous

    async def _launch(self, record: Record) -> None:
        places = self._records.places(record.id)
        if not places.launched.exists():  # Else a daemon was killed before it let the program go.
            places.launched.touch()
            try:
                await self._launcher.prepare(record, places)
            except RuntimeFailure:
                await self._launcher.delete(record.id)
                places.launched.unlink()
                raise
        places.started.write_text(str(time.time_ns()))
        await self._launcher.let_go(record.id)

    async def _look(self, container_id: str) -> Container:
        return self._records.observe(self._need(container_id))


async def _send(container: Container, number: int) -> None:
    """Signal a process whose identity was checked just now."""
    if container.pid:
        with suppress(ProcessLookupError):
            os.kill(container.pid, number)
