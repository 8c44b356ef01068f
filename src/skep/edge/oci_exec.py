"""Run a short command inside a running container through its OCI runtime.

Edge: `runc exec` (or crun) as a child process. It joins the container's namespaces, cgroup, capabilities and
environment, leaves no supervisor behind as an engine's exec does, and needs no engine service to be alive.
"""

import asyncio
import os
import signal
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from skep.model.base import Nanoseconds
from skep.ports.runtime import EngineUnreachable, ExecResult

OUTPUT_LIMIT = 4096  # Docker keeps as much of a health check's output.
CLIENT_LIMIT_S = 2.0
SECOND = 1_000_000_000


async def exec_in(
    runtime: Sequence[str], container_id: str, command: Sequence[str], *, timeout: Nanoseconds
) -> ExecResult:
    """Run a command and collect its output, both channels together, cut at 4 KiB.

    Args:
        runtime: The runtime's program and its global options, such as `["runc", "--root", "/run/x"]`.
        timeout: 0 waits for ever.
    Raises:
        TimeoutError: It ran too long; it and its process group were killed.
        EngineUnreachable: The runtime itself could not be started.
    """
    with tempfile.TemporaryDirectory(prefix="skep-exec-") as scratch:
        pid_file = Path(scratch, "pid")
        argv = [*runtime, "exec", "--pid-file", str(pid_file), container_id, *command]
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise EngineUnreachable(f"{runtime[0]} cannot be started: {error}") from error
        try:
            async with asyncio.timeout(timeout / SECOND if timeout > 0 else None):
                output = await _collect(process)
                return ExecResult(exit_code=await process.wait(), output=output)
        finally:
            if process.returncode is None:
                await _kill(pid_file, process)


async def _collect(process: asyncio.subprocess.Process) -> bytes:
    if process.stdout is None:
        raise RuntimeError("stdout was asked for as a pipe")
    kept = b""
    while chunk := await process.stdout.read(OUTPUT_LIMIT):
        kept += chunk[: OUTPUT_LIMIT - len(kept)]  # The rest is read too, so that the command never blocks on it.
    return kept


async def _kill(pid_file: Path, process: asyncio.subprocess.Process) -> None:
    """Kill the command with its group (the runtime makes it a session leader), then the runtime's client if it must be.

    The client is left to collect the command: as an orphan it would be the host's first process's to collect, and until
    that does so the container could not end.
    """
    with suppress(OSError, ValueError):
        os.killpg(int(pid_file.read_text()), signal.SIGKILL)
    try:
        async with asyncio.timeout(CLIENT_LIMIT_S):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
