"""What every request meets, whatever it asks: versions, headers, limits, deadlines, refusals."""

import asyncio
import socket
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from tests.api.conftest import Api
from tests.fakes.swarm import NO_SWARM, WORKER, FakeNode

from skep.api import call, connection
from skep.api.server import ApiServer, SocketTaken
from skep.model.errors import Conflict, Forbidden, NoQuorum, Unauthenticated, Unavailable, Unsupported
from skep.ports.runtime import EngineUnreachable
from skep.ports.store import StoreUnavailable

pytestmark = pytest.mark.anyio


async def raw(socket_path: Path, text: bytes, *, half_close: bool = False, timeout_s: float = 5) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(socket_path))
    try:
        writer.write(text)
        if half_close:
            writer.write_eof()
        async with asyncio.timeout(timeout_s):
            return await reader.read()
    finally:
        writer.close()


# --- versions and headers --------------------------------------------------------


@pytest.mark.parametrize("path", ["/_ping", "/v1.24/_ping", "/v1.51/version", "/nothing/here", "/v1.99/info", "/swarm"])
async def test_every_answer_says_what_is_spoken(api: Api, path: str) -> None:
    headers = (await api.ask("GET", path)).headers
    assert headers["Api-Version"] == "1.51"
    assert headers["Ostype"] == "linux"
    assert headers["Server"].startswith("Docker/")
    assert headers["Docker-Experimental"] == "false"
    assert headers["Swarm"] == "inactive"


async def test_the_swarm_header_follows_the_nodes_part(api: Api) -> None:
    await api.init()
    assert (await api.ask("HEAD", "/_ping")).headers["Swarm"] == "active/manager"
    await api.ask("POST", "/swarm/leave", params={"force": "1"})
    assert (await api.ask("HEAD", "/_ping")).headers["Swarm"] == "inactive"
    await api.ask("POST", "/swarm/join", {"RemoteAddrs": ["192.0.2.9:2377"], "JoinToken": "SWMTKN-1-x"})
    assert (await api.ask("HEAD", "/_ping")).headers["Swarm"] == "active/worker"


async def test_ping(api: Api) -> None:
    answer = await api.ask("GET", "/_ping")
    assert (answer.status, answer.raw) == (200, b"OK")
    assert "no-cache" in answer.headers["Cache-Control"]


@pytest.mark.parametrize("version", ["1.24", "1.40", "1.51"])
async def test_speaks_all_versions_between(api: Api, version: str) -> None:
    assert (await api.get(f"/v{version}/version"))["MinAPIVersion"] == "1.24"


async def test_refuses_versions_beyond(api: Api) -> None:
    answer = await api.ask("GET", "/v1.60/info")
    assert answer.status == 400
    assert answer.message == "client version 1.60 is too new. Maximum supported API version is 1.51"


# --- refusals ------------------------------------------------------------------------


async def test_an_unknown_page(api: Api) -> None:
    answer = await api.ask("GET", "/v1.51/nothing/here")
    assert (answer.status, answer.json) == (404, {"message": "page not found"})
    assert answer.headers["Content-Type"].startswith("application/json")


SWARM_QUESTIONS = [
    ("GET", "/swarm"),
    ("GET", "/nodes"),
    ("GET", "/nodes/x"),
    ("GET", "/services"),
    ("GET", "/services/x"),
    ("DELETE", "/services/x"),
    ("GET", "/services/x/logs?stdout=1"),
    ("GET", "/tasks"),
    ("GET", "/secrets"),
    ("GET", "/configs/x"),
    ("POST", "/secrets/create"),
    ("GET", "/swarm/unlockkey"),
]


@pytest.mark.parametrize(("method", "path"), SWARM_QUESTIONS)
async def test_a_node_out_of_any_swarm_says_so(api: Api, method: str, path: str) -> None:
    answer = await api.ask(method, path)
    assert (answer.status, answer.message) == (503, NO_SWARM)


