"""Live names for shell completion: services, nodes, tasks … as the daemon knows them now.

Edge: the daemon's socket, for a fraction of a second. A completion that cannot be had is empty, never an error: it runs
while somebody types. Loading `http.client` would take longer than everything else here, so a unix socket is asked in
plain HTTP/1.0.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import click

from skep.cli.client import Engine, address
from skep.edge.unix_http import EngineRefused, EngineUnreachable
from skep.stack.labels import NAMESPACE

PATIENCE_S: Final = 0.5
"""How long a shell waits at most; a daemon that is well answers in milliseconds."""
FAILURES: Final = (OSError, ValueError, LookupError, TypeError, AttributeError, EngineRefused, EngineUnreachable)
"""Whatever a daemon that is away, too old or not Skep at all makes of a question."""

Ask = Callable[[str], Any]
Complete = Callable[[click.Context, click.Parameter, str], list[str]]


def _ask_unix(path: str, request: str) -> Any:
    import socket  # Imported late: its tables of constants cost every command ten milliseconds.

    deadline = time.monotonic() + PATIENCE_S
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(PATIENCE_S)
        connection.connect(path)
        connection.sendall(f"GET {request} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        parts: list[bytes] = []
        while part := connection.recv(1 << 20):
            parts.append(part)
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
    head, _, body = b"".join(parts).partition(b"\r\n\r\n")
    return json.loads(body) if head.split(None, 2)[1] == b"200" else None


def _asker(host: str | None) -> Ask:
    where = address(host)
    if where.startswith("unix://"):
        return lambda request: _ask_unix(where.removeprefix("unix://"), request)
    engine = Engine(host)
    engine.http.timeout_s = PATIENCE_S
    return engine.get


def _spec_names(path: str) -> Callable[[Ask], Iterable[str]]:
    return lambda ask: (each["Spec"]["Name"] for each in ask(path) or ())


def _nodes(ask: Ask) -> Iterable[str]:
    return ("self", *(each["Description"]["Hostname"] for each in ask("/nodes") or ()))


def _networks(ask: Ask) -> Iterable[str]:
    return (each["Name"] for each in ask("/networks") or ())


def _volumes(ask: Ask) -> Iterable[str]:
    return (each["Name"] for each in (ask("/volumes") or {}).get("Volumes") or ())


def _stacks(ask: Ask) -> Iterable[str]:
    return (label for each in ask("/services") or () if (label := (each["Spec"].get("Labels") or {}).get(NAMESPACE)))


def _tasks(ask: Ask) -> Iterable[str]:
    """Tasks by their place (`web.1`), a global service's by the node's name."""
    services = {each["ID"]: each["Spec"]["Name"] for each in ask("/services") or ()}
    nodes: dict[str, str] = {}
    for task in ask('/tasks?filters={"desired-state":["running"]}') or ():
        place = task.get("Slot")
        if not place:
            nodes = nodes or {each["ID"]: each["Description"]["Hostname"] for each in ask("/nodes") or ()}
            place = nodes.get(task.get("NodeID", ""))
        if place and task.get("ServiceID") in services:
            yield f"{services[task['ServiceID']]}.{place}"


def _scales(ask: Ask) -> Iterable[str]:
    return (f"{name}=" for name in _spec_names("/services")(ask))


KINDS: Final[Mapping[str, Callable[[Ask], Iterable[str]]]] = {
    "config": _spec_names("/configs"),
    "network": _networks,
    "node": _nodes,
    "scale": _scales,
    "secret": _spec_names("/secrets"),
    "service": _spec_names("/services"),
    "stack": _stacks,
    "task": _tasks,
    "volume": _volumes,
}


def live(*kinds: str) -> Complete:
    """Complete a parameter with the names of what there is.

    Args:
        kinds: Keys of `KINDS`.
    Returns:
        For `shell_complete=` of an argument or option: names in order, without those the command line has already.
    """

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        given = ctx.params.get(param.name or "")
        used = set(given) if isinstance(given, list | tuple) else set()
        try:
            ask = _asker(ctx.find_root().params.get("host"))
            names = {name for kind in kinds for name in KINDS[kind](ask)}
        except (*FAILURES, click.ClickException):
            return []
        return sorted(name for name in names - used if name.startswith(incomplete) and name.isprintable())

    return complete
