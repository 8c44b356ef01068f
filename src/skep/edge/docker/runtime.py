"""The runtime port on Docker Engine: containers that join prepared network namespaces through a pause container.

Edge: a private dockerd's REST API. It runs with live-restore, so that containers outlive it and us.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from skep.edge.docker import configuration, spec
from skep.edge.docker.images import DockerImages
from skep.edge.docker.inspect import Inspection, parse_log_line, read_inspection
from skep.edge.docker.pause import REMOVE, Pauses, pause_name
from skep.edge.engine_runtime import Dialect, EngineRuntime
from skep.edge.mount_sources import check_bind_sources
from skep.model.codec import MALFORMED
from skep.ports.runtime import (
    Container,
    ContainerConfig,
    ContainerRejected,
    ContainerState,
    EngineUnreachable,
    RuntimeFailure,
)

API = (1, 41)  # Docker Engine 20.10's, the oldest we speak; a newer engine is spoken to with its own oldest if need be.


class _Version(msgspec.Struct, rename="pascal"):
    version: str
    api_version: str
    min_api_version: str = msgspec.field(default="", name="MinAPIVersion")


class DockerRuntime(EngineRuntime[Inspection]):
    """A private Docker Engine; implements `skep.ports.runtime.Runtime`."""

    dialect = Dialect(
        name="docker",
        program=configuration.docker_program,
        images=DockerImages,
        read=read_inspection,
        read_log=parse_log_line,
        removal=REMOVE,
    )

    def _equip(self) -> None:
        busybox = Path(self._machine.busybox_path)
        self._pauses = Pauses(self._requests, self._containers, busybox, self._settings.cgroup_parent)
        self._version = _Version("", "")
        self._api = API
        self._dropping: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        await super().start()
        await self._negotiate()
        await self._pauses.sweep()

    async def close(self) -> None:
        await super().close()
        await self._unmount()

    async def _engine_version(self) -> str:
        return self._version.version

    def _oci_runtime(self) -> Sequence[str]:
        return [dict(self._machine.runtimes)["runc"], "--root", str(configuration.runtime_root(self._settings))]

    async def create(self, config: ContainerConfig) -> str:
        known = await self._containers.find(config.name)
        if known is not None and known.status is not ContainerState.CREATED:
            return known.id
        container_id = known.id if known is not None else await self._create(config)
        await self._pauses.ensure(container_id, config)
        return container_id

    async def _make_ready(self, inspection: Inspection) -> None:
        await self._pauses.hold(inspection.container().name)

    async def _remove(self, container_id: str) -> None:
        # Killed in between we leave a container that is found again, or a pause that is swept up.
        await asyncio.gather(self._pauses.drop(container_id), super()._remove(container_id))

    async def run(self, container_id: str) -> Container:
        container = await super().run(container_id)
        if container.state is ContainerState.EXITED:  # Too soon to be watched.
            self._drop_later(container.id)
        return container

    async def _settle(self, container_id: str) -> None:
        await super()._settle(container_id)
        self._drop_later(container_id)

    def _drop_later(self, container_id: str) -> None:
        """Remove a pause while nobody waits for it; what remains is swept up at the next start."""
        task = asyncio.create_task(self._drop_pause(container_id), name=f"pause of {container_id[:12]}")
        self._dropping.add(task)
        task.add_done_callback(self._dropping.discard)

    async def _drop_pause(self, container_id: str) -> None:
        with suppress(RuntimeFailure):
            await self._pauses.drop(container_id)

    async def _let_go(self) -> None:
        for task in self._dropping:
            task.cancel()
        await asyncio.gather(*self._dropping, return_exceptions=True)
        await super()._let_go()

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
