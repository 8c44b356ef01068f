"""Ask a registry about an image, its digest and the platforms it runs on, and whether it knows a user.

Edge: HTTPS. Source: the OCI Distribution Specification 1.1 (manifests, blobs) and Docker's token authentication for
registries. Everything is limited in time and size, because what answers may be anything.
"""

import asyncio
import hashlib
import re
import ssl
import urllib.request
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlencode, urlsplit

import aiohttp
import msgspec

from skep.edge.registries import HUB_HOST, Registries
from skep.model.codec import MALFORMED
from skep.model.errors import Forbidden, NotFound, SkepError, Unauthenticated, Unavailable
from skep.model.registry import HUB, ImageName, RegistryAuth
from skep.model.service import Platform
from skep.ports.registry import Manifest

ANSWER_LIMIT_S: Final = 10.0
LARGEST_ANSWER: Final = 4 * 1024 * 1024
INDEXES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFESTS: Final = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
CERTIFICATES: Final = (Path("/etc/docker/certs.d"), Path("/etc/containers/certs.d"))
T = TypeVar("T")
D = TypeVar("D", bound=msgspec.Struct)
_PARAMETER: Final = re.compile(r'(\w+)="([^"]*)"')


class _Platform(msgspec.Struct):
    architecture: str = ""
    os: str = ""


class _Entry(msgspec.Struct):
    platform: _Platform | None = None


class _Config(msgspec.Struct):
    digest: str = ""


class _Document(msgspec.Struct, rename="camel"):
    """Of a manifest or an index, what is read here."""

    media_type: str = ""
    config: _Config | None = None
    manifests: list[_Entry] | None = None


class _Token(msgspec.Struct):
    token: str = ""
    access_token: str = ""


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    body: bytes
    media_type: str
    challenge: str


@dataclass(slots=True)
class _Visit:
    """One conversation with a registry. Attributes: base: scheme and host; authorization: the header, once known."""

    session: aiohttp.ClientSession
    base: str
    trust: ssl.SSLContext
    image: ImageName
    auth: RegistryAuth
    headers: dict[str, str] = field(default_factory=dict)


class RegistryClient:
    """Implements `ports.registry.Registry`."""

    def __init__(self, registries: Registries) -> None:
        self._registries = registries
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def inspect(self, image: ImageName, auth: RegistryAuth) -> Manifest:
        return await self._visit(image, auth, _manifest)

    async def log_in(self, registry: str, auth: RegistryAuth) -> None:
        await self._visit(ImageName(registry, ""), auth, _welcome)

    async def _visit(self, image: ImageName, auth: RegistryAuth, work: Callable[["_Visit"], Awaitable[T]]) -> T:
        silence = await self._registries.silence(image.registry)
        if silence:
            raise Unavailable(f"registry {image.registry} cannot be asked: {silence}")
        try:
            async with asyncio.timeout(ANSWER_LIMIT_S):
                return await self._try(image, auth, work)
        except TimeoutError as error:
            raise Unavailable(f"registry {image.registry} gave no answer in {ANSWER_LIMIT_S:.0f} s") from error

    async def _try(self, image: ImageName, auth: RegistryAuth, work: Callable[["_Visit"], Awaitable[T]]) -> T:
        """Do it over TLS, and where that need not be, without."""
        is_insecure = self._registries.is_insecure(image.registry)
        host = HUB_HOST if image.registry == HUB else image.registry
        trust = await asyncio.to_thread(_trust, image.registry, is_insecure=is_insecure)
        failure: Exception | None = None
        for scheme in ("https", "http") if is_insecure else ("https",):
            try:
                return await work(_Visit(self._open(), f"{scheme}://{host}", trust, image, auth))
            except (aiohttp.ClientError, OSError) as error:
                failure = failure or error
        raise Unavailable(f"registry {image.registry} cannot be asked: {_plain(failure)}") from failure

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=ANSWER_LIMIT_S), cookie_jar=aiohttp.DummyCookieJar()
            )
        return self._session


async def _welcome(visit: _Visit) -> None:
    """Be let in.

    Raises:
        Unauthenticated: We are not.
    """
    try:
        await _get(visit, "/v2/", "*/*")
    except (Unauthenticated, Forbidden) as error:
        raise Unauthenticated(
            f"login to registry {visit.image.registry} failed: unauthorized: incorrect username or password"
        ) from error


async def _manifest(visit: _Visit) -> Manifest:
    image = visit.image
    accept = ", ".join((*INDEXES, *MANIFESTS))
    reply = await _get(visit, f"/v2/{image.repository}/manifests/{image.reference}", accept)
    digest = f"sha256:{hashlib.sha256(reply.body).hexdigest()}"
    if image.digest.startswith("sha256:") and image.digest != digest:
        raise Unavailable(f"registry {image.registry} sent something else than {image.digest} for {image.repository}")
    document = _decode(reply.body, _Document, image)
    media_type = document.media_type or reply.media_type
    if media_type in INDEXES:
        found = [entry.platform for entry in document.manifests or [] if entry.platform]
    elif media_type in MANIFESTS:
        found = [await _platform(visit, document.config)]
    else:
        raise Unavailable(
            f"registry {image.registry} has {image.repository} as {media_type}, which is no image known here"
        )
    platforms = [
        Platform(architecture=each.architecture, os=each.os) for each in found if each.os not in ("", "unknown")
    ]
    return Manifest(media_type=media_type, digest=digest, size=len(reply.body), platforms=platforms)


