"""One task from assignment to its end, told as a dialogue between a manager and a node."""

import asyncio
from pathlib import Path

import msgspec
import pytest
from tests.agent.node import a_container_spec, a_running_node, an_overlay, assigned, the_cluster, until

from skep.model.lifecycle import TaskState as S
from skep.model.service import (
    Endpoint,
    Healthcheck,
    Mount,
    PortConfig,
    Protocol,
    PublishMode,
)
from skep.ports.dataplane import DataPlaneFailure
from skep.ports.runtime import ContainerRejected, ContainerState

pytestmark = pytest.mark.anyio

TO_RUNNING = [S.ACCEPTED, S.PREPARING, S.READY, S.STARTING, S.RUNNING]


async def test_a_task_passes_every_state_to_running(tmp_path: Path) -> None:
    async with a_running_node(tmp_path) as node:
        await node.give(assigned(), is_full=True)
        status = await node.reach(S.RUNNING)
        assert status.is_accepting
        assert status.message == "started"
        assert status.container is not None
        assert status.container.container_id == node.engine.only().id
        assert status.container.pid == 4242
        moments = [status.timestamp for status in node.reports["t1"]]
        assert moments == sorted(moments)
        assert node.states() == [state for state in TO_RUNNING if state in node.states()]


async def test_name_labels_and_files_are_dockers(tmp_path: Path) -> None:
    async with a_running_node(tmp_path) as node:
        spec = a_container_spec(
            labels={"mine": "yes"},
            env=["SLOT={{.Task.Slot}}", "ON={{.Node.Hostname}}"],
            hosts=["192.0.2.9 db db.example"],
        )
        task = assigned(spec=spec, addresses={"net1": "10.0.1.5/24"})
        await node.give(the_cluster(), an_overlay(), task, is_full=True)
        await node.reach(S.RUNNING)
        container = node.engine.only()
        config = node.engine.configs[container.id]
        assert config.name == "web.1.t1"
        assert config.env == ["SLOT=1", "ON=alpha"]
        assert config.labels == {
            "mine": "yes",
            "com.docker.swarm.task": "",
            "com.docker.swarm.task.id": "t1",
            "com.docker.swarm.task.name": "web.1.t1",
            "com.docker.swarm.node.id": "node1",
            "com.docker.swarm.service.id": "s1",
            "com.docker.swarm.service.name": "web",
        }
        files = {mount.target: mount.source.read_text() for mount in config.files}
        assert f"10.0.1.5\t{container.id[:12]}\n" in files["/etc/hosts"]
        assert "192.0.2.9\tdb\tdb.example\n" in files["/etc/hosts"]
        assert files["/etc/hostname"] == f"{container.id[:12]}\n"
        assert files["/etc/resolv.conf"] == "nameserver 127.0.0.11\noptions ndots:0\n"


async def test_a_sandbox_follows_the_tasks_networks(tmp_path: Path) -> None:
    async with a_running_node(tmp_path) as node:
        task = assigned(addresses={"net1": "10.0.1.5/24", "ingress": "10.0.0.7/24"})
        await node.give(the_cluster(), an_overlay(internal=True), task, is_full=True)
        await node.reach(S.RUNNING)
        sandbox = node.plane.prepared["t1"]
        assert [(i.network_id, i.address) for i in sandbox.interfaces] == [("net1", "10.0.1.5/24")]
        assert sandbox.ingress_address == "10.0.0.7"
        assert not sandbox.gateway
        asker = node.names.askers["t1"]
        assert asker.networks == ("net1",)
        assert not asker.is_forwarding


async def test_desired_ready_holds_at_ready_until_raised(tmp_path: Path) -> None:
    async with a_running_node(tmp_path) as node:
        await node.give(assigned(desired=S.READY), is_full=True)
        await node.reach(S.READY)
        assert node.engine.only().state is ContainerState.CREATED
        assert node.engine.starts == []
        await node.give(assigned(desired=S.RUNNING))
        await node.reach(S.RUNNING)
        assert len(node.engine.starts) == 1


