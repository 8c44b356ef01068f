"""What is passed to the engine and back, against an engine whose every word is known."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from tests.api.conftest import Api
from tests.fakes.swarm import START as NOW
from tests.fakes.swarm import FakeNode

from skep.api.server import ApiServer

pytestmark = pytest.mark.anyio

BIG = b"0123456789abcdef" * 200_000  # 3.2 MB


class Engine:
    """An engine that answers `/version`, and whatever a test gives it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen: list[web.BaseRequest] = []
        self.answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]] | None = None
        self.raw: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]] | None = None
        self.left = asyncio.Event()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/version":
            return web.json_response({"ApiVersion": "1.41"})
        self.seen.append(request)
        assert self.answer is not None
        try:
            return await self.answer(request)
        except asyncio.CancelledError:
            self.left.set()
            raise

    async def serve_raw(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self.raw is not None
        try:
            await self.raw(reader, writer)
        finally:
            writer.close()
            self.left.set()


@pytest.fixture
async def engine(anyio_backend: str, tmp_path: Path) -> AsyncIterator[Engine]:
    engine = Engine(tmp_path / "engine.sock")
    server = await asyncio.get_running_loop().create_unix_server(
        web.Server(engine.handle, handler_cancellation=True), str(engine.path)
    )
    yield engine
    server.close()


@pytest.fixture
async def api(engine: Engine, tmp_path: Path) -> AsyncIterator[Api]:
    node = FakeNode(tmp_path, engine.path)
    server = ApiServer(node, node.clock)
    path = tmp_path / "docker.sock"
    await server.start_unix(path)
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:
        yield Api(node, path, session)
    await server.close()


@pytest.mark.parametrize(
    ("asked", "passed"),
    [
        (
            "/v1.50/images/json?all=1&filters=%7B%22name%22%3A%5B%22a%22%5D%7D",
            "/v1.41/images/json?all=1&filters=%7B%22name%22%3A%5B%22a%22%5D%7D",
        ),
        ("/v1.24/images/json", "/v1.24/images/json"),
        ("/images/team%2Fapp:1/json", "/v1.41/images/team%2Fapp:1/json"),
    ],
)
async def test_paths_get_a_version_the_engine_knows(api: Api, engine: Engine, asked: str, passed: str) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response([], headers={"Server": "Libpod", "Libpod-Api-Version": "4", "X-Its-Own": "kept"})

    engine.answer = answer
    reader, writer = await asyncio.open_unix_connection(str(api.socket))
    writer.write(f"GET {asked} HTTP/1.1\r\nHost: n\r\nX-Registry-Auth: e30=\r\nConnection: close\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert engine.seen[0].raw_path == passed
    assert engine.seen[0].headers["X-Registry-Auth"] == "e30="
    assert body == b"[]"
    assert b"Server: Docker/" in head
    assert b"Libpod" not in head
    assert b"X-Its-Own: kept" in head
    assert b"Api-Version: 1.51" in head


async def test_bodies_stream_both_ways(api: Api, engine: Engine) -> None:
    halfway = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        async for chunk in request.content.iter_any():
            halfway.set()
            await response.write(chunk)
        return response

    async def body() -> AsyncIterator[bytes]:
        yield BIG[:100]
        await asyncio.wait_for(halfway.wait(), 5)  # Passed on before there is more.
        yield BIG[100:]

    engine.answer = answer
    reply = await api.ask("POST", "/v1.50/images/load", data=body())
    assert reply.status == 200
    assert reply.raw == BIG


async def test_a_length_is_passed_on(api: Api, engine: Engine) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        assert request.content_length == len(BIG)
        return web.Response(status=201, body=await request.content.read())

    engine.answer = answer
    reply = await api.ask("PUT", "/containers/x/archive", BIG, headers={"Content-Type": "application/x-tar"})
    assert (reply.status, reply.raw, reply.headers["Content-Length"]) == (201, BIG, str(len(BIG)))


async def test_the_head_of_an_answer_does_not_wait_for_its_body(api: Api, engine: Engine) -> None:
    goes_on = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await goes_on.wait()
        await response.write(b"late")
        return response

    engine.answer = answer
    async with asyncio.timeout(5), api.session.get("http://node/containers/x/logs?follow=1") as response:
        goes_on.set()
        assert await response.read() == b"late"


async def test_the_engine_is_let_go_when_the_client_leaves(api: Api, engine: Engine) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await asyncio.Event().wait()
        return response

    engine.answer = answer
    async with asyncio.timeout(5):
        response = await api.session.get("http://node/containers/x/logs?follow=1")
        response.close()
        await engine.left.wait()


async def test_a_refusal_of_the_engine_passes_as_it_is(api: Api, engine: Engine) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response({"message": "no such container"}, status=404)

    engine.answer = answer
    for path in ("/containers/x/json", "/containers/x/wait?condition=removed"):
        reply = await api.ask("GET" if path.endswith("json") else "POST", path)
        assert (reply.status, reply.message) == (404, "no such container")


async def test_what_the_engine_has_no_route_for_is_not_offered(api: Api, engine: Engine) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=404, text="Not Found\n")

    engine.answer = answer
    reply = await api.ask("POST", "/v1.50/containers/x/update", {})
    sentence = "the node's container engine has no POST /v1.41/containers/x/update"
    assert (reply.status, reply.message) == (501, sentence)
    assert (await api.ask("GET", "/containers/team/app/json")).status == 404  # As docker inspect asks for an image.
    pruned = await api.ask("POST", "/v1.50/build/prune")
    assert (pruned.status, pruned.json["SpaceReclaimed"]) == (200, 0)


@pytest.mark.parametrize(("sent", "passed"), [(b"", b"{}"), (b"null", b"{}"), (b'{"User":"x"}', b'{"User":"x"}')])
async def test_a_commit_has_settings(api: Api, engine: Engine, sent: bytes, passed: bytes) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        assert await request.read() == passed
        return web.json_response({"Id": "made"}, status=201)

    engine.answer = answer
    assert (await api.ask("POST", "/v1.50/commit?container=x", sent)).json == {"Id": "made"}


@pytest.mark.parametrize(("query", "grace"), [("", None), ("?t=3", "3")])
async def test_a_restart_is_a_stop_and_a_start(api: Api, engine: Engine, query: str, grace: str | None) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=304 if request.path.endswith("stop") else 204)

    engine.answer = answer
    assert (await api.ask("POST", f"/v1.50/containers/x/restart{query}")).status == 204
    assert [request.path for request in engine.seen] == ["/v1.41/containers/x/stop", "/v1.41/containers/x/start"]
    assert engine.seen[0].query.get("t") == grace


