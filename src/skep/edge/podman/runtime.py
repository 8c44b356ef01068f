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

import msgspec

from skep.edge import crilog, machine, oci_exec, oci_state
from skep.edge.engine_configuration import EngineSettings
from skep.edge.engine_service import EngineService
from skep.edge.exitwatch import ExitWatch, wait_process
from skep.edge.mount_sources import check_bind_sources
from skep.edge.podman import spec
from skep.edge.podman.client import Answer, PodmanClient
from skep.edge.podman.images import ImageStore
from skep.edge.podman.inspect import Inspection, read_inspection, read_list
from skep.model.base import Nanoseconds
from skep.model.codec import MALFORMED
from skep.model.service import Mount
from skep.ports.runtime import (
    Container,
    ContainerConfig,
    ContainerRejected,
    ContainerState,
    EngineFacts,
    EngineUnreachable,
    ExecResult,
    ImageMissing,
    LogEntry,
    LogOptions,
    NoSuchContainer,
    RuntimeFailure,
)

TASK_LABEL = "com.docker.swarm.task.id"
SETTLE_LIMIT_S = 5.0
SETTLE_INTERVAL_S = 0.02
KILL_LIMIT_S = 10.0
SECOND = 1_000_000_000
BUSY_PHRASES = ("database is locked", "device or resource busy", "text file busy", "resource temporarily unavailable")


class _Created(msgspec.Struct, rename="pascal"):
    id: str