@pytest.mark.parametrize(
    ("exit_code", "state", "err"),
    [
        pytest.param(0, S.COMPLETE, "", id="ends well"),
        pytest.param(1, S.FAILED, "task: non-zero exit (1)", id="fails"),
        pytest.param(127, S.FAILED, "task: non-zero exit (127)", id="no such command"),
    ],
)
async def test_the_end_is_reported_with_its_exit_code(tmp_path: Path, exit_code: int, state: S, err: str) -> None:
    async with a_running_node(tmp_path) as node:
        await node.give(assigned(), is_full=True)
        await node.reach(S.RUNNING)
        node.engine.end(node.engine.only().id, exit_code)
        status = await node.reach(state)
        assert status.err == err
        assert not status.is_accepting
        assert status.container is not None
        assert status.container.exit_code == exit_code
        await until(lambda: "t1" not in node.plane.prepared)
        assert node.engine.containers, "the container is kept for its logs"


async def test_an_end_is_noticed_at_once(tmp_path: Path) -> None:
    async with a_running_node(tmp_path, speed=1) as node:
        await node.give(assigned(), is_full=True)
        await node.reach(S.RUNNING)
        node.engine.end(node.engine.only().id, 1)
        await until(lambda: S.FAILED in node.states(), limit_s=1)


async def test_a_start_whose_answer_was_lost_is_not_repeated(tmp_path: Path) -> None:
    async with a_running_node(tmp_path) as node:
        node.engine.loses_an_answer = True
        await node.give(assigned(), is_full=True)
        await node.reach(S.RUNNING)
        assert len(node.engine.starts) == 1


async def test_the_applied_version_is_told(tmp_path: Path) -> None:
    async with a_running_node(tmp_path) as node:
        waiting = asyncio.create_task(node.agent.wait_applied(0))
        await node.give(assigned(), is_full=True)
        assert await asyncio.wait_for(waiting, 5) == 1
        assert node.plane.programmed[-1].version == 1
        waiting = asyncio.create_task(node.agent.wait_applied(1))
        await node.give(remove=["task/t1"])
        assert await asyncio.wait_for(waiting, 5) == 2


async def test_an_oom_kill_says_so(tmp_path: Path) -> None:
    async with a_running_node(tmp_path) as node:
        await node.give(assigned(), is_full=True)
        await node.reach(S.RUNNING)
        node.engine.end(node.engine.only().id, 137, is_oom_killed=True)
        assert (await node.reach(S.FAILED)).err == "task: non-zero exit (137): out of memory"


@pytest.mark.parametrize(
    ("spec", "err"),
    [
        pytest.param(a_container_spec(image="nope"), "No such image: nope", id="image"),
        pytest.param(
            a_container_spec(mounts=[Mount(type="bind", source="/does/not/exist", target="/x")]),
            'invalid mount config for type "bind": bind source path does not exist: /does/not/exist',
            id="bind source",
        ),
        pytest.param(
            a_container_spec(mounts=[Mount(type="npipe", source="/a", target="/x")]),
            'invalid mount config for type "npipe": mount type unknown here: use one of bind, volume, tmpfs',
            id="mount type",
        ),
        pytest.param(
            a_container_spec(hostname="{{.Task.Nope}}"),
            'expanding hostname failed: template "{{.Task.Nope}}" names ".Task.Nope", which does not exist',
            id="template",
        ),
    ],
)
async def test_what_can_never_run_is_rejected_with_the_reason(tmp_path: Path, spec: object, err: str) -> None:
    async with a_running_node(tmp_path) as node:
        await node.give(assigned(spec=spec), is_full=True)  # type: ignore[arg-type]  # from the table
        status = await node.reach(S.REJECTED)
        assert status.err == err
        assert node.engine.containers == {}


async def test_a_command_that_cannot_be_started_fails_with_the_engines_words(tmp_path: Path) -> None:
    async with a_running_node(tmp_path) as node:
        node.engine.run_failure = ContainerRejected("starting container failed: exec: nope: not found")
        await node.give(assigned(), is_full=True)
        assert (await node.reach(S.FAILED)).err == "starting container failed: exec: nope: not found"


