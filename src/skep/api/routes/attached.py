"""Plain containers on the swarm's attachable networks: made, started, connected, ended.

Edge: HTTP, this node's engine, and the agent's attachments. Whatever concerns the engine's own networks only goes on to
`local` and `containers` as it is. The same on a worker as on a manager: the agent asks whichever manager it has.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

import msgspec
from aiohttp import web

from skep.agent.attached import AttachedContainer, ContainerEndpoint
from skep.agent.attachments import Attachments
from skep.agent.container import TASK_ID_LABEL
from skep.api import attaching, wire
from skep.api.authorize import ENGINE
from skep.api.call import UNLIMITED, Call, Handler, Route
from skep.api.reach import Place
from skep.api.routes import containers, local
from skep.model.errors import Forbidden, InvalidSpec, NotFound, SkepError, Unsupported

DEFAULT_MODE: Final = "default"


async def create(call: Call) -> web.StreamResponse:
    """POST /containers/create."""
    raw = await call.body()
    attachments = call.node.attachments
    body = wire.parse(raw)
    asked = attaching.asked_networks(body)
    if attachments is None or not asked or not call.backend.engine.is_there:
        return await local.create(call, raw)
    known = await _engine_networks(call)
    endpoints: dict[str, ContainerEndpoint] = {}
    for reference, settings in asked.items():
        if reference not in known:
            network_id, network = await _check(attachments, reference)
            endpoints[reference] = attaching.endpoint_of(network_id, network, settings, len(endpoints))
    if not endpoints:
        return await local.create(call, raw)
    if (await call.node.engine_facts()).name != "podman":
        raise Unsupported(
            "this node's engine cannot make a container on an overlay network; make it without and use "
            "docker network connect, or use a node with the podman engine"
        )
    others = [reference for reference in asked if reference not in endpoints]
    if others:
        return await _create_on_both(call, attachments, attaching.without(body, endpoints, others[0]), endpoints)
    container = attaching.new_container(attachments.new_sandbox_id(), call.text("name"), body)
    container = msgspec.structs.replace(container, endpoints=list(endpoints.values()))
    namespace, files = await attachments.make(container)
    created = None
    try:
        asked_body = attaching.for_engine(body, namespace, files)
        status, answer = await local.ask(call, "POST", None, msgspec.json.encode(asked_body))
        if status == HTTPStatus.CREATED:
            created = await _describe(call, str(answer["Id"]))
    finally:
        if created is None:
            await attachments.discard(container.sandbox_id)
        else:
            await attachments.bind(container.sandbox_id, created["Id"], str(created["Name"]).removeprefix("/"))
    return call.reply(answer, status)


async def _check(attachments: Attachments, reference: str) -> tuple[str, str]:
    """As `Attachments.check`, but for the status: clients take a 404 here for a missing image, and pull."""
    try:
        return await attachments.check(reference)
    except NotFound as error:
        raise InvalidSpec(str(error)) from error


async def _create_on_both(
    call: Call, attachments: Attachments, body: Mapping[str, Any], endpoints: Mapping[str, ContainerEndpoint]
) -> web.StreamResponse:
    """Make a container on its engine's networks, which has the swarm's ones from its start on."""
    status, answer = await local.create_from(call, dict(body))
    if status == HTTPStatus.CREATED:
        created = await _describe(call, str(answer["Id"]))
        container = attaching.borrowing(attachments.new_sandbox_id(), created)
        for endpoint in endpoints.values():
            await attachments.connect(container, endpoint)
    return call.reply(answer, status)


async def _engine_networks(call: Call) -> frozenset[str]:
    """Names and ids of the networks this node's engine has."""
    _, networks = await local.ask(call, "GET", "/networks", is_plain=True)
    shown = local.shown_networks(networks)
    return frozenset(str(each[key]) for each in shown for key in ("Name", "Id"))


async def _describe(call: Call, reference: str) -> dict[str, Any]:
    """A container as the engine describes it.

    Raises:
        NotFound: There is none.
    """
    status, answer = await local.ask(call, "GET", f"/containers/{quote(reference, safe='')}/json", is_plain=True)
    if status != HTTPStatus.OK or not isinstance(answer, dict):
        raise NotFound(f"No such container: {reference}")
    return answer


async def _known(call: Call) -> AttachedContainer | None:
    """The container a request is about, if it is on a network of the swarm."""
    attachments = call.node.attachments
    if attachments is None or not attachments.book.containers or not call.backend.engine.is_there:
        return None
    place = await call.backend.engines.of_container(call.params["id"])
    if place.node_id:
        return None
    try:
        described = await _describe(call, place.id)
    except NotFound:
        return None
    return attachments.book.find(str(described.get("Id")))


