"""/skep/join-tokens: join tokens with their limits, which Docker's API does not know.

Edge: HTTP. These routes are ours; docs/reference/skep-api.md describes them.
"""

from typing import Final

from aiohttp import web

from skep.api.authorize import SWARM
from skep.api.call import Call, Route
from skep.lib.timestamps import format_rfc3339
from skep.model.base import Wire
from skep.model.cluster import Cluster, TokenLimit
from skep.model.errors import InvalidSpec
from skep.model.node import Role


class TokenBody(Wire, frozen=True, kw_only=True):
    """Attributes: role: worker or manager. expiry: nanoseconds from now; uses: nodes; 0 for no limit."""

    role: str = ""
    expiry: int = 0
    uses: int = 0


async def show(call: Call) -> web.StreamResponse:
    """GET /skep/join-tokens; by role."""
    cluster = call.control.cluster()
    return call.reply({role.value.capitalize(): _token(cluster, role) for role in Role})


async def renew(call: Call) -> web.StreamResponse:
    """POST /skep/join-tokens: replace a role's token by one that is good for a while, or for some nodes."""
    body = await call.json(TokenBody)
    try:
        role = Role(body.role.lower())
    except ValueError as error:
        raise InvalidSpec(f"unknown role {body.role}; choose worker or manager") from error
    cluster = await call.control.renew_join_token(role, expiry=body.expiry, uses=body.uses)
    return call.reply(_token(cluster, role), 201)


def _token(cluster: Cluster, role: Role) -> dict[str, object]:
    tokens, limits = cluster.join_tokens, cluster.token_limits
    token, limit = (tokens.manager, limits.manager) if role is Role.MANAGER else (tokens.worker, limits.worker)
    limit = limit or TokenLimit()
    ends_at = format_rfc3339(limit.ends_at) if limit.ends_at else None
    return {"Token": token, "EndsAt": ends_at, "UsesLeft": limit.uses_left}


ROUTES: Final = (
    Route("GET", "/skep/join-tokens", show, SWARM),
    Route("POST", "/skep/join-tokens", renew, SWARM, changes=True),
)
