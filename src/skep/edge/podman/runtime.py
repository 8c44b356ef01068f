"""The runtime port on podman: containers that join prepared network namespaces and outlive us and podman's service.

Edge: podman's REST API, and the files in which podman's own supervisors report to it.
"""

import uuid
from collections.abc import Sequence
from contextlib import suppress
from urllib.parse import quote

from skep.edge import crilog, oci_state
from skep.edge.engine_runtime import Dialect, EngineRuntime
from skep.edge.mount_sources import check_bind_sources
from skep.edge.podman import configuration, spec
from skep.edge.podman.images import PodmanImages
from skep.edge.podman.inspect import Inspection, read_inspection
from skep.model.service import Mount
from skep.ports.runtime import ContainerConfig, ContainerRejected, RuntimeFailure

PREFIX = "/v4.0.0/libpod"  # The oldest version we speak; podman 5 still serves it.


class PodmanRuntime(EngineRuntime[Inspection]):
    """A private podman; implements `skep.ports.runtime.Runtime`."""

    dialect = Dialect(
        name="podman",
        program=configuration.podman_program,
        images=PodmanImages,
        read=read_inspection,
        read_log=crilog.parse_line,
        # Podman documents `v` and reads `volumes` (4.3, pkg/api/handlers/compat/containers.go).
        removal={"force": "true", "v": "true", "volumes": "true", "timeout": "0"},
    )

    async def start(self) -> None:
        self._requests.prefix = PREFIX
        await super().start()

    async def _engine_version(self) -> str:
        answer = await self._requests.request("GET", "/_ping")  # For `/version` podman runs two programs: 250 ms.
        if not answer.is_ok:
            raise RuntimeFailure(answer.failure)
        return answer.headers.get("Libpod-API-Version", "")

    def _oci_runtime(self) -> Sequence[str]:
        return [self._machine.runtime_path, "--root", str(configuration.runtime_root(self._settings))]

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
        answer = await self._requests.request("POST", "/volumes/create", body=body)
        if not answer.is_ok and not await self._has_volume(mount.source):
            raise ContainerRejected(answer.failure)

    async def _has_volume(self, name: str) -> bool:
        return (await self._requests.request("GET", f"/volumes/{quote(name, safe='')}/exists")).is_ok
