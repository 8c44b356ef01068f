"""/events: the swarm's events and the engine's, in one stream.

Edge: HTTP, and the engine's own event stream. Source: Docker API 1.51, GET /events; moby's api/types/time.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec
from aiohttp import web

from skep.api import errors
from skep.api.authorize import SWARM
from skep.api.call import Call, Route
from skep.api.events import ACTORS, Happening, Listener, is_wanted
from skep.api.filters import Filters
from skep.lib.durations import SECOND
from skep.model.base import Nanoseconds
from skep.model.errors import InvalidSpec

_MOMENT = re.compile(r"(\d{1,11})(?:\.(\d{1,9}))?", re.ASCII)


async def follow(call: Call) -> web.StreamResponse:
    """GET /events: what happened since a moment, then what happens, until a moment or until the client leaves."""
    wanted = call.filters("type", "scope", "event", "label", *ACTORS)
    since, until = moment(call.text("since"), "since"), moment(call.text("until"), "until")
    hub = call.backend.events
    listener = hub.listen()
    engine = asyncio.create_task(_listen_to_engine(call, listener))
    try:
        stream = await call.stream("application/json")
        for event in hub.since(since) if since else ():
            if is_wanted(event, wanted) and (not until or event.time <= until):
                await stream.write(event.line)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(until - call.backend.clock.now(), 0) / SECOND if until else None):
                await _pass_on(listener, stream, wanted)
        await stream.write_eof()
        return stream
    finally:
        hub.forget(listener)
        engine.cancel()
        await asyncio.wait([engine])


async def _pass_on(listener: Listener, stream: web.StreamResponse, wanted: Filters) -> None:
    while not (listener.is_overrun and listener.queue.empty()):
        event = await listener.queue.get()
        if is_wanted(event, wanted):
            await stream.write(event.line)


async def _listen_to_engine(call: Call, listener: Listener) -> None:
    """Offer the engine's events to the listener; they end with the engine, the swarm's go on."""
    engine = call.backend.engine
    if not engine.is_there:
        return
    with contextlib.suppress(*errors.Refusal):
        async for event in _engine_events(call):
            listener.offer(event)


async def _engine_events(call: Call) -> AsyncIterator[Happening]:
    params = {"stream": "true", **{key: call.text(key) for key in ("since", "until") if call.text(key)}}
    engine = call.backend.engine
    async with engine.ask("GET", f"{await engine.prefix()}/events", params=params) as answer:
        async for line in answer.content:
            with contextlib.suppress(msgspec.DecodeError, KeyError, TypeError, ValueError):
                yield _as_happening(msgspec.json.decode(line))


def _as_happening(event: dict[str, Any]) -> Happening:
    nanos = int(event.get("timeNano") or int(event["time"]) * SECOND)
    actor = event["Actor"]
    return Happening(event["Type"], event["Action"], actor["ID"], dict(actor.get("Attributes") or {}), nanos, "local")


def moment(text: str, name: str) -> Nanoseconds:
    """Read a moment as clients send it: seconds since 1970, with up to nine decimals.

    Returns:
        Nanoseconds; 0 for no text.
    Raises:
        InvalidSpec: It is something else.
    """
    if not text:
        return 0
    match = _MOMENT.fullmatch(text)
    if match is None:
        raise InvalidSpec(f"invalid {name} '{text}': it must be seconds since 1970, like 1700000000.5")
    return int(match[1]) * SECOND + int((match[2] or "").ljust(9, "0"))


ROUTES: Final = (Route("GET", "/events", follow, SWARM),)
