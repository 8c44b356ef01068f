"""Plain containers where Docker's API says more than podman does.

Edge: HTTP, this node's engine, and the file of `local_networks`. Everything else about containers is in `containers`.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

import msgspec
from aiohttp import web

from skep.api import attaching, local_networks, wire
from skep.api.authorize import ENGINE
from skep.api.call import Call, Route
from skep.api.errors import EngineFailure
from skep.api.local_networks import EndpointFile
from skep.api.passthrough import passed_headers
from skep.api.routes import containers
from skep.model.codec import MALFORMED
from skep.model.errors import NotFound

ENDPOINTS_FILE: Final = "endpoints.json"
DEFAULT_MODES: Final = ("", "default", "bridge")
STOP_TIMEOUT_S: Final = 10


def endpoint_file(call: Call) -> EndpointFile:
    """What is kept of this node's endpoints."""
    return EndpointFile(call.node.data_dir / ENDPOINTS_FILE)


# --- containers -----------------------------------------------------------------------


async def create(call: Call, raw: bytes) -> web.StreamResponse:
    """POST /containers/create. Args: raw: the body, read already."""
    body = wire.parse(raw)
    if _endpoints_of(body) is None:
        return await call.backend.engine.relay(call, body=raw)
    status, answer = await create_from(call, body)
    return call.reply(answer, status)


async def create_from(call: Call, body: dict[str, Any]) -> tuple[int, Any]:
    """Have a container made; returns the status and the engine's answer."""
    wanted = _endpoints_of(body) or {}
    file = endpoint_file(call)
    kept = file.load()
    name, host = call.text("name"), body.setdefault("HostConfig", {}) or {}
    mode = str(host.get("NetworkMode") or "")
    networks = {**({} if mode in DEFAULT_MODES or ":" in mode else {mode: None}), **wanted}
    for network, settings in networks.items():
        aliases = local_networks.link_names(kept, network, name) if name else []
        if aliases:
            networks[network] = {**(settings or {}), "Aliases": [*((settings or {}).get("Aliases") or ()), *aliases]}
    hosts = [entry for network in networks for entry in await _linked_hosts(call, network, networks[network])]
    host["ExtraHosts"] = [*(host.get("ExtraHosts") or ()), *hosts]
    host["NetworkMode"] = local_networks.engine_name(mode) if mode in networks else mode
    body["HostConfig"] = host
    asked = {local_networks.engine_name(network): settings for network, settings in networks.items() if settings}
    body["NetworkingConfig"] = {"EndpointsConfig": asked}
    if body.get("StopTimeout") is None:  # To podman that is no time at all, to Docker ten seconds.
        body["StopTimeout"] = STOP_TIMEOUT_S
    status, answer = await ask(call, "POST", None, msgspec.json.encode(body))
    if status == HTTPStatus.CREATED and any(map(local_networks.is_worth_keeping, wanted.values())):
        file.note(str(answer["Id"]), wanted, await _living(call))
    return status, answer


def _endpoints_of(body: Any) -> dict[str, dict[str, Any] | None] | None:
    """The endpoints a container is asked to have, by network; None if the body is not of that shape."""
    if not isinstance(body, dict) or not isinstance(body.get("HostConfig") or {}, dict):
        return None
    config = body.get("NetworkingConfig") or {}
    found = config.get("EndpointsConfig") or {} if isinstance(config, dict) else None
    return dict(found) if isinstance(found, dict) else None


async def _linked_hosts(call: Call, network: str, settings: Mapping[str, Any] | None) -> list[str]:
    """Links to containers that are on the network already, as entries of the hosts file."""
    found: list[str] = []
    for link in (settings or {}).get("Links") or ():
        target, _, alias = str(link).partition(":")
        status, other = await ask(call, "GET", f"/containers/{quote(target, safe='')}/json")
        networks = (other.get("NetworkSettings") or {}).get("Networks") or {} if status == HTTPStatus.OK else {}
        address = (networks.get(local_networks.engine_name(network)) or {}).get("IPAddress")
        if address:
            found.append(f"{alias or target}:{address}")
    return found


async def inspect_container(call: Call) -> web.StreamResponse:
    """GET /containers/{id}/json."""
    place = await call.backend.engines.of_container(call.params["id"])
    if place.node_id:
        return await containers.relay(call)
    if not call.backend.engine.is_there:  # `docker inspect` then goes on to networks, services and nodes.
        raise NotFound(f"No such container: {call.params['id']}")
    status, answer = await ask(call, "GET", place.path("containers", "/json"))
    if status == HTTPStatus.OK:
        kept = endpoint_file(call).load().get(str(answer.get("Id")), {})
        used = (answer.get("NetworkSettings") or {}).get("Networks") or {}
        names = await _shown_names(call) if any(name.startswith("skep-") for name in used) else {}
        answer = local_networks.merged(answer, kept, names) if kept or names else answer
        attachments = call.node.attachments
        attached = attachments.book.find(str(answer.get("Id"))) if attachments is not None else None
        if attachments is not None and attached is not None:
            answer = attaching.merged(answer, attached, attachments)
    return call.reply(answer, status)


async def _shown_names(call: Call) -> Mapping[str, str]:
    _, networks = await ask(call, "GET", "/networks", is_plain=True)
    return {each["Name"]: str(local_networks.shown(each)["Name"]) for each in networks if isinstance(each, dict)}


def shown_networks(networks: Any) -> list[wire.Document]:
    """An engine's list of its networks with the names that users know."""
    return [local_networks.shown(each) for each in networks if isinstance(each, dict)]


async def _living(call: Call) -> frozenset[str]:
    engine = call.backend.engine
    found = await engine.ask_json("GET", f"{await engine.prefix()}/containers/json", {"all": "true"})
    return frozenset(str(each.get("Id")) for each in found)


async def note_connection(call: Call, network: str, body: Mapping[str, Any], *, is_connected: bool) -> None:
    """A plain container was connected to a local network, or disconnected: keep what podman does not, or drop it."""
    file = endpoint_file(call)
    settings = (body.get("EndpointConfig") or {}) if is_connected else None
    if not local_networks.is_worth_keeping(settings) and not file.load():
        return
    status, container = await ask(call, "GET", f"/containers/{quote(str(body.get('Container')), safe='')}/json")
    if status == HTTPStatus.OK:
        file.note(str(container["Id"]), {network: settings}, await _living(call))


# --- asking ---------------------------------------------------------------------------


async def ask(
    call: Call, method: str, path: str | None = None, body: bytes | None = None, *, is_plain: bool = False
) -> tuple[int, Any]:
    """Ask this node's engine, on a client's behalf.

    Args:
        path: Quoted, without version and query; None for the client's own. is_plain: without the client's query.
    Returns:
        The status, and the answer as decoded JSON, which may be the engine's own words of refusal.
    """
    engine = call.backend.engine
    target = await engine.path_for(call, path)
    if is_plain or (path is not None and method == "GET" and path != call.path):
        target = target.partition("?")[0]
    headers = passed_headers(call.request.headers) if body is not None else None
    async with engine.ask(method, target, headers=headers, data=body) as answer:
        raw = await answer.read()
    try:
        return answer.status, msgspec.json.decode(raw) if raw else {}
    except MALFORMED as error:
        if answer.status < HTTPStatus.BAD_REQUEST and not raw.startswith((b"{", b"[")):
            return answer.status, {}  # A plain word such as OK, where Docker says nothing.
        raise EngineFailure(f"the container engine's answer to {target} cannot be read: {error}") from error


ROUTES: Final = (Route("GET", "/containers/{id}/json", inspect_container, ENGINE),)
