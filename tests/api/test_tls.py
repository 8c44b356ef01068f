"""The API on TCP: who a caller is comes from its certificate alone."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from tests.fakes.swarm import FakeNode
from tests.identities import CLUSTER_ID, Authorities

from skep.api.server import ApiServer
from skep.edge import tls, tls_context
from skep.model.node import Role

pytestmark = pytest.mark.anyio

TABLE = [
    pytest.param("manager", "GET", "/nodes", 200, id="a manager asks for the swarm"),
    pytest.param("manager", "GET", "/containers/json", 200, id="a manager commands the engine"),
    pytest.param("operator", "GET", "/containers/json", 200, id="an operator commands the engine"),
    pytest.param("operator", "GET", "/nodes", 200, id="an operator asks for the swarm"),
    pytest.param("other operator", "GET", "/nodes", 0, id="another swarm's operator is not let in"),
    pytest.param("worker", "GET", "/_ping", 200, id="a worker pings"),
    pytest.param("worker", "GET", "/nodes", 403, id="a worker sees no swarm"),
    pytest.param("nobody", "GET", "/_ping", 403, id="nobody is not answered"),
    pytest.param("nobody", "GET", "/nodes", 403, id="nobody sees no swarm"),
    pytest.param("removed", "GET", "/nodes", 0, id="a removed node is not let in"),
    pytest.param("stranger", "GET", "/nodes", 0, id="another swarm's node is not let in"),
]


@pytest.fixture(scope="module")
def authorities() -> Authorities:
    return Authorities()


@pytest.fixture
async def port(anyio_backend: str, tmp_path: Path, authorities: Authorities) -> AsyncIterator[int]:
    node = FakeNode(tmp_path)
    server = ApiServer(node, node.clock)
    await server.start_unix(tmp_path / "docker.sock")
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(tmp_path / "docker.sock"))) as local:
        await local.post("http://node/swarm/init", json={})
    trust = tls.Trust(CLUSTER_ID, lambda node_id: node_id == "removed", admits_operators=True)
    credentials = authorities.make("server", Role.MANAGER)
    yield await server.start_tls("127.0.0.1", 0, lambda: tls_context.server_context(credentials), trust)
    await server.close()


def context_of(who: str, authorities: Authorities) -> ssl.SSLContext:
    made = {
        "manager": lambda: authorities.make("m1", Role.MANAGER),
        "worker": lambda: authorities.make("w1", Role.WORKER),
        "removed": lambda: authorities.make("removed", Role.MANAGER),
        "stranger": lambda: authorities.make("m2", Role.MANAGER, cluster_id="another".ljust(25, "0")),
        "operator": lambda: authorities.operator("alice"),
        "other operator": lambda: authorities.operator("mallory", cluster_id="another".ljust(25, "0")),
        "nobody": lambda: None,
    }[who]()
    context = tls_context.client_context(authorities.authority.root_pem, made)
    context.check_hostname = False  # Nodes are known by their certificate, not by a name.
    return context


@pytest.mark.parametrize(("who", "method", "path", "status"), TABLE)
async def test_who_may_call_what_over_tcp(
    port: int, authorities: Authorities, who: str, method: str, path: str, status: int
) -> None:
    seen = 0
    async with aiohttp.ClientSession() as session:
        try:
            url = f"https://127.0.0.1:{port}{path}"
            async with session.request(method, url, ssl=context_of(who, authorities)) as response:
                seen = response.status
        except aiohttp.ClientError:
            assert status == 0
    assert seen == status


async def test_plain_http_gets_no_answer(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /_ping HTTP/1.1\r\nHost: n\r\n\r\n")
    async with asyncio.timeout(10):
        try:
            answer = await reader.read()
        except ConnectionError:
            answer = b""
    assert b"HTTP/1.1" not in answer
    writer.close()