@pytest.mark.parametrize(("query", "asked"), [("", ["DELETE"]), ("?force=1&v=1", ["POST", "DELETE"])])
async def test_what_is_removed_by_force_is_killed_first(api: Api, engine: Engine, query: str, asked: list[str]) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=409 if request.path.endswith("/kill") else 204)

    engine.answer = answer
    assert (await api.ask("DELETE", f"/containers/x{query}")).status == 204
    assert [request.method for request in engine.seen] == asked
    assert engine.seen[-1].query_string == query[1:]


async def test_a_restart_waits_until_the_old_container_is_cleaned_up(api: Api, engine: Engine) -> None:
    refusals = [{"message": "runc create failed: container with given ID already exists"}] * 2

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path.endswith("start") and refusals:
            return web.json_response(refusals.pop(), status=500)
        return web.Response(status=204)

    engine.answer = answer
    assert (await api.ask("POST", "/containers/x/restart")).status == 204
    assert [request.path.rpartition("/")[2] for request in engine.seen] == ["stop", "start", "start", "start"]


async def test_a_restart_that_cannot_stop_does_not_start(api: Api, engine: Engine) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response({"message": "no such container"}, status=404)

    engine.answer = answer
    reply = await api.ask("POST", "/containers/x/restart")
    assert (reply.status, reply.message, len(engine.seen)) == (404, "no such container", 1)


@pytest.mark.parametrize("path", ["/containers/json", "/exec/x/start", "/networks"])
async def test_an_engine_that_is_away(api: Api, engine: Engine, path: str) -> None:
    engine.path.unlink()
    reply = await api.ask("POST" if "exec" in path else "GET", path, {} if "exec" in path else None)
    assert reply.status == 503
    assert "the container engine does not answer" in reply.message
    assert (await api.ask("GET", "/info")).status == 200
    assert (await api.ask("GET", "/events", params={"until": "1"})).status == 200


