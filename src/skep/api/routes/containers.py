"""Containers: this node's own and, on a manager, those of the swarm's tasks wherever they run.

Edge: HTTP, passed to the engine that has the container. A command that was prepared on another node (`exec`) gets an id
that names that node, so that any manager finds it again. Source: Docker API 1.51, tags Container and Exec.
"""

import asyncio
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlencode

import msgspec
import structlog
from aiohttp import web

from skep.api import errors, hijack
from skep.api.authorize import ENGINE
from skep.api.backend import Control
from skep.api.call import UNLIMITED, Call, Route
from skep.api.passthrough import passed_headers
from skep.api.reach import Place
from skep.api.versions import split_path
from skep.core import containers
from skep.edge.docker.spec import PAUSE_LABEL
from skep.lib.durations import MILLISECOND, SECOND
from skep.model.codec import MALFORMED
from skep.model.errors import Unsupported
from skep.model.node import Node, NodeState

log = structlog.get_logger(__name__)

NODE_ANSWERS_S: Final = 3.0
NODES_AT_ONCE: Final = 16
CLEANED_UP: Final = 5 * SECOND
LOOK_AGAIN: Final = 50 * MILLISECOND
EXISTS: Final = b"already exists"
REMOVED_UNSEEN_S: Final = 1.0
LOCAL_FILTERS: Final = ("before", "since")
"""They compare with one container, which other engines do not know."""


# --- lists ----------------------------------------------------------------------------


async def list_all(call: Call) -> web.StreamResponse:
    """GET /containers/json: this node's containers and, on a manager, those of tasks on other nodes."""
    limit_text = call.text("limit")
    limit = int(limit_text) if limit_text.isascii() and limit_text.isdecimal() else 0
    found: list[dict[str, Any]] = []
    if call.backend.engine.is_there:
        path = await call.backend.engine.path_for(call)
        if limit:  # Counted once we know what is shown; as Docker does, a limit counts what has ended, too.
            query = {**call.request.query, "limit": "0", "all": "1"}
            path = f"{path.partition('?')[0]}?{urlencode(query)}"
        headers = passed_headers(call.request.headers)
        async with call.backend.engine.ask("GET", path, headers=headers) as answer:
            raw = await answer.read()
            if answer.status != HTTPStatus.OK:
                return web.Response(status=answer.status, body=raw, content_type="application/json")
            found = [entry for entry in _entries(raw) if PAUSE_LABEL not in (entry.get("Labels") or {})]
    turn = asyncio.Semaphore(NODES_AT_ONCE)
    nodes = _nodes_to_ask(call)
    for entries in await asyncio.gather(*(_ask_node(call, node, turn) for node in nodes)):
        found += entries
    found.sort(key=_created, reverse=True)
    return call.reply(found[: limit or None])


def _nodes_to_ask(call: Call) -> Sequence[Node]:
    """Other nodes that have a task with a container, where this is a manager."""
    control = call.backend.engines.control()
    if control is None or any(call.filters().values(key) for key in LOCAL_FILTERS):
        return ()
    own = call.node.local_state.node_id
    return [
        node
        for node in control.view.nodes.values()
        if node.id != own and node.status.state == NodeState.READY and _containers_on(control, node)
    ]


def _containers_on(control: Control, node: Node) -> frozenset[str]:
    tasks = control.view.tasks.where("node", node.id)
    return frozenset(filter(None, map(containers.container_of, tasks)))


async def _ask_node(call: Call, node: Node, turn: asyncio.Semaphore) -> list[dict[str, Any]]:
    """A node's containers that belong to tasks; a node that does not answer is named in the log and left out."""
    control = call.control
    engine = call.backend.engines.of_node(control, node)
    hostname = node.description.hostname
    try:
        async with turn, asyncio.timeout(NODE_ANSWERS_S):
            async with engine.ask("GET", await engine.path_for(call)) as answer:
                raw = await answer.read()
                if answer.status != HTTPStatus.OK:
                    raise errors.EngineFailure(f"its engine answered {answer.status}")
            own = _containers_on(control, node)
            return [entry for entry in _entries(raw) if entry.get("Id") in own]
    except Unsupported:
        return []  # Its engine has no such API, and so no containers to show.
    except (*errors.Refusal, TimeoutError) as error:
        reason = str(error) or "it did not answer in time"
        log.warning("a node's containers are not listed", node=hostname, reason=reason)
        return []


def _entries(raw: bytes) -> list[dict[str, Any]]:
    try:
        return msgspec.json.decode(raw, type=list[dict[str, Any]])
    except MALFORMED as error:
        raise errors.EngineFailure(f"the container engine's list cannot be read: {error}") from error


def _created(entry: dict[str, Any]) -> float:
    moment = entry.get("Created")
    return float(moment) if isinstance(moment, int | float) else 0.0


# --- one container ----------------------------------------------------------------------


async def relay(call: Call) -> web.StreamResponse:
    """Anything about one container."""
    place = await call.backend.engines.of_container(call.params["id"])
    return await place.engine.relay(call, path=place.path("containers", _rest(call)))


async def attach(call: Call) -> web.StreamResponse:
    """POST /containers/{id}/attach."""
    place = await call.backend.engines.of_container(call.params["id"])
    return await hijack.relay(call, place.engine, place.path("containers", "/attach"))


