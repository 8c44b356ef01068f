"""What a private engine is: where it lives and the command, environment and files it is run with.

Pure: values. Each driver makes its `EngineProgram`; `engine_service` keeps it alive without knowing which it is.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from skep.edge.machine import Machine

ALIASES = Path("/run/skep-engines")  # Links to run directories whose own names are too long.


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Where a private engine lives.

    Attributes:
        root: Images, containers and volumes; must survive a reboot.
        run_dir: Sockets, locks and process state; must not survive a reboot. Short, for the socket's sake.
        cgroup_parent: Such as `/skep-x/node1`; empty leaves it to the engine.
        image_stores: Read-only image stores shared with others.
        insecure_registries: For an engine that has to be told when it starts.
    """

    root: Path
    run_dir: Path
    cgroup_parent: str = ""
    image_stores: Sequence[Path] = ()
    insecure_registries: Sequence[str] = ()

    def short_path(self, name: str, limit: int) -> Path:
        """A path in the run directory, through an alias of that where its own has more than `limit` characters."""
        plain = self.run_dir / name
        if len(str(plain)) <= limit:
            return plain
        return ALIASES / hashlib.sha256(str(self.run_dir).encode()).hexdigest()[:16] / name


@dataclass(frozen=True, slots=True)
class EngineProgram:
    """A service to run.

    Attributes:
        name: As users are told of it: podman, dockerd.
        socket: What it listens on; `unix://` and this path is one of the command's words.
        files: Texts it reads, by path; a change of one, or of the command, needs another process.
        folders: Must exist beforehand.
        followers: Pid files of processes it starts for itself. They end with it; one that has not is ended, and its
            file removed, before another service is started, which might take the number for a living one's.
        alias: The short name of the run directory; None where that needs none.
        problem: Why it cannot run here, as a sentence; empty if it can.
    """

    name: str
    command: Sequence[str]
    run_dir: Path
    socket: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[Path, str] = field(default_factory=dict)
    folders: Sequence[Path] = ()
    followers: Sequence[Path] = ()
    alias: Path | None = None
    problem: str = ""


def cgroup_manager(machine: Machine, settings: EngineSettings) -> str:
    """systemd's only where it runs and no plain path is asked for."""
    return "systemd" if machine.has_systemd and not settings.cgroup_parent else "cgroupfs"
