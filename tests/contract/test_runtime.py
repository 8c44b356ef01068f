"""What every container engine must do, tried on the fake and on the real ones."""

import asyncio
import contextlib
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.contract import runtime_places
from tests.contract.runtime_places import IMAGE, Place

from skep.edge import machine
from skep.edge.exitwatch import wait_process
from skep.model.service import Limits, Mount, TmpfsOptions
from skep.ports.runtime import (
    Container,
    ContainerConfig,
    ContainerRejected,
    ContainerState,
    FileMount,
    ImageMissing,
    LogEntry,
    LogOptions,
    NoSuchContainer,
    Runtime,
)

pytestmark = pytest.mark.anyio

SECOND = 1_000_000_000
LIMIT_S = 20.0
UNSEEN_EXIT_CODES = (137, 255)  # As if killed; Docker's own code for what ended while nobody watched.
UNTIL_TERM = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done"
DEAF_TO_TERM = "trap '' TERM; echo ready; while :; do sleep 0.1; done"


@pytest.fixture(
    scope="module",
    params=[
        "fake",
        pytest.param("process", marks=pytest.mark.engine),
        pytest.param("podman", marks=pytest.mark.engine),
        pytest.param("docker", marks=pytest.mark.engine),
    ],
)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("e")
    match request.param:
        case "fake":
            yield runtime_places.FakePlace()
        case "process":
            with runtime_places.process_place(folder) as ground:
                yield ground
        case "podman":
            with runtime_places.podman_place(folder) as ground:
                yield ground
        case "docker":
            with runtime_places.docker_place(folder) as ground:
                yield ground


@pytest.fixture
async def runtime(place: Place) -> AsyncIterator[Runtime]:
    async with runtime_places.in_use(place, place.open()) as opened:
        yield opened


def a_config(place: Place, script: str, **changes: object) -> ContainerConfig:
    name = f"task-{uuid.uuid4().hex[:8]}"
    fields: dict[str, object] = {
        "name": name,
        "image": IMAGE,
        "sandbox": place.sandbox,
        "hostname": "bee",
        "labels": {"com.docker.swarm.task.id": name, "color": "amber"},
        "args": ("sh", "-c", script),
    }
    return ContainerConfig(**(fields | changes))  # type: ignore[arg-type]  # the table above has the fields' types


def needs_kernel(place: Place) -> None:
    if not place.is_real:
        pytest.skip("not applicable: the fake runs no processes")


async def launch(runtime: Runtime, config: ContainerConfig) -> str:
    container_id = await runtime.create(config)
    await runtime.run(container_id)
    return container_id


async def wait_exit(runtime: Runtime, container_id: str) -> Container:
    async with asyncio.timeout(LIMIT_S):
        container = await runtime.inspect(container_id)
        while container.state is not ContainerState.EXITED:
            await asyncio.sleep(0.02)
            container = await runtime.inspect(container_id)
    return container


async def wait_line(runtime: Runtime, container_id: str, line: str) -> None:
    async with asyncio.timeout(LIMIT_S):
        async for entry in runtime.logs(container_id, LogOptions(follow=True)):
            if entry.payload.decode().strip() == line:
                return
    raise AssertionError(f"the container ended without saying {line}")


async def read_logs(runtime: Runtime, container_id: str, options: LogOptions | None = None) -> list[LogEntry]:
    async with asyncio.timeout(LIMIT_S):
        return [entry async for entry in runtime.logs(container_id, options or LogOptions())]


async def output_of(runtime: Runtime, config: ContainerConfig) -> str:
    container_id = await launch(runtime, config)
    await wait_exit(runtime, container_id)
    return b"".join(entry.payload for entry in await read_logs(runtime, container_id)).decode()


# --- life --------------------------------------------------------------------


async def test_facts_name_the_engine(place: Place, runtime: Runtime) -> None:
    facts = await runtime.facts()
    assert facts.name == place.name
    assert facts.version
    assert facts.cpu_nano > 0
    assert facts.memory_bytes > 0
    assert all(problem and not problem.endswith(".") for problem in facts.problems)


