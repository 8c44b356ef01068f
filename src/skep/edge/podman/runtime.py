"""The runtime port on podman: containers that join prepared network namespaces and outlive us and podman's service.

Edge: podman's REST API, pidfds, log files. Exits come from pidfds, logs from conmon's files and health probes go
through the OCI runtime, so that what runs often costs podman nothing.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from skep.edge import crilog, machine, oci_exec, oci_state
from skep.edge.endings import Endings
from skep.edge.engine_containers import EngineContainers
from skep.edge.engine_program import EngineSettings
from skep.edge.engine_requests import EngineRequests
from skep.edge.engine_service import EngineService
from skep.edge.exitwatch import ExitWatch
from skep.edge.mount_sources import check_bind_sources
from skep.edge.podman import configuration, spec
from skep.edge.podman.images import PodmanImages
from skep.edge.podman.inspect import Inspection, read_inspection
from skep.edge.registries import Registries
from skep.model.base import Nanoseconds
from skep.model.service import Mount
from skep.ports.runtime import (
    Container,
    ContainerConfig,
    ContainerRejected,
    ContainerState,
    EngineFacts,
    ExecResult,
    LogEntry,
    LogOptions,
    NoSuchContainer,
    RuntimeFailure,
)

SECOND = 1_000_000_000
PREFIX = "/v4.0.0/libpod"  # The oldest version we speak; podman 5 still serves it.
# Podman documents `v` and reads `volumes` (4.3, pkg/api/handlers/compat/containers.go).
REMOVE = {"force": "true", "v": "true", "volumes": "true", "timeout": "0"}


class PodmanRuntime:
    """A private podman under `root` and `run_dir`; implements `skep.ports.runtime.Runtime`."""

    def __init__(
        self,
        *,
        root: Path,
        run_dir: Path,
        cgroup_parent: str = "",
        image_stores: Sequence[Path] = (),
        registries: Registries | None = None,
    ) -> None:
        self._settings = EngineSettings(root.absolute(), run_dir.absolute(), cgroup_parent, tuple(image_stores))
        self._machine = machine.probe(self._settings.root)
        self.service = EngineService(configuration.podman_program(self._machine, self._settings))
        self._client = EngineRequests(self.service, PREFIX)
        self._containers = EngineContainers(self._client, read_inspection, "podman")
        self._images = PodmanImages(self._client, "podman", registries)
        self._endings = Endings(self._look, self._send)
        self._watch = ExitWatch(self._endings.settle)
        self._starting: dict[str, asyncio.Lock] = {}

    @property
    def passthrough(self) -> Path | None:
        return self.service.program.socket

    async def start(self) -> None:
        await self.service.start()

    async def close(self) -> None:
        await self._watch.close()
        await self._client.close()
        await self.service.close()

    async def detach(self) -> None:
        """Close, but leave podman's service to the next daemon, as when this one is killed or replaced."""
        await self._watch.close()
        await self._client.close()
        await self.service.detach()

    async def facts(self) -> EngineFacts:
        answer = await self._client.request("GET", "/_ping")  # For `/version` podman runs two programs: 250 ms.
        if not answer.is_ok:
            raise RuntimeFailure(answer.failure)
        return EngineFacts(
            name="podman",
            version=answer.headers.get("Libpod-API-Version", ""),
            os="linux",
            architecture=machine.architecture(),
            cpu_nano=machine.cpu_count() * SECOND,
            memory_bytes=machine.memory_total_bytes(),
            problems=self._machine.problems(),
        )

    async def ensure_image(self, image: str, *, registry_auth: str = "") -> str:
        return (await self._images.ensure(image, registry_auth)).id

    async def create(self, config: ContainerConfig) -> str:
        known = await self._find(config.name)
        if known is not None:
            return known.id
        image = await self._images.need(config.image)
        check_bind_sources(config.mounts)
        if config.init and not self._machine.init_path:
            raise ContainerRejected("no init program is installed on this node: install catatonit or leave out --init")
        body = spec.create_body(config, image.name, self._settings.cgroup_parent)
        for mount in config.mounts:
            await self._create_volume(mount)
        return await self._containers.create(body, config.name)

    async def run(self, container_id: str) -> Container:
        async with self._starting.setdefault(container_id, asyncio.Lock()):
            try:
                inspection = await self._inspect(container_id)
                if inspection.status is ContainerState.CREATED:
                    await self._containers.start(inspection.id)
                    inspection = await self._inspect(container_id)
            finally:
                self._starting.pop(container_id, None)
        return await self._as_container(inspection)

    async def inspect(self, container_id: str) -> Container:
        return await self._as_container(await self._inspect(container_id))

    async def list_containers(self) -> Sequence[Container]:
        found: list[Container] = []
        for container_id in await self._containers.task_ids():
            with suppress(NoSuchContainer):  # It went between the two requests.
                found.append(await self.inspect(container_id))
        return found

    async def stop(self, container_id: str, *, grace: Nanoseconds) -> None:
        inspection = await self._inspect(container_id)
        await self._endings.stop(inspection.container(), inspection.config.stop_signal, grace)

    async def remove(self, container_id: str) -> None:
        with suppress(NoSuchContainer):
            inspection = await self._inspect(container_id)
            if inspection.status is ContainerState.RUNNING:
                await self._endings.kill(inspection.container())
        await self._containers.remove(container_id, REMOVE)

    def exits(self) -> AsyncIterator[str]:
        return self._watch.exits()

    async def logs(self, container_id: str, options: LogOptions) -> AsyncIterator[LogEntry]:
        inspection = await self._inspect(container_id)

        async def wait_end() -> None:
            await self._endings.wait_exited(inspection.id)

        async for entry in crilog.read_log(Path(inspection.log_path), options, wait_end):
            yield entry

    async def exec(self, container_id: str, command: Sequence[str], *, timeout: Nanoseconds) -> ExecResult:
        inspection = await self._inspect(container_id)
        if inspection.status is not ContainerState.RUNNING:
            raise NoSuchContainer(f"Container {container_id} is not running")
        runtime = [self._machine.runtime_path, "--root", str(configuration.runtime_root(self._settings))]
        return await oci_exec.exec_in(runtime, inspection.id, command, timeout=timeout)

    # --- requests ---------------------------------------------------------------

    async def _find(self, name_or_id: str) -> Inspection | None:
        inspection = await self._containers.find(name_or_id)
        if inspection is None or not self._is_orphan(inspection):
            return inspection
        inspection = await self._containers.find(name_or_id)  # It may just have ended in good order.
        if inspection is None or not self._is_orphan(inspection):
            return inspection
        self._write_exit_file(inspection.id)
        return await self._containers.find(name_or_id)

    def _write_exit_file(self, container_id: str) -> None:
        """Say in its supervisor's stead that a container has ended; podman, which may be reading, sees it whole."""
        exits = self._settings.run_dir / "libpod" / "exits"
        staged = exits.with_name(f"exit-{container_id}-{uuid.uuid4().hex}")
        with suppress(FileNotFoundError, FileExistsError):
            staged.write_text(str(oci_state.UNSEEN_EXIT_CODE))
            (exits / container_id).hardlink_to(staged)
        staged.unlink(missing_ok=True)

    def _is_orphan(self, inspection: Inspection) -> bool:
        """Whether a container is dead and lost its supervisor before that could write its exit file.

        Podman 4 trusts that file alone: without it such a container runs for ever and cannot be removed. We then write
        it in the supervisor's stead.
        """
        if inspection.state.status not in ("running", "paused", "stopping"):
            return False
        process = oci_state.first_process(configuration.runtime_root(self._settings) / inspection.id)
        return not process.pid and not oci_state.is_supervisor(inspection.state.conmon_pid, inspection.id)

    async def _inspect(self, container_id: str) -> Inspection:
        inspection = await self._find(container_id)
        if inspection is None:
            raise NoSuchContainer(f"No such container: {container_id}")
        return inspection

    async def _as_container(self, inspection: Inspection) -> Container:
        container = inspection.container()
        if container.state is ContainerState.RUNNING and container.pid:
            self._watch.watch(container.id, container.pid)
        return replace(container, health=await self._images.health_of(inspection.image))

    async def _create_volume(self, mount: Mount) -> None:
        """Make a named volume that carries labels or options; podman makes plain ones by itself."""
        wanted = mount.volume_options
        if mount.type != "volume" or not mount.source or wanted is None:
            return
        driver = wanted.driver_config
        name = driver.name if driver is not None and driver.name else "local"
        if name != "local":
            raise ContainerRejected(f'error looking up volume plugin {name}: plugin "{name}" not found')
        options = dict(driver.options or {}) if driver is not None else {}
        if not (wanted.labels or options) or await self._has_volume(mount.source):
            return
        body = {"Name": mount.source, "Label": wanted.labels or {}, "Options": options}
        answer = await self._client.request("POST", "/volumes/create", body=body)
        if not answer.is_ok and not await self._has_volume(mount.source):
            raise ContainerRejected(answer.failure)

    async def _has_volume(self, name: str) -> bool:
        return (await self._client.request("GET", f"/volumes/{quote(name, safe='')}/exists")).is_ok

    async def _look(self, container_id: str) -> Container:
        return (await self._inspect(container_id)).container()

    async def _send(self, container: Container, number: int) -> None:
        await self._containers.signal(container.id, number)
