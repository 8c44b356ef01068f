"""The container engine of a node, as its executor sees it.

Port. Containers live in sandboxes (network namespaces) that were prepared before. Every driver passes
tests/contract/test_runtime.py. A container outlives the daemon; after a restart `list_containers` finds it again.
"""

import enum
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from skep.model.base import Nanoseconds
from skep.model.service import Limits, Mount, Ulimit


class RuntimeFailure(Exception):
    """Base: the engine did not do it; the text is one sentence fit for a task's `err`."""


class ImageMissing(RuntimeFailure):
    """No such image here, and it cannot be pulled."""


class ContainerRejected(RuntimeFailure):
    """The engine will never run this container as asked: bad command, mount or limit."""


class NoSuchContainer(RuntimeFailure):
    """It is not there (any more)."""


class EngineUnreachable(RuntimeFailure):
    """The engine does not answer: try again."""


class ContainerState(enum.StrEnum):
    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """Attributes: name: podman, docker or process; problems: sentences about what this machine lacks."""

    name: str
    version: str
    os: str
    architecture: str
    cpu_nano: int
    memory_bytes: int
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FileMount:
    """A file or directory of the host put into the container, such as resolv.conf, hosts, a secret."""

    source: Path
    target: str
    read_only: bool = True


@dataclass(frozen=True, slots=True)
class HealthTest:
    """Attributes: test: as in Docker's Healthcheck, CMD or CMD-SHELL first."""

    test: Sequence[str]
    interval: Nanoseconds
    timeout: Nanoseconds
    start_period: Nanoseconds
    retries: int


@dataclass(frozen=True, slots=True)
class ContainerConfig:
    """Everything to make one container; templates are filled in already.

    Attributes:
        name: Unique on the node. sandbox: path of the network namespace to run in.
        hostname: Empty for Docker's default, the first 12 characters of the container's id.
        command: Replaces the image's entry point if not None; args: replaces its arguments if not None.
        labels: Docker's com.docker.swarm.* among them.
        files: Bound after `mounts`.
    """

    name: str
    image: str
    sandbox: Path
    hostname: str
    labels: Mapping[str, str]
    command: Sequence[str] | None = None
    args: Sequence[str] | None = None
    env: Sequence[str] = ()
    working_dir: str = ""
    user: str = ""
    groups: Sequence[str] = ()
    mounts: Sequence[Mount] = ()
    files: Sequence[FileMount] = ()
    limits: Limits = field(default_factory=Limits)
    tty: bool = False
    open_stdin: bool = False
    read_only: bool = False
    init: bool = False
    no_new_privileges: bool = False
    stop_signal: str = ""
    capability_add: Sequence[str] = ()
    capability_drop: Sequence[str] = ()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    ulimits: Sequence[Ulimit] = ()
    oom_score_adj: int = 0


@dataclass(frozen=True, slots=True)
class Container:
    """What the engine says of a container.

    Attributes:
        pid: Of its first process while running, else 0. exit_code: None unless exited.
        finished_at: 0 unless exited; started_at: 0 if never started.
        health: The image's health check, None if it has none.
    """

    id: str
    name: str
    labels: Mapping[str, str]
    state: ContainerState
    pid: int = 0
    exit_code: int | None = None
    is_oom_killed: bool = False
    started_at: Nanoseconds = 0
    finished_at: Nanoseconds = 0
    error: str = ""
    health: HealthTest | None = None


@dataclass(frozen=True, slots=True)
class LogEntry:
    """Attributes: channel: 1 stdout, 2 stderr; payload: one line with its newline, or a part of a long one."""

    channel: int
    timestamp: Nanoseconds
    payload: bytes


@dataclass(frozen=True, slots=True)
class LogOptions:
    follow: bool = False
    stdout: bool = True
    stderr: bool = True
    since: Nanoseconds = 0
    tail: int = -1


@dataclass(frozen=True, slots=True)
class ExecResult:
    exit_code: int
    output: bytes


class Runtime(Protocol):
    async def start(self) -> None:
        """Connect, starting the engine's service if that is ours to do; idempotent."""
        ...

    async def close(self) -> None:
        """Let go without touching any container."""
        ...

    async def facts(self) -> EngineFacts: ...

    async def ensure_image(self, image: str, *, registry_auth: str = "") -> str:
        """Have the image here, as its registry has it now.

        A name with a digest, or an id, is pulled only where it is missing. A tag is asked for every time, because it
        may mean another image by now; where the registry is out of reach, refuses or has none, the one here will do.

        Args:
            registry_auth: The value of X-Registry-Auth; empty for none.
        Returns:
            The engine's id of it.
        Raises:
            ImageMissing: Not here, and why it cannot be pulled and what to do. EngineUnreachable.
        Source: moby/daemon/cluster/executor/container (adapter.pullImage, controller.Prepare).
        """
        ...

    async def create(self, config: ContainerConfig) -> str:
        """Make a container without starting it; returns its id. One of that name already there is returned instead."""
        ...

    async def run(self, container_id: str) -> Container:
        """Start it; returns once its first process exists (it may have ended by then)."""
        ...

    async def inspect(self, container_id: str) -> Container: ...

    async def list_containers(self) -> Sequence[Container]:
        """All containers that carry the label `com.docker.swarm.task.id`, in any state."""
        ...

    async def stop(self, container_id: str, *, grace: Nanoseconds) -> None:
        """Send its stop signal, then SIGKILL after `grace`; returns when it has ended. No error if it has already."""
        ...

    async def remove(self, container_id: str) -> None:
        """Kill and remove it, with its anonymous volumes; no error if it is gone."""
        ...

    def exits(self) -> AsyncIterator[str]:
        """Ids of containers as they end; may repeat one, may miss one after a reconnect (then inspect)."""
        ...

    def logs(self, container_id: str, options: LogOptions) -> AsyncIterator[LogEntry]: ...

    async def exec(self, container_id: str, command: Sequence[str], *, timeout: Nanoseconds) -> ExecResult:
        """Run a short command inside, for health checks.

        Raises:
            TimeoutError: It was killed.
        """
        ...

    @property
    def passthrough(self) -> Path | None:
        """Unix socket of an Engine API that container and image requests are passed to; None if there is none."""
        ...
