"""/distribution: what a registry has under an image's name now, by which clients pin the digest of a service's image.

/auth: whether a registry knows a user, for `docker login`; asked by the same means, so that both trust the same.

Edge: HTTP. Source: Docker API 1.51, tags Distribution and System; docker/cli's cli/command/service, which goes on with
the name as it is, and a warning, whenever this is refused.
"""

from typing import Final

from aiohttp import web

from skep.api.authorize import ENGINE, SWARM
from skep.api.call import Call, Route
from skep.manager.control.container_checks import BARE_DIGEST, IMAGE
from skep.model.errors import InvalidSpec, NotFound, Unsupported
from skep.model.registry import ImageName, RegistryAuth, read_auth, registry_of


async def inspect(call: Call) -> web.StreamResponse:
    """GET /distribution/{name}/json: answered by the image's registry, never by an image that is only here."""
    name = call.params["name"]
    if not IMAGE.fullmatch(name) or BARE_DIGEST.fullmatch(name):
        raise InvalidSpec(f'"{name}" is not the name of an image in a registry: invalid reference format')
    if call.backend.registry is None:
        raise NotFound(f"no registry is asked about {name} here; the nodes that run it find it themselves")
    auth = read_auth(call.request.headers.get("X-Registry-Auth", ""))
    manifest = await call.backend.registry.inspect(ImageName.parse(name), auth)
    return call.reply(
        {
            "Descriptor": {"mediaType": manifest.media_type, "digest": manifest.digest, "size": manifest.size},
            "Platforms": [{"architecture": each.architecture, "os": each.os} for each in manifest.platforms],
        }
    )


async def log_in(call: Call) -> web.StreamResponse:
    """POST /auth."""
    auth = await call.json(RegistryAuth)
    if call.backend.registry is None:
        raise Unsupported("no registry is asked here; log in on a machine that reaches it")
    await call.backend.registry.log_in(registry_of(auth.serveraddress), auth)
    return call.reply({"Status": "Login Succeeded", "IdentityToken": ""})


ROUTES: Final = (
    Route("GET", "/distribution/{name...}/json", inspect, SWARM),
    Route("POST", "/auth", log_in, ENGINE),
)
