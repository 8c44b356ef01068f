"""Keep a private engine's service alive on its own root.

Edge: a kept process, its configuration and socket files. Containers hang on their own supervisors (conmon, containerd's
shims), not on the service: it may die and be started again at any time. A service that outlived a killed daemon is
adopted if it runs the very same configuration.
"""

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path

from skep.edge.engine_program import ALIASES, EngineProgram
from skep.edge.exitwatch import wait_process
from skep.edge.kept_process import KeepingLimits, KeptProcess, Program, ProgramFailed
from skep.ports.runtime import EngineUnreachable

LIMITS = KeepingLimits(start_s=20.0, ping_every_s=10.0, pings_missed=3)
PING_LIMIT_S = 10.0
SOCKET_PATH_LIMIT = 107  # sockaddr_un's 108 with its final zero.
KEPT_ENVIRONMENT = ("PATH", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")


class EngineService:
    """One supervised service of an engine."""

    def __init__(self, program: EngineProgram) -> None:
        self.program = program
        self._process = KeptProcess(
            Program(
                name=program.name,
                command=program.command,
                run_dir=program.run_dir,
                answers=self._answers,
                mark=f"unix://{program.socket}",
                environment=_environment(program),
                prepare=self._prepare,
            ),
            LIMITS,
        )

    @property
    def pid(self) -> int:
        """Of the service process, 0 while there is none."""
        return self._process.pid

    async def start(self) -> None:
        """Adopt or start the service and keep it alive from now on; idempotent.

        Raises:
            EngineUnreachable: It cannot run here, with the reason; or it did not come up in time.
        """
        self._check()
        self._make_folders()
        try:
            await self._process.start(may_adopt=self._is_configured())
            await self._process.wait_started()
        except OSError as error:
            raise EngineUnreachable(f"{self.program.name} cannot be run: {error}") from error
        except ProgramFailed as error:
            await self._process.close()
            raise EngineUnreachable(str(error)) from error

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait until the service answers.

        Raises:
            EngineUnreachable: Not within `timeout_s`.
        """
        try:
            await self._process.wait_ready(timeout_s)
        except ProgramFailed as error:
            raise EngineUnreachable(str(error)) from error

    async def detach(self) -> None:
        """Leave the service running for whoever comes next."""
        await self._process.detach()

    async def close(self) -> None:
        """End the service; containers stay."""
        await self._process.close()

    def _check(self) -> None:
        if self.program.problem:
            raise EngineUnreachable(self.program.problem)
        if len(os.fsencode(self.program.socket)) > SOCKET_PATH_LIMIT:
            raise EngineUnreachable(
                f"{self.program.socket} is too long for a socket's path: choose a shorter run directory"
            )

    def _make_folders(self) -> None:
        for folder in (*self.program.folders, self.program.run_dir):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._link_alias()

    def _is_configured(self) -> bool:
        """Whether the files it reads are as they should be."""
        return all(path.exists() and path.read_text() == text for path, text in self.program.files.items())

    def _link_alias(self) -> None:
        """Give a long run directory its short name, and drop names of directories that are gone."""
        alias = self.program.alias
        if alias is None:
            return
        alias.parent.mkdir(mode=0o700, exist_ok=True)
        drop_stale_aliases()
        with suppress(FileExistsError):
            alias.symlink_to(self.program.run_dir)

    async def _prepare(self) -> None:
        """Take away what a dead service left and the next one would stumble over, and write what that one reads.

        Not while one runs: after a crash in between, files would be believed to be what it had read.
        """
        for file in self.program.followers:
            await _end_follower(file)
        self.program.socket.unlink(missing_ok=True)
        for path, text in self.program.files.items():
            path.write_text(text)

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(PING_LIMIT_S):
                reader, writer = await asyncio.open_unix_connection(self.program.socket)
                try:
                    writer.write(b"GET /_ping HTTP/1.0\r\nHost: engine\r\n\r\n")
                    await writer.drain()
                    return b" 200 " in await reader.readline()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return False


def _environment(program: EngineProgram) -> dict[str, str]:
    kept = {name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ}
    # Nothing else: systemd's LISTEN_FDS or NOTIFY_SOCKET would make an engine behave as if it were the unit itself.
    return {**kept, "HOME": str(Path("~root").expanduser()), **program.environment}


async def _end_follower(pid_file: Path) -> None:
    """End a process that a dead service left, known by its arguments, and forget it."""
    with suppress(OSError, ValueError):
        pid = int(pid_file.read_text())
        if os.fsencode(pid_file.parent) in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
            await wait_process(pid)
    pid_file.unlink(missing_ok=True)


def drop_stale_aliases() -> None:
    """Remove short names of run directories that are gone.

    A node of a lab has its run directory in a mount namespace of its own and sees none of its neighbours'; the folders
    those are mounted on it does see.
    """
    with suppress(FileNotFoundError):
        for link in ALIASES.iterdir():
            if link.is_symlink() and not link.readlink().parent.exists():
                link.unlink(missing_ok=True)
