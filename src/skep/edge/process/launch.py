"""Start programs under conmon and runc, and take their remains away.

Edge: child processes. conmon (2 MB resident) is all that stays per container: it holds the program's output, writes its
log and its exit code, and needs neither us nor an engine's service.
"""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from skep.edge.process.records import Places, Record
from skep.model.codec import MALFORMED
from skep.ports.runtime import ContainerRejected, EngineUnreachable, RuntimeFailure

LAUNCH_LIMIT_S = 30.0
SYNC_LIMIT = 65536


class _Sync(msgspec.Struct):
    """What conmon says once the runtime has made the container: its pid, or -1 and a reason."""

    data: int = -1
    message: str = ""


@dataclass(frozen=True, slots=True)
class Launcher:
    """Attributes: runtime_root: where the OCI runtime keeps its state."""

    conmon_path: str
    runtime_path: str
    runtime_root: Path

    @property
    def runtime(self) -> list[str]:
        return [self.runtime_path, "--root", str(self.runtime_root)]

    async def prepare(self, record: Record, places: Places) -> None:
        """Make the container's first process, waiting to be let go.

        Raises:
            ContainerRejected: The runtime refuses it, in its words.
            EngineUnreachable: conmon cannot be started or says nothing.
        """
        places.run_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        places.exit_folder.mkdir(exist_ok=True)
        answer, conmons_end = os.pipe()
        try:
            try:
                process = await asyncio.create_subprocess_exec(
                    *self._conmon(record, places),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.DEVNULL,
                    pass_fds=[conmons_end],
                    env={"PATH": os.environ.get("PATH", os.defpath), "_OCI_SYNCPIPE": str(conmons_end)},
                    cwd=places.folder,
                    start_new_session=True,
                )
            except OSError as error:
                raise EngineUnreachable(f"conmon cannot be started: {error}") from error
            finally:
                os.close(conmons_end)
            await process.wait()  # It forks at once; the child is the supervisor.
            text = await _read_line(answer)
        finally:
            os.close(answer)
        _check_sync(text)

    async def let_go(self, container_id: str) -> None:
        """Start the program of a prepared container.

        Raises:
            ContainerRejected: The runtime refuses it.
        """
        code, output = await self._run("start", container_id)
        if code != 0:
            raise ContainerRejected(output)

    async def delete(self, container_id: str) -> None:
        """Kill what is left of a container and remove its cgroup; no error if it is gone."""
        if not (self.runtime_root / container_id).exists():
            return
        code, output = await self._run("delete", "--force", container_id)
        if code != 0 and (self.runtime_root / container_id).exists():
            raise RuntimeFailure(output)

    def _conmon(self, record: Record, places: Places) -> list[str]:
        arguments = [
            *(self.conmon_path, "--api-version", "1", "-c", record.id, "-u", record.id, "-n", record.id[:12]),
            *("-r", self.runtime_path, "--runtime-arg", "--root", "--runtime-arg", str(self.runtime_root)),
            *("-b", str(places.folder), "-p", str(places.run_folder / "pid"), "--exit-dir", str(places.exit_folder)),
            *("--conmon-pidfile", str(places.conmon_pid), "-l", f"k8s-file:{places.log}"),
            *("--log-level", "error", "--full-attach"),
        ]
        return [*arguments, *(["-t"] if record.tty else []), *(["-i"] if record.open_stdin else [])]

    async def _run(self, *arguments: str) -> tuple[int, str]:
        try:
            process = await asyncio.create_subprocess_exec(
                *self.runtime,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            raise EngineUnreachable(f"{self.runtime_path} cannot be started: {error}") from error
        _, output = await process.communicate()
        return process.returncode or 0, _reason(output)


async def _read_line(descriptor: int) -> bytes:
    """Read until a newline or the other end closes."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    os.set_blocking(descriptor, False)
    loop.add_reader(descriptor, readable.set)
    text = b""
    try:
        async with asyncio.timeout(LAUNCH_LIMIT_S):
            while b"\n" not in text and len(text) < SYNC_LIMIT:
                await readable.wait()
                readable.clear()
                try:
                    chunk = os.read(descriptor, SYNC_LIMIT)
                except BlockingIOError:
                    continue
                if not chunk:
                    break
                text += chunk
    except TimeoutError as error:
        raise EngineUnreachable(f"conmon said nothing for {LAUNCH_LIMIT_S:.0f} s") from error
    finally:
        loop.remove_reader(descriptor)
    return text


def _check_sync(text: bytes) -> None:
    try:
        sync = msgspec.json.decode(text, type=_Sync)
    except MALFORMED as error:
        raise EngineUnreachable("conmon ended without a word: it may have been killed") from error
    if sync.data <= 0:
        raise ContainerRejected(_reason(sync.message.encode()) or "the OCI runtime refused the container")


def _reason(output: bytes) -> str:
    """The runtime's last line, without its log's ornaments: the earlier ones are about its own clean-up."""
    lines: Sequence[str] = output.decode(errors="replace").strip().splitlines()
    text = lines[-1] if lines else ""
    if " msg=" in text:
        text = text.partition(" msg=")[2].strip('"').replace('\\"', '"')
    return text
