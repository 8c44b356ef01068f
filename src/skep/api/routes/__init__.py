"""Every route of the API, in the order in which they are tried."""

from skep.api.call import Route
from skep.api.routes import (
    attached,
    distribution,
    containers,
    engine,
    events,
    explain,
    files,
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
    *distribution.ROUTES,
    *system.ROUTES,
    *events.ROUTES,
    *swarm.ROUTES,
    *nodes.ROUTES,
    *services.ROUTES,
    *tasks.ROUTES,
    *networks.ROUTES,
    *files.ROUTES,
    *explain.ROUTES,
    *local.ROUTES,
    *volumes.ROUTES,
    *attached.ROUTES,
    *containers.ROUTES,
    *engine.ROUTES,
)
