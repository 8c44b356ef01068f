"""Find the images of an engine, and pull them where a registry is in reach.

Edge: an engine's REST API and one probe of the registry. How names are looked up and how an image is described differ
from engine to engine: a subclass says it.
"""

import abc
import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

import structlog

from skep.edge.engine_requests import Answer, EngineRequests
from skep.edge.registries import Registries
from skep.model.codec import MALFORMED
from skep.model.service import Healthcheck
from skep.ports.runtime import EngineUnreachable, HealthTest, ImageMissing

PULL_LIMIT_S = 3600.0
SECOND = 1_000_000_000

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Image:
    """Attributes: name: the one it was found by; health: its check, None if it has none."""

    id: str
    name: str
    health: HealthTest | None


@dataclass(frozen=True, slots=True)
class _Pull:
    """One request to pull; equal ones are one pull."""

    path: str
    query: tuple[tuple[str, str], ...]
    auth: str = field(repr=False)


class ImageStore(abc.ABC):
    """The images of one engine."""

    def __init__(self, requests: EngineRequests, engine: str, registries: Registries | None = None) -> None:
        """Args: engine: its name in sentences."""
        self._requests = requests
        self._engine = engine
        self.registries = registries or Registries()
        self._health: dict[str, HealthTest | None] = {}
        self._pulls: dict[_Pull, asyncio.Task[str]] = {}

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
        """Have an image as its registry has it now; see `ports.runtime.Runtime.ensure_image`.

        Args:
            registry_auth: The value of X-Registry-Auth, may be empty.
        Raises:
            ImageMissing: Not here, and the registry is out of reach, refuses, or has none.
        """
        found = await self.find(image)
        if found is not None and self._is_exact(image, found):
            return found
        wanted = self.pull_request(image)
        if wanted is None:
            failure = "no registry is asked about such a name; load the image here with docker load"
        else:
            path, query = wanted
            failure = await self._pull_once(image, _Pull(path, tuple(query.items()), registry_auth))
        if not failure:
            return await self.need(image)
        if found is None:
            raise ImageMissing(f"No such image: {image} ({failure})")
        log.info("the image that is here is used: its registry gives none", image=image, reason=failure)
        return found

    def _is_exact(self, image: str, found: Image) -> bool:
        """Whether the one here is the only one it can be: named by its content, or made on this machine."""
        is_id = found.id.removeprefix("sha256:").startswith(image.removeprefix("sha256:"))
        return "@" in image or is_id or found.name.startswith("localhost/")

    async def _pull_once(self, image: str, pull: "_Pull") -> str:
        """Pull, together with whoever wants the very same at this moment; returns why not and what to do, or nothing.

        A pull goes on when the task that wanted it is stopped: its next one will want it too.
        """
        doing = self._pulls.get(pull)
        if doing is None:
            doing = asyncio.create_task(self._pull(image, pull))
            self._pulls[pull] = doing
            doing.add_done_callback(lambda _: self._pulls.pop(pull, None))
        return await asyncio.shield(doing)

    async def _pull(self, image: str, pull: "_Pull") -> str:
        registry = self.registry(image)
        silence = await self.registries.silence(registry)  # Engines retry for many seconds where there is no network.
        if silence:
            return f"{silence}; {advice(registry, silence, has_auth=bool(pull.auth))}"
        failure = await self._ask_for(pull)
        return f"{failure}; {advice(registry, failure, has_auth=bool(pull.auth))}" if failure else ""

    async def _ask_for(self, pull: "_Pull") -> str:
        """Have the engine pull; returns what went wrong, in its words, or nothing."""
        headers = {"X-Registry-Auth": pull.auth} if pull.auth else None
        answer = await self._requests.request(
            "POST", pull.path, query=dict(pull.query), headers=headers, limit_s=PULL_LIMIT_S
        )
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


_REFUSALS = (
    (("unauthorized", "authentication required", "no basic auth", "denied", "forbidden"), "auth"),
    (("manifest unknown", "name unknown", "not found", "does not exist"), "name"),
    (("x509", "certificate", "http response to https"), "trust"),
)


def advice(registry: str, failure: str, *, has_auth: bool) -> str:
    """What a user can do about a pull that failed, by the words of the engine or the network."""
    text = failure.lower()
    kind = next((kind for words, kind in _REFUSALS if any(word in text for word in words)), "")
    if kind == "auth" and has_auth:
        return "its credentials are refused: docker login, then docker service update --with-registry-auth"
    if kind == "auth":
        return "give the service credentials: docker login, then docker service update --with-registry-auth"
    if kind == "name":
        return "check the image's name and tag"
    if kind == "trust":
        return (
            f"put its root certificate into /etc/docker/certs.d/{registry} on this node, or start skepd there with "
            f"--insecure-registry {registry}"
        )
    return f"let this node reach {registry}, or load the image here with docker load"


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
