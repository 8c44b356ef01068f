"""Containers of tasks on other nodes, through a manager: found by any name, carried to their node's engine."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from tests.api.conftest import Api
from tests.fakes.swarm import FakeControl, FakeNode

from skep.api.server import ApiServer
from skep.edge.unix_stream import SocketStream, connect_unix
from skep.model.errors import Unavailable, Unsupported
from skep.model.node import NodeState
from skep.model.task import ContainerStatus, Task
from skep.ports.bytestream import ByteStream
from skep.store.changes import Put

pytestmark = pytest.mark.anyio
BIG = b"0123456789abcdef" * 200_000  # 3.2 MB
EXEC_ID = "e" * 64


@dataclass
class Engine:
    """An engine that knows some containers and keeps what it was asked."""

    path: Path
    name: str
    containers: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._answer(request)
        except asyncio.CancelledError:
            self.left.set()
            raise

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/version":
            return web.json_response({"ApiVersion": "1.41"})
        self.asked.append(f"{request.method} {request.path_qs}")
        parts = request.path.split("/")[2:]
        match parts:
            case ["containers", "json"]:
                return web.json_response(list(self.containers.values()))
            case ["containers", "prune" | "create"]:
                return web.json_response({"At": self.name})
            case ["exec", _, *_]:
                return web.json_response({"At": self.name})
            case ["containers", reference, *rest]:
                if reference not in self.containers:
                    return web.json_response({"message": f"no container {reference}"}, status=404)
                return await self._of_container(request, rest)
        return web.json_response({"message": "what?"}, status=404)

    async def _of_container(self, request: web.BaseRequest, rest: list[str]) -> web.StreamResponse:
        match rest:
            case ["exec"]:
                assert await request.json() == {"Cmd": ["ls"]}
                return web.json_response({"Id": EXEC_ID}, status=201)
            case ["archive"] if request.method == "PUT":
                return web.Response(body=await request.content.read())
            case ["logs"]:
                response = web.StreamResponse()
                await response.prepare(request)
                await response.write(b"line\n")
                await asyncio.Event().wait()
        return web.json_response({"At": self.name}, headers={"X-Docker-Container-Path-Stat": "e30="})


@dataclass
class View:
    """A manager with an engine of its own, and a worker with another."""

    api: Api
    here: Engine
    there: Engine
    reached: dict[str, Any]
    tasks: list[Task] = field(default_factory=list)
    streams: list[ByteStream] = field(default_factory=list)

    def task_on(self, node_id: str) -> Task:
        return next(task for task in self.tasks if task.node_id == node_id)

    @property
    def away(self) -> Task:
        """A task on the worker."""
        return self.task_on(self.worker_id)

    @property
    def worker_id(self) -> str:
        return next(node.id for node in self.api.swarm.state.nodes.values() if node.description.hostname == "beta")


def container_of(task: Task) -> str:
    assert task.status.container is not None
    return task.status.container.container_id


class Pending(SocketStream):
    """A connection that is made when it is first used, as one over a session is."""

    def __init__(self, path: Path | Exception) -> None:
        self._path = path
        self._made: asyncio.Future[SocketStream] | None = None

    async def _connected(self) -> SocketStream:
        if isinstance(self._path, Exception):
            raise self._path
        if self._made is None:
            self._made = asyncio.ensure_future(connect_unix(self._path))
        return await self._made

    async def send(self, data: bytes, /) -> None:
        if not isinstance(self._path, Exception):
            await (await self._connected()).send(data)

    async def send_end(self) -> None:
        await (await self._connected()).send_end()

    async def receive(self) -> bytes:
        return await (await self._connected()).receive()

    async def close(self) -> None:
        if self._made is not None:
            await (await self._made).close()


@pytest.fixture
async def view(anyio_backend: str, tmp_path: Path) -> AsyncIterator[View]:
    engines = [Engine(tmp_path / f"{name}.sock", name) for name in ("here", "there")]
    listeners = [
        await asyncio.get_running_loop().create_unix_server(
            web.Server(engine.handle, handler_cancellation=True), str(engine.path)
        )
        for engine in engines
    ]
    here, there = engines
    node = FakeNode(tmp_path, here.path)
    server = ApiServer(node, node.clock)
    path = tmp_path / "docker.sock"
    await server.start_unix(path)
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:
        api = Api(node, path, session)
        await api.init()
        worker = api.swarm.add_node("beta")
        made = View(api, here, there, {worker.id: there.path})

        def open_engine(control: FakeControl, node_id: str) -> ByteStream:
            if node_id not in made.reached:
                raise Unavailable(f"node {node_id} is not available")
            return Pending(made.reached[node_id])

        FakeControl.open_engine = open_engine  # type: ignore[attr-defined]
        await api.create("web", Mode={"Replicated": {"Replicas": 2}})
        for number, task in enumerate(api.swarm.state.tasks.values()):
            container = ContainerStatus(container_id=f"abc{number}".ljust(64, "d"), pid=4711)
            status = msgspec.structs.replace(task.status, container=container)
            made.tasks.append(msgspec.structs.replace(task, status=status))
        api.swarm.commit(*map(Put, made.tasks))
        made.tasks = list(api.swarm.state.tasks.values())
        for task in made.tasks:
            engine = there if task.node_id == worker.id else here
            entry = {"Id": container_of(task), "Created": task.slot, "Names": [f"/{task.name}"]}
            engine.containers[container_of(task)] = entry
        yield made
    del FakeControl.open_engine  # type: ignore[attr-defined]
    await server.close()
    for listener in listeners:
        listener.close()


REFERENCES = {
    "container id": container_of,
    "short container id": lambda task: container_of(task)[:12],
    "task id": lambda task: task.id,
    "place": lambda task: f"web.{task.slot}",
    "name": lambda task: task.name,
}


@pytest.mark.parametrize("name", REFERENCES.values(), ids=REFERENCES)
async def test_a_task_elsewhere_is_found_by_any_of_its_names(view: View, name: Any) -> None:
    answer = await view.api.ask("GET", f"/v1.50/containers/{name(view.away)}/json")
    assert (answer.status, answer.json) == (200, {"At": "there"})
    assert view.there.asked[-1] == f"GET /v1.41/containers/{container_of(view.away)}/json"
    assert answer.headers["Server"].startswith("Docker/")


async def test_a_task_here_is_found_by_its_place_too(view: View) -> None:
    task = next(task for task in view.tasks if task.node_id != view.worker_id)
    answer = await view.api.ask("GET", f"/containers/web.{task.slot}/json")
    assert answer.json == {"At": "here"}


async def test_a_plain_container_here_keeps_its_name(view: View) -> None:
    view.here.containers[f"web.{view.away.slot}"] = {"Id": "p"}
    assert (await view.api.ask("GET", f"/containers/web.{view.away.slot}/json")).json == {"At": "here"}


async def test_what_nobody_knows_is_refused_in_the_engines_words(view: View) -> None:
    answer = await view.api.ask("GET", "/containers/nobody/json")
    assert (answer.status, answer.message) == (404, "no container nobody")


async def test_a_beginning_that_several_share_is_refused(view: View) -> None:
    common = container_of(view.tasks[0])[:3]
    answer = await view.api.ask("GET", f"/containers/{common}/json")
    assert (answer.status, answer.message) == (400, f"multiple IDs found with provided prefix: {common}")


async def test_a_task_without_a_container_says_why(view: View) -> None:
    status = msgspec.structs.replace(view.away.status, container=None, err="no suitable node")
    view.api.swarm.commit(Put(msgspec.structs.replace(view.away, status=status)))
    answer = await view.api.ask("GET", f"/containers/{view.away.id}/json")
    assert answer.status == 409
    assert "has no container: no suitable node" in answer.message


async def test_a_worker_sees_its_own_only(view: View) -> None:
    away = container_of(view.away)
    view.api.node.swarm = None
    answer = await view.api.ask("GET", f"/containers/{away}/json")
    assert answer.status == 404
    assert [entry["Id"] for entry in await view.api.get("/containers/json")] == list(view.here.containers)


async def test_an_exec_elsewhere_carries_its_node_in_its_id(view: View) -> None:
    created = await view.api.ask("POST", f"/containers/{container_of(view.away)}/exec", {"Cmd": ["ls"]})
    assert created.status == 201
    exec_id = created.json["Id"]
    assert exec_id == f"{EXEC_ID}.{view.worker_id}"
    assert (await view.api.ask("GET", f"/exec/{exec_id}/json")).json == {"At": "there"}
    await view.api.ask("POST", f"/exec/{exec_id}/resize?h=40&w=100")
    assert view.there.asked[-1] == f"POST /v1.41/exec/{EXEC_ID}/resize?h=40&w=100"
    assert (await view.api.ask("GET", f"/exec/{EXEC_ID}/json")).json == {"At": "here"}
    assert (await view.api.ask("GET", f"/exec/{EXEC_ID}.{'x' * 25}/json")).status == 404


async def test_bodies_stream_to_the_other_node_and_back(view: View) -> None:
    answer = await view.api.ask("PUT", f"/containers/{view.away.id}/archive?path=/", BIG)
    assert (answer.status, answer.raw) == (200, BIG)
    head = await view.api.ask("HEAD", f"/containers/{view.away.id}/archive?path=/etc")
    assert head.headers["X-Docker-Container-Path-Stat"] == "e30="


async def test_the_other_engine_is_let_go_when_the_client_leaves(view: View) -> None:
    async with asyncio.timeout(5):
        response = await view.api.session.get(f"http://node/containers/{view.away.id}/logs?follow=1")
        assert await response.content.readline() == b"line\n"
        response.close()
        await view.there.left.wait()


async def test_a_list_has_the_tasks_of_other_nodes_and_none_of_their_plain_containers(view: View) -> None:
    view.there.containers["plain"] = {"Id": "plain", "Created": 9}
    view.here.containers["mine"] = {"Id": "mine", "Created": 7}
    listed = [entry["Id"] for entry in await view.api.get("/containers/json", all="1")]
    assert listed[0] == "mine"
    assert sorted(listed[1:]) == sorted(container_of(task) for task in view.tasks)
    assert [entry["Id"] for entry in await view.api.get("/containers/json", limit="1")] == ["mine"]
    asked = len(view.there.asked)
    await view.api.get("/containers/json", filters={"before": ["mine"]})
    assert len(view.there.asked) == asked


async def test_a_list_goes_without_a_node_that_is_silent(view: View) -> None:
    view.reached.clear()
    local = [container_of(task) for task in view.tasks if task is not view.away]
    assert [entry["Id"] for entry in await view.api.get("/containers/json")] == local
    node = view.api.swarm.find_node("beta")
    view.api.swarm.commit(
        Put(msgspec.structs.replace(node, status=msgspec.structs.replace(node.status, state=NodeState.DOWN)))
    )
    assert [entry["Id"] for entry in await view.api.get("/containers/json")] == local


@pytest.mark.parametrize(
    ("reached", "status"),
    [
        pytest.param(Unsupported("the engine of node beta runs tasks only"), 501, id="no engine of that kind"),
        pytest.param(Unavailable("the session of node beta ended"), 503, id="the session broke"),
        pytest.param(None, 503, id="no session"),
    ],
)
@pytest.mark.parametrize("path", ["json", "attach"])
async def test_a_node_that_cannot_serve_says_why(view: View, reached: Any, status: int, path: str) -> None:
    if reached is None:
        view.reached.clear()
    else:
        view.reached[view.worker_id] = reached
    method = "GET" if path == "json" else "POST"
    answer = await view.api.ask(method, f"/containers/{view.away.id}/{path}")
    assert answer.status == status
    assert "node" in answer.message


async def test_the_engine_here_being_away_hides_no_other_node(view: View) -> None:
    view.here.path.unlink()
    assert (await view.api.ask("GET", f"/containers/web.{view.away.slot}/json")).json == {"At": "there"}


async def test_words_that_are_no_container_stay_here(view: View) -> None:
    for path in ("create", "prune"):
        assert (await view.api.ask("POST", f"/containers/{path}", {})).json == {"At": "here"}
