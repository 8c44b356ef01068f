"""What a registry says of an image: asked of a real one, and of one that speaks as others do."""

import base64
import hashlib
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing

import pytest
from aiohttp import web
from tests.registry import PASSWORD, USER, RegistryServer, a_registry, an_image

from skep.edge.registries import Registries
from skep.edge.registry_client import RegistryClient
from skep.model.errors import NotFound, SkepError, Unauthenticated, Unavailable
from skep.model.registry import NOBODY, ImageName, RegistryAuth
from skep.model.service import Platform
from skep.ports.registry import Manifest

pytestmark = pytest.mark.anyio

CI = RegistryAuth(username=USER, password=PASSWORD)


async def inspect(name: str, auth: RegistryAuth = NOBODY) -> Manifest:
    client = RegistryClient(Registries())
    try:
        return await client.inspect(ImageName.parse(name), auth)
    finally:
        await client.close()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("busybox", ImageName("docker.io", "library/busybox", "latest")),
        ("team/app:2", ImageName("docker.io", "team/app", "2")),
        ("docker.io/busybox", ImageName("docker.io", "library/busybox", "latest")),
        ("index.docker.io/team/app", ImageName("docker.io", "team/app", "latest")),
        ("host:5000/app", ImageName("host:5000", "app", "latest")),
        ("localhost/team/app:1", ImageName("localhost", "team/app", "1")),
        ("reg.example/a/b/c:1@sha256:ab", ImageName("reg.example", "a/b/c", "1", "sha256:ab")),
        ("busybox@sha256:ab", ImageName("docker.io", "library/busybox", "", "sha256:ab")),
    ],
)
def test_a_familiar_name_is_spelled_out(text: str, name: ImageName) -> None:
    assert ImageName.parse(text) == name


# --- a real registry -----------------------------------------------------------------


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with a_registry(tmp_path_factory.mktemp("registry")) as found:
        yield found


async def test_an_image_is_told_by_tag_and_by_digest(registry: RegistryServer) -> None:
    digest = registry.push("team/app", "1", an_image("one"))
    name = f"{registry.name}/team/app"
    manifest = await inspect(f"{name}:1", CI)
    assert manifest.digest == digest
    assert [platform.os for platform in manifest.platforms] == ["linux"]
    assert await inspect(f"{name}:1@{digest}", CI) == manifest


