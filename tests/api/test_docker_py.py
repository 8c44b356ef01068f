"""docker-py against the server, over a real swarm whose machines are made up."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import docker
import pytest
from docker.errors import APIError
from docker.types import EndpointSpec, IPAMConfig, IPAMPool, Resources, RestartPolicy, ServiceMode, UpdateConfig
from tests.fakes.live import LiveNode

from skep.api.server import ApiServer

pytestmark = pytest.mark.anyio
T = TypeVar("T")


@pytest.fixture
async def client(anyio_backend: str, tmp_path: Path) -> AsyncIterator[docker.DockerClient]:
    node = LiveNode(tmp_path)
    server = ApiServer(node, node.clock)
    await server.start_unix(tmp_path / "docker.sock")
    url = f"unix://{tmp_path / 'docker.sock'}"
    client = await asyncio.to_thread(docker.DockerClient, base_url=url, timeout=20)
    try:
        yield client
    finally:
        client.close()
        await server.close()
        if node.swarm is not None:
            await node.swarm.close()


async def off(work: Callable[[], T]) -> T:
    """Run blocking calls beside the server, which shares this loop."""
    return await asyncio.to_thread(work)


def until(look: Callable[[], T], is_so: Callable[[T], bool]) -> T:
    """Look until it is so."""
    deadline = time.monotonic() + 10
    while not is_so(seen := look()):
        assert time.monotonic() < deadline, seen
        time.sleep(0.02)
    return seen


async def test_negotiates(client: docker.DockerClient) -> None:
    assert client.api.api_version == "1.51"
    assert await off(client.ping) is True
    assert (await off(client.version))["MinAPIVersion"] == "1.24"


async def test_refusals_have_the_status_docker_py_looks_for(client: docker.DockerClient) -> None:
    def work() -> tuple[APIError, APIError]:
        with pytest.raises(APIError) as outside:
            client.nodes.list()
        client.swarm.init()
        with pytest.raises(APIError) as twice:
            client.swarm.init()
        return outside.value, twice.value

    outside, twice = await off(work)
    assert outside.status_code == 503
    assert twice.status_code == 503
    assert "This node is already part of a swarm." in str(twice)


async def test_the_swarms_life(client: docker.DockerClient) -> None:
    def work() -> dict[str, Any]:
        client.swarm.init(
            advertise_addr="192.0.2.1", default_addr_pool=["10.30.0.0/16"], subnet_size=25, snapshot_interval=5000
        )
        client.swarm.reload()
        attributes: dict[str, Any] = client.swarm.attrs
        assert client.swarm.version
        client.swarm.update(rotate_worker_token=True, dispatcher_heartbeat_period=2_000_000_000)
        client.swarm.reload()
        assert client.swarm.attrs["JoinTokens"]["Worker"] != attributes["JoinTokens"]["Worker"]
        assert client.swarm.attrs["Spec"]["Dispatcher"]["HeartbeatPeriod"] == 2_000_000_000
        assert client.swarm.get_unlock_key() == {"UnlockKey": ""}
        assert client.swarm.leave(force=True)
        return attributes

    attributes = await off(work)
    assert (attributes["DefaultAddrPool"], attributes["SubnetSize"]) == (["10.30.0.0/16"], 25)
    assert attributes["Spec"]["Raft"]["SnapshotInterval"] == 5000


async def test_services_tasks_and_nodes(client: docker.DockerClient) -> None:
    def work() -> list[dict[str, Any]]:
        client.swarm.init()
        network = client.networks.create(
            "back", driver="overlay", ipam=IPAMConfig(pool_configs=[IPAMPool(subnet="10.8.0.0/24")]), labels={"a": "b"}
        )
        assert [each.name for each in client.networks.list(names=["back"])] == ["back"]
        service = client.services.create(
            "nginx",
            command=["nginx"],
            name="web",
            env=["A=1"],
            mode=ServiceMode("replicated", replicas=2),
            networks=[network.id],
            endpoint_spec=EndpointSpec(ports={8080: (80, "tcp", "ingress")}),
            resources=Resources(mem_limit=64 << 20),
            restart_policy=RestartPolicy(condition="on-failure", max_attempts=3),
            update_config=UpdateConfig(parallelism=2, monitor=200_000_000),
            constraints=["node.role==manager"],
            container_labels={"x": "y"},
            stop_grace_period=5_000_000_000,
        )
        assert client.services.list(filters={"name": "web"})[0].id == service.id
        assert service.scale(3)
        service.reload()
        assert service.attrs["Spec"]["Mode"]["Replicated"]["Replicas"] == 3
        assert service.update(image="nginx:2", fetch_current_spec=True)
        service.reload()
        template = service.attrs["Spec"]["TaskTemplate"]
        assert template["ContainerSpec"]["Image"] == "nginx:2"
        assert template["ContainerSpec"]["Env"] == ["A=1"]
        assert template["RestartPolicy"]["MaxAttempts"] == 3
        (node,) = client.nodes.list(filters={"role": "manager"})
        assert node.update({**node.attrs["Spec"], "Labels": {"zone": "a"}})
        node.reload()
        assert node.attrs["Spec"]["Labels"] == {"zone": "a"}
        tasks: list[dict[str, Any]] = until(
            lambda: service.tasks({"desired-state": "running"}), lambda found: len(found) == 3
        )
        assert service.remove()
        with pytest.raises(docker.errors.NotFound):
            client.services.get("web")
        with pytest.raises(docker.errors.NotFound):
            client.nodes.get("nobody")
        return tasks

    tasks = await off(work)
    assert {task["Slot"] for task in tasks} == {1, 2, 3}


async def test_events_and_logs(client: docker.DockerClient) -> None:
    def work() -> tuple[list[Any], bytes]:
        client.swarm.init()
        stream = client.events(decode=True, filters={"type": "service"})
        service = client.services.create("nginx", name="web")
        first = next(stream)
        stream.close()
        until(service.tasks, lambda tasks: any(task["Status"]["State"] == "running" for task in tasks))
        return [first], b"".join(service.logs(stdout=True))

    (first,), said = await off(work)
    assert (first["Type"], first["Action"], first["Actor"]["Attributes"]["name"]) == ("service", "create", "web")
    assert b"hello from slot 1\n" in said
