"""Images by name, and what a registry wants to know of who asks.

Pure. Source: distribution/reference's normalisation of familiar names; Docker API 1.51, section Authentication.
"""

import base64
import binascii
from dataclasses import dataclass
from typing import Final

import msgspec

from skep.model.codec import MALFORMED
from skep.model.errors import InvalidSpec

HUB: Final = "docker.io"
HUB_ALIASES: Final = ("index.docker.io", "registry-1.docker.io")
DEFAULT_TAG: Final = "latest"
MAX_HEADER: Final = 16_384


@dataclass(frozen=True, slots=True)
class ImageName:
    """A familiar name spelled out.

    Attributes:
        registry: `docker.io` for Docker Hub, else as written, with its port. repository: such as `library/busybox`.
        tag: Empty beside a digest that came without one. digest: `sha256:…`, or empty.
    """

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> "ImageName":
        """Read `busybox`, `team/app:2`, `host:5000/app@sha256:…`; the text was checked to be a name before."""
        name, _, digest = text.partition("@")
        last = name.rpartition("/")[2]
        tag = last.partition(":")[2]
        path = name[: len(name) - len(tag) - 1] if tag else name
        domain, slash, rest = path.partition("/")
        if not slash or not ("." in domain or ":" in domain or domain == "localhost"):
            domain, rest = HUB, path
        elif domain in HUB_ALIASES:
            domain = HUB
        if domain == HUB and "/" not in rest:
            rest = f"library/{rest}"
        return cls(domain, rest, tag or ("" if digest else DEFAULT_TAG), digest)

    @property
    def reference(self) -> str:
        """What a registry is asked for: the digest where there is one."""
        return self.digest or self.tag


class RegistryAuth(msgspec.Struct, frozen=True, kw_only=True):
    """What X-Registry-Auth holds. Attributes: identitytoken: for a refresh; registrytoken: a bearer token as it is."""

    username: str = ""
    password: str = ""
    auth: str = ""
    identitytoken: str = ""
    registrytoken: str = ""
    serveraddress: str = ""

    def __repr__(self) -> str:  # Never the value: what is printed ends up in logs.
        return f"RegistryAuth(serveraddress={self.serveraddress!r})"

    @property
    def is_empty(self) -> bool:
        """Whether it names nobody, as clients send it for registries that need no login."""
        return not (self.username or self.auth or self.identitytoken or self.registrytoken)


NOBODY: Final = RegistryAuth()


def registry_of(address: str) -> str:
    """The registry that a login is for: clients write it as a URL, and Docker Hub as its old one, or not at all."""
    host = address.partition("://")[2] or address
    host = host.partition("/")[0]
    return HUB if not host or host in HUB_ALIASES else host


@dataclass(frozen=True, slots=True)
class AuthSource:
    """Where a service's registry credentials come from at an update.

    Attributes:
        header: X-Registry-Auth as it came, empty for none. taken_from: if there is none, `spec` keeps those there are,
            `previous-spec` takes those of the spec before.
    """

    header: str = ""
    taken_from: str = "spec"

    def __repr__(self) -> str:
        return f"AuthSource(taken_from={self.taken_from!r})"


NO_AUTH: Final = AuthSource()


def read_auth(header: str) -> RegistryAuth:
    """Read the value of X-Registry-Auth: JSON in base64, in either alphabet, with or without padding.

    Raises:
        InvalidSpec: It is something else; the value is not repeated.
    """
    if not header:
        return NOBODY
    if len(header) > MAX_HEADER:
        raise InvalidSpec(f"X-Registry-Auth is longer than {MAX_HEADER} bytes; log in to the registry anew")
    text = header.strip().rstrip("=").replace("+", "-").replace("/", "_")
    try:
        plain = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        found = msgspec.json.decode(plain, type=RegistryAuth | None)
    except (binascii.Error, ValueError, *MALFORMED):
        raise InvalidSpec("X-Registry-Auth is not JSON in base64; log in to the registry anew") from None
    return _spelled_out(found or NOBODY)


def _spelled_out(given: RegistryAuth) -> RegistryAuth:
    """User and password in their own fields, where a client sent them as `auth`, base64 of `user:password`."""
    if given.username or not given.auth:
        return given
    try:
        username, _, password = base64.b64decode(given.auth, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return given
    return msgspec.structs.replace(given, username=username, password=password.rstrip("\0"))