async def test_an_engine_that_breaks_off(api: Api, engine: Engine) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    engine.answer = answer
    reply = await api.ask("GET", "/containers/x/json")
    assert reply.status == 502
    assert "broke off" in reply.message


async def test_an_answer_cut_short_is_cut_short(api: Api, engine: Engine) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport is not None
        request.transport.abort()
        return response

    engine.answer = answer
    with pytest.raises(aiohttp.ClientPayloadError):
        await api.ask("GET", "/containers/x/logs")


async def test_wait_for_removal_keeps_the_exit_code(api: Api, engine: Engine) -> None:
    ended, removed = asyncio.Event(), asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        is_exit = request.query["condition"] == "next-exit"
        response = web.StreamResponse()
        await response.prepare(request)
        await (ended if is_exit else removed).wait()
        await response.write(msgspec.json.encode({"StatusCode": 5 if is_exit else 0}))
        return response

    engine.answer = answer
    async with asyncio.timeout(5), api.session.post("http://node/containers/x/wait?condition=removed") as response:
        ended.set()
        reading = asyncio.ensure_future(response.read())
        await asyncio.sleep(0.05)
        assert not reading.done()
        removed.set()
        assert msgspec.json.decode(await reading) == {"StatusCode": 5}


async def test_events_of_the_engine_join_the_swarms(api: Api, engine: Engine) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for action in ("create", "start"):
            event = {
                "Type": "container",
                "Action": action,
                "Actor": {"ID": "c1", "Attributes": {"name": "web"}},
                "time": 7,
            }
            await response.write(msgspec.json.encode(event) + b"\nnonsense\n")
        await asyncio.Event().wait()
        return response

    engine.answer = answer
    params = {"filters": '{"container":["web"],"event":["start"]}'}
    async with asyncio.timeout(5), api.session.get("http://node/events", params=params) as stream:
        event = msgspec.json.decode(await stream.content.readline())
    assert (event["Type"], event["Action"], event["scope"], event["timeNano"]) == (
        "container",
        "start",
        "local",
        7 * 10**9,
    )
    async with asyncio.timeout(5):
        await engine.left.wait()


async def test_the_engines_past(api: Api, engine: Engine) -> None:
    now = NOW // 10**9

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        assert request.query["stream"] == "false"
        assert int(request.query["until"]) > now + 1  # Podman is silent once its `until` has passed.
        lines = [{"Type": "container", "Action": "start", "Actor": {"ID": "c"}, "time": now - age} for age in (20, 5)]
        return web.Response(body=b"\n".join(msgspec.json.encode(line) for line in lines))

    engine.answer = answer
    reply = await api.ask("GET", "/events", params={"since": str(now - 60), "until": str(now - 10)})
    assert [msgspec.json.decode(line)["time"] for line in reply.raw.splitlines()] == [now - 20]


ANONYMOUS = "f" * 64


def an_engine_of_volumes(engine: Engine) -> list[str]:
    """Let the engine have volumes, all unused; returns the names it is told to remove."""
    removed: list[str] = []
    volumes = [{"Name": ANONYMOUS, "Labels": None}, {"Name": "data", "Labels": {"team": "red"}}, {"Name": "busy"}]

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/v1.41/system/df":
            sizes = [{"Name": each["Name"], "UsageData": {"Size": 7, "RefCount": 0}} for each in volumes]
            images = [{"Id": "abc", "RepoTags": ["latest"], "Size": 30, "SharedSize": 10}]
            return web.json_response({"LayersSize": 0, "Images": images, "Volumes": sizes, "Containers": []})
        if request.path == "/v1.41/images/json":
            return web.json_response([{"Id": "sha256:abc", "RepoTags": ["redis:7"]}])
        if request.method == "GET":
            assert request.query["filters"] == '{"dangling":["true"]}'
            return web.json_response({"Volumes": volumes})
        removed.append(request.path.rpartition("/")[2])
        return web.Response(status=409 if removed[-1] == "busy" else 204)

    engine.answer = answer
    return removed


