"""Images, volumes and all else the node's own engine answers; containers are in `routes.containers`.

Edge: HTTP, passed on as it is. A node whose engine has no such API has no containers or images to show.
"""

from typing import Final

from aiohttp import web

from skep.api.authorize import ENGINE
from skep.api.call import UNLIMITED, Call, Route
from skep.api.wire import Document

_EMPTY: Final[dict[str, Document | list[Document]]] = {
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


_METHODS: Final = ("GET", "POST", "PUT", "DELETE", "HEAD")
_PREFIXES: Final = ("images", "volumes", "plugins")

ROUTES: Final = (
    Route("GET", "/images/json", list_or_nothing, ENGINE),
    Route("GET", "/volumes", list_or_nothing, ENGINE),
    Route("GET", "/plugins", plugins, ENGINE),
    *(Route(method, f"/{prefix}/{{rest...}}", relay, ENGINE, UNLIMITED) for prefix in _PREFIXES for method in _METHODS),
    Route("POST", "/commit", relay, ENGINE, UNLIMITED),
    Route("POST", "/build", relay, ENGINE, UNLIMITED),
    Route("POST", "/build/prune", relay, ENGINE, UNLIMITED),
    Route("POST", "/auth", relay, ENGINE, UNLIMITED),
)