async def wait(call: Call) -> web.StreamResponse:
    """POST /containers/{id}/wait.

    Podman (4.3) forgets the exit code when asked to wait for the removal, which is what `docker run --rm` asks: so it
    is asked to wait for both, and the one's answer is given once the other has come.
    """
    place = await call.backend.engines.of_container(call.params["id"])
    engine = place.engine
    if call.text("condition") != "removed":
        return await engine.relay(call, path=place.path("containers", "/wait"))
    path = await engine.prefix() + place.path("containers", "/wait")
    async with (
        engine.ask("POST", path, params={"condition": "next-exit"}) as ended,
        engine.ask("POST", path, params={"condition": "removed"}) as removed,
    ):
        if ended.status != HTTPStatus.OK:
            return web.Response(status=ended.status, body=await ended.read(), content_type="application/json")
        stream = await call.stream("application/json")
        reading = asyncio.ensure_future(ended.read())
        try:
            await removed.read()
            await asyncio.wait({reading}, timeout=REMOVED_UNSEEN_S)
            # One that was removed before it was ever started has no end that could be waited for.
            result = reading.result() if reading.done() else msgspec.json.encode({"StatusCode": 0})
        finally:
            reading.cancel()
        await stream.write(result)
        await stream.write_eof()
        return stream


async def restart(call: Call) -> web.StreamResponse:
    """POST /containers/{id}/restart, as a stop and a start."""
    place = await call.backend.engines.of_container(call.params["id"])
    status, raw = await _post(place, "/stop", {"t": call.text("t")} if call.text("t") else {})
    if status < HTTPStatus.BAD_REQUEST:
        status, raw = await begin(call, place)
    if status < HTTPStatus.BAD_REQUEST:
        return call.done(HTTPStatus.NO_CONTENT)
    return web.Response(status=status, body=raw, content_type="application/json")


async def begin(call: Call, place: Place) -> tuple[int, bytes]:
    """Start a container that may have ended a moment ago; returns the engine's status and answer.

    Podman (4.3) creates a container anew while the one that was stopped is still being cleaned up, says that it exists,
    and leaves it stopped: so it is asked to start until that is over.
    """
    end = call.backend.clock.now() + CLEANED_UP
    status, raw = await _post(place, "/start")
    while status == HTTPStatus.INTERNAL_SERVER_ERROR and EXISTS in raw and call.backend.clock.now() < end:
        await call.backend.clock.sleep(LOOK_AGAIN)
        status, raw = await _post(place, "/start")
    return status, raw


async def _post(place: Place, rest: str, params: Mapping[str, str] | None = None) -> tuple[int, bytes]:
    path = await place.engine.prefix() + place.path("containers", rest)
    async with place.engine.ask("POST", path, params=params or {}) as answer:
        return answer.status, await answer.read()


async def remove(call: Call) -> web.StreamResponse:
    """DELETE /containers/{id}. With `force` it is killed first: podman (4.3) would wait for it to stop by itself."""
    place = await call.backend.engines.of_container(call.params["id"])
    if call.flag("force"):
        await _post(place, "/kill")  # That it does not run is no obstacle.
    return await place.engine.relay(call, path=place.path("containers"))


async def create_exec(call: Call) -> web.StreamResponse:
    """POST /containers/{id}/exec."""
    place = await call.backend.engines.of_container(call.params["id"])
    path = place.path("containers", "/exec")
    if not place.node_id:
        return await place.engine.relay(call, path=path)
    body, headers = await call.body(), passed_headers(call.request.headers)
    async with place.engine.ask("POST", await place.engine.path_for(call, path), headers=headers, data=body) as answer:
        raw = await answer.read()
    if answer.status == HTTPStatus.CREATED:
        entry = _entries(b"[" + raw + b"]")[0]
        raw = msgspec.json.encode({**entry, "Id": f"{entry.get('Id')}.{place.node_id}"})
    return web.Response(status=answer.status, body=raw, content_type="application/json")


# --- a command in a container -------------------------------------------------------------


async def start_exec(call: Call) -> web.StreamResponse:
    """POST /exec/{id}/start."""
    place = call.backend.engines.of_exec(call.params["id"])
    return await hijack.relay(call, place.engine, place.path("exec", "/start"))


async def relay_exec(call: Call) -> web.StreamResponse:
    """Anything else about a command: its size, its exit code."""
    place = call.backend.engines.of_exec(call.params["id"])
    return await place.engine.relay(call, path=place.path("exec", _rest(call)))


def _rest(call: Call) -> str:
    """What follows the id in the path as the client wrote it, with its slash; the path begins with kind and id."""
    _, path = split_path(call.request.rel_url.raw_path)
    parts = path.split("/", 3)
    return f"/{parts[3]}" if len(parts) > 3 else ""


async def here(call: Call) -> web.StreamResponse:
    """What concerns this node's engine alone."""
    return await call.backend.engine.relay(call)


_METHODS: Final = ("GET", "POST", "PUT", "DELETE", "HEAD")

ROUTES: Final = (
    Route("GET", "/containers/json", list_all, ENGINE),
    Route("POST", "/containers/create", here, ENGINE, UNLIMITED),
    Route("POST", "/containers/prune", here, ENGINE, UNLIMITED),
    Route("POST", "/containers/{id}/attach", attach, ENGINE),
    Route("POST", "/containers/{id}/wait", wait, ENGINE),
    Route("POST", "/containers/{id}/restart", restart, ENGINE, changes=True),
    Route("POST", "/containers/{id}/exec", create_exec, ENGINE),
    *(Route(method, "/containers/{id}/{rest...}", relay, ENGINE, UNLIMITED) for method in _METHODS),
    *(Route(method, "/containers/{id}", relay, ENGINE, UNLIMITED) for method in _METHODS),
    Route("POST", "/exec/{id}/start", start_exec, ENGINE),
    *(Route(method, "/exec/{id}/{rest...}", relay_exec, ENGINE, UNLIMITED) for method in _METHODS),
)
