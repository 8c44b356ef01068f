"""Containers, images, volumes: the node's own engine answers.

Edge: HTTP, passed on as it is. A node whose engine has no such API has no containers or images to show.
"""

from http import HTTPStatus
from typing import Final

from aiohttp import web

from skep.api import hijack
from skep.api.authorize import ENGINE
from skep.api.call import UNLIMITED, Call, Route
from skep.api.wire import Document

_EMPTY: Final[dict[str, Document | list[Document]]] = {
    "/containers/json": [],
    "/images/json": [],
    "/plugins": [],
    "/volumes": {"Volumes": [], "Warnings": []},
}


async def relay(call: Call) -> web.StreamResponse:
    """Pass the request on, streams included."""
    return await call.backend.engine.relay(call)


async def list_or_nothing(call: Call) -> web.StreamResponse:
    """A list that is empty where the engine has none."""
    if call.backend.engine.is_there:
        return await call.backend.engine.relay(call)
    return call.reply(_EMPTY[call.path])


async def plugins(call: Call) -> web.StreamResponse:
    """GET /plugins: there are none, whatever the engine."""
    return call.reply(_EMPTY["/plugins"])


async def wait(call: Call) -> web.StreamResponse:
    """POST /containers/{id}/wait.

    Podman (4.3) forgets the exit code when asked to wait for the removal, which is what `docker run --rm` asks: so it
    is asked to wait for both, and the one's answer is given once the other has come.
    """
    engine = call.backend.engine
    if call.text("condition") != "removed":
        return await engine.relay(call)
    path = f"{await engine.prefix()}/containers/{call.params['id']}/wait"
    async with (
        engine.ask("POST", path, params={"condition": "next-exit"}) as ended,
        engine.ask("POST", path, params={"condition": "removed"}) as removed,
    ):
        if ended.status != HTTPStatus.OK:
            return web.Response(status=ended.status, body=await ended.read(), content_type="application/json")
        stream = await call.stream("application/json")
        result = await ended.read()
        await removed.read()
        await stream.write(result)
        await stream.write_eof()
        return stream


async def take_over(call: Call) -> web.StreamResponse:
    """Attach and exec."""
    return await hijack.relay(call)


_METHODS: Final = ("GET", "POST", "PUT", "DELETE", "HEAD")
_PREFIXES: Final = ("containers", "images", "exec", "volumes", "plugins")

ROUTES: Final = (
    Route("GET", "/containers/json", list_or_nothing, ENGINE),
    Route("GET", "/images/json", list_or_nothing, ENGINE),
    Route("GET", "/volumes", list_or_nothing, ENGINE),
    Route("GET", "/plugins", plugins, ENGINE),
    Route("POST", "/containers/{id}/attach", take_over, ENGINE),
    Route("POST", "/containers/{id}/wait", wait, ENGINE),
    Route("POST", "/exec/{id}/start", take_over, ENGINE),
    *(Route(method, f"/{prefix}/{{rest...}}", relay, ENGINE, UNLIMITED) for prefix in _PREFIXES for method in _METHODS),
    Route("POST", "/commit", relay, ENGINE, UNLIMITED),
    Route("POST", "/build", relay, ENGINE, UNLIMITED),
    Route("POST", "/build/prune", relay, ENGINE, UNLIMITED),
    Route("POST", "/auth", relay, ENGINE, UNLIMITED),
)
