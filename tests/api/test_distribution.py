"""/distribution through the API: what the registry says, and its refusals."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from tests.api.conftest import Api
from tests.fakes.swarm import FakeNode
from tests.registry import PASSWORD, USER, auth_header

from skep.api.server import ApiServer
from skep.model.errors import NotFound, SkepError, Unauthenticated, Unavailable
from skep.model.registry import NOBODY, ImageName, RegistryAuth
from skep.model.service import Platform
from skep.ports.registry import Manifest

pytestmark = pytest.mark.anyio

DIGEST = "sha256:" + "ab" * 32


class OneImage:
    """A registry of one image. Attributes: refusal: what it says instead, if anything; asked: of what, by whom."""

    def __init__(self) -> None:
        self.refusal: SkepError | None = None
        self.asked: list[tuple[ImageName, RegistryAuth]] = []

    async def inspect(self, image: ImageName, auth: RegistryAuth) -> Manifest:
        self.asked.append((image, auth))
        if self.refusal is not None:
            raise self.refusal
        platforms = [Platform(architecture="amd64", os="linux")]
        return Manifest(media_type="application/vnd.x", digest=DIGEST, size=7, platforms=platforms)

    async def log_in(self, registry: str, auth: RegistryAuth) -> None:
        self.asked.append((ImageName(registry, ""), auth))
        if self.refusal is not None:
            raise self.refusal

    async def close(self) -> None: ...


@pytest.fixture
def registry() -> OneImage:
    return OneImage()


@pytest.fixture
async def api(anyio_backend: str, tmp_path: Path, registry: OneImage) -> AsyncIterator[Api]:
    node = FakeNode(tmp_path)
    server = ApiServer(node, node.clock, registry)
    path = tmp_path / "docker.sock"
    await server.start_unix(path)
    try:
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:
            yield Api(node, path, session)
    finally:
        await server.close()


async def test_an_image_is_told_in_dockers_shape(api: Api, registry: OneImage) -> None:
    answer = await api.ask(
        "GET", "/distribution/reg.example:5000/team/app:1/json", headers={"X-Registry-Auth": auth_header()}
    )
    assert answer.status == 200
    assert answer.json == {
        "Descriptor": {"mediaType": "application/vnd.x", "digest": DIGEST, "size": 7},
        "Platforms": [{"architecture": "amd64", "os": "linux"}],
    }
    asked = RegistryAuth(username=USER, password=PASSWORD)
    assert registry.asked == [(ImageName("reg.example:5000", "team/app", "1"), asked)]


async def test_a_short_name_is_docker_hubs_and_nobody_asks_without_a_header(api: Api, registry: OneImage) -> None:
    assert (await api.ask("GET", "/distribution/busybox/json")).status == 200
    assert registry.asked == [(ImageName("docker.io", "library/busybox", "latest"), NOBODY)]


@pytest.mark.parametrize(
    ("refusal", "status"),
    [(NotFound("manifest unknown"), 404), (Unauthenticated("denied"), 401), (Unavailable("no network"), 503)],
    ids=["unknown", "denied", "unreachable"],
)
async def test_a_refusal_is_passed_on(api: Api, registry: OneImage, refusal: SkepError, status: int) -> None:
    registry.refusal = refusal
    answer = await api.ask("GET", "/distribution/app/json")
    assert (answer.status, answer.message) == (status, str(refusal))


@pytest.mark.parametrize(
    ("name", "headers"),
    [("App", {}), ("ab" * 32, {}), ("team/a..b", {}), ("app", {"X-Registry-Auth": "?"})],
    ids=["upper-case", "a-bare-digest", "dots", "header"],
)
async def test_what_is_no_image_reaches_no_registry(
    api: Api, registry: OneImage, name: str, headers: dict[str, str]
) -> None:
    assert (await api.ask("GET", f"/distribution/{name}/json", headers=headers)).status == 400
    assert registry.asked == []


@pytest.mark.parametrize(
    ("address", "registry_name"),
    [
        ("https://index.docker.io/v1/", "docker.io"),
        ("", "docker.io"),
        ("reg.example:5000", "reg.example:5000"),
        ("http://reg.example/v2/", "reg.example"),
    ],
)
async def test_a_login_is_tried_at_its_registry(api: Api, registry: OneImage, address: str, registry_name: str) -> None:
    auth = RegistryAuth(username=USER, password=PASSWORD, serveraddress=address)
    answer = await api.ask("POST", "/auth", {"username": USER, "password": PASSWORD, "serveraddress": address})
    assert (answer.status, answer.json) == (200, {"Status": "Login Succeeded", "IdentityToken": ""})
    assert registry.asked == [(ImageName(registry_name, ""), auth)]
    registry.refusal = Unauthenticated("incorrect username or password")
    assert (await api.ask("POST", "/auth", {"username": USER})).status == 401