@pytest.mark.parametrize(
    ("image", "auth", "kind", "words"),
    [
        pytest.param("app:1", NOBODY, Unauthenticated, "denies anonymous", id="nobody"),
        pytest.param(
            "app:1", RegistryAuth(username=USER, password="x"), Unauthenticated, f"user {USER}", id="password"
        ),
        pytest.param("app:none", CI, NotFound, "manifest unknown", id="tag"),
        pytest.param("nothing:1", CI, NotFound, "manifest unknown", id="repository"),
    ],
)
async def test_refusals_in_dockers_words(
    registry: RegistryServer, image: str, auth: RegistryAuth, kind: type[SkepError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        await inspect(f"{registry.name}/{image}", auth)


async def test_a_login_is_true_or_refused(registry: RegistryServer) -> None:
    client = RegistryClient(Registries())
    try:
        await client.log_in(registry.name, CI)
        with pytest.raises(Unauthenticated, match="incorrect username or password"):
            await client.log_in(registry.name, RegistryAuth(username=USER, password="x"))
    finally:
        await client.close()


# --- others ----------------------------------------------------------------------------


class Odd:
    """A registry that wants a token, and has what a test puts there. Attributes: scopes: what tokens were for."""

    def __init__(self) -> None:
        self.name = ""
        self.manifest = b"{}"
        self.media_type = "application/vnd.oci.image.index.v1+json"
        self.realm = ""
        self.scopes: list[str] = []
        self.logins: list[str] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/token":
            form = await request.post()
            self.scopes.append(str(form.get("scope") or request.query["scope"]))
            self.logins.append(str(form.get("refresh_token") or request.headers.get("Authorization", "")))
            return web.json_response({"token": "t0ken"})
        if request.headers.get("Authorization") != "Bearer t0ken":
            realm = self.realm or f"http://{self.name}/token"
            challenge = f'Bearer realm="{realm}",service="odd",scope="repository:app:pull"'
            return web.Response(status=401, headers={"WWW-Authenticate": challenge})
        return web.Response(body=self.manifest, content_type=self.media_type)


@asynccontextmanager
async def an_odd_registry() -> AsyncIterator[Odd]:
    odd = Odd()
    runner = web.ServerRunner(web.Server(odd.answer))  # type: ignore[arg-type]  # BaseRequest has all that is used
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    odd.name = f"127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield odd
    finally:
        await runner.cleanup()


AN_INDEX = json.dumps(
    {
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [
            {"digest": "sha256:1", "platform": {"architecture": "amd64", "os": "linux"}},
            {"digest": "sha256:2", "platform": {"architecture": "arm64", "os": "linux", "variant": "v8"}},
            {"digest": "sha256:3", "platform": {"architecture": "unknown", "os": "unknown"}},
        ],
    }
).encode()


@pytest.mark.parametrize(
    ("auth", "login"),
    [
        pytest.param(NOBODY, "", id="nobody"),
        pytest.param(CI, "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode(), id="password"),
        pytest.param(RegistryAuth(identitytoken="refresh"), "refresh", id="identity-token"),
    ],
)
async def test_a_token_is_fetched_and_every_platform_of_an_index_told(auth: RegistryAuth, login: str) -> None:
    async with an_odd_registry() as odd:
        odd.manifest = AN_INDEX
        manifest = await inspect(f"{odd.name}/app:1", auth)
        assert manifest.digest == f"sha256:{hashlib.sha256(AN_INDEX).hexdigest()}"
        assert manifest.platforms == [
            Platform(architecture="amd64", os="linux"),
            Platform(architecture="arm64", os="linux"),
        ]
        assert (odd.scopes, odd.logins) == (["repository:app:pull"], [login])


async def test_a_bearer_token_of_the_user_is_shown_as_it_is() -> None:
    async with an_odd_registry() as odd:
        odd.manifest = AN_INDEX
        await inspect(f"{odd.name}/app:1", RegistryAuth(registrytoken="t0ken"))
        assert odd.logins == []


@pytest.mark.parametrize(
    ("manifest", "media_type", "image", "words"),
    [
        pytest.param(b"<html>", "text/html", "app:1", "in an unknown form", id="no json"),
        pytest.param(b"[1]", "application/json", "app:1", "in an unknown form", id="a list"),
        pytest.param(b"{}", "application/vnd.cncf.helm.chart.v1", "app:1", "is no image known here", id="a chart"),
        pytest.param(AN_INDEX, "", "app@sha256:" + "0" * 64, "sent something else", id="another digest"),
        pytest.param(b" " * (5 << 20), "", "app:1", "more than", id="endless"),
    ],
)
async def test_what_is_no_answer_is_unavailable(manifest: bytes, media_type: str, image: str, words: str) -> None:
    async with an_odd_registry() as odd:
        odd.manifest, odd.media_type = manifest, media_type or odd.media_type
        with pytest.raises(Unavailable, match=words):
            await inspect(f"{odd.name}/{image}")


async def test_no_password_goes_to_a_realm_of_another_kind() -> None:
    async with an_odd_registry() as odd:
        odd.realm = "ftp://elsewhere.example/token"
        with pytest.raises(Unavailable, match="cannot be trusted"):
            await inspect(f"{odd.name}/app:1", CI)
        assert odd.logins == []


async def test_a_registry_that_is_not_there_is_told_at_once_and_not_tried_again() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        name = f"127.0.0.1:{taken.getsockname()[1]}"
    client = RegistryClient(Registries())
    try:
        for _ in range(2):
            with pytest.raises(Unavailable, match="Connection refused"):
                await client.inspect(ImageName.parse(f"{name}/app:1"), NOBODY)
    finally:
        await client.close()


@pytest.mark.parametrize(
    ("registry", "is_insecure"),
    [
        ("127.0.0.1:5000", True),
        ("localhost", True),
        ("[::1]:5000", True),
        ("registry.example", False),
        ("lab.example:5000", True),
        ("lab.example:5001", False),
        ("bare.example:1", True),
        ("10.1.2.3:5000", True),
        ("10.2.2.3:5000", False),
    ],
)
def test_which_registries_may_be_insecure(registry: str, is_insecure: bool) -> None:
    registries = Registries(["lab.example:5000", "bare.example", "10.1.0.0/16"])
    assert registries.is_insecure(registry) == is_insecure
