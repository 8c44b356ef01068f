"""What only Docker Engine does: pauses that must not be left, a service that dies, images and configuration."""

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.contract import runtime_places
from tests.contract.runtime_places import DockerPlace, docker
from tests.edge import engine_checks
from tests.edge.engine_checks import COUNTING, FOREVER

from skep.edge.docker import DockerRuntime, configuration, spec
from skep.edge.docker.images import DockerImages
from skep.edge.docker.inspect import parse_log_line
from skep.edge.engine_program import EngineSettings
from skep.edge.machine import Machine
from skep.model.service import Mount, VolumeOptions
from skep.ports.runtime import ContainerConfig, ContainerRejected, ContainerState, LogEntry, RuntimeFailure

COMPLETE = Machine(
    cgroups="hybrid",
    has_systemd=False,
    can_raise_limits=True,
    runtimes=(("runc", "/usr/bin/runc"),),
    conmon_path="",
    podman_path="",
    fuse_overlayfs_path="",
    init_path="/usr/bin/tini",
    dockerd_path="/usr/sbin/dockerd",
    busybox_path="/usr/bin/busybox",
)
SETTINGS = EngineSettings(Path("/var/lib/skep/engine"), Path("/run/skep/engine"), "/skep-x/n1")


# --- values ------------------------------------------------------------------


def test_the_network_is_left_alone() -> None:
    text = json.loads(configuration.daemon_json(COMPLETE, SETTINGS))
    assert [text[key] for key in ("iptables", "ip6tables", "ip-forward", "ip-masq", "bridge")] == [False] * 4 + ["none"]
    assert text["live-restore"] is True
    assert (text["cgroup-parent"], text["exec-opts"]) == ("/skep-x/n1", ["native.cgroupdriver=cgroupfs"])
    assert text["init-path"] == "/usr/bin/tini"


def test_insecure_registries_are_told() -> None:
    settings = dataclasses.replace(SETTINGS, insecure_registries=("10.0.0.0/8",))
    assert json.loads(configuration.daemon_json(COMPLETE, settings))["insecure-registries"] == ["10.0.0.0/8"]


@pytest.mark.parametrize(
    ("machine_lacks", "settings", "told"),
    [
        pytest.param({}, {}, "", id="complete"),
        pytest.param({"dockerd_path": ""}, {}, "install the packages docker.io", id="dockerd"),
        pytest.param({"runtimes": ()}, {}, "and runc", id="runc"),
        pytest.param({"busybox_path": ""}, {}, "busybox-static", id="busybox"),
        pytest.param({}, {"image_stores": (Path("/x"),)}, "--image-store", id="image-store"),
    ],
)
def test_what_keeps_it_from_running_is_said(
    machine_lacks: dict[str, object], settings: dict[str, object], told: str
) -> None:
    found = dataclasses.replace(COMPLETE, **machine_lacks)  # type: ignore[arg-type]  # fields by name
    asked = dataclasses.replace(SETTINGS, **settings)  # type: ignore[arg-type]  # fields by name
    problem = configuration.docker_program(found, asked).problem
    assert told in problem
    assert bool(problem) == bool(told)


def test_a_long_run_directory_leaves_room_for_containerds_sockets() -> None:
    long = dataclasses.replace(SETTINGS, run_dir=Path("/home/somebody", "long" * 15))
    assert len(f"{configuration.exec_root(long)}/containerd/containerd-debug.sock") <= 104
    assert configuration.docker_program(COMPLETE, long).alias == configuration.exec_root(long).parent
    assert configuration.docker_program(COMPLETE, SETTINGS).alias is None


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param(
            b'{"log":"h\\u00e9\\n","stream":"stderr","time":"2026-01-31T12:00:00.000000007Z"}',
            LogEntry(2, 1_769_860_800_000_000_007, "hé\n".encode()),
            id="line",
        ),
        pytest.param(b'{"log":"x","stream":"stdin","time":"2026-01-31T12:00:00Z"}', None, id="channel"),
        pytest.param(b'{"log":"x","stream":"stdout","time":"yesterday"}', None, id="time"),
        pytest.param(b'{"log":"x","str', None, id="torn"),
    ],
)
def test_log_lines(line: bytes, expected: LogEntry | None) -> None:
    assert parse_log_line(line) == expected


@pytest.mark.parametrize(
    ("mount", "told"),
    [
        pytest.param(Mount(type="npipe", source="x", target="/x"), 'mount type "npipe"', id="type"),
        pytest.param(Mount(source="v", target="/x", volume_options=VolumeOptions(subpath="a")), "26", id="subpath"),
    ],
)
def test_mounts_it_does_not_have_are_refused(mount: Mount, told: str) -> None:
    config = ContainerConfig("t", "i", Path("/run/netns/x"), "", {}, mounts=[mount])
    with pytest.raises(ContainerRejected, match=told):
        spec.create_body(config, "t.pause", "", (1, 41))


# --- on a real engine ----------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerPlace]:
    with runtime_places.docker_place(tmp_path_factory.mktemp("e")) as ground:
        yield ground


