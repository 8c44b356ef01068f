"""/secrets and /configs: the swarm's small files, to be looked at.

Edge: HTTP. Source: Docker API 1.51, tags Secret and Config.
"""

from typing import Final, TypeVar

from aiohttp import web

from skep.api import documents
from skep.api.authorize import SWARM
from skep.api.call import Call, Route
from skep.api.filters import Filters
from skep.model.errors import NotFound, Unsupported
from skep.model.secret import Config, Secret
from skep.store.state import TableView

F = TypeVar("F", Secret, Config)


async def list_secrets(call: Call) -> web.StreamResponse:
    """GET /secrets."""
    wanted = call.filters("id", "name", "names", "label")
    secrets = call.control.view.secrets.values()
    return call.reply([documents.secret(each) for each in secrets if _is_wanted(each, wanted)])


async def inspect_secret(call: Call) -> web.StreamResponse:
    """GET /secrets/{id}: never its value."""
    return call.reply(documents.secret(_find(call.control.view.secrets, call.params["id"], "secret")))


async def list_configs(call: Call) -> web.StreamResponse:
    """GET /configs."""
    wanted = call.filters("id", "name", "names", "label")
    configs = call.control.view.configs.values()
    return call.reply([documents.config(each) for each in configs if _is_wanted(each, wanted)])


async def inspect_config(call: Call) -> web.StreamResponse:
    """GET /configs/{id}."""
    return call.reply(documents.config(_find(call.control.view.configs, call.params["id"], "config")))


async def refuse(call: Call) -> web.StreamResponse:
    """Anything that would change one."""
    call.node.control()
    raise Unsupported("this version of the swarm keeps no secrets or configs; mount files from the nodes instead")


def _is_wanted(value: Secret | Config, wanted: Filters) -> bool:
    return (
        wanted.is_prefix("id", value.id)
        and wanted.is_prefix("name", value.spec.name)
        and wanted.is_exact("names", value.spec.name)
        and wanted.has_labels("label", value.spec.labels)
    )


def _find(table: TableView[F], reference: str, kind: str) -> F:
    """By id, by name, or by the beginning of an id if only one has it."""
    found = table.get(reference)
    if found is not None:
        return found
    named = table.where("name", reference)
    if named:
        return named[0]
    started = [each for each in table.values() if each.id.startswith(reference)]
    if len(started) == 1:
        return started[0]
    raise NotFound(f"{kind} {reference} not found" if not started else f"{kind} {reference} is ambiguous")


ROUTES: Final = (
    Route("GET", "/secrets", list_secrets, SWARM),
    Route("POST", "/secrets/create", refuse, SWARM),
    Route("GET", "/secrets/{id}", inspect_secret, SWARM),
    Route("POST", "/secrets/{id}/update", refuse, SWARM),
    Route("DELETE", "/secrets/{id}", refuse, SWARM),
    Route("GET", "/configs", list_configs, SWARM),
    Route("POST", "/configs/create", refuse, SWARM),
    Route("GET", "/configs/{id}", inspect_config, SWARM),
    Route("POST", "/configs/{id}/update", refuse, SWARM),
    Route("DELETE", "/configs/{id}", refuse, SWARM),
)
