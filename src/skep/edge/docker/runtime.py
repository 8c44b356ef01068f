"""The runtime port on Docker Engine: containers that join prepared network namespaces through a pause container.

Edge: a private dockerd's REST API, pidfds, log files. dockerd runs with live-restore, so that containers outlive it
and us. Exits come from pidfds, logs from dockerd's files and health probes go through the OCI runtime.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import msgspec

from skep.edge import crilog, machine, oci_exec
from skep.edge.docker import configuration, spec
from skep.edge.docker.images import DockerImages
from skep.edge.docker.inspect import Inspection, parse_log_line, read_inspection
from skep.edge.docker.pause import REMOVE, Pauses, pause_name
from skep.edge.endings import Endings
from skep.edge.engine_containers import EngineContainers
from skep.edge.engine_program import EngineSettings
from skep.edge.engine_requests import EngineRequests
from skep.edge.engine_service import EngineService
from skep.edge.exitwatch import ExitWatch
from skep.edge.mount_sources import check_bind_sources
from skep.edge.registries import Registries
from skep.model.base import Nanoseconds
from skep.model.codec import MALFORMED
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

API = (1, 41)  # Docker Engine 20.10's, the oldest we speak; a newer engine is spoken to with its own oldest if need be.
SECOND = 1_000_000_000


class _Version(msgspec.Struct, rename="pascal"):
    version: str
    api_version: str
    min_api_version: str = msgspec.field(default="", name="MinAPIVersion")


class DockerRuntime:
    """A private Docker Engine under `root` and `run_dir`; implements `skep.ports.runtime.Runtime`."""

    def __init__(
        self,
        *,
        root: Path,
        run_dir: Path,
        cgroup_parent: str = "",
        image_stores: Sequence[Path] = (),
        registries: Registries | None = None,
    ) -> None:
        insecure = registries.insecure if registries is not None else ()
        self._settings = EngineSettings(
            root.absolute(), run_dir.absolute(), cgroup_parent, tuple(image_stores), insecure
        )
        self._machine = machine.probe(self._settings.root)
        self.service = EngineService(configuration.docker_program(self._machine, self._settings))
        self._requests = EngineRequests(self.service, "")
        self._version = _Version("", "")
        self._api = API
        self._containers = EngineContainers(self._requests, read_inspection, "dockerd")
        self._images = DockerImages(self._requests, "dockerd", registries)
        self._pauses = Pauses(self._requests, self._containers, Path(self._machine.busybox_path), cgroup_parent)
        self._endings = Endings(self._look, self._send)
        self._watch = ExitWatch(self._settle)
        self._starting: dict[str, asyncio.Lock] = {}
        self._dropping: set[asyncio.Task[None]] = set()

    @property
    def passthrough(self) -> Path | None:
        return self.service.program.socket

    async def start(self) -> None:
        await self.service.start()
        await self._negotiate()
        await self._pauses.sweep()

    async def close(self) -> None:
        await self._let_go()
        await self.service.close()
        await self._unmount()

    async def detach(self) -> None:
        """Close, but leave dockerd to the next daemon, as when this one is killed or replaced."""
        await self._let_go()
        await self.service.detach()

    async def facts(self) -> EngineFacts:
        return EngineFacts(
            name="docker",
            version=self._version.version,
            os="linux",
            architecture=machine.architecture(),
            cpu_nano=machine.cpu_count() * SECOND,
            memory_bytes=machine.memory_total_bytes(),
            problems=self._machine.problems(),
        )

    async def ensure_image(self, image: str, *, registry_auth: str = "") -> str:
        return (await self._images.ensure(image, registry_auth)).id

    async def create(self, config: ContainerConfig) -> str:
        known = await self._containers.find(config.name)
        if known is not None and known.status is not ContainerState.CREATED:
            return known.id
        container_id = known.id if known is not None else await self._create(config)
        await self._pauses.ensure(container_id, config)
        return container_id

    async def run(self, container_id: str) -> Container:
        async with self._starting.setdefault(container_id, asyncio.Lock()):
            try:
                inspection = await self._inspect(container_id)
                if inspection.status is ContainerState.CREATED:
                    await self._pauses.hold(inspection.container().name)
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
        await self._endings.stop(inspection.container(), inspection.stop_signal, grace)

    async def remove(self, container_id: str) -> None:
        inspection = await self._containers.find(container_id)
        if inspection is None:
            return
        if inspection.status is ContainerState.RUNNING:
            await self._endings.kill(inspection.container())
        # Killed in between we leave a container that is found again, or a pause that is swept up.
        await asyncio.gather(self._pauses.drop(inspection.id), self._containers.remove(inspection.id, REMOVE))

    def exits(self) -> AsyncIterator[str]:
        return self._watch.exits()

    async def logs(self, container_id: str, options: LogOptions) -> AsyncIterator[LogEntry]:
        inspection = await self._inspect(container_id)

        async def wait_end() -> None:
            await self._endings.wait_exited(inspection.id)

        async for entry in crilog.read_log(Path(inspection.log_path), options, wait_end, parse_log_line):
            yield entry

    async def exec(self, container_id: str, command: Sequence[str], *, timeout: Nanoseconds) -> ExecResult:
        inspection = await self._inspect(container_id)
        if inspection.status is not ContainerState.RUNNING:
            raise NoSuchContainer(f"Container {container_id} is not running")
        runc = dict(self._machine.runtimes)["runc"]
        runtime = [runc, "--root", str(configuration.runtime_root(self._settings))]
        return await oci_exec.exec_in(runtime, inspection.id, command, timeout=timeout)

    # --- inside ------------------------------------------------------------------

    async def _negotiate(self) -> None:
        """Agree on an API version, and read the engine's own on the way."""
        self._requests.prefix = ""
        answer = await self._requests.request("GET", "/version")
        if not answer.is_ok:
            raise RuntimeFailure(answer.failure)
        try:
            self._version = msgspec.json.decode(answer.body, type=_Version)
            oldest, newest = _api(self._version.min_api_version or "1.0"), _api(self._version.api_version)
        except (*MALFORMED, ValueError) as error:
            raise EngineUnreachable(f"dockerd tells its version in an unknown form: {error}") from error
        if newest < API:
            raise EngineUnreachable(
                f"Docker Engine {self._version.version} is too old: install version 20.10 or newer, or use podman"
            )
        self._api = max(oldest, API)
        self._requests.prefix = "/v{}.{}".format(*self._api)

    async def _create(self, config: ContainerConfig) -> str:
        await self._images.need(config.image)
        check_bind_sources(config.mounts)
        if config.init and not self._machine.init_path:
            raise ContainerRejected("no init program is installed on this node: install tini or leave out --init")
        body = spec.create_body(config, pause_name(config.name), self._settings.cgroup_parent, self._api)
        return await self._containers.create(body, config.name)

    async def _inspect(self, container_id: str) -> Inspection:
        inspection = await self._containers.find(container_id)
        if inspection is None:
            raise NoSuchContainer(f"No such container: {container_id}")
        return inspection

    async def _look(self, container_id: str) -> Container:
        return (await self._inspect(container_id)).container()

    async def _send(self, container: Container, number: int) -> None:
        await self._containers.signal(container.id, number)

    async def _as_container(self, inspection: Inspection) -> Container:
        container = inspection.container()
        if container.state is ContainerState.RUNNING and container.pid:
            self._watch.watch(container.id, container.pid)
        return replace(container, health=await self._images.health_of(inspection.image))

    async def _settle(self, container_id: str) -> None:
        await self._endings.settle(container_id)
        # Nobody waits for it: what remains is swept up at the next start.
        task = asyncio.create_task(self._drop_pause(container_id), name=f"pause of {container_id[:12]}")
        self._dropping.add(task)
        task.add_done_callback(self._dropping.discard)

    async def _drop_pause(self, container_id: str) -> None:
        with suppress(RuntimeFailure):
            await self._pauses.drop(container_id)

    async def _let_go(self) -> None:
        await self._watch.close()
        for task in self._dropping:
            task.cancel()
        await asyncio.gather(*self._dropping, return_exceptions=True)
        await self._requests.close()

    async def _unmount(self) -> None:
        """Undo dockerd's mounts of its root on itself and of its own network namespace; it leaves either at times.

        They stay while containers run below them.
        """
        for path in (self._settings.root / "docker", configuration.exec_root(self._settings) / "netns" / "default"):
            process = await asyncio.create_subprocess_exec("umount", "--quiet", path, stderr=asyncio.subprocess.DEVNULL)
            await process.wait()


def _api(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor)
