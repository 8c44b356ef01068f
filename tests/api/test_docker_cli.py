"""The unmodified docker CLI against the server, over a real swarm whose machines are made up."""

import asyncio
import json
import os
import re
import shutil
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.fakes.live import LiveNode
from tests.fakes.swarm import NO_SWARM, WORKER

from skep.api.server import ApiServer
from skep.model.errors import NotFound

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(shutil.which("docker") is None, reason="the docker CLI is not installed"),
]
LIMIT_S = 30
NO_NETWORK = re.compile(r"network \w+ not found|No such network: \w+")
"""Newer clients pass the daemon's sentence on, older ones say it in their own words."""
NOT_PINNED = re.compile(r"image .* could not be accessed on a registry.*?versions of the image\.\n\n?", re.DOTALL)


@dataclass
class Result:
    status: int
    out: str
    err: str


@dataclass
class Cli:
    """Types docker commands."""

    socket: Path
    node: LiveNode

    async def run(self, *words: str) -> Result:
        env = {"PATH": os.environ["PATH"], "HOME": str(self.socket.parent), "DOCKER_HOST": f"unix://{self.socket}"}
        process = await asyncio.create_subprocess_exec(
            "docker", *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=env
        )
        try:
            async with asyncio.timeout(LIMIT_S):
                out, err = await process.communicate()
        except BaseException:
            process.kill()
            await process.wait()
            raise
        assert process.returncode is not None
        return Result(process.returncode, out.decode(), NOT_PINNED.sub("", err.decode()))

    async def do(self, *words: str) -> str:
        """Type a command that must succeed and say nothing on stderr; its output without trailing spaces."""
        result = await self.run(*words)
        assert (result.status, result.err) == (0, ""), f"docker {' '.join(words)}: {result}"
        return "\n".join(line.rstrip() for line in result.out.splitlines())

    async def refused(self, *words: str) -> str:
        result = await self.run(*words)
        assert result.status != 0, f"docker {' '.join(words)}: {result}"
        return result.err.strip()

    async def until(self, expected: str, *words: str) -> None:
        """Type a command until its output is as expected."""
        deadline = time.monotonic() + LIMIT_S
        while (seen := await self.do(*words)) != expected:
            assert time.monotonic() < deadline, f"{seen!r} is not {expected!r}"


@pytest.fixture
async def docker(anyio_backend: str, tmp_path: Path) -> AsyncIterator[Cli]:
    node = LiveNode(tmp_path)
    server = ApiServer(node, node.clock)
    await server.start_unix(tmp_path / "docker.sock")
    try:
        yield Cli(tmp_path / "docker.sock", node)
    finally:
        await server.close()
        if node.swarm is not None:
            await node.swarm.close()


# --- the node and the swarm ------------------------------------------------------------


async def test_version_and_info(docker: Cli) -> None:
    version = await docker.do("version")
    assert "API version:      1.51 (minimum version 1.24)" in version
    assert "Server: Skep" in version
    assert "Swarm: inactive" in await docker.do("info")
    await docker.do("swarm", "init")
    text = await docker.do("info")
    for line in (
        "Swarm: active",
        "Is Manager: true",
        "Managers: 1",
        "Nodes: 1",
        "Default Address Pool: 10.0.0.0/8",
        "Task History Retention Limit: 5",
        "Expiry Duration: 3 months",
        "Manager Addresses:",
        "192.0.2.1:2377",
    ):
        assert line in text


async def test_the_life_of_a_swarm(docker: Cli) -> None:
    made = await docker.do("swarm", "init", "--advertise-addr", "192.0.2.1")
    token = re.search(r"docker swarm join --token (SWMTKN-1-[0-9a-z]{50}-[0-9a-z]{25}) 192\.0\.2\.1:2377", made)
    assert token is not None
    assert await docker.do("swarm", "join-token", "-q", "worker") == token[1]
    rotated = await docker.do("swarm", "join-token", "--rotate", "-q", "worker")
    assert rotated != token[1]
    assert await docker.do("swarm", "join-token", "-q", "worker") == rotated
    assert rotated in await docker.do("swarm", "join-token", "worker")
    assert await docker.do("swarm", "update", "--task-history-limit", "3") == "Swarm updated."
    assert "Task History Retention Limit: 3" in await docker.do("info")
    assert "already part of a swarm" in await docker.refused("swarm", "init")
    assert "no unlock key is set" in await docker.refused("swarm", "unlock-key")
    assert "swarm is not locked" in await docker.refused("swarm", "unlock")
    assert "Node left the swarm." in await docker.do("swarm", "leave", "--force")
    assert NO_SWARM in await docker.refused("node", "ls")


