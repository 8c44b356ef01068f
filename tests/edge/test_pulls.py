"""Images from a real registry: when one is pulled, with whose credentials, and what is said where it cannot be."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from tests.contract import runtime_places
from tests.contract.runtime_places import DockerPlace, PodmanPlace
from tests.registry import RegistryServer, a_registry, an_image, auth_header

from skep.edge.docker import DockerRuntime
from skep.edge.engine_images import advice
from skep.edge.podman import PodmanRuntime
from skep.ports.runtime import ImageMissing

engine = pytest.mark.engine


Place = PodmanPlace | DockerPlace
Engine = PodmanRuntime | DockerRuntime
PLACES = {"podman": runtime_places.podman_place, "docker": runtime_places.docker_place}


@pytest.fixture(scope="module", params=list(PLACES))
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with PLACES[request.param](tmp_path_factory.mktemp("e")) as ground:
        yield ground


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with a_registry(tmp_path_factory.mktemp("registry")) as found:
        yield found


@pytest.fixture
async def runtime(place: Place) -> AsyncIterator[Engine]:
    async with runtime_places.in_use(place, place.open()) as opened:
        yield opened


@engine
@pytest.mark.anyio
async def test_a_tag_is_pulled_anew_and_a_digest_once(runtime: Engine, registry: RegistryServer) -> None:
    name = f"{registry.name}/app:1"
    digest = registry.push("app", "1", an_image("one"))
    first = await runtime.ensure_image(name, registry_auth=auth_header())
    registry.push("app", "1", an_image("two"))
    assert await runtime.ensure_image(f"{name}@{digest}") == first  # It is here: nobody is asked.
    second = await runtime.ensure_image(name, registry_auth=auth_header())
    assert second != first
    assert await runtime.ensure_image(name) == second  # Refused now; the one that is here does.


@engine
@pytest.mark.anyio
async def test_the_same_pull_asked_for_at_once_is_one(runtime: Engine, registry: RegistryServer) -> None:
    name = f"{registry.name}/many:1"
    registry.push("many", "1", an_image("many"))
    asked = [asyncio.create_task(runtime.ensure_image(name, registry_auth=auth_header())) for _ in range(4)]
    asked[0].cancel()  # Its task was stopped; the others go on.
    found = await asyncio.gather(*asked[1:])
    assert len(set(found)) == 1
    assert found[0] in await runtime_places.docker(runtime, "images", "--no-trunc", "-q")


@engine
@pytest.mark.anyio
@pytest.mark.parametrize(
    ("repository", "auth", "words"),
    [
        pytest.param("app:none", auth_header(), ("manifest unknown", "check the image's name and tag"), id="tag"),
        pytest.param("app:9", "", ("auth", "give the service credentials: docker login"), id="nobody"),
        pytest.param("app:9", auth_header("wrong"), ("unauthorized", "its credentials are refused"), id="password"),
    ],
)
async def test_what_cannot_be_pulled_says_why_and_what_to_do(
    runtime: Engine, registry: RegistryServer, repository: str, auth: str, words: tuple[str, str]
) -> None:
    name = f"{registry.name}/{repository}"
    with pytest.raises(ImageMissing) as refused:
        await runtime.ensure_image(name, registry_auth=auth)
    text = str(refused.value)
    assert text.startswith(f"No such image: {name} (")
    assert all(each in text for each in words), text


@engine
@pytest.mark.anyio
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("127.0.0.1:9/app", "127.0.0.1 cannot be reached on port 9: Connection refused; let this node reach"),
        ("registry.invalid/app", "the name registry.invalid cannot be resolved; let this node reach"),
        ("localhost/app", "no registry is asked about such a name; load the image here with docker load"),
    ],
)
async def test_a_registry_out_of_reach_is_named(runtime: Engine, name: str, words: str) -> None:
    async with asyncio.timeout(10):
        with pytest.raises(ImageMissing) as refused:
            await runtime.ensure_image(name)
    assert words in str(refused.value)


def test_a_certificate_nobody_trusts_is_told_how_to_be() -> None:
    text = advice("reg.example:5000", "tls: failed to verify certificate: x509: unknown authority", has_auth=True)
    assert "--insecure-registry reg.example:5000" in text
    assert "/etc/docker/certs.d/reg.example:5000" in text