async def test_it_is_stopped_only_once_drained_then_cleaned_up(tmp_path: Path) -> None:
    async with a_running_node(tmp_path) as node:
        spec = a_container_spec(stop_grace_period=3_000_000_000)
        await node.give(assigned(spec=spec), is_full=True)
        await node.reach(S.RUNNING)
        await node.give(assigned(spec=spec, desired=S.SHUTDOWN))
        await node.give(assigned("t2"))
        await node.reach(S.RUNNING, "t2")
        assert node.engine.stops == [], "not drained yet"
        await node.give(assigned(spec=spec, desired=S.SHUTDOWN, drained=True))
        status = await node.reach(S.SHUTDOWN)
        assert status.err == ""
        assert status.container is not None
        assert status.container.exit_code == 143
        assert [grace for _, grace in node.engine.stops] == [3_000_000_000]
        await node.give(remove=["task/t1"])
        await until(lambda: len(node.engine.containers) == 1)
        await until(lambda: not (tmp_path / "tasks" / "t1").exists())
        assert list(node.plane.prepared) == ["t2"]
        assert list(node.names.askers) == ["t2"]


async def test_the_default_grace_is_ten_seconds(tmp_path: Path) -> None:
    async with a_running_node(tmp_path) as node:
        await node.give(assigned(), is_full=True)
        await node.reach(S.RUNNING)
        await node.give(assigned(desired=S.REMOVE, drained=True))
        await node.reach(S.SHUTDOWN)
        assert [grace for _, grace in node.engine.stops] == [10_000_000_000]


async def test_a_task_never_started_shuts_down_without_a_drain(tmp_path: Path) -> None:
    async with a_running_node(tmp_path) as node:
        await node.give(assigned(desired=S.READY), is_full=True)
        await node.reach(S.READY)
        await node.give(assigned(desired=S.SHUTDOWN))
        await node.reach(S.SHUTDOWN)
        assert node.engine.starts == []


async def test_published_tcp_ports_must_listen_before_traffic(tmp_path: Path) -> None:
    async with a_running_node(tmp_path) as node:
        ports = [PortConfig(target_port=9200, published_port=9200), PortConfig(target_port=53, protocol=Protocol.UDP)]
        await node.give(assigned(endpoint=Endpoint(ports=ports)), is_full=True)
        status = await node.reach(S.RUNNING)
        assert not status.is_accepting
        await until(lambda: "nothing listens on 9200/tcp" in node.last().message)
        node.ears.ports = frozenset({9200})
        await until(lambda: node.last().is_accepting)
        assert node.last().message == "started"


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"service_labels": {"skep.ready": "start"}}, id="label turns it off"),
        pytest.param(
            {"endpoint": Endpoint(ports=[PortConfig(target_port=53, protocol=Protocol.UDP)])}, id="udp is not awaited"
        ),
    ],
)
async def test_accepting_once_started(tmp_path: Path, fields: dict[str, object]) -> None:
    fields = {"endpoint": Endpoint(ports=[PortConfig(target_port=80, published_port=80)]), **fields}
    async with a_running_node(tmp_path) as node:
        await node.give(assigned(**fields), is_full=True)  # type: ignore[arg-type]  # from the table
        assert (await node.reach(S.RUNNING)).is_accepting


async def test_host_ports_are_reported(tmp_path: Path) -> None:
    async with a_running_node(tmp_path) as node:
        host = PortConfig(target_port=80, published_port=8080, publish_mode=PublishMode.HOST)
        await node.give(assigned(endpoint=Endpoint(ports=[host, PortConfig(target_port=80)])), is_full=True)
        assert (await node.reach(S.RUNNING)).ports == [host]


async def test_a_host_port_that_a_program_of_the_node_listens_on_is_refused(tmp_path: Path) -> None:
    async with a_running_node(tmp_path) as node:
        node.ears.of_node = frozenset({8080})
        port = PortConfig(target_port=80, published_port=8080, publish_mode=PublishMode.HOST)
        await node.give(assigned(endpoint=Endpoint(ports=[port])), is_full=True)
        status = await node.reach(S.REJECTED)
        assert "failed to bind host port for 0.0.0.0:8080:80/tcp: address already in use" in status.err
        assert not node.engine.containers


