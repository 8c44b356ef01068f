"""/secrets and /configs: the swarm's small files.

Edge: HTTP. Source: Docker API 1.51, tags Secret and Config.
"""

from http import HTTPStatus
from typing import Final, TypeVar

from aiohttp import web

from skep.api import documents
from skep.api.authorize import SWARM
from skep.api.call import Call, Route
from skep.api.filters import Filters
from skep.model.base import Wire
from skep.model.errors import NotFound
from skep.model.secret import Config, ConfigSpec, Secret, SecretSpec
from skep.store.state import TableView

FILE_LIMIT: Final = 2_000_000
"""Bytes of a body: the largest config, in base64, and its labels."""

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


async def create_secret(call: Call) -> web.StreamResponse:
    """POST /secrets/create."""
    secret = await call.control.create_secret(await call.json(SecretSpec))
    return call.reply({"ID": secret.id}, HTTPStatus.CREATED)


async def update_secret(call: Call) -> web.StreamResponse:
    """POST /secrets/{id}/update: its labels."""
    secret = _find(call.control.view.secrets, call.params["id"], "secret")
    await call.control.update_secret(secret.id, call.number("version"), await call.json(SecretSpec))
    return call.done()


async def remove_secret(call: Call) -> web.StreamResponse:
    """DELETE /secrets/{id}."""
    await call.control.remove_secret(_find(call.control.view.secrets, call.params["id"], "secret").id)
    return call.done(HTTPStatus.NO_CONTENT)


async def create_config(call: Call) -> web.StreamResponse:
    """POST /configs/create."""
    config = await call.control.create_config(await call.json(ConfigSpec))
    return call.reply({"ID": config.id}, HTTPStatus.CREATED)


async def update_config(call: Call) -> web.StreamResponse:
    """POST /configs/{id}/update: its labels."""
    config = _find(call.control.view.configs, call.params["id"], "config")
    await call.control.update_config(config.id, call.number("version"), await call.json(ConfigSpec))
    return call.done()


async def remove_config(call: Call) -> web.StreamResponse:
    """DELETE /configs/{id}."""
    await call.control.remove_config(_find(call.control.view.configs, call.params["id"], "config").id)
    return call.done(HTTPStatus.NO_CONTENT)


class RotateBody(Wire, frozen=True, kw_only=True):
    """Attributes: data: the new value, in base64."""

    data: str = ""


async def rotate_secret(call: Call) -> web.StreamResponse:
    """POST /skep/secrets/{id}/rotate: a new value behind the name; the services that use it roll."""
    secret = _find(call.control.view.secrets, call.params["id"], "secret")
    body = await call.json(RotateBody)
    return call.reply({"ID": (await call.control.rotate_secret(secret.id, body.data)).id}, HTTPStatus.CREATED)


async def rotate_config(call: Call) -> web.StreamResponse:
    """POST /skep/configs/{id}/rotate: likewise."""
    config = _find(call.control.view.configs, call.params["id"], "config")
    body = await call.json(RotateBody)
    return call.reply({"ID": (await call.control.rotate_config(config.id, body.data)).id}, HTTPStatus.CREATED)


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
    Route("POST", "/skep/secrets/{id}/rotate", rotate_secret, SWARM, FILE_LIMIT, changes=True),
    Route("POST", "/skep/configs/{id}/rotate", rotate_config, SWARM, FILE_LIMIT, changes=True),
    Route("GET", "/secrets", list_secrets, SWARM),
    Route("POST", "/secrets/create", create_secret, SWARM, FILE_LIMIT, changes=True),
    Route("GET", "/secrets/{id}", inspect_secret, SWARM),
    Route("POST", "/secrets/{id}/update", update_secret, SWARM, FILE_LIMIT, changes=True),
    Route("DELETE", "/secrets/{id}", remove_secret, SWARM, changes=True),
    Route("GET", "/configs", list_configs, SWARM),
    Route("POST", "/configs/create", create_config, SWARM, FILE_LIMIT, changes=True),
    Route("GET", "/configs/{id}", inspect_config, SWARM),
    Route("POST", "/configs/{id}/update", update_config, SWARM, FILE_LIMIT, changes=True),
    Route("DELETE", "/configs/{id}", remove_config, SWARM, changes=True),
)