class PodmanRuntime:
    """A private podman under `root` and `run_dir`; implements `skep.ports.runtime.Runtime`."""

    def __init__(
        self, *, root: Path, run_dir: Path, cgroup_parent: str = "", image_stores: Sequence[Path] = ()
    ) -> None:
        self._settings = EngineSettings(root.absolute(), run_dir.absolute(), cgroup_parent, tuple(image_stores))
        self.service = EngineService(self._settings)
        self._client = PodmanClient(self.service)
        self._images = ImageStore(self._client)
        self._watch = ExitWatch(self._settle)
        self._starting: dict[str, asyncio.Lock] = {}

    @property
    def passthrough(self) -> Path | None:
        return self._settings.socket

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
        answer = await self._expect("GET", "/_ping")  # For `/version` podman runs two programs: a quarter of a second.
        problems = self.service.machine.problems()
        return EngineFacts(
            name="podman",
            version=answer.release,
            os="linux",
            architecture=machine.architecture(),
            cpu_nano=machine.cpu_count() * SECOND,
            memory_bytes=machine.memory_total_bytes(),
            problems=problems,
        )

    async def ensure_image(self, image: str, *, registry_auth: str = "") -> str:
        return (await self._images.ensure(image, registry_auth)).id

    async def create(self, config: ContainerConfig) -> str:
        known = await self._find(config.name)
        if known is not None:
            return known.id
        image = await self._images.need(config.image)
        check_bind_sources(config.mounts)
        if config.init and not self.service.machine.init_path:
            raise ContainerRejected("no init program is installed on this node: install catatonit or leave out --init")
        body = spec.create_body(config, image.name, self._settings.cgroup_parent)
        for mount in config.mounts:
            await self._create_volume(mount)
        answer = await self._client.request("POST", "/containers/create", body=body)
        if answer.is_ok:
            return msgspec.json.decode(answer.body, type=_Created).id
        return await self._after_refused_create(config.name, answer)

    async def run(self, container_id: str) -> Container:
        async with self._starting.setdefault(container_id, asyncio.Lock()):
            try:
                inspection = await self._inspect(container_id)
                if inspection.status is ContainerState.CREATED:
                    await self._start(inspection.id)
                    inspection = await self._inspect(container_id)
            finally:
                self._starting.pop(container_id, None)
        return await self._as_container(inspection)

    async def inspect(self, container_id: str) -> Container:
        return await self._as_container(await self._inspect(container_id))

    async def list_containers(self) -> Sequence[Container]:
        query = {"all": "true", "filters": f'{{"label":["{TASK_LABEL}"]}}'}
        answer = await self._expect("GET", "/containers/json", query=query)
        found: list[Container] = []
        try:
            listing = read_list(answer.body)
        except MALFORMED as error:
            raise EngineUnreachable(f"podman lists its containers in an unknown form: {error}") from error
        for listed in listing:
            with suppress(NoSuchContainer):  # It went between the two requests.
                found.append(await self.inspect(listed.id))
        return found

    async def stop(self, container_id: str, *, grace: Nanoseconds) -> None:
        # Podman's own stop holds the container's lock while it waits, and counts in whole seconds.
        inspection = await self._inspect(container_id)
        if inspection.status is not ContainerState.RUNNING:
            return
        await self._signal(container_id, str(inspection.config.stop_signal))
        try:
            async with asyncio.timeout(grace / SECOND):
                await wait_process(inspection.state.pid)
        except TimeoutError:
            await self._kill(inspection)
        await self._settle(container_id)

    async def remove(self, container_id: str) -> None:
        with suppress(NoSuchContainer):
            inspection = await self._inspect(container_id)
            if inspection.status is ContainerState.RUNNING:
                await self._kill(inspection)
        # Podman documents `v` and reads `volumes` (4.3, pkg/api/handlers/compat/containers.go).
        query = {"force": "true", "v": "true", "volumes": "true", "timeout": "0"}
        answer = await self._client.request("DELETE", f"/containers/{quote(container_id, safe='')}", query=query)
        if not answer.is_ok and answer.status != 404:
            raise RuntimeFailure(answer.failure)

    def exits(self) -> AsyncIterator[str]:
        return self._watch.exits()

    async def logs(self, container_id: str, options: LogOptions) -> AsyncIterator[LogEntry]:
        inspection = await self._inspect(container_id)

        async def wait_end() -> None:
            await self._wait_exited(inspection.id)

        async for entry in crilog.read_log(Path(inspection.log_path), options, wait_end):
            yield entry

    async def exec(self, container_id: str, command: Sequence[str], *, timeout: Nanoseconds) -> ExecResult:
        inspection = await self._inspect(container_id)
        if inspection.status is not ContainerState.RUNNING:
            raise NoSuchContainer(f"Container {container_id} is not running")
        runtime = [self.service.machine.runtime_path, "--root", str(self._settings.runtime_root)]
        return await oci_exec.exec_in(runtime, inspection.id, command, timeout=timeout)

    # --- requests ---------------------------------------------------------------

    async def _expect(self, method: str, path: str, *, query: dict[str, str] | None = None) -> Answer:
        answer = await self._client.request(method, path, query=query)
        if not answer.is_ok:
            raise RuntimeFailure(answer.failure)
        return answer

    async def _find(self, name_or_id: str) -> Inspection | None:
        inspection = await self._ask(name_or_id)
        if inspection is None or not self._is_orphan(inspection):
            return inspection
        inspection = await self._ask(name_or_id)  # It may just have ended in good order.
        if inspection is None or not self._is_orphan(inspection):
            return inspection
        self._write_exit_file(inspection.id)
        return await self._ask(name_or_id)

    def _write_exit_file(self, container_id: str) -> None:
        """Say in its supervisor's stead that a container has ended; podman, which may be reading, sees it whole."""
        exits = self._settings.run_dir / "libpod" / "exits"
        staged = exits.with_name(f"exit-{container_id}-{uuid.uuid4().hex}")
        with suppress(FileNotFoundError, FileExistsError):
            staged.write_text(str(oci_state.UNSEEN_EXIT_CODE))
            (exits / container_id).hardlink_to(staged)
        staged.unlink(missing_ok=True)

    async def _ask(self, name_or_id: str) -> Inspection | None:
        answer = await self._client.request("GET", f"/containers/{quote(name_or_id, safe='')}/json")
        if answer.status == 404:
            return None
        if not answer.is_ok:
            raise RuntimeFailure(answer.failure)
        try:
            return read_inspection(answer.body)
        except MALFORMED as error:
            raise EngineUnreachable(f"podman describes {name_or_id} in an unknown form: {error}") from error

    def _is_orphan(self, inspection: Inspection) -> bool:
        """Whether a container is dead and lost its supervisor before that could write its exit file.

        Podman 4 trusts that file alone: without it such a container runs for ever and cannot be removed. We then write
        it in the supervisor's stead.
        """
        if inspection.state.status not in ("running", "paused", "stopping"):
            return False
        process = oci_state.first_process(self._settings.runtime_root / inspection.id)
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

    async def _after_refused_create(self, name: str, answer: Answer) -> str:
        """Make sense of a refusal: a repeated request whose first try went through is none."""
        known = await self._find(name)
        if known is not None:
            return known.id
        if answer.status == 404 and "image" in answer.failure:
            raise ImageMissing(answer.failure)
        raise _refusal(answer)

    async def _start(self, container_id: str) -> None:
        answer = await self._client.request("POST", f"/containers/{container_id}/start")
        if answer.status == 404:
            raise NoSuchContainer(f"No such container: {container_id}")
        if not answer.is_ok:
            raise _refusal(answer)

    async def _signal(self, container_id: str, name: str) -> None:
        answer = await self._client.request("POST", f"/containers/{container_id}/kill", query={"signal": name})
        # A conflict says that it ended meanwhile.
        if not answer.is_ok and answer.status not in (404, 409):
            raise RuntimeFailure(answer.failure)

    async def _kill(self, inspection: Inspection) -> None:
        await self._signal(inspection.id, "9")
        try:
            async with asyncio.timeout(KILL_LIMIT_S):
                await wait_process(inspection.state.pid)
        except TimeoutError as error:
            raise RuntimeFailure(
                f"container {inspection.name} did not die of SIGKILL in {KILL_LIMIT_S:.0f} s: its process "
                f"{inspection.state.pid} hangs in the kernel"
            ) from error

    async def _settle(self, container_id: str) -> None:
        """Wait until podman knows that this container has ended; its conmon needs some milliseconds to say so."""
        with suppress(TimeoutError, RuntimeFailure):
            async with asyncio.timeout(SETTLE_LIMIT_S):
                inspection = await self._inspect(container_id)
                while inspection.status is ContainerState.RUNNING:
                    await asyncio.sleep(SETTLE_INTERVAL_S)
                    inspection = await self._inspect(container_id)

    async def _wait_exited(self, container_id: str) -> None:
        while True:
            try:
                inspection = await self._inspect(container_id)
            except NoSuchContainer:
                return
            except RuntimeFailure:
                await asyncio.sleep(1)
                continue
            match inspection.status:
                case ContainerState.EXITED:
                    return
                case ContainerState.RUNNING:
                    await wait_process(inspection.state.pid)
            await asyncio.sleep(SETTLE_INTERVAL_S if inspection.status is ContainerState.RUNNING else 0.25)


def _refusal(answer: Answer) -> RuntimeFailure:
    """Whether trying again can help."""
    text = answer.failure
    is_busy = any(phrase in text.lower() for phrase in BUSY_PHRASES)
    return RuntimeFailure(text) if is_busy else ContainerRejected(text)
