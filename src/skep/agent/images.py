"""A task's image: had on this node, with its service's registry credentials where it has some.

Edge: asyncio; the session and the engine. Credentials pass through here to the engine and stay nowhere else.
"""

import asyncio

import structlog

from skep.agent.host import Host
from skep.lib.durations import SECOND
from skep.model.errors import InvalidSpec
from skep.model.session import FileKind, FileWanted
from skep.model.task import Task

AUTH_PATIENCE = 5 * SECOND
"""How long a manager is waited for; without one, an image that is here already runs all the same."""

log = structlog.get_logger(__name__)


async def have(host: Host, task: Task, image: str) -> None:
    """Have a task's image on this node, as new as its registry has it; one that is here does where that has none.

    Raises:
        ImageMissing: It is not here and cannot be pulled. EngineUnreachable.
    """
    auth = await _registry_auth(host, task) if task.has_registry_auth else ""
    await host.runtime.ensure_image(image, registry_auth=auth)


async def _registry_auth(host: Host, task: Task) -> str:
    """What the service's registry wants to see, as of now; empty if no manager gives it."""
    wanted = FileWanted(task_id=task.id, kind=FileKind.REGISTRY_AUTH, file_id=task.service_id)
    asking = asyncio.ensure_future(host.wants.fetch(wanted))
    patience = asyncio.ensure_future(host.clock.sleep(AUTH_PATIENCE))
    try:
        await asyncio.wait({asking, patience}, return_when=asyncio.FIRST_COMPLETED)
        if asking.done():
            return asking.result().payload.decode()
        log.warning("no manager gave registry credentials; the image is pulled without", task=task.id)
    except InvalidSpec as refusal:
        log.warning("registry credentials are refused", task=task.id, reason=str(refusal))
    finally:
        for part in (asking, patience):
            part.cancel()
        await asyncio.gather(asking, patience, return_exceptions=True)
    return ""
