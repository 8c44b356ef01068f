"""Images and all else the node's own engine answers; containers are in `routes.containers`.

Edge: HTTP, passed on as it is. A node whose engine has no such API has no containers or images to show.
"""

from typing import Final

from aiohttp import web

from skep.api.authorize import ENGINE
from skep.api.call import UNLIMITED, Call, Route
from skep.model.errors import NotFound, Unsupported

_EMPTY: Final[dict[str, list[object]]] = {
    "/images/json": [],
    "/plugins": [],
}


async def relay(call: Call) -> web.StreamResponse:
    """Pass the request on, streams included."""
    return await call.backend.engine.relay(call)


async def list_or_nothing(call: Call) -> web.StreamResponse:
    """A list that is empty where the engine has none."""
    if call.backend.engine.is_there:
        return await call.backend.engine.relay(call)
    return call.reply(_EMPTY[call.path])


async def inspect_image(call: Call) -> web.StreamResponse:
    """GET /images/{name}/json; without images of its own a node has none of that name, as `docker inspect` expects."""
    if not call.backend.engine.is_there:
        raise NotFound(f"No such image: {call.params['name']}")
    return await call.backend.engine.relay(call)


async def plugins(call: Call) -> web.StreamResponse:
    """GET /plugins: there are none, whatever the engine."""
    return call.reply(_EMPTY["/plugins"])


async def inspect_plugin(call: Call) -> web.StreamResponse:
    """GET /plugins/{name}/json: there is none, which ends `docker inspect`'s search through all kinds."""
    raise NotFound(f'plugin "{call.params["name"]}" not found')


async def commit(call: Call) -> web.StreamResponse:
    """POST /commit. The CLI sends no settings where none are to change; podman (4.3) wants an object."""
    body = await call.body()
    return await call.backend.engine.relay(call, body=body if body.strip() not in (b"", b"null") else b"{}")


async def prune_builds(call: Call) -> web.StreamResponse:
    """POST /build/prune, a part of `docker system prune`: podman has no build cache, and so no such route."""
    try:
        return await call.backend.engine.relay(call)
    except Unsupported:
        return call.reply({"CachesDeleted": None, "SpaceReclaimed": 0})


_METHODS: Final = ("GET", "POST", "PUT", "DELETE", "HEAD")
_PREFIXES: Final = ("images", "volumes", "plugins")

ROUTES: Final = (
    Route("GET", "/images/json", list_or_nothing, ENGINE),
    Route("GET", "/plugins", plugins, ENGINE),
    Route("GET", "/plugins/{name...}/json", inspect_plugin, ENGINE),
    Route("GET", "/images/{name...}/json", inspect_image, ENGINE),
    *(Route(method, f"/{prefix}/{{rest...}}", relay, ENGINE, UNLIMITED) for prefix in _PREFIXES for method in _METHODS),
    Route("POST", "/commit", commit, ENGINE),
    Route("POST", "/build", relay, ENGINE, UNLIMITED),
    Route("POST", "/build/prune", prune_builds, ENGINE),
)
