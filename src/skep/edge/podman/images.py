"""Find images by the names docker's users write, on podman.

Edge: podman's REST API. Podman keeps fully qualified names; `docker import - busybox` and `docker load` leave
docker.io/library/busybox, `podman build` leaves localhost/…, so those are tried in turn.
"""

import re
from collections.abc import Mapping, Sequence

import msgspec

from skep.edge.engine_images import ImageStore
from skep.model.registry import HUB
from skep.model.service import Healthcheck

IMAGE_ID = re.compile(r"(sha256:)?[0-9a-f]{12,64}")


class _Image(msgspec.Struct, rename="pascal"):
    id: str
    healthcheck: Healthcheck | None = None


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


class PodmanImages(ImageStore):
    """The images of one podman."""

    def names(self, image: str) -> Sequence[str]:
        return image_candidates(image)

    def decode(self, body: bytes) -> tuple[str, Healthcheck | None]:
        image = msgspec.json.decode(body, type=_Image)
        return image.id, image.healthcheck

    def pull_request(self, image: str) -> tuple[str, Mapping[str, str]] | None:
        name = image_candidates(image)[0]
        if name.startswith("localhost/"):
            return None
        query = {"reference": name, "quiet": "true"}
        if self.registries.is_insecure(self.registry(image)):
            query["tlsVerify"] = "false"
        return "/images/pull", query

    def registry(self, image: str) -> str:
        return image_candidates(image)[0].partition("/")[0]