async def test_created_runs_and_reports_its_exit_code(place: Place, runtime: Runtime) -> None:
    container_id = await runtime.create(a_config(place, "sleep 0.2; exit 3"))
    created = await runtime.inspect(container_id)
    assert (created.state, created.pid, created.exit_code) == (ContainerState.CREATED, 0, None)
    assert (created.started_at, created.finished_at) == (0, 0)

    running = await runtime.run(container_id)
    assert running.state is ContainerState.RUNNING
    assert running.pid > 0
    assert abs(running.started_at - time.time_ns()) < 60 * SECOND

    ended = await wait_exit(runtime, container_id)
    assert (ended.exit_code, ended.pid, ended.is_oom_killed) == (3, 0, False)
    assert ended.finished_at >= ended.started_at > 0
    assert ended.labels["color"] == "amber"


async def test_a_container_that_ends_at_once_has_run(place: Place, runtime: Runtime) -> None:
    container_id = await runtime.create(a_config(place, "exit 0"))
    await runtime.run(container_id)
    assert (await wait_exit(runtime, container_id)).exit_code == 0


async def test_exits_are_announced(place: Place, runtime: Runtime) -> None:
    exits = runtime.exits()
    heard = asyncio.ensure_future(anext(exits))
    await asyncio.sleep(0)
    container_id = await launch(runtime, a_config(place, "sleep 0.2; exit 4"))
    async with asyncio.timeout(LIMIT_S):
        assert await heard == container_id
    assert (await runtime.inspect(container_id)).exit_code == 4  # The engine knows it when we hear it.


async def test_creating_twice_makes_one(place: Place, runtime: Runtime) -> None:
    config = a_config(place, "exit 0")
    assert await runtime.create(config) == await runtime.create(config)


async def test_running_twice_runs_once(place: Place, runtime: Runtime) -> None:
    container_id = await runtime.create(a_config(place, "echo once; sleep 0.3"))
    first, second = await asyncio.gather(runtime.run(container_id), runtime.run(container_id))
    assert first.started_at == second.started_at
    await wait_exit(runtime, container_id)
    assert (await runtime.run(container_id)).state is ContainerState.EXITED
    assert [entry.payload for entry in await read_logs(runtime, container_id)] == [b"once\n"]


async def test_list_has_only_tasks(place: Place, runtime: Runtime) -> None:
    ours = await runtime.create(a_config(place, "exit 0"))
    other = await runtime.create(a_config(place, "exit 0", labels={"color": "red"}))
    try:
        assert [container.id for container in await runtime.list_containers()] == [ours]
    finally:
        await runtime.remove(other)


async def test_remove_kills_and_may_be_repeated(place: Place, runtime: Runtime) -> None:
    container_id = await launch(runtime, a_config(place, DEAF_TO_TERM))
    await runtime.remove(container_id)
    await runtime.remove(container_id)
    assert await runtime.list_containers() == []
    with pytest.raises(NoSuchContainer):
        await runtime.inspect(container_id)


# --- stop --------------------------------------------------------------------


async def test_stop_sends_term_and_waits(place: Place, runtime: Runtime) -> None:
    container_id = await launch(runtime, a_config(place, UNTIL_TERM))
    await wait_line(runtime, container_id, "ready")
    await runtime.stop(container_id, grace=10 * SECOND)
    ended = await runtime.inspect(container_id)
    assert (ended.state, ended.exit_code) == (ContainerState.EXITED, 7)
    await runtime.stop(container_id, grace=0)  # Again is no error.


async def test_stop_sends_the_signal_asked_for(place: Place, runtime: Runtime) -> None:
    script = "trap 'exit 9' USR1; echo ready; while :; do sleep 0.1; done"
    container_id = await launch(runtime, a_config(place, script, stop_signal="SIGUSR1"))
    await wait_line(runtime, container_id, "ready")
    await runtime.stop(container_id, grace=10 * SECOND)
    assert (await runtime.inspect(container_id)).exit_code == 9


