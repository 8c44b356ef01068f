"""/networks: the swarm's overlays beside the node's own networks.

Edge: HTTP, and the engine for local networks. A name or id is looked up among the overlays first, then at the engine,
then among those every node has without making them (`host`, `none`; and `bridge` where no engine makes it).
Source: Docker API 1.51, tag Network; moby's api/server/router/network.
"""

import hashlib
from http import HTTPStatus
from typing import Any, Final

import msgspec
from aiohttp import web

from skep.api import documents, local_networks, wire
from skep.api.authorize import SWARM
from skep.api.backend import Control
from skep.api.call import Call, Route
from skep.api.filters import Filters
from skep.api.routes import attached, local
from skep.api.routes.events import moment
from skep.api.wire import Document
from skep.lib.durations import parse_duration
from skep.lib.timestamps import RFC3339, parse_rfc3339
from skep.model.base import Labels, Nanoseconds, Wire
from skep.model.errors import Conflict, Forbidden, InUse, InvalidSpec, NotFound, NotManager, Unsupported
from skep.model.network import IPAM, Network, NetworkSpec

FILTERS: Final = ("dangling", "driver", "id", "label", "name", "scope", "type")
PREDEFINED: Final = {"bridge": "bridge", "host": "host", "none": "null"}


class ConfigFrom(Wire, frozen=True, kw_only=True):
    network: str = ""


class CreateBody(Wire, frozen=True, kw_only=True):
    """Source: POST /networks/create."""

    name: str = ""
    driver: str = ""
    scope: str = ""
    enable_ipv6: bool = False
    ipam: IPAM = IPAM()
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_only: bool = False
    config_from: ConfigFrom = ConfigFrom()
    options: Labels = {}
    labels: Labels = {}


async def list_all(call: Call) -> web.StreamResponse:
    """GET /networks."""
    wanted = call.filters(*FILTERS)
    for kind in wanted.values("type"):
        if kind not in ("builtin", "custom"):
            raise InvalidSpec(f"invalid filter: 'type'='{kind}'")
    found: list[Document] = []
    control = _control(call)
    if control is not None:
        is_dangling = wanted.is_true("dangling")
        for network in control.view.networks.values():
            if "dangling" not in wanted or _is_unused(network, control) == is_dangling:
                found.append(documents.network(network))
    if control is None and "dangling" not in wanted:
        found += _joined(call)
    if "dangling" not in wanted:
        found += await _local(call)
    return call.reply([document for document in found if _is_wanted(document, wanted)])


async def inspect(call: Call) -> web.StreamResponse:
    """GET /networks/{id}; `scope` narrows where to look, `verbose` adds every service on it."""
    reference, scope = call.params["id"], call.text("scope")
    if scope not in ("", "swarm", "local", "global"):
        raise InvalidSpec(f"invalid scope '{scope}'")
    control = _control(call)
    network = _overlay(control, reference) if scope != "local" else None
    if network is not None and control is not None:
        view = control.view
        document = documents.network(network)
        document["Containers"] = documents.network_containers(network, call.node.local_state.node_id, view)
        document["Status"] = documents.network_status(network, view)
        if call.flag("verbose"):
            document["Attachments"] = documents.network_attachments(network, view)
            document["Services"] = documents.network_services(network, view)
        return call.reply(document)
    if control is None and scope != "local":
        for document in _joined(call):
            if reference in (document["Name"], document["Id"]):
                return call.reply(document)
    if scope in ("", "local"):
        found = await _local_one(call, reference)
        if found is not None:
            return call.reply(found)
    raise NotFound(f"network {reference} not found")


async def create(call: Call) -> web.StreamResponse:
    """POST /networks/create: overlays are the swarm's, everything else the engine's."""
    raw = await call.json_text()
    body = wire.decode(raw, CreateBody)
    if body.name in PREDEFINED:
        raise Forbidden(f"operation is not permitted on predefined {body.name} network ")
    control = _control(call)
    if body.driver != "overlay":
        if body.scope == "swarm" or body.ingress:
            raise Unsupported(
                f'a network for the whole swarm needs the overlay driver, not "{body.driver or "bridge"}"'
            )
        if _overlay(control, body.name, by_id=False) is not None:
            raise Conflict(f"network with name {body.name} already exists")
        return await _create_local(call, raw)
    if any(each["Name"] == body.name for each in await _local(call)):
        raise Conflict(f"network with name {body.name} already exists")
    network = await call.control.create_network(_spec(body))
    return call.reply({"Id": network.id, "Warning": network.reason}, 201)


