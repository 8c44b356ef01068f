"""Keep a private engine's service alive on its own root.

Edge: child processes, pid and socket files. Containers hang on their own supervisors (conmon, containerd's shims), not
on the service: it may die and be started again at any time. A service that outlived a killed daemon is adopted if it
runs the very same configuration.
"""

import asyncio
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import structlog

from skep.edge.engine_program import ALIASES, EngineProgram
from skep.edge.exitwatch import wait_process
from skep.ports.runtime import EngineUnreachable

log = structlog.get_logger(__name__)

START_LIMIT_S = 20.0
PING_LIMIT_S = 10.0
PING_INTERVAL_S = 10.0
PINGS_MISSED_LIMIT = 3
STOP_LIMIT_S = 5.0
BACKOFF_FIRST_S = 0.1
BACKOFF_LIMIT_S = 5.0
SOCKET_PATH_LIMIT = 107  # sockaddr_un's 108 with its final zero.
KEPT_ENVIRONMENT = ("PATH", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")


class EngineService:
    """One supervised service of an engine."""

    def __init__(self, program: EngineProgram) -> None:
        self.program = program
        self._ready = asyncio.Event()
        self._pid = 0
        self._child: subprocess.Popen[bytes] | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._failure = ""

    @property
    def pid(self) -> int:
        """Of the service process, 0 while there is none."""
        return self._pid

    async def start(self) -> None:
        """Adopt or start the service and keep it alive from now on; idempotent.

        Raises:
            EngineUnreachable: It cannot run here, with the reason; or it did not come up in time.
        """
        if self._supervisor is None:
            self._check()
            is_same = self._write_configuration()
            if not (is_same and await self._adopt()):
                await self._end_predecessor()
                await self._end_followers()
                self._spawn()
                if not await self._wait_answer():
                    await self._discard()
                    raise EngineUnreachable(f"{self.program.name} does not start: {self._failure}")
            self._ready.set()
            self._supervisor = asyncio.create_task(self._supervise(), name=f"{self.program.name} service")
        await self.wait_ready(START_LIMIT_S)

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait until the service answers.

        Raises:
            EngineUnreachable: Not within `timeout_s`.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._ready.wait()
        except TimeoutError as error:
            raise EngineUnreachable(
                f"{self.program.name} does not answer: {self._failure or 'no reason given'}"
            ) from error

    async def detach(self) -> None:
        """Leave the service running for whoever comes next."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
            self._supervisor = None
        self._ready.clear()

    async def close(self) -> None:
        """End the service; containers stay."""
        await self.detach()
        if self._pid:
            await self._end(self._pid)
        self._reap()
        with suppress(FileNotFoundError):
            self._pid_file.unlink()

    @property
    def _pid_file(self) -> Path:
        return self.program.run_dir / "service.pid"

    @property
    def _log_file(self) -> Path:
        return self.program.run_dir / "service.log"

    def _check(self) -> None:
        if self.program.problem:
            raise EngineUnreachable(self.program.problem)
        if len(os.fsencode(self.program.socket)) > SOCKET_PATH_LIMIT:
            raise EngineUnreachable(
                f"{self.program.socket} is too long for a socket's path: choose a shorter run directory"
            )

    def _write_configuration(self) -> bool:
        """Write the files; returns whether they and the command were so already."""
        program = self.program
        for folder in (*program.folders, program.run_dir):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._link_alias()
        is_same = True
        for path, text in {**program.files, program.run_dir / "service.command": "\0".join(program.command)}.items():
            if not path.exists() or path.read_text() != text:
                is_same = False
                path.write_text(text)
        return is_same

    def _link_alias(self) -> None:
        """Give a long run directory its short name, and drop names of directories that are gone."""
        alias = self.program.alias
        if alias is None:
            return
        alias.parent.mkdir(mode=0o700, exist_ok=True)
        drop_stale_aliases()
        with suppress(FileExistsError):
            alias.symlink_to(self.program.run_dir)

    def _environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ}
        # Nothing else: systemd's LISTEN_FDS or NOTIFY_SOCKET would make an engine behave as if it were the unit itself.
        return {**kept, "HOME": str(Path("~root").expanduser()), **self.program.environment}

    async def _end_followers(self) -> None:
        for file in self.program.followers:
            await _end_follower(file)

    def _spawn(self) -> None:
        self.program.socket.unlink(missing_ok=True)
        with self._log_file.open("wb") as output:
            # A session of its own, so that the terminal's or the daemon's signals do not reach it.
            self._child = subprocess.Popen(
                self.program.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environment(),
                cwd="/",
                start_new_session=True,
            )
        self._pid = self._child.pid
        self._pid_file.write_text(str(self._pid))

    async def _adopt(self) -> bool:
        pid = self._predecessor()
        if pid and await self._ping():
            self._pid = pid
            log.info("adopted a living engine service", pid=pid)
            return True
        return False

    def _predecessor(self) -> int:
        """The pid of a service on this very socket, left by an earlier daemon; 0 if there is none."""
        try:
            pid = int(self._pid_file.read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return 0
        return pid if os.fsencode(f"unix://{self.program.socket}") in command.split(b"\0") else 0

    async def _end_predecessor(self) -> None:
        pid = self._predecessor()
        if pid:
            await self._end(pid)

    async def _end(self, pid: int) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
            try:
                async with asyncio.timeout(STOP_LIMIT_S):
                    await wait_process(pid)
                break
            except TimeoutError:
                continue
        self._pid = 0

    def _reap(self) -> None:
        if self._child is not None:
            self._child.wait()  # It has ended already: this only collects it.
            self._child = None

    async def _discard(self) -> None:
        """Put an unusable service away, keeping its last words."""
        self._ready.clear()
        if self._pid:
            await self._end(self._pid)
        self._reap()
        self._failure = self._last_words()

    async def _supervise(self) -> None:
        backoff_s = BACKOFF_FIRST_S
        while True:
            if await self._wait_answer():
                backoff_s = BACKOFF_FIRST_S
                self._ready.set()
                await self._watch_health()
            await self._discard()
            log.warning("the engine service ended; starting it again", reason=self._failure)
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, BACKOFF_LIMIT_S)
            await self._end_followers()
            self._spawn()

    async def _wait_answer(self) -> bool:
        """Wait for the first answer; False if the process ended or took too long."""
        ended = asyncio.ensure_future(wait_process(self._pid))
        try:
            async with asyncio.timeout(START_LIMIT_S):
                while not ended.done():
                    if await self._ping():
                        return True
                    await asyncio.wait({ended}, timeout=0.02)
        except TimeoutError:
            pass
        finally:
            ended.cancel()
        return False

    async def _watch_health(self) -> None:
        """Return once the process has ended or stopped answering."""
        ended = asyncio.ensure_future(wait_process(self._pid))
        missed = 0
        try:
            while missed < PINGS_MISSED_LIMIT:
                await asyncio.wait({ended}, timeout=PING_INTERVAL_S)
                if ended.done():
                    return
                missed = 0 if await self._ping() else missed + 1
        finally:
            ended.cancel()

    async def _ping(self) -> bool:
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

    def _last_words(self) -> str:
        try:
            lines = self._log_file.read_text(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return lines[-1] if lines else "it wrote no reason"


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
