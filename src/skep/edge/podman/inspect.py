"""Read what podman says of containers.

Pure: JSON to values. Source: podman 4.3, `GET /libpod/containers/{id}/json`.
"""

import msgspec

from skep.edge.engine_containers import State, moment
from skep.edge.oci_state import UNSEEN_END, UNSEEN_EXIT_CODE
from skep.ports.runtime import Container, ContainerState

STATES = {
    "created": ContainerState.CREATED,
    "configured": ContainerState.CREATED,
    "initialized": ContainerState.CREATED,
    "running": ContainerState.RUNNING,
    "paused": ContainerState.RUNNING,
    "stopping": ContainerState.RUNNING,
    "stopped": ContainerState.EXITED,
    "exited": ContainerState.EXITED,
    "removing": ContainerState.EXITED,
}


class _Config(msgspec.Struct, rename="pascal"):
    labels: dict[str, str] | None = None
    stop_signal: int = 15


class _LogConfig(msgspec.Struct, frozen=True, rename="pascal"):
    path: str = ""


class _HostConfig(msgspec.Struct, rename="pascal"):
    log_config: _LogConfig = _LogConfig()


class Inspection(msgspec.Struct, rename="pascal"):
    """What we read of one container."""

    id: str
    name: str
    image: str
    state: State
    config: _Config
    host_config: _HostConfig

    @property
    def status(self) -> ContainerState:
        status = STATES.get(self.state.status, ContainerState.EXITED)
        return ContainerState.EXITED if self._was_forgotten else status

    @property
    def _was_forgotten(self) -> bool:
        """After a reboot podman calls what ran before `created`; only its start time tells."""
        status = STATES.get(self.state.status, ContainerState.EXITED)
        return status is ContainerState.CREATED and moment(self.state.started_at) > 0

    @property
    def stop_signal(self) -> int:
        return self.config.stop_signal

    @property
    def log_path(self) -> str:
        return self.host_config.log_config.path

    def container(self) -> Container:
        """As the port's noun, without the health check."""
        is_exited = self.status is ContainerState.EXITED
        started_at = moment(self.state.started_at)
        return Container(
            id=self.id,
            name=self.name,
            labels=self.config.labels or {},
            state=self.status,
            pid=self.state.pid if self.status is ContainerState.RUNNING else 0,
            exit_code=self._exit_code() if is_exited else None,
            is_oom_killed=is_exited and self.state.oom_killed,
            started_at=started_at,
            finished_at=(moment(self.state.finished_at) or started_at) if is_exited else 0,
            error=UNSEEN_END if self._was_forgotten else self.state.error,
        )

    def _exit_code(self) -> int:
        was_seen = self.state.exit_code >= 0 and not self._was_forgotten
        return self.state.exit_code if was_seen else UNSEEN_EXIT_CODE


def read_inspection(body: bytes) -> Inspection:
    return msgspec.json.decode(body, type=Inspection)
