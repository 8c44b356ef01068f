"""Whether a task still is what its service asks for.

Pure. Labels, replicas and update settings change no task; the task template and the endpoint do. A change of the
placement alone leaves a task where its node still satisfies it.
"""

import msgspec

from skep.core import constraints
from skep.core.orchestrate import modes
from skep.model.errors import InvalidSpec
from skep.model.node import Node
from skep.model.service import EndpointSpec, Placement, PortConfig, ResolutionMode, Service
from skep.model.task import Task


def is_dirty(service: Service, task: Task, node: Node | None) -> bool:
    """Whether a rolling update has to replace a task.

    Args:
        node: Where the task is; None while it has no node.
    Source: swarmkit/manager/orchestrator/task.go, IsTaskDirty.
    """
    if task.spec_version == service.spec_version:
        return False
    wanted = modes.task_template(service)
    if wanted != task.spec and not _differs_in_placement_only(service, task, node):
        return True
    return task.endpoint is not None and _endpoint(task.endpoint.spec) != _endpoint(service.spec.endpoint_spec)


def satisfies(placement: Placement | None, node: Node) -> bool:
    """Whether a node meets the constraints; False for a constraint that cannot be read."""
    if placement is None or not placement.constraints:
        return True
    try:
        return constraints.matches_all(constraints.parse(placement.constraints), node)
    except InvalidSpec:
        return False


def _differs_in_placement_only(service: Service, task: Task, node: Node | None) -> bool:
    wanted = modes.task_template(service)
    if node is None or msgspec.structs.replace(wanted, placement=task.spec.placement) != task.spec:
        return False
    return satisfies(wanted.placement, node)


def _endpoint(spec: EndpointSpec | None) -> tuple[ResolutionMode, tuple[PortConfig, ...]]:
    spec = spec or EndpointSpec()
    return spec.mode, tuple(spec.ports or ())
