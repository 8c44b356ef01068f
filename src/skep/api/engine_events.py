"""A container engine's events in Docker's words.

Pure. Podman's differ in names (`died`, `loadfromarchive`), in an actor without id for images and volumes, and in
attributes of its own (`podId`, `containerExitCode` on everything); some (`init`, `cleanup`, `refresh`) Docker has none
for. Docker's own pass as they are. Source: Docker API 1.51, GET /events; names in podman's libpod/events/config.go.
"""

from typing import Final

import msgspec

from skep.api.events import Happening
from skep.edge.docker.spec import PAUSE_LABEL
from skep.lib.durations import SECOND
from skep.model.base import Labels, Wire

_ACTIONS: Final = {
    "container": {
        "died": "die",
        "remove": "destroy",
        "exec": "exec_start",
        "exec_died": "exec_die",
    },
    "image": {"loadfromarchive": "load", "remove": "delete"},
    "volume": {"remove": "destroy"},
    "network": {"remove": "destroy"},
}
"""Podman's name to Docker's, for those that differ."""
_PODMANS_OWN: Final = {
    "container": frozenset({"init", "cleanup", "sync", "mount", "unmount", "prune"}),
    "volume": frozenset({"prune"}),
    "system": frozenset({"refresh", "renumber"}),
    "pod": frozenset({"create", "start", "stop", "remove", "kill", "pause", "unpause", "prune"}),
}
_EXIT_CODE: Final = "containerExitCode"
_ENDS: Final = ("die", "exec_die")


class _Actor(Wire, frozen=True, kw_only=True):
    id: str = ""
    attributes: Labels = {}


class _Event(msgspec.Struct, frozen=True, kw_only=True):
    type: str = msgspec.field(name="Type")
    action: str = msgspec.field(name="Action")
    actor: _Actor = msgspec.field(name="Actor")
    time: int = 0
    time_nano: int = msgspec.field(name="timeNano", default=0)


def read(line: bytes) -> Happening | None:
    """Read one line of an engine's stream.

    Returns:
        None for what is no event, and for what Docker has no event for.
    """
    try:
        event = msgspec.json.decode(line, type=_Event)
    except msgspec.DecodeError:
        return None
    moment = event.time_nano or event.time * SECOND
    is_podmans = _EXIT_CODE in event.actor.attributes
    if PAUSE_LABEL in event.actor.attributes:
        return None  # It holds a task's sandbox, and is shown nowhere else either.
    if not is_podmans:
        return Happening(event.type, event.action, event.actor.id, event.actor.attributes, moment, "local")
    if event.action in _PODMANS_OWN.get(event.type, ()):
        return None
    action = _ACTIONS.get(event.type, {}).get(event.action, event.action)
    attributes = _attributes(event.type, action, event.actor.attributes)
    actor = event.actor.id
    if not actor and event.type in ("image", "volume"):
        actor = event.actor.attributes.get("name", "")
    return Happening(event.type, action, actor, attributes, moment, "local")


def _attributes(kind: str, action: str, found: Labels) -> Labels:
    """Podman's attributes without its own; Docker names a volume by the event's actor alone."""
    kept = {name: value for name, value in found.items() if name not in ("podId", _EXIT_CODE)}
    if kind != "container" and not kept.get("image"):
        kept.pop("image", None)
    if action in _ENDS:
        kept["exitCode"] = found[_EXIT_CODE]
    if kind == "volume":
        kept.pop("name", None)
        kept["driver"] = "local"
    return kept