# --- start and end --------------------------------------------------------------------------


async def start(call: Call) -> web.StreamResponse:
    """POST /containers/{id}/start: with all its networks from its first instruction on."""
    container, attachments = await _known(call), call.node.attachments
    if container is None or attachments is None:
        return await containers.relay(call)
    try:
        async with attachments.lock(container):
            await attachments.attach(container.container_id)
            status, raw = await containers.begin(call, Place(call.backend.engine, container.container_id))
    except SkepError:
        await _remove_unstarted(call, container.container_id)
        raise
    finally:
        await attachments.settle(container.container_id)
    return web.Response(status=status, body=raw, content_type="application/json") if raw else call.done(status)


async def _remove_unstarted(call: Call, container_id: str) -> None:
    """What was to be removed after its end goes now: `docker run --rm` waits for that before it tells why."""
    described = await _describe(call, container_id)
    if (described.get("HostConfig") or {}).get("AutoRemove"):
        engine = call.backend.engine
        path = f"{await engine.prefix()}/containers/{container_id}"
        async with engine.ask("DELETE", path, params={"force": "true"}) as answer:
            await answer.read()


async def restart(call: Call) -> web.StreamResponse:
    """POST /containers/{id}/restart: it keeps its addresses."""
    container, attachments = await _known(call), call.node.attachments
    if container is None or attachments is None:
        return await containers.restart(call)
    async with attachments.lock(container):
        await attachments.attach(container.container_id)
        response = await containers.restart(call)
    await attachments.settle(container.container_id)
    return response


def _ending(handler: Handler) -> Handler:
    """A handler after which the container may have ended, or be gone: then its addresses are free when it answers."""

    async def handle(call: Call) -> web.StreamResponse:
        container, attachments = await _known(call), call.node.attachments
        if container is None or attachments is None:
            return await handler(call)
        own = f"/containers/{container.container_id}"
        if call.request.method == "DELETE" and call.flag("force"):
            await local.ask(call, "POST", f"{own}/kill")  # See `containers.remove`.
        try:
            status, answer = await local.ask(call, call.request.method)
        finally:
            await attachments.settle(container.container_id)
        return call.reply(answer, status) if answer else call.done(status)

    return handle


# --- connect and disconnect -----------------------------------------------------------------


async def connect(call: Call, attachments: Attachments) -> web.StreamResponse:
    """POST /networks/{id}/connect."""
    body = await call.json(attaching.ConnectBody)
    network_id, network = await attachments.check(call.params["id"])
    described = await _describe(call, body.container)
    labels = (described.get("Config") or {}).get("Labels") or {}
    name = str(described.get("Name") or "").removeprefix("/")
    if TASK_ID_LABEL in labels:
        raise InvalidSpec(f"container {name} is a task of a service, which says on which networks it is")
    container = attachments.book.find(str(described["Id"]))
    if container is None:
        container = attaching.borrowing(attachments.new_sandbox_id(), described)
    if any(each.network_id == network_id for each in container.endpoints):
        raise Forbidden(f"endpoint with name {name} already exists in network {network}")
    await attachments.connect(container, attaching.endpoint(network_id, network, body.endpoint_config))
    return call.done()


async def disconnect(call: Call, attachments: Attachments) -> web.StreamResponse:
    """POST /networks/{id}/disconnect; needs no manager to find what this node knows."""
    reference = call.params["id"]
    described = await _describe(call, (await call.json(attaching.ConnectBody)).container)
    container = attachments.book.find(str(described["Id"]))
    endpoint = find_endpoint(container, reference) if container is not None else None
    if container is None or endpoint is None:
        raise Forbidden(f"container {described['Id']} is not connected to network {reference}")
    await attachments.disconnect(container.container_id, endpoint.network_id)
    return call.done()


def find_endpoint(container: AttachedContainer, reference: str) -> ContainerEndpoint | None:
    """A container's endpoint on a network, by the network's name, id or the beginning of its id."""
    for each in container.endpoints:
        if reference in (each.network, each.network_id):
            return each
    return next((each for each in container.endpoints if each.network_id.startswith(reference)), None)


ROUTES: Final = (
    Route("POST", "/containers/create", create, ENGINE),
    Route("POST", "/containers/{id}/start", start, ENGINE, changes=True),
    Route("POST", "/containers/{id}/restart", restart, ENGINE, changes=True),
    Route("POST", "/containers/{id}/stop", _ending(containers.relay), ENGINE, UNLIMITED, changes=True),
    Route("POST", "/containers/{id}/kill", _ending(containers.relay), ENGINE, UNLIMITED, changes=True),
    Route("DELETE", "/containers/{id}", _ending(containers.remove), ENGINE, UNLIMITED, changes=True),
)
