"""/distribution: what a registry has under an image's name now, by which clients pin the digest of a service's image.

Edge: HTTP. Source: Docker API 1.51, tag Distribution; docker/cli's cli/command/service, which goes on with the name as
it is, and a warning, whenever this is refused.
"""

from typing import Final

from aiohttp import web

from skep.api.authorize import SWARM
from skep.api.call import Call, Route
from skep.manager.control.container_checks import BARE_DIGEST, IMAGE
from skep.model.errors import InvalidSpec, NotFound
from skep.model.registry import ImageName, read_auth


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


ROUTES: Final = (Route("GET", "/distribution/{name...}/json", inspect, SWARM),)
