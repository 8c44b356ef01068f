"""/tasks: the runs of services on nodes.

Edge: HTTP. Source: Docker API 1.51, tag Task; swarmkit's manager/controlapi/task.go for what the filters mean.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from aiohttp import web

from skep.api import documents
from skep.api.authorize import SWARM
from skep.api.backend import Control
from skep.api.call import Call, Route
from skep.api.filters import Filters
from skep.api.routes import logs
from skep.core.orchestrate import changed
from skep.model.errors import InvalidSpec
from skep.model.lifecycle import LABELS
from skep.model.task import Task
from skep.store.state import View

FILTERS: Final = ("id", "name", "label", "service", "node", "desired-state", "runtime", "_up-to-date")


async def list_all(call: Call) -> web.StreamResponse:
    """GET /tasks. With `_up-to-date`, only those the service's current spec would make again."""
    control = call.control
    wanted = call.filters(*FILTERS)
    states = _states(wanted.values("desired-state"))
    services = _ids(wanted.values("service"), lambda text: control.find_service(text).id)
    nodes = _ids(wanted.values("node"), lambda text: _node_id(call, control, text))
    only_current = wanted.is_true("_up-to-date")
    view = control.view
    found = [
        documents.task(task, view)
        for task in _candidates(view, services, nodes)
        if not task.is_attachment  # No run of anything: the network shows who is attached.
        and (not nodes or task.node_id in nodes)
        and (not states or task.desired_state.label in states)
        and _is_wanted(task, wanted)
        and (not only_current or _is_current(task, view))
    ]
    return call.reply(found)


async def inspect(call: Call) -> web.StreamResponse:
    """GET /tasks/{id}."""
    control = call.control
    return call.reply(documents.task(control.find_task(call.params["id"]), control.view))


def _states(texts: Sequence[str]) -> frozenset[str]:
    for text in texts:
        if text.lower() not in LABELS:
            raise InvalidSpec(f"invalid desired-state filter: '{text}'")
    return frozenset(text.lower() for text in texts)


def _ids(texts: Sequence[str], find: Callable[[str], str]) -> Sequence[str]:
    return tuple(dict.fromkeys(find(text) for text in texts))


def _node_id(call: Call, control: Control, text: str) -> str:
    return call.node.local_state.node_id if text == "self" else control.find_node(text).id


def _candidates(view: View, services: Sequence[str], nodes: Sequence[str]) -> Iterable[Task]:
    """Tasks by the narrowest index that applies."""
    if services:
        return (task for service in services for task in view.tasks.where("service", service))
    if nodes:
        return (task for node in nodes for task in view.tasks.where("node", node))
    return view.tasks.values()


def _is_wanted(task: Task, wanted: Filters) -> bool:
    return (
        wanted.is_prefix("id", task.id)
        and wanted.is_prefix("name", task.name)
        and wanted.has_labels("label", task.service_labels)
        and wanted.is_exact("runtime", task.spec.runtime or "container")
    )


def _is_current(task: Task, view: View) -> bool:
    """Whether the task is what its service's spec asks for."""
    service = view.services.get(task.service_id)
    return service is not None and not changed.is_dirty(service, task, view.nodes.get(task.node_id))


ROUTES: Final = (
    Route("GET", "/tasks", list_all, SWARM),
    Route("GET", "/tasks/{id}", inspect, SWARM),
    Route("GET", "/tasks/{id}/logs", logs.of_task, SWARM),
)
