"""The table of tasks that `service ps` and `node ps` print.

Edge: the daemon.
"""

import time

from skep.cli import render
from skep.cli.client import Engine, Json
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


def listing(engine: Engine, filters: dict[str, list[str]], template: str, *, is_quiet: bool, is_whole: bool) -> str:
    """List tasks, the newest of each slot first and its history indented below, as Docker does."""
    found = engine.list("/tasks", filters)
    services = engine.names("services", {task["ServiceID"] for task in found if task.get("ServiceID")})
    nodes = engine.names("nodes", {task["NodeID"] for task in found if task.get("NodeID")})
    found.sort(key=lambda task: parse_rfc3339(task["CreatedAt"]), reverse=True)
    found.sort(key=lambda task: (_service_name(task, services), task.get("Slot", 0), task.get("NodeID", "")))
    if is_quiet:
        return "\n".join(task["ID"] for task in found)
    rows: list[Json] = []
    previous = ""
    for task in found:
        name = f"{_service_name(task, services)}.{task.get('Slot') or task.get('NodeID', '')}"
        shown = f" \\_ {name}" if name == previous else name
        rows.append(_row(task, shown, nodes, is_whole))
        previous = name
    return render.listing(rows, COLUMNS, template)


def _service_name(task: Json, services: dict[str, Json]) -> str:
    service = services.get(task.get("ServiceID", ""))
    return str(service["Spec"]["Name"]) if service else str(task.get("ServiceID", ""))


def _row(task: Json, name: str, nodes: dict[str, Json], is_whole: bool) -> Json:
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
