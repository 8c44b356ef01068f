"""Find and pull images as Docker Engine names them.

Edge: Docker's REST API. Docker completes short names by itself.
"""

from collections.abc import Mapping, Sequence

import msgspec

from skep.edge.engine_images import ImageStore
from skep.model.registry import HUB
from skep.model.service import Healthcheck


class _Config(msgspec.Struct, rename="pascal"):
    healthcheck: Healthcheck | None = None


class _Image(msgspec.Struct, rename="pascal"):
    id: str
    config: _Config | None = None


class DockerImages(ImageStore):
    """The images of one Docker Engine."""

    def names(self, image: str) -> Sequence[str]:
        return (image,)

    def decode(self, body: bytes) -> tuple[str, Healthcheck | None]:
        image = msgspec.json.decode(body, type=_Image)
        return image.id, image.config.healthcheck if image.config is not None else None

    def pull_request(self, image: str) -> tuple[str, Mapping[str, str]] | None:
        if image.startswith("localhost/"):
            return None  # As a name of what was made here; a registry here has a port.
        is_exact = "@" in image or ":" in image.rpartition("/")[2]
        # Without a tag Docker pulls all there are.
        return "/images/create", {"fromImage": image} if is_exact else {"fromImage": image, "tag": "latest"}

    def registry(self, image: str) -> str:
        domain, slash, _ = image.partition("/")
        is_registry = slash and ("." in domain or ":" in domain or domain == "localhost")
        return domain if is_registry and domain != "index.docker.io" else HUB
