"""/services: what users want to run.

Edge: HTTP. Source: Docker API 1.51, tag Service.
"""

from typing import Final

from aiohttp import web

from skep.api import documents
from skep.api.authorize import SWARM
from skep.api.call import Call, Route
from skep.api.filters import Filters
from skep.api.routes import logs
from skep.api.wire import Document
from skep.model.errors import InvalidSpec
from skep.model.registry import AuthSource
from skep.model.service import Service, ServiceSpec

MODES: Final = ("replicated", "global", "replicated-job", "global-job")


async def list_all(call: Call) -> web.StreamResponse:
    """GET /services. With `status`, each carries how many of its tasks run."""
    wanted = call.filters("id", "name", "label", "mode", "runtime")
    for mode in wanted.values("mode"):
        if mode not in MODES:
            raise InvalidSpec(f"invalid filter 'mode={mode}'")
    view = call.control.view
    found: list[Document] = []
    for service in view.services.values():
        if _is_wanted(service, wanted):
            document = documents.service(service)
            if call.flag("status"):
                document["ServiceStatus"] = documents.service_status(service, view)
            found.append(document)
    return call.reply(found)


async def create(call: Call) -> web.StreamResponse:
    """POST /services/create."""
    control = call.control
    spec = await call.json(ServiceSpec)
    service = await control.create_service(spec, auth=AuthSource(_auth_header(call)))
    return call.reply({"ID": service.id, "Warnings": list(service.reasons) or None}, 201)


async def inspect(call: Call) -> web.StreamResponse:
    """GET /services/{id}."""
    service = call.control.find_service(call.params["id"])
    return call.reply(documents.service(service, with_defaults=call.flag("insertDefaults")))


async def update(call: Call) -> web.StreamResponse:
    """POST /services/{id}/update. `rollback=previous` goes back to the spec before; the body is then not looked at."""
    control = call.control
    version = call.number("version")
    rollback = call.text("rollback")
    if rollback not in ("", "none", "previous"):
        raise InvalidSpec(f"invalid rollback '{rollback}'; it can only be previous")
    spec = await call.json(ServiceSpec)
    service = await control.update_service(
        call.params["id"],
        version,
        spec,
        auth=AuthSource(_auth_header(call), call.text("registryAuthFrom")),
        is_rollback=rollback == "previous",
    )
    return call.reply({"Warnings": list(service.reasons) or None})


async def remove(call: Call) -> web.StreamResponse:
    """DELETE /services/{id}."""
    await call.control.remove_service(call.params["id"])
    return call.done()


def _auth_header(call: Call) -> str:
    return call.request.headers.get("X-Registry-Auth", "")


def _is_wanted(service: Service, wanted: Filters) -> bool:
    return (
        not service.removing
        and wanted.is_prefix("id", service.id)
        and wanted.is_prefix("name", service.spec.name)
        and wanted.has_labels("label", service.spec.labels)
        and wanted.is_exact("mode", mode_of(service))
        and wanted.is_exact("runtime", service.spec.task_template.runtime or "container")
    )


def mode_of(service: Service) -> str:
    """The service's mode as filters spell it."""
    mode = service.spec.mode
    if mode.global_ is not None:
        return "global"
    if mode.replicated_job is not None:
        return "replicated-job"
    return "global-job" if mode.global_job is not None else "replicated"


ROUTES: Final = (
    Route("GET", "/services", list_all, SWARM),
    Route("POST", "/services/create", create, SWARM, changes=True),
    Route("GET", "/services/{id}", inspect, SWARM),
    Route("GET", "/services/{id}/logs", logs.of_service, SWARM),
    Route("POST", "/services/{id}/update", update, SWARM, changes=True),
    Route("DELETE", "/services/{id}", remove, SWARM, changes=True),
    Route("GET", "/skep/stacks/{name}/logs", logs.of_stack, SWARM),
)