async def remove(call: Call) -> web.StreamResponse:
    """DELETE /networks/{id}."""
    reference = call.params["id"]
    control = _control(call)
    network = _overlay(control, reference)
    if network is not None and control is not None:
        await control.remove_network(network.id)
        return call.done(204)
    found = await _local_one(call, reference)
    if found is None:
        raise NotFound(f"network {reference} not found")
    if found["Name"] in PREDEFINED:
        raise Forbidden(f"{found['Name']} is a pre-defined network and cannot be removed")
    path = f"/networks/{found['Id']}"
    status, shown = await local.ask(call, "GET", path)
    if status == HTTPStatus.OK and shown.get("Containers"):  # Podman (4.3) would take it from under them.
        raise Forbidden(f"error while removing network: network {reference} id {found['Id']} has active endpoints")
    return await call.backend.engine.relay(call, path=path)


async def attach(call: Call) -> web.StreamResponse:
    """POST /networks/{id}/connect and /disconnect, of plain containers."""
    attachments, reference = call.node.attachments, call.params["id"]
    network = _overlay(_control(call), reference)
    if network is not None and not network.spec.attachable:
        reason = f"rpc error: code = PermissionDenied desc = network {reference} not manually attachable"
        raise Forbidden(f"Could not attach to network {reference}: {reason}")
    # A worker knows its own networks only; any other may be one of the swarm's.
    if attachments is None or (network is None and await _local_one(call, reference) is not None):
        return await _attach_locally(call)
    if call.path.endswith("/disconnect"):
        return await attached.disconnect(call, attachments)
    return await attached.connect(call, attachments)


async def prune(call: Call) -> web.StreamResponse:
    """POST /networks/prune: overlays no service uses, and what the engine prunes of its own."""
    wanted = call.filters("label", "label!", "until")
    until = _until(wanted, call.backend.clock.now())
    deleted = await _prune_overlays(call, wanted, until)
    if call.backend.engine.is_there and "label!" not in wanted:
        deleted += await _prune_engine(call)
    return call.reply({"NetworksDeleted": deleted or None})


async def _prune_overlays(call: Call, wanted: Filters, until: Nanoseconds) -> list[str]:
    control = _control(call)
    deleted: list[str] = []
    if control is None:
        return deleted
    for network in tuple(control.view.networks.values()):
        labels = network.spec.labels
        if network.spec.ingress or not wanted.has_labels("label", labels) or _has_one(wanted, "label!", labels):
            continue
        if (until and network.created_at > until) or not _is_unused(network, control):
            continue
        try:
            await control.remove_network(network.id)
        except (InUse, NotFound):
            continue  # Taken into use, or removed by someone else, since we looked.
        deleted.append(network.spec.name)
    return deleted


async def _prune_engine(call: Call) -> list[str]:
    engine = call.backend.engine
    filters = {"filters": call.text("filters")} if call.text("filters") else None
    names = {local_networks.engine_name(str(each["Name"])): str(each["Name"]) for each in await _local(call)}
    answer = await engine.ask_json("POST", f"{await engine.prefix()}/networks/prune", filters)
    return [names.get(name, name) for name in (answer or {}).get("NetworksDeleted") or ()]


async def _create_local(call: Call, raw: bytes) -> web.StreamResponse:
    body = wire.parse(raw)
    if any(each["Name"] == body.get("Name") for each in await _local(call)):
        raise Conflict(f"network with name {body.get('Name')} already exists")
    return await call.backend.engine.relay(call, body=msgspec.json.encode(local_networks.for_engine(body)))


async def _attach_locally(call: Call) -> web.StreamResponse:
    found = await _local_one(call, call.params["id"])
    if found is None:
        raise NotFound(f"network {call.params['id']} not found")
    raw = await call.json_text()
    action = call.path.rpartition("/")[2]
    status, answer = await local.ask(call, "POST", f"/networks/{found['Id']}/{action}", raw)
    if status != HTTPStatus.OK:
        return call.reply(answer, status)
    await local.note_connection(call, str(found["Name"]), wire.parse(raw), is_connected=action == "connect")
    return call.done()


def _until(wanted: Filters, now: Nanoseconds) -> Nanoseconds:
    """Read `until`: a moment, or a time before now such as 24h."""
    texts = wanted.values("until")
    if not texts:
        return 0
    if len(texts) > 1:
        raise InvalidSpec("more than one until filter specified")
    if RFC3339.fullmatch(texts[0]):
        return parse_rfc3339(texts[0])
    try:
        return now - parse_duration(texts[0])
    except ValueError:
        return moment(texts[0], "until")


