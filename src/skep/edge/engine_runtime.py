"""The part of the runtime port that engines with a service and a REST API of Docker's kind answer alike.

Edge: the engine's REST API, pidfds, log files. Exits come from pidfds, logs from the engine's files and health probes
go through the OCI runtime, so that what runs often costs the engine nothing. A driver says what is its own: program,
images, how it describes a container, how one is made and removed.
"""

import abc
import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic

from skep.edge import crilog, machine, oci_exec
from skep.edge.endings import Endings
from skep.edge.engine_containers import EngineContainers, Inspection
from skep.edge.engine_images import ImageStore
from skep.edge.engine_program import EngineProgram, EngineSettings
from skep.edge.engine_requests import EngineRequests
from skep.edge.engine_service import EngineService
from skep.edge.exitwatch import ExitWatch
from skep.edge.machine import Machine
from skep.edge.registries import Registries
from skep.model.base import Nanoseconds
from skep.ports.runtime import (
    Container,
    ContainerConfig,
    ContainerState,
    EngineFacts,
    ExecResult,
    LogEntry,
    LogOptions,
    NoSuchContainer,
)

SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Dialect(Generic[Inspection]):
    """One engine's ways.

    Attributes:
        name: Of the engine, as in a node's facts.
        program: The service for a machine and settings.
        images: The class of its image store.
        read: Its description of a container, to a value. read_log: one line of its log files.
        removal: The query that removes a container, running or not, with its anonymous volumes.
    """

    name: str
    program: Callable[[Machine, EngineSettings], EngineProgram]
    images: type[ImageStore]
    read: Callable[[bytes], Inspection]
    read_log: crilog.Parse
    removal: Mapping[str, str]


class EngineRuntime(abc.ABC, Generic[Inspection]):
    """A private engine under `root` and `run_dir`; with a driver's own part, implements `ports.runtime.Runtime`."""

    dialect: Dialect[Inspection]

    def __init__(
        self,
        *,
        root: Path,
        run_dir: Path,
        cgroup_parent: str = "",
        image_stores: Sequence[Path] = (),
        registries: Registries | None = None,
    ) -> None:
        registries = registries or Registries()
        self._settings = EngineSettings(
            root=root.absolute(),
            run_dir=run_dir.absolute(),
            cgroup_parent=cgroup_parent,
            image_stores=tuple(image_stores),
            insecure_registries=registries.insecure,
        )
        self._machine = machine.probe(self._settings.root)
        program = self.dialect.program(self._machine, self._settings)
        self.service = EngineService(program)
        self._requests = EngineRequests(self.service, "")
        self._containers = EngineContainers(self._requests, self.dialect.read, program.name)
        self._images = self.dialect.images(self._requests, program.name, registries)
        self._endings = Endings(self._look, self._send)
        self._watch = ExitWatch(self._settle)
        self._starting: dict[str, asyncio.Lock] = {}
        self._equip()

    # --- what is each engine's own ----------------------------------------------

    def _equip(self) -> None:
        """Make what else a driver needs, out of the parts there are."""

    @abc.abstractmethod
    async def create(self, config: ContainerConfig) -> str: ...

    @abc.abstractmethod
    async def _engine_version(self) -> str:
        """The engine's release."""

    @abc.abstractmethod
    def _oci_runtime(self) -> Sequence[str]:
        """The OCI runtime's command with the options under which it knows this engine's containers."""

    async def _find(self, name_or_id: str) -> Inspection | None:
        return await self._containers.find(name_or_id)

    async def _make_ready(self, inspection: Inspection) -> None:
        """Do what has to be done just before a container is started."""

    async def _settle(self, container_id: str) -> None:
        """Wait until the engine knows of an end."""
        await self._endings.settle(container_id)

    async def _remove(self, container_id: str) -> None:
        """Remove a container that has ended, or is gone."""
        await self._containers.remove(container_id, self.dialect.removal)

    # --- the port ------------------------------------------------------------------

    @property
    def passthrough(self) -> Path | None:
        return self.service.program.socket

    async def start(self) -> None:
        await self.service.start()

    async def close(self) -> None:
        await self._let_go()
        await self.service.close()

    async def detach(self) -> None:
        """Close, but leave the engine's service to the next daemon, as when this one is killed or replaced."""
        await self._let_go()
        await self.service.detach()

    async def facts(self) -> EngineFacts:
        return EngineFacts(
            name=self.dialect.name,
            version=await self._engine_version(),
            os="linux",
            architecture=machine.architecture(),
            cpu_nano=machine.cpu_count() * SECOND,
            memory_bytes=machine.memory_total_bytes(),
            problems=self._machine.problems(),
        )

    async def ensure_image(self, image: str, *, registry_auth: str = "") -> str:
        return (await self._images.ensure(image, registry_auth)).id

    async def run(self, container_id: str) -> Container:
        async with self._starting.setdefault(container_id, asyncio.Lock()):
            try:
                inspection = await self._inspect(container_id)
                if inspection.status is ContainerState.CREATED:
                    await self._make_ready(inspection)
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
        with suppress(NoSuchContainer):
            inspection = await self._inspect(container_id)
            container_id = inspection.id
            if inspection.status is ContainerState.RUNNING:
                await self._endings.kill(inspection.container())
        await self._remove(container_id)

    def exits(self) -> AsyncIterator[str]:
        return self._watch.exits()

    async def logs(self, container_id: str, options: LogOptions) -> AsyncIterator[LogEntry]:
        inspection = await self._inspect(container_id)

        async def wait_end() -> None:
            await self._endings.wait_exited(inspection.id)

        async for entry in crilog.read_log(Path(inspection.log_path), options, wait_end, self.dialect.read_log):
            yield entry

    async def exec(self, container_id: str, command: Sequence[str], *, timeout: Nanoseconds) -> ExecResult:
        inspection = await self._inspect(container_id)
        if inspection.status is not ContainerState.RUNNING:
            raise NoSuchContainer(f"Container {container_id} is not running")
        return await oci_exec.exec_in(self._oci_runtime(), inspection.id, command, timeout=timeout)

    # --- inside --------------------------------------------------------------------

    async def _let_go(self) -> None:
        await self._watch.close()
        await self._requests.close()

    async def _inspect(self, container_id: str) -> Inspection:
        inspection = await self._find(container_id)
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
