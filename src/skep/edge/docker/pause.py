"""Pause containers: each holds a sandbox's network namespace in a form that Docker Engine lets a task join.

Edge: Docker's REST API and /proc. One per task that is created or running, named after it. It is made after the task's
container, whose id may be its host name, and removed before that; whatever a killed daemon leaves is swept up later.
"""

import asyncio
import hashlib
import io
import tarfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from skep.edge.docker import spec
from skep.edge.docker.inspect import Inspection
from skep.edge.engine_containers import EngineContainers
from skep.edge.engine_requests import EngineRequests
from skep.ports.runtime import ContainerConfig, ContainerState, ImageMissing, RuntimeFailure

ENTER_LIMIT_S = 10.0
ENTER_INTERVAL_S = 0.005
REPOSITORY = "skep-pause"
REMOVE = {"force": "true", "v": "true"}  # With its anonymous volumes, running or not.


class _Listed(msgspec.Struct, rename="pascal"):
    id: str
    labels: dict[str, str] | None = None


def pause_name(task_name: str) -> str:
    return f"{task_name}.pause"


class Pauses:
    """The pause containers of one engine."""

    def __init__(
        self, requests: EngineRequests, containers: EngineContainers[Inspection], busybox: Path, cgroup_parent: str
    ) -> None:
        """Args: busybox: a static one; it is all of the image."""
        self._requests = requests
        self._containers = containers
        self._busybox = busybox
        self._cgroup_parent = cgroup_parent
        self._image = ""

    async def ensure(self, task_id: str, config: ContainerConfig) -> None:
        """Make the pause container of a task's container, unless it is there."""
        name = pause_name(config.name)
        if await self._containers.find(name) is not None:
            return
        hostname = config.hostname or task_id[:12]
        for is_last in (False, True):
            image = await self._ensure_image()
            try:
                body = spec.pause_body(task_id, str(config.sandbox), hostname, image, self._cgroup_parent)
                await self._containers.create(body, name)
            except ImageMissing:
                if is_last:
                    raise
                self._image = ""  # Somebody pruned it.
            else:
                return

    async def hold(self, task_name: str) -> None:
        """Have the pause container run inside its sandbox.

        Raises:
            RuntimeFailure: It does not get there, with what it said.
        """
        name = pause_name(task_name)
        pause = await self._containers.find(name)
        if pause is None:
            raise RuntimeFailure(f"the pause container {name} is gone, and with it the way into the task's sandbox")
        if pause.status is not ContainerState.RUNNING:
            await self._containers.start(pause.id)
            pause = await self._containers.find(name) or pause
        sandbox = Path(pause.labels[spec.SANDBOX_LABEL])
        try:
            async with asyncio.timeout(ENTER_LIMIT_S):
                while not _is_inside(pause.state.pid, sandbox):
                    await asyncio.sleep(ENTER_INTERVAL_S)
                    if not Path(f"/proc/{pause.state.pid}").exists():
                        raise TimeoutError
        except TimeoutError as error:
            await self._containers.signal(pause.id, 9)  # The next try starts it anew.
            raise RuntimeFailure(f"{name} does not enter the sandbox {sandbox}: {_last_words(pause)}") from error

    async def drop(self, task_id: str) -> None:
        """Remove the pause container of a task's container; no error if there is none."""
        for pause in await self._list(f"{spec.PAUSE_LABEL}={task_id}"):
            await self._containers.remove(pause.id, REMOVE)

    async def sweep(self) -> None:
        """Remove those whose task's container has ended or is gone."""
        for pause in await self._list(spec.PAUSE_LABEL):
            task = await self._containers.find((pause.labels or {})[spec.PAUSE_LABEL])
            if task is None or task.status is ContainerState.EXITED:
                await self._containers.remove(pause.id, REMOVE)

    async def _list(self, label: str) -> Sequence[_Listed]:
        query = {"all": "true", "filters": msgspec.json.encode({"label": [label]}).decode()}
        answer = await self._requests.request("GET", "/containers/json", query=query)
        if not answer.is_ok:
            raise RuntimeFailure(answer.failure)
        return msgspec.json.decode(answer.body, type=list[_Listed] | None) or []

    async def _ensure_image(self) -> str:
        """Have the image here; its tag is its content."""
        if self._image:
            return self._image
        program = await asyncio.to_thread(self._busybox.read_bytes)
        tag = hashlib.sha256(program).hexdigest()[:16]
        name = f"{REPOSITORY}:{tag}"
        if not (await self._requests.request("GET", f"/images/{name}/json")).is_ok:
            query = {"fromSrc": "-", "repo": REPOSITORY, "tag": tag}
            content = _image_tar(program)
            headers = {"Content-Type": "application/x-tar"}
            answer = await self._requests.request("POST", "/images/create", query=query, body=content, headers=headers)
            if not answer.is_ok:
                raise RuntimeFailure(f"the image of the pause containers cannot be made: {answer.failure}")
        self._image = name
        return name


def _image_tar(program: bytes) -> bytes:
    """A root with one program and a place to mount the sandbox on."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        header = tarfile.TarInfo("busybox")
        header.mode, header.size = 0o755, len(program)
        archive.addfile(header, io.BytesIO(program))
        archive.addfile(tarfile.TarInfo(spec.SANDBOX_INSIDE.lstrip("/")))
    return buffer.getvalue()


def _is_inside(pid: int, sandbox: Path) -> bool:
    """Whether a process has entered a network namespace."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/ns/net").samefile(sandbox)
    return False


def _last_words(pause: Inspection) -> str:
    with suppress(OSError):
        lines = Path(pause.log_path).read_text(errors="replace").strip().splitlines()
        if lines:
            return lines[-1]
    return "it gave no reason"
