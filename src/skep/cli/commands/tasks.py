"""The table of tasks that `service ps` and `node ps` print.

Edge: the daemon.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from skep.cli import render
from skep.cli.client import Engine, Json
from skep.cli.options import filter_option, format_option, no_trunc_option, quiet_option
from skep.lib.timestamps import parse_rfc3339

COLUMNS = {
    "ID": "ID",
    "Name": "NAME",
    "Image": "IMAGE",
    "Node": "NODE",
    "DesiredState": "DESIRED STATE",
    "CurrentState": "CURRENT STATE",
    "Error": "ERROR",
    "Ports": "PORTS",
}
SHORT_ID, SHORT_ERROR = 12, 30


@dataclass(frozen=True, slots=True)
class Shape:
    """How tasks are listed; the fields are the options of `shape_options`."""

    template: str
    quiet: bool
    no_trunc: bool
    no_resolve: bool


def shape_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of every list of tasks: filters, and those of `Shape`."""
    no_resolve = click.option("--no-resolve", is_flag=True, help="Ids instead of names.")
    for option in (no_resolve, no_trunc_option, quiet_option, format_option, filter_option):
        command = option(command)
    return command


def listing(engine: Engine, filters: dict[str, list[str]], shape: Shape) -> str:
    """List tasks, the newest of each slot first and its history indented below, as Docker does."""
    found = engine.list("/tasks", filters)
    services: dict[str, Json] = {}
    nodes: dict[str, Json] = {}
    if not shape.no_resolve:
        services = engine.names("services", {task["ServiceID"] for task in found if task.get("ServiceID")})
        nodes = engine.names("nodes", {task["NodeID"] for task in found if task.get("NodeID")})
    found.sort(key=lambda task: parse_rfc3339(task["CreatedAt"]), reverse=True)
    found.sort(key=lambda task: (_service_name(task, services), task.get("Slot", 0), task.get("NodeID", "")))
    if shape.quiet:
        return "\n".join(task["ID"] for task in found)
    rows: list[Json] = []
    previous = ""
    for task in found:
        name = f"{_service_name(task, services)}.{task.get('Slot') or task.get('NodeID', '')}"
        shown = f" \\_ {name}" if name == previous else name
        rows.append(_row(task, shown, nodes, is_whole=shape.no_trunc))
        previous = name
    return render.listing(rows, COLUMNS, shape.template)


def _service_name(task: Json, services: dict[str, Json]) -> str:
    service = services.get(task.get("ServiceID", ""))
    return str(service["Spec"]["Name"]) if service else str(task.get("ServiceID", ""))


def _row(task: Json, name: str, nodes: dict[str, Json], *, is_whole: bool) -> Json:
    node = nodes.get(task.get("NodeID", ""))
    status = task["Status"]
    error = status.get("Err") or ""
    if len(error) > SHORT_ERROR and not is_whole:
        error = f"{error[: SHORT_ERROR - 1]}…"
    image = task["Spec"]["ContainerSpec"]["Image"]
    age = time.time_ns() - parse_rfc3339(status["Timestamp"])
    return {
        "ID": task["ID"] if is_whole else task["ID"][:SHORT_ID],
        "Name": name,
        "Image": image if is_whole else image.partition("@")[0],
        "Node": (node["Spec"].get("Name") or node["Description"]["Hostname"]) if node else task.get("NodeID", ""),
        "DesiredState": task["DesiredState"].capitalize(),
        "CurrentState": f"{status['State'].capitalize()} {render.ago(age).lower()}",
        "Error": f'"{error}"' if error else "",
        "Ports": ", ".join(
            f"*:{port['PublishedPort']}->{port['TargetPort']}/{port['Protocol']}"
            for port in (status.get("PortStatus") or {}).get("Ports") or []
        ),
    }