async def test_stop_kills_after_its_grace(place: Place, runtime: Runtime) -> None:
    container_id = await launch(runtime, a_config(place, DEAF_TO_TERM))
    await wait_line(runtime, container_id, "ready")
    began = asyncio.get_running_loop().time()
    await runtime.stop(container_id, grace=SECOND // 2)
    assert 0.45 < asyncio.get_running_loop().time() - began < 5
    assert (await runtime.inspect(container_id)).exit_code == 137


async def test_stop_ends_every_process(place: Place, runtime: Runtime) -> None:
    needs_kernel(place)
    container_id = await launch(runtime, a_config(place, f"sleep 7777 & (sleep 7777 &) ; {UNTIL_TERM}"))
    await wait_line(runtime, container_id, "ready")
    namespace = Path(f"/proc/{(await runtime.inspect(container_id)).pid}/ns/pid").readlink()
    await runtime.stop(container_id, grace=5 * SECOND)
    assert namespace not in pid_namespaces()


def pid_namespaces() -> set[Path]:
    found: set[Path] = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                found.add((entry / "ns/pid").readlink())
    return found


# --- refusals ----------------------------------------------------------------


async def test_an_unknown_image_is_missing(place: Place, runtime: Runtime) -> None:
    if place.name == "process":
        pytest.skip("not applicable: to the process driver an image is only a label")
    with pytest.raises(ImageMissing, match=r"^No such image: localhost/nosuch:1( \(.+\))?$"):  # And why, if known.
        await runtime.ensure_image("localhost/nosuch:1")
    with pytest.raises(ImageMissing, match=r"^No such image: localhost/nosuch:1$"):
        await runtime.create(a_config(place, "exit 0", image="localhost/nosuch:1"))


async def test_a_known_image_has_one_id(place: Place, runtime: Runtime) -> None:
    image_id = await runtime.ensure_image(IMAGE)
    assert image_id
    assert image_id == await runtime.ensure_image(f"{IMAGE}:latest")


async def test_a_missing_bind_source_is_refused_in_dockers_words(
    place: Place, runtime: Runtime, tmp_path: Path
) -> None:
    missing = tmp_path / "missing"
    mount = Mount(type="bind", source=str(missing), target="/mnt")
    with pytest.raises(ContainerRejected) as refusal:
        await runtime.create(a_config(place, "exit 0", mounts=[mount]))
    assert str(refusal.value) == (f'invalid mount config for type "bind": bind source path does not exist: {missing}')
    assert await runtime.list_containers() == []


async def test_a_missing_program_is_refused(place: Place, runtime: Runtime) -> None:
    container_id = await runtime.create(a_config(place, "", args=("no-such-program",)))
    with pytest.raises(ContainerRejected, match="no-such-program"):
        await runtime.run(container_id)
    assert (await runtime.inspect(container_id)).state is not ContainerState.RUNNING
    await runtime.remove(container_id)


async def test_an_unknown_signal_is_refused(place: Place, runtime: Runtime) -> None:
    with pytest.raises(ContainerRejected, match="invalid signal: SIGNOPE"):
        await runtime.create(a_config(place, "exit 0", stop_signal="SIGNOPE"))


async def test_what_is_not_there_is_named(place: Place, runtime: Runtime) -> None:
    for attempt in (
        runtime.inspect("nosuch"),
        runtime.run("nosuch"),
        runtime.stop("nosuch", grace=0),
        runtime.exec("nosuch", ["true"], timeout=SECOND),
        read_logs(runtime, "nosuch"),
    ):
        with pytest.raises(NoSuchContainer, match="nosuch"):
            await attempt


# --- logs --------------------------------------------------------------------


async def test_logs_keep_channels_and_time(place: Place, runtime: Runtime) -> None:
    container_id = await launch(runtime, a_config(place, "echo out; sleep 0.1; echo err >&2; sleep 0.1; echo end"))
    await wait_exit(runtime, container_id)
    entries = await read_logs(runtime, container_id)
    assert [(entry.channel, entry.payload) for entry in entries] == [(1, b"out\n"), (2, b"err\n"), (1, b"end\n")]
    moments = [entry.timestamp for entry in entries]
    assert moments == sorted(moments)
    assert abs(moments[0] - time.time_ns()) < 60 * SECOND

    only_err = await read_logs(runtime, container_id, LogOptions(stdout=False))
    assert [entry.payload for entry in only_err] == [b"err\n"]
    late = await read_logs(runtime, container_id, LogOptions(since=moments[1]))
    assert [entry.payload for entry in late] == [b"err\n", b"end\n"]
    last_out = await read_logs(runtime, container_id, LogOptions(tail=1, stderr=False))
    assert [entry.payload for entry in last_out] == [b"end\n"]
    assert await read_logs(runtime, container_id, LogOptions(tail=0)) == []
    assert len(await read_logs(runtime, container_id, LogOptions(tail=99))) == 3


async def test_following_logs_ends_with_the_container(place: Place, runtime: Runtime) -> None:
    container_id = await launch(runtime, a_config(place, "echo first; sleep 0.4; echo second"))
    entries = await read_logs(runtime, container_id, LogOptions(follow=True))
    assert [entry.payload for entry in entries] == [b"first\n", b"second\n"]


# --- exec --------------------------------------------------------------------


async def test_exec_reports_code_and_output(place: Place, runtime: Runtime) -> None:
    container_id = await launch(runtime, a_config(place, UNTIL_TERM, env=["COLOR=amber"]))
    result = await runtime.exec(container_id, ["sh", "-c", "echo sick; exit 5"], timeout=10 * SECOND)
    assert (result.exit_code, result.output) == (5, b"sick\n")
    assert (await runtime.exec(container_id, ["true"], timeout=10 * SECOND)).exit_code == 0
    assert (await runtime.exec(container_id, ["no-such-program"], timeout=10 * SECOND)).exit_code != 0


async def test_exec_is_killed_after_its_time(place: Place, runtime: Runtime) -> None:
    container_id = await launch(runtime, a_config(place, UNTIL_TERM))
    with pytest.raises(TimeoutError):
        await runtime.exec(container_id, ["sleep", "7777"], timeout=SECOND // 2)
    assert (await runtime.inspect(container_id)).state is ContainerState.RUNNING


async def test_exec_needs_a_running_container(place: Place, runtime: Runtime) -> None:
    container_id = await launch(runtime, a_config(place, "exit 0"))
    await wait_exit(runtime, container_id)
    with pytest.raises(NoSuchContainer):
        await runtime.exec(container_id, ["true"], timeout=SECOND)


# --- daemon and engine come and go -------------------------------------------


async def test_containers_outlive_the_daemon(place: Place, runtime: Runtime) -> None:
    config = a_config(place, UNTIL_TERM)
    container_id = await launch(runtime, config)
    pid = (await runtime.inspect(container_id)).pid
    await place.abandon(runtime)
    serving = set(place.service_pids())
    fresh = place.open()
    await fresh.start()
    try:
        assert set(place.service_pids()) == serving, "the engine's service is adopted as it is"
        found = await fresh.list_containers()
        assert [(each.id, each.name, each.pid, each.state) for each in found] == [
            (container_id, config.name, pid, ContainerState.RUNNING)
        ]
        assert await fresh.create(config) == container_id
        exits = fresh.exits()
        heard = asyncio.ensure_future(anext(exits))
        await wait_line(fresh, container_id, "ready")
        await fresh.stop(container_id, grace=5 * SECOND)
        async with asyncio.timeout(LIMIT_S):
            assert await heard == container_id
        assert (await fresh.inspect(container_id)).exit_code == 7
        await fresh.remove(container_id)
    finally:
        await place.abandon(fresh)
        await runtime.start()


async def test_an_end_nobody_watched_is_found(place: Place, runtime: Runtime) -> None:
    await launch(runtime, a_config(place, "sleep 0.2; exit 6"))
    await place.abandon(runtime)
    await asyncio.sleep(0.5)  # The container ends while there is no daemon.
    fresh = place.open()
    await fresh.start()
    try:
        assert [each.exit_code for each in await fresh.list_containers()] == [6]
    finally:
        await place.abandon(fresh)
        await runtime.start()


async def test_a_container_killed_with_its_supervisor_has_ended(place: Place, runtime: Runtime) -> None:
    needs_kernel(place)
    container_id = await launch(runtime, a_config(place, DEAF_TO_TERM))
    pid = (await runtime.inspect(container_id)).pid
    kill(parent_of(pid), pid)
    ended = await wait_exit(runtime, container_id)
    assert ended.exit_code == 137
    assert (await runtime.run(container_id)).state is ContainerState.EXITED
    await runtime.remove(container_id)
    assert await runtime.list_containers() == []


@pytest.mark.parametrize("is_run_dir_wiped", [False, True], ids=["kept", "wiped"])
async def test_after_a_power_cut_nothing_runs(place: Place, runtime: Runtime, is_run_dir_wiped: bool) -> None:
    needs_kernel(place)
    container_id = await launch(runtime, a_config(place, DEAF_TO_TERM))
    waiting = await runtime.create(a_config(place, "exit 0"))
    pid = (await runtime.inspect(container_id)).pid
    await place.abandon(runtime)
    doomed = [*place.service_pids(), parent_of(pid), pid]
    kill(*doomed)
    for each in doomed:
        await wait_process(each)
    if is_run_dir_wiped:
        place.wipe_run_dir()
    fresh = place.open()
    await fresh.start()
    try:
        found = {each.id: each for each in await fresh.list_containers()}
        assert found[container_id].state is ContainerState.EXITED
        assert found[container_id].exit_code in UNSEEN_EXIT_CODES
        assert found[waiting].state is ContainerState.CREATED
        again = await launch(fresh, a_config(place, "exit 5"))
        assert (await wait_exit(fresh, again)).exit_code == 5
        for each in found:
            await fresh.remove(each)
        assert [each.id for each in await fresh.list_containers()] == [again]
    finally:
        await place.abandon(fresh)
        await runtime.start()


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def kill(*pids: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # One may have taken another with it.
            os.kill(pid, signal.SIGKILL)


# --- what the process sees ---------------------------------------------------


async def test_it_runs_in_the_sandbox(place: Place, runtime: Runtime) -> None:
    needs_kernel(place)
    container_id = await launch(runtime, a_config(place, UNTIL_TERM))
    pid = (await runtime.inspect(container_id)).pid
    assert Path(f"/proc/{pid}/ns/net").stat().st_ino == place.sandbox.stat().st_ino


@pytest.mark.parametrize(
    ("script", "changes", "expected"),
    [
        pytest.param("hostname", {}, "bee\n", id="hostname"),
        pytest.param("echo $COLOR-$EMPTY-", {"env": ["COLOR=a b", "EMPTY="]}, "a b--\n", id="env"),
        pytest.param("pwd", {"working_dir": "/usr/bin"}, "/usr/bin\n", id="working_dir"),
        pytest.param("id -u; id -g", {"user": "33:34"}, "33\n34\n", id="user"),
        pytest.param("id -u", {"user": "nobody"}, "65534\n", id="user-name"),
        pytest.param("id -G", {"user": "33:34", "groups": ["77"]}, "34 77\n", id="groups"),
        pytest.param("echo $$", {}, "1\n", id="first-process"),
        pytest.param("touch /tmp/x && ls /tmp", {}, "x\n", id="private-tmp"),
        pytest.param("touch /usr/x 2>/dev/null || echo no", {"read_only": True}, "no\n", id="read-only"),
        pytest.param("echo $0 $1", {"command": ("sh", "-c"), "args": ("echo $0 $1", "a", "b")}, "a b\n", id="command"),
        pytest.param("grep NoNewPrivs /proc/self/status | cut -f2", {"no_new_privileges": True}, "1\n", id="no-new"),
        pytest.param(
            "cat /proc/sys/net/ipv4/ip_forward", {"sysctls": {"net.ipv4.ip_forward": "1"}}, "1\n", id="sysctl"
        ),
        pytest.param("test -t 1 && echo tty", {"tty": True}, "tty\r\n", id="tty"),
        pytest.param("cat /proc/self/oom_score_adj", {"oom_score_adj": 500}, "500\n", id="oom"),
    ],
)
async def test_the_process_sees(
    place: Place, runtime: Runtime, script: str, changes: dict[str, object], expected: str
) -> None:
    needs_kernel(place)
    assert await output_of(runtime, a_config(place, script, **changes)) == expected


async def test_an_init_needs_nothing_of_the_image(place: Place, runtime: Runtime) -> None:
    needs_kernel(place)
    if not machine.probe(Path("/")).init_path:
        with pytest.raises(ContainerRejected, match="no init program"):
            await runtime.create(a_config(place, "echo $$", init=True))
        return
    assert int(await output_of(runtime, a_config(place, "echo $$", init=True))) > 1


async def test_the_hostname_is_the_containers_short_id_by_default(place: Place, runtime: Runtime) -> None:
    needs_kernel(place)
    container_id = await launch(runtime, a_config(place, "hostname", hostname=""))
    await wait_exit(runtime, container_id)
    assert [entry.payload.decode() for entry in await read_logs(runtime, container_id)] == [f"{container_id[:12]}\n"]


async def test_capabilities_are_dockers_and_changeable(place: Place, runtime: Runtime) -> None:
    needs_kernel(place)
    script = "grep CapEff /proc/self/status | cut -f2"
    assert int(await output_of(runtime, a_config(place, script)), 16) == 0xA80425FB
    changed = a_config(place, script, capability_add=["NET_ADMIN"], capability_drop=["CAP_NET_RAW"])
    assert int(await output_of(runtime, changed), 16) == (0xA80425FB | 1 << 12) & ~(1 << 13)


async def test_mounts(place: Place, runtime: Runtime, tmp_path: Path) -> None:
    needs_kernel(place)
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/in").write_text("in\n")
    (tmp_path / "hosts").write_text("10.0.0.9 hive\n")
    config = a_config(
        place,
        "cat /data/in; echo out >/data/out; touch /fixed/x 2>/dev/null || echo fixed; echo v >/vol/v; cat /etc/hosts;"
        "df /scratch | tail -1 | cut -d' ' -f1",
        mounts=[
            Mount(type="bind", source=str(tmp_path / "shared"), target="/data"),
            Mount(type="bind", source=str(tmp_path / "shared"), target="/fixed", read_only=True),
            Mount(type="volume", source="honey", target="/vol"),
            Mount(type="tmpfs", target="/scratch", tmpfs_options=TmpfsOptions(size_bytes=65536)),
        ],
        files=[FileMount(tmp_path / "hosts", "/etc/hosts")],
    )
    assert await output_of(runtime, config) == "in\nfixed\n10.0.0.9 hive\ntmpfs\n"
    assert (tmp_path / "shared/out").read_text() == "out\n"
    again = a_config(place, "cat /vol/v", mounts=[Mount(type="volume", source="honey", target="/vol")])
    assert await output_of(runtime, again) == "v\n"


async def test_an_anonymous_volume_goes_with_its_container(place: Place, runtime: Runtime) -> None:
    needs_kernel(place)
    config = a_config(place, "grep ' /vol ' /proc/self/mountinfo | cut -d' ' -f4", mounts=[Mount(target="/vol")])
    container_id = await launch(runtime, config)
    await wait_exit(runtime, container_id)
    inner = (await read_logs(runtime, container_id))[0].payload.decode().strip()  # From the root of its file system.
    sources = [path for path in place.folder.rglob("*") if path.is_dir() and inner.endswith("/".join(path.parts[-3:]))]
    assert sources
    await runtime.remove(container_id)
    assert not any(source.exists() for source in sources)


async def test_limits_reach_the_kernel(place: Place, runtime: Runtime) -> None:
    needs_kernel(place)
    limits = Limits(nano_cpus=SECOND // 2, memory_bytes=64 << 20, pids=50)
    container_id = await launch(runtime, a_config(place, UNTIL_TERM, limits=limits))
    pid = (await runtime.inspect(container_id)).pid
    assert limit_of(pid, "memory", "memory.limit_in_bytes", "memory.max") == str(64 << 20)
    assert limit_of(pid, "cpu", "cpu.cfs_quota_us", "cpu.max").split()[0] == "50000"
    assert limit_of(pid, "pids", "pids.max", "pids.max") == "50"


def limit_of(pid: int, controller: str, v1_file: str, v2_file: str) -> str:
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        top = Path("/sys/fs/cgroup")
        if controller in controllers.split(","):
            return (top / controllers / path.lstrip("/") / v1_file).read_text().strip()
        if not controllers and (top / "cgroup.controllers").exists():
            return (top / path.lstrip("/") / v2_file).read_text().strip()
    raise AssertionError(f"process {pid} is under no {controller} controller")


async def test_too_much_memory_kills(place: Place, runtime: Runtime) -> None:
    needs_kernel(place)
    config = a_config(place, "x=aaaaaaaa; while :; do x=$x$x; done", limits=Limits(memory_bytes=16 << 20))
    container_id = await launch(runtime, config)
    # conmon sees the kernel's notice on cgroup v2 only; the exit code tells on either.
    assert (await wait_exit(runtime, container_id)).exit_code == 137
