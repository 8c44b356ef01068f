"""/swarm: making, joining, leaving and setting up the swarm.

Edge: HTTP. Source: Docker API 1.51, tag Swarm.
"""

from typing import Final

import msgspec
from aiohttp import web

from skep.api import documents
from skep.api.authorize import ENGINE, SWARM
from skep.api.backend import InitRequest, JoinRequest
from skep.api.call import Call, Route
from skep.model.base import Wire
from skep.model.cluster import EncryptionConfig, SwarmSpec
from skep.model.errors import InvalidSpec


class InitBody(Wire, frozen=True, kw_only=True):
    listen_addr: str = ""
    advertise_addr: str = ""
    data_path_addr: str = ""
    data_path_port: int = 0
    force_new_cluster: bool = False
    spec: SwarmSpec = SwarmSpec()
    auto_lock_managers: bool = False
    availability: str = ""
    default_addr_pool: list[str] = []
    subnet_size: int = 0


class JoinBody(Wire, frozen=True, kw_only=True):
    listen_addr: str = ""
    advertise_addr: str = ""
    data_path_addr: str = ""
    remote_addrs: list[str] = []
    join_token: str = ""
    availability: str = ""


class UnlockBody(Wire, frozen=True, kw_only=True):
    unlock_key: str = ""


class OperatorBody(Wire, frozen=True, kw_only=True):
    """Attributes: csr: PEM. expiry: nanoseconds from now; 0 for 90 days."""

    name: str = ""
    csr: str = ""
    expiry: int = 0


async def init(call: Call) -> web.StreamResponse:
    """POST /swarm/init; answers this node's id."""
    body = await call.json(InitBody)
    spec = body.spec
    if body.auto_lock_managers:
        spec = msgspec.structs.replace(spec, encryption_config=EncryptionConfig(auto_lock_managers=True))
    node_id = await call.node.init_swarm(
        InitRequest(
            listen_addr=body.listen_addr,
            advertise_addr=body.advertise_addr,
            data_path_addr=body.data_path_addr,
            data_path_port=body.data_path_port,
            force_new_cluster=body.force_new_cluster,
            spec=spec,
            availability=_availability(body.availability),
            default_addr_pool=tuple(body.default_addr_pool),
            subnet_size=body.subnet_size,
        )
    )
    call.backend.events.look()
    return call.reply(node_id)


async def join(call: Call) -> web.StreamResponse:
    """POST /swarm/join."""
    body = await call.json(JoinBody)
    if not body.remote_addrs:
        raise InvalidSpec("at least 1 RemoteAddr is required to join")
    await call.node.join_swarm(
        JoinRequest(
            remote_addrs=tuple(body.remote_addrs),
            join_token=body.join_token,
            listen_addr=body.listen_addr,
            advertise_addr=body.advertise_addr,
            data_path_addr=body.data_path_addr,
            availability=_availability(body.availability),
        )
    )
    return call.done()


async def leave(call: Call) -> web.StreamResponse:
    """POST /swarm/leave."""
    await call.node.leave_swarm(is_forced=call.flag("force"))
    return call.done()


async def inspect(call: Call) -> web.StreamResponse:
    """GET /swarm, join tokens included."""
    control = call.control
    return call.reply(documents.swarm(control.cluster(), control.tls_info))


async def update(call: Call) -> web.StreamResponse:
    """POST /swarm/update: settings, and new join tokens."""
    control = call.control
    await control.update_cluster(
        call.number("version"),
        await call.json(SwarmSpec),
        rotate_worker_token=call.flag("rotateWorkerToken"),
        rotate_manager_token=call.flag("rotateManagerToken"),
        rotate_unlock_key=call.flag("rotateManagerUnlockKey"),
    )
    return call.done()


async def issue_operator(call: Call) -> web.StreamResponse:
    """POST /swarm/operators: a certificate for the TCP API. Not Docker's; the key itself never comes here."""
    body = await call.json(OperatorBody)
    issued = call.control.issue_operator(body.name, body.csr, body.expiry)
    return call.reply({"Certificate": issued.certificate, "CA": issued.root}, 201)


async def unlock_key(call: Call) -> web.StreamResponse:
    """GET /swarm/unlockkey: empty while managers are not locked, which the CLI says in words."""
    control = call.control
    control.cluster()
    return call.reply({"UnlockKey": control.unlock_key()})


async def unlock(call: Call) -> web.StreamResponse:
    """POST /swarm/unlock."""
    body = await call.json(UnlockBody)
    await call.node.unlock_swarm(body.unlock_key)
    call.backend.events.look()
    return call.done()


def _availability(text: str) -> str:
    if text.lower() not in ("", "active", "pause", "drain"):
        raise InvalidSpec(f'invalid Availability: "{text}"; it is one of active, pause and drain')
    return text.lower() or "active"


ROUTES: Final = (
    Route("POST", "/swarm/init", init, ENGINE, changes=True),
    Route("POST", "/swarm/join", join, ENGINE, changes=True),
    Route("POST", "/swarm/leave", leave, ENGINE, changes=True),
    Route("GET", "/swarm", inspect, SWARM),
    Route("POST", "/swarm/update", update, SWARM, changes=True),
    Route("POST", "/swarm/operators", issue_operator, SWARM, changes=True),
    Route("GET", "/swarm/unlockkey", unlock_key, SWARM),
    Route("POST", "/swarm/unlock", unlock, ENGINE, changes=True),
)
