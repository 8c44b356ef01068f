"""/skep/cluster: how the managers and their store fare, and what recovering would do.

Edge: HTTP. These routes are ours; docs/reference/skep-api.md describes them.
"""

from typing import Final

from aiohttp import web

from skep.api.authorize import SWARM
from skep.api.call import Call, Route
from skep.api.wire import Document
from skep.core import recovery
from skep.core.cluster_status import ClusterStatus, ManagerRow
from skep.core.recovery import RecoveryPlan
from skep.lib.timestamps import format_rfc3339
from skep.model.errors import Unavailable

WITHOUT_OTHERS: Final = (
    "if the other managers are gone for good, `skep cluster recover --plan` shows how this one goes on alone"
)


async def status(call: Call) -> web.StreamResponse:
    """GET /skep/cluster."""
    try:
        control = call.control
    except Unavailable as reason:
        raise Unavailable(f"{reason}; {WITHOUT_OTHERS}") from reason
    return call.reply(_status(await control.cluster_status()))


async def plan(call: Call) -> web.StreamResponse:
    """GET /skep/cluster/recovery: what POST /swarm/init with ForceNewCluster would do here; changes nothing."""
    try:
        view = call.control.view
    except Unavailable as reason:  # Without a quorum a manager that was started anew cannot read its state.
        return call.reply(_plan(recovery.blind_plan(), str(reason)))
    return call.reply(_plan(recovery.plan(view, call.node.local_state.node_id), ""))


def _status(found: ClusterStatus) -> Document:
    return {
        "Managers": [_manager(row) for row in found.managers],
        "Quorum": found.quorum,
        "HasQuorum": found.has_quorum,
        "Risks": list(found.risks),
        "Store": {
            "Kind": found.store.kind,
            "Version": found.store.version,
            "Revision": found.revision,
            "Size": found.store.size_bytes,
            "Limit": found.store.limit_bytes,
            "Free": found.store.free_bytes,
            "Alarms": list(found.store.alarms),
            "Endpoints": [{"URL": each.url, "Failure": each.failure} for each in found.store.endpoints],
            "Failure": found.store.failure,
        },
        "Certificates": {
            "Manager": format_rfc3339(found.papers.ends_at),
            "RenewBy": format_rfc3339(found.papers.renew_by),
            "Root": format_rfc3339(found.papers.root_ends_at),
        },
        "LastBackup": format_rfc3339(found.backed_up_at) if found.backed_up_at else None,
    }


def _manager(row: ManagerRow) -> Document:
    return {
        "ID": row.node_id,
        "Hostname": row.hostname,
        "Addr": row.addr,
        "Role": row.role,
        "Reachable": row.is_reachable,
        "Self": row.is_self,
        "Lag": row.lag,
    }


def _plan(found: RecoveryPlan, failure: str) -> Document:
    return {
        "Steps": list(found.steps),
        "Nodes": [
            {"ID": fate.node_id, "Hostname": fate.hostname, "Was": fate.was, "Becomes": fate.becomes}
            for fate in found.fates
        ],
        "Unchanged": found.n_unchanged,
        "Losses": list(found.losses),
        "Danger": found.danger,
        "Failure": failure,
    }


ROUTES: Final = (
    Route("GET", "/skep/cluster", status, SWARM),
    Route("GET", "/skep/cluster/recovery", plan, SWARM),
)