async def _platform(visit: _Visit, config: _Config | None) -> _Platform:
    """What a single image runs on, which only its configuration tells."""
    if config is None or not config.digest:
        return _Platform()
    reply = await _get(visit, f"/v2/{visit.image.repository}/blobs/{config.digest}", "*/*")
    return _decode(reply.body, _Platform, visit.image)


def _decode(body: bytes, kind: type[D], image: ImageName) -> D:
    try:
        return msgspec.json.decode(body, type=kind)
    except MALFORMED as error:
        raise Unavailable(f"registry {image.registry} describes {image.repository} in an unknown form") from error


# --- asking, with authentication ---------------------------------------------------


async def _get(visit: _Visit, path: str, accept: str) -> _Reply:
    """Get something; a registry that asks who we are is told, once."""
    reply = await _request(visit, path, accept)
    if reply.status == 401 and "Authorization" not in visit.headers:
        visit.headers["Authorization"] = await _authorization(visit, reply.challenge)
        reply = await _request(visit, path, accept)
    if reply.status != 200:
        raise _refusal(visit, reply.status)
    return reply


async def _request(visit: _Visit, path: str, accept: str) -> _Reply:
    headers = {"Accept": accept, **visit.headers}
    return await _send(visit, "GET", visit.base + path, headers=headers)


async def _send(
    visit: _Visit, method: str, url: str, *, headers: Mapping[str, str], form: Mapping[str, str] | None = None
) -> _Reply:
    async with visit.session.request(
        method, url, headers=headers, data=form, ssl=visit.trust, proxy=_proxy(url)
    ) as response:
        body = await response.content.read(LARGEST_ANSWER + 1)
        while len(body) <= LARGEST_ANSWER and (more := await response.content.read(LARGEST_ANSWER)):
            body += more
        if len(body) > LARGEST_ANSWER:
            raise Unavailable(f"registry {visit.image.registry} answered with more than {LARGEST_ANSWER} bytes")
        return _Reply(response.status, body, response.content_type, response.headers.get("WWW-Authenticate", ""))


async def _authorization(visit: _Visit, challenge: str) -> str:
    """What to say to a challenge.

    Raises:
        Unauthenticated: Nothing would do.
    """
    kind, auth = challenge.partition(" ")[0].lower(), visit.auth
    if auth.registrytoken:
        return f"Bearer {auth.registrytoken}"
    if kind == "basic" and auth.username:
        return aiohttp.encode_basic_auth(auth.username, auth.password)
    if kind != "bearer":
        raise _refusal(visit, 401)
    return f"Bearer {await _token(visit, dict(_PARAMETER.findall(challenge)))}"


async def _token(visit: _Visit, asked: Mapping[str, str]) -> str:
    realm, auth, image = asked.get("realm", ""), visit.auth, visit.image
    if urlsplit(realm).scheme not in ("https", urlsplit(visit.base).scheme):  # Never say a password in clear.
        raise Unavailable(f"registry {image.registry} sends us to {realm!r} for a token, which cannot be trusted")
    scope = asked.get("scope") or (f"repository:{image.repository}:pull" if image.repository else "")
    query = {"service": asked.get("service", ""), **({"scope": scope} if scope else {})}
    if auth.identitytoken:
        form = {**query, "grant_type": "refresh_token", "refresh_token": auth.identitytoken, "client_id": "skep"}
        reply = await _send(visit, "POST", realm, headers={}, form=form)
    else:
        headers = {"Authorization": aiohttp.encode_basic_auth(auth.username, auth.password)} if auth.username else {}
        url = f"{realm}{'&' if '?' in realm else '?'}{urlencode(query)}"
        reply = await _send(visit, "GET", url, headers=headers)
    if reply.status != 200:
        raise _refusal(visit, reply.status)
    found = _decode(reply.body, _Token, image)
    return found.token or found.access_token


def _refusal(visit: _Visit, status: int) -> SkepError:
    """A registry's status in Docker's words. Source: moby/distribution/errors.go."""
    image = visit.image
    name = image.repository if image.registry == HUB else f"{image.registry}/{image.repository}"
    if status in (401, 403):
        kind = Unauthenticated if status == 401 else Forbidden
        who = f"user {visit.auth.username}" if visit.auth.username else "anonymous"
        return kind(
            f"pull access denied for {name}, repository does not exist or may require 'docker login': the registry "
            f"denies {who}"
        )
    if status == 404:
        return NotFound(f"manifest for {name}:{image.reference} not found: manifest unknown")
    if status == 429:
        return Unavailable(f"registry {image.registry} says too many requests; log in, or try again later")
    return Unavailable(f"registry {image.registry} answered {status} about {image.repository}")


# --- the way there -------------------------------------------------------------------


def _trust(registry: str, *, is_insecure: bool) -> ssl.SSLContext:
    """The machine's own roots, and those kept for this registry as Docker and podman keep them.

    Source: docker's "Verify repository client with certificates"; containers-certs.d(5).
    """
    context = ssl.create_default_context()
    for folder in (each / registry for each in CERTIFICATES):
        for root in sorted(folder.glob("*.crt")):
            context.load_verify_locations(root)
        for certificate in sorted(folder.glob("*.cert")):
            context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    if is_insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _proxy(url: str) -> str | None:
    """As the environment says; not aiohttp's own way, which would send what it finds in a .netrc too."""
    parts = urlsplit(url)
    if urllib.request.proxy_bypass(parts.netloc):
        return None
    return urllib.request.getproxies().get(parts.scheme)


def _plain(error: Exception | None) -> str:
    """One line for people."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not trusted here ({error.certificate_error}); put its root into /etc/docker/certs.d"
    return str(error) or type(error).__name__
