"""Keep a program of this node running: start it, find it again, notice when it ends or hangs, start it anew.

Edge: child processes, pid and log files. The program has a session of its own and outlives a killed daemon; the next
daemon adopts it if it runs the very same command, and ends it otherwise.
"""

import asyncio
import math
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from skep.edge.exitwatch import wait_process

log = structlog.get_logger(__name__)

KEPT_LOG_BYTES: Final = 1_000_000
POLL_S: Final = 0.05


class ProgramFailed(Exception):
    """It does not run or does not answer; the text says what it said itself."""


@dataclass(frozen=True, slots=True)
class KeepingLimits:
    """How patient to be.

    Attributes:
        start_s: For its first answer; then it counts as hung.
        ping_every_s, pings_missed: When it counts as hung later. end_s: For a graceful end.
        first_delay_s, longest_delay_s: Before it is started anew; doubles while it does not come to answer.
    """

    start_s: float = math.inf
    ping_every_s: float = 2.0
    pings_missed: int = 5
    end_s: float = 5.0
    first_delay_s: float = 0.1
    longest_delay_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Program:
    """What to run.

    Attributes:
        name: For logs and files.
        command: Full path and arguments; the same text means the same program.
        run_dir: Where its pid and log files are; must exist.
        answers: Whether it answers now; returns within a moment.
        mark: The argument by which one of an earlier daemon is known although the rest of the command has changed;
            process ids are used again, and a neighbour may run the same program.
        prepare: Done before each start.
    """

    name: str
    command: Sequence[str]
    run_dir: Path
    answers: Callable[[], Awaitable[bool]]
    mark: str
    environment: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[], Awaitable[None]] | None = None


class KeptProcess:
    """One supervised program."""

    def __init__(self, program: Program, limits: KeepingLimits | None = None) -> None:
        self._program = program
        self._limits = limits or KeepingLimits()
        self._pid = 0
        self._child: subprocess.Popen[bytes] | None = None
        self._log_from = 0
        self._ready = asyncio.Event()
        self._tried = asyncio.Event()
        self._has_answered = False
        self._supervisor: asyncio.Task[None] | None = None
        self.n_restarts = 0
        self.failure = ""
        """Its last words before it was started anew; "" if it never was."""

    @property
    def pid(self) -> int:
        """0 while there is none."""
        return self._pid

    async def start(self, *, may_adopt: bool = True) -> None:
        """Adopt or start it and keep it running from now on; idempotent. It may take its time to answer.

        Args:
            may_adopt: Whether one with the same command is the same; not if files it read have changed.
        Raises:
            OSError: It cannot be run at all.
        """
        if self._supervisor is not None:
            return
        self._tried.clear()
        self._has_answered = False
        predecessor, is_same = self._predecessor()
        if predecessor and is_same and may_adopt:
            self._pid = predecessor
            log.info("adopted a living program", program=self._program.name, pid=predecessor)
        else:
            if predecessor:
                await self._end(predecessor)
            await self._launch()
        self._supervisor = asyncio.create_task(self._supervise(), name=self._program.name)

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait until it answers.

        Raises:
            ProgramFailed: Not within `timeout_s`.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._ready.wait()
        except TimeoutError as error:
            why = self.failure or self._last_words()
            raise ProgramFailed(f"{self._program.name} does not answer: {why}") from error

    async def wait_started(self) -> None:
        """Wait until it has answered once, or failed to; call it after `start`, and `close` if it fails.

        Raises:
            ProgramFailed: It ended before it answered, or took longer than it may.
        """
        await self._tried.wait()
        if not self._has_answered:
            raise ProgramFailed(f"{self._program.name} does not start: {self.failure}")

    async def detach(self) -> None:
        """Leave it running for whoever comes next."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
            self._supervisor = None
        self._ready.clear()

    async def close(self) -> None:
        """End it gracefully, also what an earlier daemon left of it; after a limit, by force."""
        await self.detach()
        self._pid = self._pid or self._predecessor()[0]
        await self._discard()
        self._pid_file.unlink(missing_ok=True)

    @property
    def _pid_file(self) -> Path:
        return self._program.run_dir / f"{self._program.name}.pid"

    @property
    def _log_file(self) -> Path:
        return self._program.run_dir / f"{self._program.name}.log"

    async def _launch(self) -> None:
        if self._program.prepare is not None:
            await self._program.prepare()
        self._spawn()

    def _spawn(self) -> None:
        if self._log_file.exists() and self._log_file.stat().st_size > KEPT_LOG_BYTES:
            self._log_file.unlink()
        with self._log_file.open("ab") as output:
            self._log_from = output.tell()
            # A session of its own, so that the terminal's or the daemon's signals do not reach it.
            self._child = subprocess.Popen(
                list(self._program.command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(self._program.environment),
                cwd="/",
                start_new_session=True,
            )
        self._pid = self._child.pid
        self._pid_file.write_text(str(self._pid))

    def _predecessor(self) -> tuple[int, bool]:
        """The pid of what an earlier daemon left, 0 if there is none; and whether it runs the same command."""
        try:
            pid = int(self._pid_file.read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
        except (OSError, ValueError):
            return 0, False
        if os.fsencode(self._program.mark) not in command:
            return 0, False  # The number belongs to something else by now.
        return pid, command == [os.fsencode(argument) for argument in self._program.command]

    async def _supervise(self) -> None:
        delay_s, obstacle = self._limits.first_delay_s, ""
        while True:
            if not obstacle and await self._wait_answer():
                delay_s = self._limits.first_delay_s
                self._has_answered = True
                self._ready.set()
                self._tried.set()
                await self._watch_health()
            self._ready.clear()
            was_ours = self._child is not None and self._child.pid == self._pid
            # What hangs would not hear a request to end, and whoever needs it waits.
            await self._discard(signal.SIGKILL)
            self.failure = obstacle or self._last_words()
            if was_ours or obstacle:  # One that was adopted when about to end says nothing of those to come.
                self._tried.set()
            log.warning("a program ended and is started again", program=self._program.name, reason=self.failure)
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, self._limits.longest_delay_s)
            self.n_restarts += 1
            try:
                await self._launch()
                obstacle = ""
            except OSError as error:  # Such as a program that is just being replaced by its next release.
                obstacle = str(error)

    async def _wait_answer(self) -> bool:
        """Wait for the first answer; False once the process has ended or took too long."""
        ended = asyncio.ensure_future(wait_process(self._pid))
        try:
            async with asyncio.timeout(self._limits.start_s):
                while not ended.done():
                    if await self._program.answers():
                        return True
                    await asyncio.wait({ended}, timeout=POLL_S)
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
            while missed < self._limits.pings_missed:
                await asyncio.wait({ended}, timeout=self._limits.ping_every_s)
                if ended.done():
                    return
                missed = 0 if await self._program.answers() else missed + 1
        finally:
            ended.cancel()

    async def _discard(self, *signals: signal.Signals) -> None:
        if self._pid:
            await self._end(self._pid, *signals)
        if self._child is not None:
            self._child.wait()  # It has ended already: this only collects it.
            self._child = None

    async def _end(self, pid: int, *signals: signal.Signals) -> None:
        for number in signals or (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
            try:
                async with asyncio.timeout(self._limits.end_s):
                    await wait_process(pid)
                break
            except TimeoutError:
                continue
        self._pid = 0

    def _last_words(self) -> str:
        try:
            with self._log_file.open("rb") as log_file:
                log_file.seek(self._log_from)
                lines = log_file.read().decode(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return lines[-1][-500:] if lines else "it wrote no reason"
