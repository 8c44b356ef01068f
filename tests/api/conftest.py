"""A server on a unix socket over a swarm in memory."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from tests.fakes.swarm import FakeControl, FakeNode

from skep.api.server import ApiServer


@dataclass
class Answer:
    status: int
    headers: Any
    raw: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.raw)

    @property
    def message(self) -> str:
        return str(self.json["message"])


@dataclass
class Api:
    """A client of the server under test, and the fakes behind it."""

    node: FakeNode
    socket: Path
    session: aiohttp.ClientSession

    @property
    def swarm(self) -> FakeControl:
        return self.node.control()

    async def ask(self, method: str, path: str, body: Any = None, **options: Any) -> Answer:
        if body is not None:
            options["data"] = body if isinstance(body, bytes) else msgspec.json.encode(body)
            options.setdefault("headers", {"Content-Type": "application/json"})
        async with self.session.request(method, f"http://node{path}", **options) as response:
            return Answer(response.status, response.headers, await response.read())

    async def get(self, path: str, **params: Any) -> Any:
        filters = params.pop("filters", None)
        if filters is not None:
            params["filters"] = msgspec.json.encode(filters).decode()
        answer = await self.ask("GET", path, params=params)
        assert answer.status == 200, answer.raw
        return answer.json

    async def init(self) -> str:
        return str((await self.ask("POST", "/v1.51/swarm/init", {"ListenAddr": "0.0.0.0:2377"})).json)

    async def create(self, name: str = "web", **spec: Any) -> str:
        template = spec.pop("TaskTemplate", {"ContainerSpec": {"Image": "nginx"}})
        answer = await self.ask("POST", "/v1.51/services/create", {"Name": name, "TaskTemplate": template, **spec})
        assert answer.status == 201, answer.raw
        return str(answer.json["ID"])


@pytest.fixture
async def api(anyio_backend: str, tmp_path: Path) -> AsyncIterator[Api]:
    node = FakeNode(tmp_path)
    server = ApiServer(node, node.clock)
    path = tmp_path / "docker.sock"
    await server.start_unix(path)
    try:
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:
            yield Api(node, path, session)
    finally:
        await server.close()