async def test_a_worker_answers_with_dockers_sentence(docker: Cli) -> None:
    assert "joined a swarm as a worker" in await docker.do("swarm", "join", "--token", "SWMTKN-1-x", "192.0.2.9:2377")
    for words in (
        ("node", "ls"),
        ("service", "ls"),
        ("service", "create", "nginx"),
        ("service", "ps", "web"),
        ("network", "create", "--driver", "overlay", "back"),
        ("node", "update", "--availability", "drain", "alpha"),
        ("swarm", "join-token", "worker"),
    ):
        assert WORKER in await docker.refused(*words)
    assert "Is Manager: false" in await docker.do("info")


async def test_nodes(docker: Cli) -> None:
    await docker.do("swarm", "init")
    assert docker.node.swarm is not None
    await docker.node.swarm.add_worker("beta")
    columns = "{{.Hostname}} {{.Self}} {{.Status}} {{.Availability}} {{.ManagerStatus}} {{.TLSStatus}}"
    listed = await docker.do("node", "ls", "--format", columns)
    assert listed == "alpha true Ready Active Leader Ready\nbeta false Ready Active  Ready"
    pretty = await docker.do("node", "inspect", "--pretty", "self")
    for line in (
        "Hostname:              	alpha",
        " Availability:         	Active",
        " CPUs:                 	4",
        "Leader:",
    ):
        assert line.strip().split(":")[0] in pretty
    assert "TLS Info:" in pretty
    words = ("node", "update", "--availability", "drain", "--label-add", "zone=a", "beta")
    assert await docker.do(*words) == "beta"
    inspected = json.loads(await docker.do("node", "inspect", "beta"))[0]
    assert (inspected["Spec"]["Availability"], inspected["Spec"]["Labels"]) == ("drain", {"zone": "a"})
    assert await docker.do("node", "ls", "-q", "--filter", "node.label=zone=a") == inspected["ID"]
    assert "is not down" in await docker.refused("node", "rm", "beta")
    assert await docker.do("node", "rm", "--force", "beta") == "beta"
    assert "last manager" in await docker.refused("node", "demote", "alpha")


# --- services ---------------------------------------------------------------------------


async def test_a_service_from_creation_to_removal(docker: Cli) -> None:
    await docker.do("swarm", "init")
    await docker.do("network", "create", "--driver", "overlay", "back")
    created = await docker.do(
        *("service", "create", "--name", "web", "--replicas", "3", "--update-monitor", "300ms"),
        *("--network", "back", "--publish", "8080:80", "--env", "A=1", "--label", "tier=front"),
        *("--mount", "type=volume,source=data,target=/data", "--constraint", "node.role==manager"),
        *("--limit-memory", "64M", "--hostname", "{{.Task.Name}}", "nginx:1", "nginx", "-g", "daemon off;"),
    )
    assert "overall progress: 3 out of 3 tasks" in created
    assert re.search(r"verify: Service (\w+ )?converged", created)
    columns = "{{.Name}} {{.Mode}} {{.Replicas}} {{.Image}} {{.Ports}}"
    assert await docker.do("service", "ls", "--format", columns) == "web replicated 3/3 nginx:1 *:8080->80/tcp"
    tasks = await docker.do("service", "ps", "web", "--format", "{{.Name}} {{.Node}} {{.DesiredState}} {{.Error}}")
    assert sorted(tasks.splitlines()) == [f"web.{slot} alpha Running" for slot in (1, 2, 3)]
    assert len((await docker.do("node", "ps", "self", "-q")).splitlines()) == 3
    pretty = await docker.do("service", "inspect", "--pretty", "web")
    for text in (
        "Name:		web",
        "Replicas:	3",
        "Image:		nginx:1",
        "Args:		nginx -g daemon off;",
        "Env:		A=1",
        " Target:	/data",
        "Memory:	64MiB",
        "Constraints:	[node.role==manager]",
        "PublishedPort = 8080",
        "Networks: back",
        "Endpoint Mode:	vip",
        "Monitoring Period: 300ms",
    ):
        assert text in pretty
    assert "is in use by service" in await docker.refused("network", "rm", "back")
    assert "hello from slot 2\n" in (await docker.run("service", "logs", "--raw", "web")).out
    assert "web already exists" in await docker.refused("service", "create", "--name", "web", "nginx")
    assert await docker.do("service", "rm", "web") == "web"
    await docker.until("", "service", "ls", "-q")
    assert "no such service: web" in await docker.refused("service", "ps", "web")


async def test_logs_name_the_task(docker: Cli) -> None:
    await docker.do("swarm", "init")
    await docker.do("service", "create", "-d", "--name", "web", "nginx")
    await docker.until("web 1/1", "service", "ls", "--format", "{{.Name}} {{.Replicas}}")
    result = await docker.run("service", "logs", "web")
    assert re.fullmatch(r"web\.1\.\w+@alpha\s+\| hello from slot 1\n", result.out)
    assert re.fullmatch(r"web\.1\.\w+@alpha\s+\| complaint\n", result.err)


