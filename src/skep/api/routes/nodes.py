"""/nodes: the machines of the swarm.

Edge: HTTP. Source: Docker API 1.51, tag Node.
"""

from typing import Final

from aiohttp import web

from skep.api import documents
from skep.api.authorize import SWARM
from skep.api.call import Call, Route
from skep.api.filters import Filters
from skep.model.errors import InvalidSpec
from skep.model.node import Node, NodeSpec, Role


async def list_all(call: Call) -> web.StreamResponse:
    """GET /nodes."""
    wanted = call.filters("id", "name", "label", "node.label", "role", "membership")
    for role in wanted.values("role"):
        if role.lower() not in set(Role):
            raise InvalidSpec(f"Invalid role filter: '{role}'")
    for membership in wanted.values("membership"):
        if membership.lower() not in ("accepted", "pending"):
            raise InvalidSpec(f"Invalid membership filter: '{membership}'")
    nodes = call.control.view.nodes.values()
    return call.reply([documents.node(node) for node in nodes if _is_wanted(node, wanted)])


async def inspect(call: Call) -> web.StreamResponse:
    """GET /nodes/{id}."""
    return call.reply(documents.node(call.control.find_node(call.params["id"])))


async def update(call: Call) -> web.StreamResponse:
    """POST /nodes/{id}/update: labels, role and availability."""
    control = call.control
    version = call.number("version")
    await control.update_node(call.params["id"], version, await call.json(NodeSpec))
    return call.done()


async def remove(call: Call) -> web.StreamResponse:
    """DELETE /nodes/{id}; with `force` also one that is up."""
    await call.control.remove_node(call.params["id"], is_forced=call.flag("force"))
    return call.done()


def _is_wanted(node: Node, wanted: Filters) -> bool:
    return (
        wanted.is_prefix("id", node.id)
        and wanted.is_prefix("name", node.description.hostname)
        and wanted.has_labels("label", node.description.engine.labels or {})
        and wanted.has_labels("node.label", node.spec.labels)
        and wanted.is_exact("role", node.role.value)
        and wanted.is_exact("membership", "accepted")
    )


ROUTES: Final = (
    Route("GET", "/nodes", list_all, SWARM),
    Route("GET", "/nodes/{id}", inspect, SWARM),
    Route("POST", "/nodes/{id}/update", update, SWARM, changes=True),
    Route("DELETE", "/nodes/{id}", remove, SWARM, changes=True),
)
