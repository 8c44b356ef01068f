"""/skep/backup: the whole swarm in a sealed file, a swarm out of one, and the way of its nodes back to it.

Edge: HTTP. These routes are ours; docs/reference/skep-api.md describes them.
"""

import base64
import binascii
from typing import Final

from aiohttp import web

from skep.api.authorize import ENGINE, KEYS
from skep.api.backend import RestoreRequest
from skep.api.call import UNLIMITED, Call, Route
from skep.model.base import Wire
from skep.model.errors import InvalidSpec

CONTENT_TYPE: Final = "application/vnd.skep.backup"
PHRASE_HEADER: Final = "X-Skep-Pass-Phrase"


class SaveBody(Wire, frozen=True, kw_only=True):
    pass_phrase: str = ""


async def save(call: Call) -> web.StreamResponse:
    """POST /skep/backup; answers the file. A connection that is cut before the end means that it is not whole."""
    body = await call.json(SaveBody)
    pieces = call.control.save_backup(body.pass_phrase)
    first = await anext(aiter(pieces))  # What is refused is refused here, while it can still be said.
    response = await call.stream(CONTENT_TYPE)
    await response.write(first)
    async for piece in pieces:
        await response.write(piece)
    await response.write_eof()
    return response


class SavedBody(Wire, frozen=True, kw_only=True):
    """Attributes: created_at: nanoseconds since 1970, as in the backup's head."""

    created_at: int = 0


async def saved(call: Call) -> web.StreamResponse:
    """POST /skep/backup/saved: a backup is in its place, whole and on disk."""
    body = await call.json(SavedBody)
    await call.control.note_backup(body.created_at)
    return call.done()


async def restore(call: Call) -> web.StreamResponse:
    """POST /skep/backup/restore; the body is the file. Answers this node's id."""
    if call.request.content_type != CONTENT_TYPE:
        raise InvalidSpec(f"a backup must be sent as {CONTENT_TYPE}")
    request = RestoreRequest(
        pass_phrase=_pass_phrase(call.request.headers.get(PHRASE_HEADER, "")),
        advertise_addr=call.text("advertise-addr"),
        listen_addr=call.text("listen-addr"),
        data_path_addr=call.text("data-path-addr"),
        is_forced=call.flag("force"),
    )
    node_id = await call.node.restore_swarm(request, call.pieces())
    call.backend.events.look()
    return call.reply(node_id)


class RejoinBody(Wire, frozen=True, kw_only=True):
    addrs: list[str] = []


async def rejoin(call: Call) -> web.StreamResponse:
    """POST /skep/rejoin: this node's managers are at other addresses now."""
    body = await call.json(RejoinBody)
    await call.node.rejoin_swarm(body.addrs)
    return call.done()


def _pass_phrase(header: str) -> str:
    """In base64, as a header carries no letters beyond ASCII."""
    try:
        return base64.b64decode(header, validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise InvalidSpec(f"{PHRASE_HEADER} must be a pass phrase in base64") from error


ROUTES: Final = (
    Route("POST", "/skep/backup", save, KEYS),
    Route("POST", "/skep/backup/saved", saved, KEYS, changes=True),
    Route("POST", "/skep/backup/restore", restore, ENGINE, UNLIMITED, changes=True),
    Route("POST", "/skep/rejoin", rejoin, ENGINE, changes=True),
)