async def test_scaling_updating_and_rolling_back(docker: Cli) -> None:
    await docker.do("swarm", "init")
    quick = ("--update-monitor", "1s", "--rollback-monitor", "1s")  # The CLI has to look in between.
    await docker.do("service", "create", "-d", "--name", "web", *quick, "nginx:1")
    scaled = await docker.do("service", "scale", "web=4")
    assert "converged" in scaled
    shown = ("service", "ls", "--format", "{{.Name}} {{.Replicas}} {{.Image}}")
    assert await docker.do(*shown) == "web 4/4 nginx:1"
    updated = await docker.do(
        *(
            "service",
            "update",
            "--image",
            "nginx:2",
            "--update-parallelism",
            "0",
            "--update-order",
            "start-first",
            "web",
        )
    )
    assert "converged" in updated
    await docker.until("web 4/4 nginx:2", *shown)
    words = ("service", "inspect", "web", "--format", "{{.UpdateStatus.State}}")
    await docker.until("completed", *words)
    assert await docker.do("service", "rollback", "-d", "web") == "web"
    await docker.until("web 4/4 nginx:1", *shown)
    await docker.until("rollback_completed", *words)


async def test_global_services_and_draining(docker: Cli) -> None:
    await docker.do("swarm", "init")
    assert docker.node.swarm is not None
    await docker.node.swarm.add_worker("beta")
    await docker.do("service", "create", "--mode", "global", "--update-monitor", "200ms", "--name", "agent", "busybox")
    shown = ("service", "ls", "--format", "{{.Name}} {{.Mode}} {{.Replicas}}")
    assert await docker.do(*shown) == "agent global 2/2"
    await docker.do("node", "update", "--availability", "drain", "beta")
    await docker.until("agent global 1/1", *shown)


async def test_refusals_of_services(docker: Cli) -> None:
    await docker.do("swarm", "init")
    assert "no such service: nobody" in await docker.refused("service", "inspect", "nobody")
    assert NO_NETWORK.search(await docker.refused("service", "create", "--network", "nowhere", "nginx"))
    await docker.do("service", "create", "-d", "--name", "a", "-p", "8080:80", "nginx")
    assert "8080" in await docker.refused("service", "create", "--name", "b", "-p", "8080:80", "nginx")
    assert "constraint 'nonsense'" in await docker.refused(
        "service", "create", "--name", "c", "--constraint", "nonsense", "nginx"
    )
    assert "invalid filter 'colour'" in await docker.refused("service", "ls", "--filter", "colour=red")
    assert await docker.do("service", "ls", "-q", "--filter", "name=b") == ""


# --- networks and events ------------------------------------------------------------------


async def test_networks(docker: Cli) -> None:
    await docker.do("swarm", "init")
    words = ("--subnet", "10.7.0.0/24", "--label", "a=b", "--opt", "x=y", "--attachable")
    await docker.do("network", "create", "--driver", "overlay", *words, "back")
    listed = await docker.do("network", "ls", "--format", "{{.Name}} {{.Driver}} {{.Scope}}")
    assert set(listed.splitlines()) >= {"ingress overlay swarm", "back overlay swarm", "bridge bridge local"}
    back = json.loads(await docker.do("network", "inspect", "back"))[0]
    assert back["IPAM"]["Config"][0]["Subnet"] == "10.7.0.0/24"
    assert (back["Scope"], back["Attachable"], back["Labels"]) == ("swarm", True, {"a": "b"})
    assert await docker.do("network", "ls", "-q", "--filter", "label=a=b") == back["Id"][:12]
    assert "already exists" in await docker.refused("network", "create", "--driver", "overlay", "back")
    invalid = await docker.refused("network", "create", "--driver", "overlay", "--subnet", "10.7.0.0/99", "bad")
    assert "10.7.0.0/99" in invalid
    overlap = await docker.refused("network", "create", "--driver", "overlay", "--subnet", "10.7.0.0/16", "bad")
    assert "overlap" in overlap
    assert await docker.do("network", "rm", "back") == "back"
    assert NO_NETWORK.search(await docker.refused("network", "inspect", "back"))
    assert "pre-defined" in await docker.refused("network", "rm", "bridge")


async def test_events(docker: Cli) -> None:
    await docker.do("swarm", "init")
    now = docker.node.clock.now() // 10**9
    words = ("--since", str(now), "--until", str(now + 3), "--filter", "type=service")
    listen = asyncio.create_task(docker.run("events", *words))
    await docker.do("service", "create", "-d", "--name", "web", "nginx")
    await docker.do("service", "rm", "web")
    result = await listen
    assert re.search(r"service create \w+ \(name=web\)", result.out)
    assert re.search(r"service remove \w+ \(name=web\)", result.out)


async def test_nothing_is_left_of_a_refused_service(docker: Cli) -> None:
    await docker.do("swarm", "init")
    await docker.refused("service", "create", "--name", "web", "--network", "nowhere", "nginx")
    with pytest.raises(NotFound):
        docker.node.control().find_service("web")