@pytest.mark.parametrize(
    ("path", "filters", "tried", "reclaimed"),
    [
        ("/v1.50", {}, [ANONYMOUS], 7),
        ("/v1.50", {"all": ["true"]}, [ANONYMOUS, "data", "busy"], 14),
        ("/v1.41", {}, [ANONYMOUS, "data", "busy"], 14),
        ("/v1.50", {"all": ["1"], "label": ["team=red"]}, ["data"], 7),
        ("/v1.50", {"all": ["1"], "label!": ["team"]}, [ANONYMOUS, "busy"], 7),
        ("/v1.50", {"label": ["team"]}, [], 0),
    ],
    ids=["anonymous", "all", "older client", "label", "no label", "none"],
)
async def test_named_volumes_are_pruned_only_when_asked_for(
    api: Api, engine: Engine, path: str, filters: dict[str, list[str]], tried: list[str], reclaimed: int
) -> None:
    removed = an_engine_of_volumes(engine)
    params = {"filters": msgspec.json.encode(filters).decode()}
    answer = (await api.ask("POST", f"{path}/volumes/prune", params=params)).json
    assert removed == tried
    assert answer["SpaceReclaimed"] == reclaimed
    assert answer["VolumesDeleted"] == ([name for name in tried if name != "busy"] or None)


async def test_an_unknown_prune_filter_removes_nothing(api: Api, engine: Engine) -> None:
    removed = an_engine_of_volumes(engine)
    answer = await api.ask("POST", "/v1.50/volumes/prune", params={"filters": '{"until":["1h"]}'})
    assert (answer.status, answer.message, removed) == (400, "invalid filter 'until'", [])


async def test_disk_usage_has_the_layers_and_full_names(api: Api, engine: Engine) -> None:
    an_engine_of_volumes(engine)
    usage = await api.get("/v1.50/system/df")
    assert usage["LayersSize"] == 20
    assert usage["Images"] == [{"Id": "sha256:abc", "RepoTags": ["redis:7"], "Size": 30, "SharedSize": 10}]
    assert len(usage["Volumes"]) == 3


async def test_networks_of_the_engine_beside_overlays(api: Api, engine: Engine) -> None:
    mine = {"Name": "mine", "Id": "f" * 64, "Driver": "bridge", "Labels": None, "Options": None}

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "GET":
            return web.json_response(mine if request.path.endswith("f" * 64) else [mine])
        if request.path.endswith("/prune"):
            return web.json_response({"NetworksDeleted": ["mine"]})
        return web.json_response({"Id": "f" * 64, "Warning": "", "Echo": (await request.read()).decode()}, status=201)

    engine.answer = answer
    await api.init()
    names = [each["Name"] for each in await api.get("/networks")]
    assert names == ["ingress", "mine", "bridge", "host", "none"]
    assert (await api.get("/networks/fff"))["Labels"] == {}
    made = await api.ask("POST", "/networks/create", {"Name": "other", "Driver": "bridge"})
    assert (made.status, made.json["Echo"]) == (201, '{"Name":"other","Driver":"bridge"}')
    taken = await api.ask("POST", "/networks/create", {"Name": "mine", "Driver": "overlay"})
    assert (taken.status, taken.message) == (409, "network with name mine already exists")
    assert (await api.ask("POST", "/networks/prune")).json == {"NetworksDeleted": ["mine"]}


# --- hijacking -----------------------------------------------------------------------------------


