"""/skep: what Docker's API has no word for: why something does not run, what would happen, and evening out.

Edge: HTTP. These routes are ours; docs/reference/skep-api.md describes them.
"""

from typing import Final

from aiohttp import web

from skep.api.authorize import SWARM
from skep.api.call import Call, Route
from skep.api.wire import Document
from skep.core.schedule.explain import Explanation
from skep.core.why import Answer, why_service, why_task
from skep.model.service import ServiceSpec
from skep.store.state import View


async def why_is_service(call: Call) -> web.StreamResponse:
    """GET /skep/services/{id}/why."""
    control = call.control
    service = control.find_service(call.params["id"])
    return call.reply(_answer(control.view, why_service(control.view, service)))


async def why_is_task(call: Call) -> web.StreamResponse:
    """GET /skep/tasks/{id}/why."""
    control = call.control
    return call.reply(_answer(control.view, why_task(control.view, control.find_task(call.params["id"]))))


async def rehearse(call: Call) -> web.StreamResponse:
    """POST /skep/services/rehearse: a spec as for create; with `service`, as for an update of that one."""
    control = call.control
    found = control.rehearse_service(await call.json(ServiceSpec), reference=call.text("service"))
    placements = [
        {
            "Slot": each.slot,
            "NodeID": each.node_id,
            "Hostname": _hostname(control.view, each.node_id),
            "Err": each.reason,
            "New": each.is_new,
        }
        for each in found.placements
    ]
    return call.reply({"Placements": placements, "Reasons": list(found.reasons)})


async def rebalance(call: Call) -> web.StreamResponse:
    """POST /skep/services/{id}/rebalance; with `dry-run` nothing is changed."""
    control = call.control
    found = await control.rebalance_service(call.params["id"], is_dry=call.flag("dry-run"))
    moves = [
        {
            "TaskID": move.task.id,
            "Name": move.task.name,
            "From": _hostname(control.view, move.task.node_id),
            "To": _hostname(control.view, move.target_id),
        }
        for move in found
    ]
    return call.reply({"Moves": moves})


def _answer(view: View, answer: Answer) -> Document:
    return {
        "Fine": answer.n_fine,
        "Reasons": list(answer.reasons),
        "Tasks": [
            {
                "ID": each.task.id,
                "Name": each.task.name,
                "State": each.task.status.state.label,
                "Hostname": _hostname(view, each.task.node_id),
                "Cause": each.cause,
            }
            for each in answer.obstacles
        ],
        "Tables": [_table(table) for table in answer.tables],
    }


def _table(found: Explanation) -> Document:
    return {
        "Summary": found.summary,
        "Fix": found.fix,
        "Nodes": [
            {
                "ID": row.node_id,
                "Hostname": row.hostname,
                "Suitable": row.is_suitable,
                "Filters": [
                    {"Name": verdict.filter, "Admitted": verdict.is_admitted, "Figures": verdict.figures}
                    for verdict in row.verdicts
                ],
            }
            for row in found.rows
        ],
    }


def _hostname(view: View, node_id: str) -> str:
    node = view.nodes.get(node_id) if node_id else None
    return node.description.hostname if node is not None else node_id


ROUTES: Final = (
    Route("GET", "/skep/services/{id}/why", why_is_service, SWARM),
    Route("GET", "/skep/tasks/{id}/why", why_is_task, SWARM),
    Route("POST", "/skep/services/rehearse", rehearse, SWARM),
    Route("POST", "/skep/services/{id}/rebalance", rebalance, SWARM, changes=True),
)
