"""Read what Docker Engine says of containers.

Pure: JSON to values. Source: Docker Engine API 1.41, `GET /containers/{id}/json`; the json-file log driver.
"""

import msgspec

from skep.edge.engine_containers import State, moment
from skep.edge.oci_values import signal_number
from skep.lib import timestamps
from skep.model.codec import MALFORMED
from skep.ports.runtime import Container, ContainerRejected, ContainerState, LogEntry

STATES = {
    "created": ContainerState.CREATED,
    "running": ContainerState.RUNNING,
    "paused": ContainerState.RUNNING,
    "restarting": ContainerState.RUNNING,
}
CHANNELS = {"stdout": 1, "stderr": 2}


class _Config(msgspec.Struct, rename="pascal"):
    labels: dict[str, str] | None = None
    stop_signal: str = ""


class Inspection(msgspec.Struct, rename="pascal"):
    """What we read of one container."""

    id: str
    name: str
    image: str
    state: State
    config: _Config
    log_path: str = ""

    @property
    def status(self) -> ContainerState:
        return STATES.get(self.state.status, ContainerState.EXITED)

    @property
    def labels(self) -> dict[str, str]:
        return self.config.labels or {}

    @property
    def stop_signal(self) -> int:
        try:
            return signal_number(self.config.stop_signal or "SIGTERM")
        except ContainerRejected:
            return signal_number("SIGTERM")  # The image's own, of another system.

    def container(self) -> Container:
        """As the port's noun, without the health check."""
        is_exited = self.status is ContainerState.EXITED
        started_at = moment(self.state.started_at)
        return Container(
            id=self.id,
            name=self.name.lstrip("/"),
            labels=self.labels,
            state=self.status,
            pid=self.state.pid if self.status is ContainerState.RUNNING else 0,
            exit_code=self.state.exit_code if is_exited else None,
            is_oom_killed=is_exited and self.state.oom_killed,
            started_at=started_at,
            finished_at=(moment(self.state.finished_at) or started_at) if is_exited else 0,
            error=self.state.error,
        )


def read_inspection(body: bytes) -> Inspection:
    return msgspec.json.decode(body, type=Inspection)


class _Logged(msgspec.Struct):
    log: str
    stream: str
    time: str


def parse_log_line(line: bytes) -> LogEntry | None:
    """Read one line of a json-file log; None if it is none (a torn write)."""
    try:
        logged = msgspec.json.decode(line, type=_Logged)
        at = timestamps.parse_rfc3339(logged.time)
    except (*MALFORMED, ValueError):
        return None
    if logged.stream not in CHANNELS:
        return None
    return LogEntry(channel=CHANNELS[logged.stream], timestamp=at, payload=logged.log.encode())
