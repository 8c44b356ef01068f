"""What a registry of images says of one of them.

Port. Nothing is pulled; the answer is as of this moment.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from skep.model.registry import ImageName, RegistryAuth
from skep.model.service import Platform


@dataclass(frozen=True, slots=True)
class Manifest:
    """An image as a registry has it now.

    Attributes:
        digest: Of the manifest, or of the list where there is one per platform; computed from what came.
        platforms: That it runs on; empty where the registry does not tell.
    """

    media_type: str
    digest: str
    size: int
    platforms: Sequence[Platform] = ()


class Registry(Protocol):
    """Any registry, by the image's name."""

    async def inspect(self, image: ImageName, auth: RegistryAuth) -> Manifest:
        """Ask an image's registry about it.

        Raises:
            NotFound: It has no such image. Unauthenticated, Forbidden: not for whom `auth` names.
            Unavailable: It is out of reach, or answers what is no answer; the text says which.
        """
        ...

    async def log_in(self, registry: str, auth: RegistryAuth) -> None:
        """Find out whether a registry knows who `auth` names.

        Args:
            registry: `host[:port]`, or `docker.io`.
        Raises:
            Unauthenticated: It does not. Unavailable: as `inspect`.
        """
        ...

    async def close(self) -> None: ...