def _has_one(wanted: Filters, key: str, labels: Labels) -> bool:
    return any(Filters({"label": (text,)}).has_labels("label", labels) for text in wanted.values(key))


# --- finding ----------------------------------------------------------------------


def _control(call: Call) -> Control | None:
    """The swarm's operations if this node has them: local networks are there without a swarm too."""
    try:
        return call.control
    except NotManager:
        return None


def _overlay(control: Control | None, reference: str, *, by_id: bool = True) -> Network | None:
    if control is None:
        return None
    named = control.view.networks.where("name", reference)
    if named or not by_id:
        return named[0] if named else None
    try:
        return control.find_network(reference)
    except NotFound:
        return None


def _joined(call: Call) -> list[Document]:
    """What a worker knows of the swarm's networks: those it takes part in."""
    attachments = call.node.attachments
    if attachments is None:
        return []
    return [documents.joined_network(network, attachments.tasks) for network in attachments.networks]


async def _local(call: Call) -> list[Document]:
    """The networks of this machine alone."""
    engine = call.backend.engine
    found: list[Document] = []
    if engine.is_there:
        answer = await engine.ask_json("GET", f"{await engine.prefix()}/networks")
        found = [_completed(each) for each in answer if isinstance(each, dict)]
    names = {document["Name"] for document in found}
    found += [_predefined(call, name) for name in PREDEFINED if name not in names]
    return found


async def _local_one(call: Call, reference: str) -> Document | None:
    all_local = await _local(call)
    for document in all_local:
        if reference in (document["Name"], document["Id"]):
            break
    else:
        begun = [each for each in all_local if str(each["Id"]).startswith(reference)]
        if len(begun) != 1:
            return None
        document = begun[0]
    if call.backend.engine.is_there and document["Driver"] not in ("host", "null"):
        engine = call.backend.engine
        return _completed(await engine.ask_json("GET", f"{await engine.prefix()}/networks/{document['Id']}"))
    return document


def _completed(document: dict[str, Any]) -> Document:
    """An engine's network with what older engines leave out or leave null."""
    document = local_networks.shown(document)
    defaults: Document = {
        "Scope": "local",
        "EnableIPv4": True,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {},
        "Options": {},
        "Labels": {},
    }
    return defaults | {key: value for key, value in document.items() if value is not None}


def _predefined(call: Call, name: str) -> Document:
    own_id = hashlib.sha256(f"{call.node.engine_id}/{name}".encode()).hexdigest()
    return _completed(
        {
            "Name": name,
            "Id": own_id,
            "Created": "0001-01-01T00:00:00Z",
            "Driver": PREDEFINED[name],
            "EnableIPv6": False,
            "IPAM": {"Driver": "default", "Options": None, "Config": []},
            "Internal": False,
            "Attachable": False,
            "Ingress": False,
        }
    )


def _is_unused(network: Network, control: Control) -> bool:
    view = control.view
    return not view.services.where("network", network.id) and not view.tasks.where("network", network.id)


def _is_wanted(document: Document, wanted: Filters) -> bool:
    name, labels = str(document["Name"]), document["Labels"]
    kind = "builtin" if name in PREDEFINED else "custom"
    return (
        wanted.is_pattern("name", name)
        and wanted.is_pattern("id", str(document["Id"]))
        and wanted.is_exact("driver", str(document["Driver"]))
        and wanted.is_exact("scope", str(document["Scope"]))
        and wanted.is_exact("type", kind)
        and wanted.has_labels("label", labels if isinstance(labels, dict) else {})
    )


def _spec(body: CreateBody) -> NetworkSpec:
    if body.config_only or body.config_from.network:
        raise Unsupported("overlay networks take no configuration from another network; give the options themselves")
    return NetworkSpec(
        name=body.name,
        labels=body.labels,
        driver="overlay",
        options=body.options,
        ipam=msgspec.structs.replace(body.ipam, driver=body.ipam.driver or "default"),
        internal=body.internal,
        attachable=body.attachable,
        ingress=body.ingress,
        enable_ipv6=body.enable_ipv6,
    )


ROUTES: Final = (
    Route("GET", "/networks", list_all, SWARM),
    Route("POST", "/networks/create", create, SWARM, changes=True),
    Route("POST", "/networks/prune", prune, SWARM, changes=True),
    Route("GET", "/networks/{id}", inspect, SWARM),
    Route("DELETE", "/networks/{id}", remove, SWARM, changes=True),
    Route("POST", "/networks/{id}/connect", attach, SWARM, changes=True),
    Route("POST", "/networks/{id}/disconnect", attach, SWARM, changes=True),
)