CHECK = Healthcheck(test=["CMD", "true"], interval=1_000_000_000, retries=2)


async def test_a_health_check_holds_the_task_at_starting(tmp_path: Path) -> None:
    async with a_running_node(tmp_path) as node:
        node.engine.probe_exit_code = 1
        check = Healthcheck(test=["CMD", "true"], interval=1_000_000_000, retries=1000)
        await node.give(assigned(spec=a_container_spec(healthcheck=check)), is_full=True)
        await node.reach(S.STARTING)
        await until(lambda: node.engine.only().state is ContainerState.RUNNING)
        assert S.RUNNING not in node.states()
        node.engine.probe_exit_code = 0
        assert (await node.reach(S.RUNNING)).is_accepting


async def test_unhealthy_at_start_fails_the_task(tmp_path: Path) -> None:
    async with a_running_node(tmp_path) as node:
        node.engine.probe_exit_code = 1
        await node.give(assigned(spec=a_container_spec(healthcheck=CHECK)), is_full=True)
        assert (await node.reach(S.FAILED)).err == "task: unhealthy container"
        assert S.RUNNING not in node.states()
        assert len(node.engine.stops) == 1


async def test_unhealthy_later_fails_the_task(tmp_path: Path) -> None:
    async with a_running_node(tmp_path) as node:
        await node.give(assigned(spec=a_container_spec(healthcheck=CHECK)), is_full=True)
        await node.reach(S.RUNNING)
        node.engine.probe_exit_code = 1
        assert (await node.reach(S.FAILED)).err == "task: unhealthy container"


async def test_an_engine_that_is_away_fails_nothing(tmp_path: Path) -> None:
    async with a_running_node(tmp_path) as node:
        await node.give(assigned(), is_full=True)
        await node.reach(S.RUNNING)
        node.engine.down = True
        await node.give(assigned("t2"))
        await until(lambda: "waiting for the container engine" in node.last("t2").message)
        assert node.last("t1").state is S.RUNNING
        assert "engine" not in (await node.agent.hello()).capabilities
        node.engine.down = False
        await node.reach(S.RUNNING, "t2")
        assert node.last("t1").state is S.RUNNING
        assert "engine" in (await node.agent.hello()).capabilities


async def test_a_kernel_that_refuses_is_retried_then_the_task_is_rejected(tmp_path: Path) -> None:
    async with a_running_node(tmp_path) as node:
        node.plane.failure = DataPlaneFailure("the kernel has no VXLAN: load the module vxlan")
        await node.give(assigned(), is_full=True)
        assert (await node.reach(S.REJECTED)).err == "the kernel has no VXLAN: load the module vxlan"
        node.plane.failure = None
        await node.give(assigned("t2"))
        await node.reach(S.RUNNING, "t2")


async def test_a_container_removed_by_hand_fails_its_task(tmp_path: Path) -> None:
    async with a_running_node(tmp_path) as node:
        await node.give(assigned(), is_full=True)
        await node.reach(S.RUNNING)
        node.engine.containers.clear()
        assert "the task's container is gone" in (await node.reach(S.FAILED)).err


async def test_a_task_that_may_run_only_once_is_stopped_when_no_manager_comes(tmp_path: Path) -> None:
    async with a_running_node(tmp_path) as node:
        node.agent.connected()
        guarded = assigned()
        labelled = msgspec.structs.replace(guarded.task, service_labels={"skep.partition": "at-most-one"})
        await node.give(msgspec.structs.replace(guarded, task=labelled), assigned("t2"), is_full=True)
        await node.reach(S.RUNNING)
        await node.reach(S.RUNNING, "t2")
        node.agent.disconnected()
        status = await node.reach(S.FAILED)
        assert status.err.startswith("the node reached no manager for the length of its lease")
        assert len(node.engine.stops) == 1
        assert node.last("t2").state is S.RUNNING
