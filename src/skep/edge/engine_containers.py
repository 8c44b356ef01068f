"""The requests about containers that podman's own API and Docker's have in common.

Edge: an engine's REST API. The routes are the same below each API's prefix; what an inspection looks like is not, so
the driver brings its reader.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Generic, Protocol, TypeVar
from urllib.parse import quote

import msgspec

from skep.edge.engine_requests import Answer, EngineRequests
from skep.lib import timestamps
from skep.model.base import Nanoseconds
from skep.model.codec import MALFORMED
from skep.ports.runtime import (
    Container,
    ContainerRejected,
    ContainerState,
    EngineUnreachable,
    ImageMissing,
    NoSuchContainer,
    RuntimeFailure,
)

TASK_LABEL = "com.docker.swarm.task.id"
BUSY_PHRASES = (
    "database is locked",
    "device or resource busy",
    "text file busy",
    "resource temporarily unavailable",
    "context deadline exceeded",
)
ENDED_MEANWHILE = "no such process"  # Podman looked at a running container's process, which ended then and there.
REMOVE_LIMIT_S = 60.0
REMOVE_INTERVAL_S = 0.02


class State(msgspec.Struct, rename="pascal"):
    """What both say of a container's life."""

    status: str
    pid: int = 0
    conmon_pid: int = 0
    exit_code: int = 0
    oom_killed: bool = msgspec.field(default=False, name="OOMKilled")
    started_at: str = timestamps.ZERO
    finished_at: str = timestamps.ZERO
    error: str = ""


class Inspected(Protocol):
    """What a driver's reader makes of an inspection."""

    @property
    def id(self) -> str: ...

    @property
    def image(self) -> str:
        """The image's id."""
        ...

    @property
    def log_path(self) -> str: ...
    @property
    def stop_signal(self) -> int: ...
    @property
    def status(self) -> ContainerState: ...
    def container(self) -> Container:
        """As the port's noun, without the health check."""
        ...


class _Named(msgspec.Struct, rename="pascal"):
    id: str


Inspection = TypeVar("Inspection", bound=Inspected)


class EngineContainers(Generic[Inspection]):
    """The containers of one engine."""

    def __init__(self, requests: EngineRequests, read: Callable[[bytes], Inspection], engine: str) -> None:
        """Args: read: an inspection's body to a value. engine: its name in sentences."""
        self._requests = requests
        self._read = read
        self._engine = engine

    async def find(self, name_or_id: str) -> Inspection | None:
        """Inspect a container; None if there is none."""
        answer = await self._requests.request("GET", f"{_path(name_or_id)}/json")
        if not answer.is_ok and ENDED_MEANWHILE in answer.failure:
            answer = await self._requests.request("GET", f"{_path(name_or_id)}/json")
        if answer.status == 404:
            return None
        if not answer.is_ok:
            raise RuntimeFailure(answer.failure)
        try:
            return self._read(answer.body)
        except MALFORMED as error:
            raise EngineUnreachable(f"{self._engine} describes {name_or_id} in an unknown form: {error}") from error

    async def task_ids(self) -> Sequence[str]:
        """Ids of the containers that belong to tasks, in any state."""
        query = {"all": "true", "filters": f'{{"label":["{TASK_LABEL}"]}}'}
        answer = await self._requests.request("GET", "/containers/json", query=query)
        if not answer.is_ok:
            raise RuntimeFailure(answer.failure)
        try:
            listing = msgspec.json.decode(answer.body, type=list[_Named] | None) or []
        except MALFORMED as error:
            raise EngineUnreachable(f"{self._engine} lists its containers in an unknown form: {error}") from error
        return [listed.id for listed in listing]

    async def create(self, body: object, name: str) -> str:
        """Make one; of a request whose first try went through unheard, answers what that made.

        Raises:
            ImageMissing, ContainerRejected, RuntimeFailure.
        """
        answer = await self._requests.request("POST", "/containers/create", query={"name": name}, body=body)
        if answer.is_ok:
            return msgspec.json.decode(answer.body, type=_Named).id
        known = await self.find(name)
        if known is not None:
            return known.id
        if answer.status == 404 and "image" in answer.failure:
            raise ImageMissing(answer.failure)
        raise refusal(answer)

    async def start(self, container_id: str) -> None:
        """Start one; that it runs already is no error.

        Raises:
            NoSuchContainer, ContainerRejected, RuntimeFailure.
        """
        answer = await self._requests.request("POST", f"{_path(container_id)}/start")
        if answer.status == 404 and await self.find(container_id) is None:
            raise NoSuchContainer(f"No such container: {container_id}")
        if not answer.is_ok:
            raise refusal(answer)

    async def signal(self, container_id: str, number: int) -> None:
        """Signal one; no error if it has ended."""
        answer = await self._requests.request("POST", f"{_path(container_id)}/kill", query={"signal": str(number)})
        # A conflict says that it ended meanwhile.
        if not answer.is_ok and answer.status not in (404, 409):
            raise RuntimeFailure(answer.failure)

    async def remove(self, container_id: str, query: Mapping[str, str]) -> None:
        """Remove one, or wait until whoever is removing it has; no error if it is gone.

        Raises:
            RuntimeFailure.
        """
        answer = await self._requests.request("DELETE", _path(container_id), query=query)
        with suppress(TimeoutError):
            async with asyncio.timeout(REMOVE_LIMIT_S):
                while not answer.is_ok and "already in progress" in answer.failure:
                    await asyncio.sleep(REMOVE_INTERVAL_S)
                    answer = await self._requests.request("DELETE", _path(container_id), query=query)
        if not answer.is_ok and answer.status != 404:
            raise RuntimeFailure(answer.failure)


def moment(text: str) -> Nanoseconds:
    """Read an engine's timestamp; its zero is 0."""
    return max(timestamps.parse_rfc3339(text), 0)


def refusal(answer: Answer) -> RuntimeFailure:
    """Whether trying again can help."""
    text = answer.failure
    is_busy = any(phrase in text.lower() for phrase in BUSY_PHRASES)
    return RuntimeFailure(text) if is_busy else ContainerRejected(text)


def _path(name_or_id: str) -> str:
    return f"/containers/{quote(name_or_id, safe='')}"