class RawEngine:
    """An engine on raw sockets, for what comes after a 101."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter, bytes], Awaitable[None]] | None = None
        self.left = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"GET /version"):
                body = b'{"ApiVersion": "1.41"}'
                writer.write(
                    b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
                )
                return
            assert self.talk is not None
            await self.talk(reader, writer, head)
            self.left.set()
        except ConnectionError:
            self.left.set()
        finally:
            writer.close()


@pytest.fixture
async def raw_engine(engine: Engine, api: Api) -> AsyncIterator[RawEngine]:
    raw = RawEngine(engine.path.with_name("raw.sock"))
    api.node.passthrough = raw.path
    server = await asyncio.start_unix_server(raw.serve, str(raw.path))
    yield raw
    server.close()


UPGRADED = (
    b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\n"
    b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
)
START = b'{"Detach":false,"Tty":false}'


async def exec_start(api: Api, *, headers: bytes = b"Connection: Upgrade\r\nUpgrade: tcp\r\n") -> Any:
    reader, writer = await asyncio.open_unix_connection(str(api.socket))
    writer.write(
        b"POST /v1.50/exec/x/start HTTP/1.1\r\nHost: n\r\nContent-Type: application/json\r\n"
        b"%sContent-Length: %d\r\n\r\n%s" % (headers, len(START), START)
    )
    return reader, writer


async def test_input_may_end_before_output(api: Api, raw_engine: RawEngine) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        assert b"/v1.41/exec/x/start" in head
        assert b"Upgrade: tcp" in head
        assert await reader.readexactly(len(START)) == START
        writer.write(UPGRADED)
        received = await reader.read()
        writer.write(received[::-1])
        await writer.drain()

    raw_engine.talk = talk
    async with asyncio.timeout(10):
        reader, writer = await exec_start(api)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 UPGRADED\r\n")
        assert b"Upgrade: tcp" in head
        writer.write(BIG)
        await writer.drain()
        writer.write_eof()
        assert await reader.read() == BIG[::-1]
        writer.close()


async def test_output_survives_a_program_that_leaves_its_input(api: Api, raw_engine: RawEngine) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        writer.write(UPGRADED)
        await reader.readexactly(len(START) + 100_000)
        writer.write(BIG)
        await writer.drain()

    raw_engine.talk = talk
    async with asyncio.timeout(10):
        reader, writer = await exec_start(api)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(BIG)
        assert await reader.read() == BIG
        writer.close()


async def test_output_flows_while_nothing_is_said(api: Api, raw_engine: RawEngine) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        writer.write(UPGRADED + b"first")
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(BIG)
        await writer.drain()

    raw_engine.talk = talk
    async with asyncio.timeout(10):
        reader, writer = await exec_start(api)
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(5) == b"first"
        assert await reader.read() == BIG
        writer.close()


async def test_without_an_upgrade_the_answer_is_plain(api: Api, raw_engine: RawEngine) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        writer.write(UPGRADED + b"output")

    raw_engine.talk = talk
    async with asyncio.timeout(5):
        reader, writer = await exec_start(api, headers=b"")
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK")
        assert b"Upgrade" not in head
        assert body == b"output"
        writer.close()


REFUSALS = {
    "length": b'HTTP/1.1 409 Conflict\r\nContent-Type: application/json\r\nContent-Length: 17\r\n\r\n{"message": "no"}',
    "chunked": b"HTTP/1.1 409 Conflict\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'5\r\n{"mes\r\nc\r\nsage": "no"}\r\n0\r\n\r\n',
    "until-end": b'HTTP/1.1 409 Conflict\r\nContent-Type: application/json\r\n\r\n{"message": "no"}',
}


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
async def test_a_refused_exec_is_answered_and_the_connection_lives(
    api: Api, raw_engine: RawEngine, refusal: bytes
) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        writer.write(refusal)

    raw_engine.talk = talk
    async with asyncio.timeout(5):
        reader, writer = await exec_start(api)
        assert (await reader.readuntil(b'{"message": "no"}')).startswith(b"HTTP/1.1 409 Conflict")
        writer.write(b"GET /_ping HTTP/1.1\r\nHost: n\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\nOK")).startswith(b"HTTP/1.1 200 OK")
        writer.close()


@pytest.mark.parametrize("words", [b"", b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 10", b"x" * 100_000], ids=range(4))
async def test_an_engine_that_talks_nonsense(api: Api, raw_engine: RawEngine, words: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        writer.write(words)

    raw_engine.talk = talk
    async with asyncio.timeout(5):
        reader, writer = await exec_start(api)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 502")
        writer.close()


async def test_a_client_that_vanishes_ends_the_engines_side(api: Api, raw_engine: RawEngine) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        writer.write(UPGRADED)
        while True:
            writer.write(BIG)
            await writer.drain()

    raw_engine.talk = talk
    async with asyncio.timeout(5):
        reader, writer = await exec_start(api)
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()
        await raw_engine.left.wait()
