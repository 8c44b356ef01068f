"""Find images by the names docker's users write, and pull them where a registry is in reach.

Edge: podman's REST API and one probe of the registry. Podman keeps fully qualified names; `docker import - busybox`
and `docker load` leave docker.io/library/busybox, `podman build` leaves localhost/…, so those are tried in turn.
"""

import asyncio
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import msgspec

from skep.edge.podman.client import Answer, PodmanClient
from skep.model.codec import MALFORMED
from skep.ports.runtime import EngineUnreachable, HealthTest, ImageMissing

HUB = "docker.io"
HUB_HOST = "registry-1.docker.io"
IMAGE_ID = re.compile(r"(sha256:)?[0-9a-f]{12,64}")
REACH_LIMIT_S = 3.0
REGISTRIES_CONF = Path("/etc/containers/registries.conf")
SECOND = 1_000_000_000


class _Healthcheck(msgspec.Struct, rename="pascal"):
    test: list[str] | None = None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    retries: int = 0


class _Image(msgspec.Struct, rename="pascal"):
    id: str
    healthcheck: _Healthcheck | None = None


@dataclass(frozen=True, slots=True)
class Image:
    """Attributes: name: the one it was found by, fully qualified; health: its check, None if it has none."""

    id: str
    name: str
    health: HealthTest | None


def image_candidates(image: str) -> tuple[str, ...]:
    """Spell out the full names a short one may stand for, best first.

    Args:
        image: `busybox`, `skep/search:1`, `host:5000/x@sha256:…`, an id or its beginning.
    Source: distribution/reference's normalisation of familiar names; the localhost names are podman's.
    """
    name, separator, digest = image.partition("@")
    domain, slash, path = name.partition("/")
    if digest and ":" in name.rpartition("/")[2]:
        name = name[: name.rindex(":")]  # Podman refuses a tag beside a digest; the digest is what counts.
    elif not digest and ":" not in name.rpartition("/")[2]:
        name += ":latest"
    name += separator + digest
    if slash and ("." in domain or ":" in domain or domain == "localhost"):
        if domain in (HUB, "index.docker.io"):
            path = name.partition("/")[2]
            return (f"{HUB}/{path if '/' in path else 'library/' + path}",)
        return (name,)
    candidates = (f"{HUB}/{name if slash else 'library/' + name}", f"localhost/{name}")
    return (*candidates, image) if IMAGE_ID.fullmatch(image) else candidates


class ImageStore:
    """The images of one engine."""

    def __init__(self, client: PodmanClient) -> None:
        self._client = client
        self._health: dict[str, HealthTest | None] = {}

    async def find(self, image: str) -> Image | None:
        """Look an image up without pulling it."""
        for name in image_candidates(image):
            answer = await self._client.request("GET", f"/images/{quote(name, safe='')}/json")
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
            answer = await self._client.request("GET", f"/images/{image_id}/json")
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
        name = image_candidates(image)[0]
        if name.startswith("localhost/") or not await _is_registry_reachable(name):
            raise ImageMissing(f"No such image: {image}")
        failure = await self._pull(name, registry_auth)
        if failure:
            raise ImageMissing(f"No such image: {image} ({failure})")
        return await self.need(image)

    async def _pull(self, name: str, registry_auth: str) -> str:
        """Pull; returns what went wrong, empty if nothing did."""
        query = {"reference": name, "quiet": "true"}
        if _is_loopback(name.partition("/")[0]):
            query["tlsVerify"] = "false"  # As Docker treats registries on 127.0.0.0/8.
        headers = {"X-Registry-Auth": registry_auth} if registry_auth else None
        answer = await self._client.request("POST", "/images/pull", query=query, headers=headers)
        if not answer.is_ok:
            return answer.failure
        for line in answer.body.splitlines():  # Errors after the first byte come inside a 200.
            failure = Answer(answer.status, line).failure if b'"error"' in line else ""
            if failure:
                return failure
        return ""

    def _read(self, name: str, answer: Answer) -> Image:
        try:
            image = msgspec.json.decode(answer.body, type=_Image)
        except MALFORMED as error:
            raise EngineUnreachable(f"podman describes image {name} in an unknown form: {error}") from error
        health = _health_test(image.healthcheck)
        self._health[image.id] = health
        return Image(id=image.id, name=name, health=health)


def _health_test(check: _Healthcheck | None) -> HealthTest | None:
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


def _is_loopback(registry: str) -> bool:
    host = registry.rpartition(":")[0] or registry
    return host == "localhost" or host.startswith("127.")


async def _is_registry_reachable(name: str) -> bool:
    """Whether a pull is worth trying: podman alone retries for many seconds on a machine without a network."""
    registry = name.partition("/")[0]
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy") or _is_redirected(registry):
        return True
    host, _, port = registry.partition(":")
    if registry == HUB:
        host, port = HUB_HOST, "443"
    ports = [int(port)] if port.isdigit() else [443, 80] if _is_loopback(registry) else [443]
    for number in ports:
        try:
            async with asyncio.timeout(REACH_LIMIT_S):
                _, writer = await asyncio.open_connection(host, number)
            writer.close()
        except (OSError, TimeoutError):
            continue
        return True
    return False


def _is_redirected(registry: str) -> bool:
    """Whether the administrator sends this registry's pulls elsewhere, such as to a mirror."""
    try:
        text = REGISTRIES_CONF.read_text()
    except OSError:
        return False
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    return any(f'"{registry}' in line and line.strip().startswith(("prefix", "location")) for line in lines)
