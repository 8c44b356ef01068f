"""Find the images of an engine, and pull them where a registry is in reach.

Edge: an engine's REST API and one probe of the registry. How names are looked up and how an image is described differ
from engine to engine: a subclass says it.
"""

import abc
import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from skep.edge.engine_requests import Answer, EngineRequests
from skep.model.codec import MALFORMED
from skep.model.service import Healthcheck
from skep.ports.runtime import EngineUnreachable, HealthTest, ImageMissing

HUB = "docker.io"
HUB_HOST = "registry-1.docker.io"
REACH_LIMIT_S = 3.0
SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Image:
    """Attributes: name: the one it was found by; health: its check, None if it has none."""

    id: str
    name: str
    health: HealthTest | None


class ImageStore(abc.ABC):
    """The images of one engine."""

    def __init__(self, requests: EngineRequests, engine: str) -> None:
        """Args: engine: its name in sentences."""
        self._requests = requests
        self._engine = engine
        self._health: dict[str, HealthTest | None] = {}

    @abc.abstractmethod
    def names(self, image: str) -> Sequence[str]:
        """What to look for, best first."""

    @abc.abstractmethod
    def decode(self, body: bytes) -> tuple[str, Healthcheck | None]:
        """Read an image's id and health check out of its inspection."""

    @abc.abstractmethod
    def pull_request(self, image: str) -> tuple[str, Mapping[str, str]] | None:
        """Path and query that pull an image; None if it is one that no registry has."""

    @abc.abstractmethod
    def registry(self, image: str) -> str:
        """The registry an image is pulled from, with its port if the name has one."""

    def is_redirected(self, registry: str) -> bool:
        """Whether pulls from a registry go elsewhere, so that its own address says nothing."""
        return False

    async def find(self, image: str) -> Image | None:
        """Look an image up without pulling it."""
        for name in self.names(image):
            answer = await self._requests.request("GET", f"/images/{quote(name, safe='')}/json")
            if answer.is_ok:
                return self._read(name, answer)
        return None

    async def need(self, image: str) -> Image:
        """Look an image up.

        Raises:
            ImageMissing: In Docker's words.
        """
        found = await self.find(image)
        if found is None:
            raise ImageMissing(f"No such image: {image}")
        return found

    async def health_of(self, image_id: str) -> HealthTest | None:
        """The health check of an image; asked of the engine once, as an id's content never changes."""
        if image_id not in self._health:
            answer = await self._requests.request("GET", f"/images/{image_id}/json")
            if not answer.is_ok:
                return None
            self._read(image_id, answer)
        return self._health.get(image_id)

    async def ensure(self, image: str, registry_auth: str) -> Image:
        """Find an image or pull it.

        Args:
            registry_auth: The value of X-Registry-Auth, may be empty.
        Raises:
            ImageMissing: Not here, and the registry is out of reach or has none.
        """
        found = await self.find(image)
        if found is not None:
            return found
        wanted = self.pull_request(image)
        if wanted is None or not await self._is_in_reach(self.registry(image)):
            raise ImageMissing(f"No such image: {image}")
        failure = await self._pull(*wanted, registry_auth)
        if failure:
            raise ImageMissing(f"No such image: {image} ({failure})")
        return await self.need(image)

    async def _pull(self, path: str, query: Mapping[str, str], registry_auth: str) -> str:
        """Pull; returns what went wrong, empty if nothing did."""
        headers = {"X-Registry-Auth": registry_auth} if registry_auth else None
        answer = await self._requests.request("POST", path, query=query, headers=headers)
        if not answer.is_ok:
            return answer.failure
        for line in answer.body.splitlines():  # Errors after the first byte come inside a 200.
            failure = Answer(answer.status, line).failure if b'"error"' in line else ""
            if failure:
                return failure
        return ""

    def _read(self, name: str, answer: Answer) -> Image:
        try:
            image_id, check = self.decode(answer.body)
        except MALFORMED as error:
            raise EngineUnreachable(f"{self._engine} describes image {name} in an unknown form: {error}") from error
        health = health_test(check)
        self._health[image_id] = health
        return Image(id=image_id, name=name, health=health)

    async def _is_in_reach(self, registry: str) -> bool:
        """Whether a pull is worth trying: engines retry for many seconds on a machine without a network."""
        if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy") or self.is_redirected(registry):
            return True
        host, _, port = registry.partition(":")
        if registry == HUB:
            host, port = HUB_HOST, "443"
        ports = [int(port)] if port.isdigit() else [443, 80] if is_loopback(registry) else [443]
        for number in ports:
            try:
                async with asyncio.timeout(REACH_LIMIT_S):
                    _, writer = await asyncio.open_connection(host, number)
                writer.close()
            except (OSError, TimeoutError):
                continue
            return True
        return False


def health_test(check: Healthcheck | None) -> HealthTest | None:
    """Fill in Docker's defaults: every 30 s, 30 s long, 3 times."""
    if check is None or not check.test or check.test == ["NONE"]:
        return None
    return HealthTest(
        test=tuple(check.test),
        interval=check.interval or 30 * SECOND,
        timeout=check.timeout or 30 * SECOND,
        start_period=check.start_period,
        retries=check.retries or 3,
    )


def is_loopback(registry: str) -> bool:
    """Whether a registry is on this machine; Docker asks those without TLS."""
    host = registry.rpartition(":")[0] or registry
    return host == "localhost" or host.startswith("127.")
