"""Every route of the API, in the order in which they are tried."""

from skep.api.call import Route
from skep.api.routes import (
    attached,
    backup,
    cluster,
    containers,
    distribution,
    engine,
    events,
    explain,
    files,
    join_tokens,
    local,
    networks,
    nodes,
    services,
    swarm,
    system,
    tasks,
    volumes,
)

ALL: tuple[Route, ...] = (
    *system.ROUTES,
    *distribution.ROUTES,
    *events.ROUTES,
    *swarm.ROUTES,
    *join_tokens.ROUTES,
    *nodes.ROUTES,
    *services.ROUTES,
    *tasks.ROUTES,
    *networks.ROUTES,
    *files.ROUTES,
    *explain.ROUTES,
    *backup.ROUTES,
    *cluster.ROUTES,
    *attached.ROUTES,
    *local.ROUTES,
    *volumes.ROUTES,
    *containers.ROUTES,
    *engine.ROUTES,
)
