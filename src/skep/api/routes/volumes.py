"""Volumes of this node and its disk usage, where Docker's API says more than podman does.

Edge: HTTP, this node's engine. Source: Docker API 1.51, tag Volume and GET /system/df; since 1.42 `prune` takes
anonymous volumes only unless it is told `all`: podman (4.3) speaks 1.41 and would take every unused one.
"""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

import msgspec
from aiohttp import web

from skep.api.authorize import ENGINE
from skep.api.call import Call, Route
from skep.api.filters import Filters
from skep.api.routes.local import ask
from skep.model.errors import NotFound

NO_VOLUMES: Final[Mapping[str, list[str]]] = {"Volumes": [], "Warnings": []}
NOTHING_USED: Final[Mapping[str, int | list[str]]] = {
    "LayersSize": 0,
    "Images": [],
    "Containers": [],
    "Volumes": [],
    "BuildCache": [],
}
PRUNE_SPARES_NAMED: Final = (1, 42)
_ANONYMOUS: Final = re.compile(r"[0-9a-f]{64}")
"""What engines call a volume that nobody named."""


async def list_all(call: Call) -> web.StreamResponse:
    """GET /volumes. Podman (4.3) lists what fits any of several filters, Docker what fits all of them."""
    wanted = call.filters("dangling", "driver", "label", "label!", "name")
    if not call.backend.engine.is_there:
        return call.reply(NO_VOLUMES)
    dangling = [str(wanted.is_true("dangling")).lower()] if "dangling" in wanted else []
    found = [_volume(each) for each in await _volumes(call, dangling) if _is_wanted(each, wanted)]
    return call.reply({"Volumes": found, "Warnings": []})


def _is_wanted(volume: Mapping[str, Any], wanted: Filters) -> bool:
    return (
        wanted.is_pattern("name", str(volume["Name"]))
        and wanted.is_exact("driver", str(volume.get("Driver")))
        and _has_labels(volume, wanted)
    )


async def show(call: Call) -> web.StreamResponse:
    """GET /volumes/{name} and POST /volumes/create."""
    is_question = call.request.method == "GET"
    if is_question and not call.backend.engine.is_there:
        raise NotFound(f"get {call.params['name']}: no such volume")
    body = None if is_question else await call.body()
    status, answer = await ask(call, call.request.method, None, body)
    return call.reply(_volume(answer) if status < HTTPStatus.BAD_REQUEST else answer, status)


def _volume(document: Mapping[str, Any]) -> dict[str, Any]:
    """A volume as Docker shows it: nothing asked for is null, wherever it is shown."""
    return {**document, "Options": document.get("Options") or None, "Labels": document.get("Labels") or {}}


async def prune(call: Call) -> web.StreamResponse:
    """POST /volumes/prune: what no container uses; a volume that has a name only if `all` asks for it."""
    wanted = call.filters("all", "label", "label!")
    takes_named = wanted.is_true("all") or call.version < PRUNE_SPARES_NAMED
    sizes = {name: size async for name, size in _sizes(call)}
    deleted: list[str] = []
    for volume in await _volumes(call, ["true"]):
        name = str(volume["Name"])
        if (takes_named or _ANONYMOUS.fullmatch(name)) and _has_labels(volume, wanted):
            status, _ = await ask(call, "DELETE", f"/volumes/{quote(name, safe='')}", is_plain=True)
            if status == HTTPStatus.NO_CONTENT:  # Else it has come into use this very moment.
                deleted.append(name)
    return call.reply(
        {"VolumesDeleted": deleted or None, "SpaceReclaimed": sum(sizes.get(name, 0) for name in deleted)}
    )


async def _volumes(call: Call, dangling: Sequence[str]) -> Sequence[Mapping[str, Any]]:
    """The engine's volumes. Args: dangling: "true" for those no container uses, "false" for the others."""
    engine = call.backend.engine
    params = {"filters": msgspec.json.encode({"dangling": dangling}).decode()} if dangling else {}
    answer = await engine.ask_json("GET", f"{await engine.prefix()}/volumes", params)
    return [volume for volume in answer.get("Volumes") or () if isinstance(volume, dict) and "Name" in volume]


def _has_labels(volume: Mapping[str, Any], wanted: Filters) -> bool:
    labels = volume.get("Labels") or {}
    unwanted = [Filters({"label": (text,)}) for text in wanted.values("label!")]
    return wanted.has_labels("label", labels) and not any(each.has_labels("label", labels) for each in unwanted)


async def _sizes(call: Call) -> AsyncIterator[tuple[str, int]]:
    engine = call.backend.engine
    usage = await engine.ask_json("GET", f"{await engine.prefix()}/system/df")
    for volume in usage.get("Volumes") or ():
        yield str(volume.get("Name")), max((volume.get("UsageData") or {}).get("Size") or 0, 0)


async def disk_usage(call: Call) -> web.StreamResponse:
    """GET /system/df. Podman (4.3) leaves out what all layers take together, and the images' full names."""
    if not call.backend.engine.is_there:
        return call.reply(NOTHING_USED)
    status, usage = await ask(call, "GET")
    if status != HTTPStatus.OK:
        return call.reply(usage, status)
    _, listed = await ask(call, "GET", "/images/json", is_plain=True)
    names = {str(each.get("Id")).removeprefix("sha256:"): each.get("RepoTags") for each in listed}
    images = [_image(each, names) for each in usage.get("Images") or ()]
    layers = usage.get("LayersSize") or sum(each.get("Size", 0) - max(each.get("SharedSize", 0), 0) for each in images)
    return call.reply({**usage, "Images": images, "LayersSize": layers})


def _image(document: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
    id = str(document.get("Id")).removeprefix("sha256:")
    return {**document, "Id": f"sha256:{id}", "RepoTags": names.get(id) or document.get("RepoTags")}


ROUTES: Final = (
    Route("GET", "/volumes", list_all, ENGINE),
    Route("POST", "/volumes/create", show, ENGINE),
    Route("POST", "/volumes/prune", prune, ENGINE),
    Route("GET", "/volumes/{name}", show, ENGINE),
    Route("GET", "/system/df", disk_usage, ENGINE),
)
