"""/events: the swarm's events and the engine's, in one stream.

Edge: HTTP, and the engine's own event stream. Source: Docker API 1.51, GET /events; moby's api/types/time.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Sequence
from typing import Final

from aiohttp import web

from skep.api import engine_events, errors
from skep.api.authorize import SWARM
from skep.api.call import Call, Route
from skep.api.events import ACTORS, Burst, Happening, Listener, is_wanted
from skep.api.filters import Filters
from skep.lib.durations import SECOND
from skep.model.base import Nanoseconds
from skep.model.errors import InvalidSpec

ENGINE_PAST_S: Final = 2.0
"""How long the engine may take to tell of the past."""
_MOMENT = re.compile(r"(\d{1,11})(?:\.(\d{1,9}))?", re.ASCII)


async def follow(call: Call) -> web.StreamResponse:
    """GET /events: what happened since a moment, then what happens, until a moment or until the client leaves."""
    wanted = call.filters("type", "scope", "event", "label", *ACTORS)
    since, until = moment(call.text("since"), "since"), moment(call.text("until"), "until")
    is_past = bool(until) and until <= call.backend.clock.now()
    hub = call.backend.events
    listener = hub.listen()
    told: Sequence[Happening] = hub.since(since) if since else ()  # Together with listening: nothing is told twice.
    engine = asyncio.create_task(_listen_to_engine(call, listener))
    try:
        stream = await call.stream("application/json")
        if is_past:
            await asyncio.wait([engine], timeout=ENGINE_PAST_S)
            told = sorted((*told, *listener.take_all()), key=lambda event: event.time)
        for event in told:
            if is_wanted(event, wanted) and (not until or event.time <= until):
                await stream.write(event.line)
        if not is_past:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout((until - call.backend.clock.now()) / SECOND if until else None):
                    await _pass_on(listener, stream, wanted)
            hub.flush()
            await _pass_waiting(listener, stream, wanted)
        await stream.write_eof()
        return stream
    finally:
        hub.forget(listener)
        engine.cancel()
        await asyncio.wait([engine])


async def _pass_on(listener: Listener, stream: web.StreamResponse, wanted: Filters) -> None:
    while not listener.is_overrun:
        await listener.wait()
        await _pass_waiting(listener, stream, wanted)


async def _pass_waiting(listener: Listener, stream: web.StreamResponse, wanted: Filters) -> None:
    while (burst := listener.take()) is not None:
        if lines := burst.wanted_lines(wanted):
            await stream.write(lines)


async def _listen_to_engine(call: Call, listener: Listener) -> None:
    """Offer the engine's events to the listener; they end with the engine, the swarm's go on."""
    engine = call.backend.engine
    if not engine.is_there:
        return
    with contextlib.suppress(*errors.Refusal):
        async for event in _engine_events(call):
            listener.offer(Burst((event,)))


async def _engine_events(call: Call) -> AsyncIterator[Happening]:
    until, now = moment(call.text("until"), "until"), call.backend.clock.now()
    is_past = bool(until) and until <= now
    params = {"stream": "false" if is_past else "true"}
    if call.text("since"):
        params["since"] = call.text("since")
    if until:  # Podman (4.3) tells nothing at all once its `until` has passed; what is too new is left out here.
        params["until"] = str(max(until, now + 2 * SECOND) // SECOND)
    engine = call.backend.engine
    async with engine.ask("GET", f"{await engine.prefix()}/events", params=params) as answer:
        async for line in answer.content:
            event = engine_events.read(line)
            if event is not None and (not until or event.time <= until):
                yield event


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