@pytest.mark.parametrize(("method", "path"), SWARM_QUESTIONS)
async def test_a_worker_says_so(api: Api, method: str, path: str) -> None:
    await api.ask("POST", "/swarm/join", {"RemoteAddrs": ["192.0.2.9:2377"], "JoinToken": "SWMTKN-1-x"})
    answer = await api.ask(method, path)
    assert (answer.status, answer.message) == (503, WORKER)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Unauthenticated("key"), 401),
        (Forbidden("no"), 403),
        (Conflict("taken"), 409),
        (Unsupported("not here"), 501),
        (NoQuorum("alone"), 503),
        (Unavailable("away"), 503),
        (EngineUnreachable("engine away"), 503),
        (StoreUnavailable("disk full"), 503),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_refusals_have_dockers_status(
    api: Api, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    def refuse(_: Any) -> None:
        raise error

    monkeypatch.setattr(FakeNode, "control", refuse)
    answer = await api.ask("GET", "/nodes")
    assert (answer.status, answer.message) == (status, str(error))


async def test_a_mistake_of_ours_is_one_sentence(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(_: Any) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(FakeNode, "control", break_down)
    answer = await api.ask("GET", "/nodes")
    assert answer.status == 500
    assert "secret detail" not in answer.message
    assert "Traceback" not in answer.message
    assert (await api.ask("GET", "/_ping")).status == 200


async def test_web_pages_are_not_answered(api: Api) -> None:
    answer = await api.ask("GET", "/info", headers={"Origin": "http://evil.example"})
    assert answer.status == 403


async def test_a_form_is_no_json(api: Api) -> None:
    await api.init()
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = await api.ask("POST", "/services/create", b"{}", headers=form)
    assert answer.status == 400
    assert answer.message == (
        "unsupported Content-Type header (application/x-www-form-urlencoded): must be 'application/json'"
    )


@pytest.mark.parametrize("path", ["/services/create", "/swarm/init", "/networks/create", "/swarm/join"])
@pytest.mark.parametrize("body", [b"{", b"[]", b"null", b"", b"\xff\xfe", b"[" * 50_000], ids=range(6))
async def test_malformed_bodies(api: Api, path: str, body: bytes) -> None:
    if path == "/services/create":
        await api.init()
    answer = await api.ask("POST", path, body)
    assert answer.status == 400
    assert "JSON" in answer.message or "request body" in answer.message


# --- limits and deadlines ----------------------------------------------------------------


async def test_an_oversized_body_with_its_length_said(api: Api) -> None:
    await api.init()
    answer = await api.ask("POST", "/services/create", b'{"Name": "' + b"x" * call.BODY_LIMIT + b'"}')
    assert answer.status == 413
    assert "larger than" in answer.message


async def test_an_oversized_body_in_chunks(api: Api) -> None:
    async def endless() -> Any:
        for _ in range(call.BODY_LIMIT // 65_536 + 2):
            yield b" " * 65_536

    headers = {"Content-Type": "application/json"}
    async with api.session.post("http://node/swarm/init", data=endless(), headers=headers) as response:
        assert response.status == 413


async def test_waits_no_longer_for_a_slow_header(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_TIMEOUT_S", 0.2)
    started = time.monotonic()
    assert await raw(api.socket, b"GET /_ping HTTP/1.1\r\nHost: no") == b""
    assert await raw(api.socket, b"") == b""
    assert time.monotonic() - started < 3


async def test_waits_no_longer_for_the_second_header_either(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_TIMEOUT_S", 0.2)
    reader, writer = await asyncio.open_unix_connection(str(api.socket))
    writer.write(b"GET /_ping HTTP/1.1\r\nHost: n\r\n\r\n")
    assert (await reader.readuntil(b"\r\n\r\nOK")).startswith(b"HTTP/1.1 200")
    await asyncio.sleep(0.4)  # An idle connection may stay …
    writer.write(b"GET /_pi")  # … half a request may not.
    async with asyncio.timeout(3):
        assert await reader.read() == b""
    writer.close()


async def test_waits_no_longer_for_a_slow_body(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call, "BODY_IDLE_S", 0.2)
    head = b"POST /swarm/init HTTP/1.1\r\nHost: n\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
    answer = await raw(api.socket, head)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"stopped arriving" in answer


async def test_a_client_that_asks_first_is_invited(api: Api) -> None:
    body = b'{"ListenAddr": ""}'
    reader, writer = await asyncio.open_unix_connection(str(api.socket))
    writer.write(
        b"POST /swarm/init HTTP/1.1\r\nHost: n\r\nContent-Type: application/json\r\n"
        b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body)
    )
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 Continue")
    writer.write(body)
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    writer.close()


@pytest.mark.parametrize(
    "text",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nBroken Header\r\n\r\n",
        b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\nHost: n\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"x" * 10_000 + b"\r\n\r\n",
        b"POST /info HTTP/1.1\r\nHost: n\r\nContent-Length: -1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
    ids=["nonsense", "no-colon", "long-line", "long-header", "negative-length", "tls-hello"],
)
async def test_what_is_no_http_is_refused_in_json(api: Api, text: bytes) -> None:
    answer = await raw(api.socket, text)
    assert answer.startswith(b"HTTP/1.1 400") or answer.startswith(b"HTTP/1.0 400")
    assert b'{"message":' in answer
    assert b"Traceback" not in answer


async def test_a_change_is_finished_though_the_client_leaves(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, finish, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow_leave(node: FakeNode, *, is_forced: bool) -> None:
        begun.set()
        await finish.wait()
        done.set()

    monkeypatch.setattr(FakeNode, "leave_swarm", slow_leave)
    _, writer = await asyncio.open_unix_connection(str(api.socket))
    writer.write(b"POST /swarm/leave HTTP/1.1\r\nHost: n\r\nContent-Length: 0\r\n\r\n")
    async with asyncio.timeout(5):
        await begun.wait()
        writer.close()
        await writer.wait_closed()
        assert (await api.ask("GET", "/_ping")).status == 200  # The server has noticed by now.
        finish.set()
        await done.wait()


# --- the socket --------------------------------------------------------------------------


async def start(path: Path) -> ApiServer:
    node = FakeNode(path.parent)
    server = ApiServer(node, node.clock)
    await server.start_unix(path)
    return server


async def test_the_socket_is_for_root_and_one_group(api: Api) -> None:
    mode = api.socket.stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o660


async def test_refuses_a_path_that_holds_something_else(tmp_path: Path) -> None:
    path = tmp_path / "docker.sock"
    path.write_text("mine")
    with pytest.raises(SocketTaken, match="not a socket"):
        await start(path)
    assert path.read_text() == "mine"


async def test_refuses_a_living_socket(api: Api) -> None:
    with pytest.raises(SocketTaken, match="another daemon"):
        await start(api.socket)
    assert (await api.ask("GET", "/_ping")).status == 200


async def test_replaces_a_dead_socket(tmp_path: Path) -> None:
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    server = await start(path)
    await server.close()
    assert not path.exists()


async def test_names_an_unknown_group(tmp_path: Path) -> None:
    node = FakeNode(tmp_path)
    server = ApiServer(node, node.clock)
    with pytest.raises(LookupError):
        await server.start_unix(tmp_path / "docker.sock", group="no-such-group")
    assert list(tmp_path.iterdir()) == []
    await server.close()


async def test_closing_ends_streams(tmp_path: Path) -> None:
    server = await start(tmp_path / "docker.sock")
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / "docker.sock"))
    writer.write(b"GET /events HTTP/1.1\r\nHost: n\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    async with asyncio.timeout(8):
        await server.close()
        await reader.read()
    writer.close()
