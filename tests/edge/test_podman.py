"""What only podman does: names of images, engines side by side; and its part of what engines do alike."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.contract import runtime_places
from tests.contract.runtime_places import PodmanPlace, docker
from tests.edge import engine_checks

from skep.edge.podman import PodmanRuntime
from skep.edge.podman.images import image_candidates
from skep.lab import images
from skep.ports.runtime import EngineUnreachable


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("busybox", ("docker.io/library/busybox:latest", "localhost/busybox:latest"), id="short"),
        pytest.param("skep/search:1", ("docker.io/skep/search:1", "localhost/skep/search:1"), id="user"),
        pytest.param("localhost/x", ("localhost/x:latest",), id="localhost"),
        pytest.param("reg:5000/a/b", ("reg:5000/a/b:latest",), id="port"),
        pytest.param("docker.io/busybox:1", ("docker.io/library/busybox:1",), id="hub"),
        pytest.param("docker.io/a/b:1", ("docker.io/a/b:1",), id="hub-user"),
        pytest.param("quay.io/a:1@sha256:ab", ("quay.io/a@sha256:ab",), id="tag-and-digest"),
        pytest.param("a@sha256:ab", ("docker.io/library/a@sha256:ab", "localhost/a@sha256:ab"), id="digest"),
        pytest.param(
            "0123456789ab",
            ("docker.io/library/0123456789ab:latest", "localhost/0123456789ab:latest", "0123456789ab"),
            id="id",
        ),
    ],
)
def test_image_candidates(name: str, expected: tuple[str, ...]) -> None:
    assert image_candidates(name) == expected


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PodmanPlace]:
    with runtime_places.podman_place(tmp_path_factory.mktemp("e")) as ground:
        yield ground


@pytest.fixture
async def runtime(place: PodmanPlace) -> AsyncIterator[PodmanRuntime]:
    async with runtime_places.in_use(place, place.open()) as opened:
        yield opened


@pytest.mark.anyio
@pytest.mark.engine
@pytest.mark.parametrize("name", ["one", "skep/two:1", "localhost/three", "localhost:5000/four:x"])
async def test_an_imported_image_is_found_by_its_name(runtime: PodmanRuntime, name: str) -> None:
    root = images.root_tar({f"/{name.replace('/', '-')}": images.RootEntry(b"x")})
    await docker(runtime, "import", "-", name, stdin=root)
    image_id = await runtime.ensure_image(name)
    assert image_id == await runtime.ensure_image(image_id)
    inspected = await docker(runtime, "image", "inspect", "--format", "{{.Id}}", name)
    assert inspected.removeprefix("sha256:") == image_id


@pytest.mark.anyio
@pytest.mark.engine
async def test_a_loaded_image_brings_command_and_health(place: PodmanPlace, runtime: PodmanRuntime) -> None:
    await engine_checks.check_a_loaded_image_brings_command_and_health(place, runtime)


@pytest.mark.anyio
@pytest.mark.engine
async def test_a_killed_service_comes_back_and_containers_never_notice(
    place: PodmanPlace, runtime: PodmanRuntime
) -> None:
    await engine_checks.check_a_killed_service_comes_back_unnoticed(place, runtime)


@pytest.mark.anyio
@pytest.mark.engine
async def test_two_engines_do_not_see_each_other(place: PodmanPlace, runtime: PodmanRuntime) -> None:
    container_id = await runtime.create(place.config(*engine_checks.FOREVER))
    pid = (await runtime.run(container_id)).pid
    other = PodmanRuntime(root=place.folder / "other/root", run_dir=place.folder / "other/run")
    await other.start()
    try:
        assert await other.list_containers() == []
    finally:
        await other.close()
    assert (await runtime.inspect(container_id)).pid == pid


@pytest.mark.anyio
async def test_an_engine_that_cannot_start_says_why(place: PodmanPlace, tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 120)
    with pytest.raises(EngineUnreachable, match="too long for a socket"):
        await PodmanRuntime(root=tmp_path / "root", run_dir=deep).start()