@pytest.fixture
async def runtime(place: DockerPlace) -> AsyncIterator[DockerRuntime]:
    async with runtime_places.in_use(place, place.open()) as opened:
        yield opened


async def pauses(runtime: DockerRuntime) -> list[str]:
    labelled = f"label={spec.PAUSE_LABEL}"
    return (await docker(runtime, "ps", "-a", "--filter", labelled, "--format", "{{.Names}}")).split()


async def wait_pauses(runtime: DockerRuntime, expected: list[str]) -> None:
    async with asyncio.timeout(20):
        while await pauses(runtime) != expected:  # noqa: ASYNC110 — dockerd tells nobody
            await asyncio.sleep(0.05)


@pytest.mark.anyio
@pytest.mark.engine
async def test_a_pause_lives_as_long_as_its_task_runs(place: DockerPlace, runtime: DockerRuntime) -> None:
    ended = await runtime.create(place.config("true", name="ended"))
    await runtime.create(place.config("true", name="made"))
    assert await pauses(runtime) == ["made.pause", "ended.pause"]
    await runtime.run(ended)
    await wait_pauses(runtime, ["made.pause"])
    assert (await runtime.inspect(ended)).state is ContainerState.EXITED


@pytest.mark.anyio
@pytest.mark.engine
async def test_pauses_that_a_killed_daemon_left_are_swept_up(place: DockerPlace, runtime: DockerRuntime) -> None:
    kept, gone, ended = [await runtime.create(place.config(*FOREVER, name=name)) for name in ("kept", "gone")] + [
        await runtime.create(place.config("sleep", "1", name="ended"))
    ]
    for each in (kept, gone, ended):
        await runtime.run(each)
    await runtime.detach()
    await docker(runtime, "rm", "-f", gone)
    await docker(runtime, "wait", ended)
    await runtime.start()
    assert await pauses(runtime) == ["kept.pause"]
    assert (await runtime.inspect(kept)).state is ContainerState.RUNNING


@pytest.mark.anyio
@pytest.mark.engine
async def test_killed_between_task_and_pause_creating_again_makes_the_pause(
    place: DockerPlace, runtime: DockerRuntime
) -> None:
    config = place.config(*FOREVER)
    first = await runtime.create(config)
    await docker(runtime, "rm", "-f", "task.pause")
    with pytest.raises(RuntimeFailure, match=r"task\.pause is gone"):
        await runtime.run(first)
    assert await runtime.create(config) == first
    assert (await runtime.run(first)).state is ContainerState.RUNNING


@pytest.mark.anyio
@pytest.mark.engine
async def test_a_pruned_pause_image_is_made_again(place: DockerPlace, runtime: DockerRuntime) -> None:
    await runtime.remove(await runtime.create(place.config("true")))
    made = await docker(runtime, "images", "-q", "skep-pause")
    await docker(runtime, "rmi", made)
    container_id = await runtime.create(place.config(*FOREVER))
    assert (await runtime.run(container_id)).state is ContainerState.RUNNING


@pytest.mark.anyio
@pytest.mark.engine
async def test_a_killed_dockerd_comes_back_and_containers_never_notice(
    place: DockerPlace, runtime: DockerRuntime
) -> None:
    await engine_checks.check_a_killed_service_comes_back_unnoticed(place, runtime)


@pytest.mark.anyio
@pytest.mark.engine
async def test_containers_outlive_an_orderly_end(place: DockerPlace, runtime: DockerRuntime) -> None:
    container_id = await runtime.create(place.config(*COUNTING))
    pid = (await runtime.run(container_id)).pid
    await runtime.close()
    assert runtime.service.pid == 0
    await runtime.start()
    assert (await runtime.inspect(container_id)).pid == pid
    assert await pauses(runtime) == ["task.pause"]
    await engine_checks.check_no_line_is_lost(runtime, container_id)


@pytest.mark.anyio
@pytest.mark.engine
async def test_a_loaded_image_brings_command_and_health(place: DockerPlace, runtime: DockerRuntime) -> None:
    await engine_checks.check_a_loaded_image_brings_command_and_health(place, runtime)


@pytest.mark.parametrize(
    ("image", "registry", "query"),
    [
        ("busybox", "docker.io", {"fromImage": "busybox", "tag": "latest"}),
        ("team/app:1", "docker.io", {"fromImage": "team/app:1"}),
        ("docker.io/a/b@sha256:ab", "docker.io", {"fromImage": "docker.io/a/b@sha256:ab"}),
        ("reg:5000/a", "reg:5000", {"fromImage": "reg:5000/a", "tag": "latest"}),
        ("localhost/x", "localhost", None),
    ],
)
def test_what_is_pulled_from_where(tmp_path: Path, image: str, registry: str, query: dict[str, str] | None) -> None:
    store = DockerRuntime(root=tmp_path, run_dir=tmp_path / "run")._images
    assert isinstance(store, DockerImages)
    assert store.registry(image) == registry
    wanted = store.pull_request(image)
    assert (dict(wanted[1]) if wanted else None) == query
