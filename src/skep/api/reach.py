"""Where the container is that a request is about: with this node's engine, or with another node's.

Edge: asks this node's engine whether it knows a name. What it knows is its own; otherwise, on a manager, a container of
any task of the swarm is found by its id or name, its task's id, or its place such as `web.1`. Containers of other
nodes that belong to no task are never reached.
"""

import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import quote

from skep.api.backend import Control, LocalNode
from skep.api.errors import EngineFailure
from skep.api.passthrough import Engine, LocalEngine
from skep.api.remote import RemoteEngine
from skep.core import containers
from skep.model.errors import Conflict, InvalidSpec, NotFound, NotManager, Unavailable
from skep.model.node import Node
from skep.model.task import Task

FULL_ID: Final = re.compile(r"[0-9a-f]{64}")
EXEC_ID: Final = re.compile(r"([0-9a-f]{64})\.([0-9a-z]{25})")


@dataclass(frozen=True, slots=True)
class Place:
    """Attributes: id: what that engine calls it; node_id: empty for this node."""

    engine: Engine
    id: str
    node_id: str = ""

    def path(self, kind: str, rest: str = "") -> str:
        """Such as `/containers/ID/logs`. `rest`: quoted, with its slash."""
        return f"/{kind}/{quote(self.id, safe='')}{rest}"


class Engines:
    """The engines a request may go to. Attributes: local: this node's."""

    def __init__(self, node: LocalNode) -> None:
        self.local = LocalEngine(node)
        self._node = node
        self._remote: dict[str, tuple[str, RemoteEngine]] = {}

    def of_node(self, control: Control, node: Node) -> RemoteEngine:
        """Another node's engine, kept while it is the same release: its API version is asked for once."""
        release = node.description.engine.engine_version
        known = self._remote.get(node.id)
        if known is None or known[0] != release:
            known = (release, RemoteEngine(lambda: control.open_engine(node.id)))
            self._remote[node.id] = known
            for gone in self._remote.keys() - {each.id for each in control.view.nodes.values()}:
                del self._remote[gone]
        return known[1]

    async def of_container(self, reference: str) -> Place:
        """Find a container.

        Args:
            reference: As the client wrote it.
        Returns:
            This node's engine where nothing is known of it: it will say so in its own words.
        Raises:
            InvalidSpec: It fits several tasks. Conflict: the task has no container. Unavailable: its node is away.
        """
        here = Place(self.local, reference)
        control = self.control()
        if control is None:
            return here
        tasks = containers.find_tasks(control.view, reference)
        if not tasks or (not FULL_ID.fullmatch(reference) and await self._is_known_here(reference)):
            return here
        if len(tasks) > 1:
            raise InvalidSpec(f"multiple IDs found with provided prefix: {reference}")
        return self._of_task(control, tasks[0])

    def of_exec(self, exec_id: str) -> Place:
        """Find a command that was prepared in a container; its id says on which node.

        Raises:
            NotFound: There is no such node.
        """
        match = EXEC_ID.fullmatch(exec_id)
        control = self.control()
        if match is None or control is None:
            return Place(self.local, exec_id)
        node = control.view.nodes.get(match[2])
        if node is None:
            raise NotFound(f"No such exec instance: {exec_id}")
        return Place(self.of_node(control, node), match[1], node.id)

    def control(self) -> Control | None:
        """The swarm's operations; None on a worker, and on a manager that is still starting."""
        try:
            return self._node.control()
        except (NotManager, Unavailable):
            return None

    def _of_task(self, control: Control, task: Task) -> Place:
        container_id = containers.container_of(task)
        if not container_id:
            state = task.status.err or task.status.message or task.status.state.label
            raise Conflict(f"task {task.name} has no container: {state}")
        if task.node_id == self._node.local_state.node_id:
            return Place(self.local, container_id)
        node = control.view.nodes.get(task.node_id)
        if node is None:
            raise Unavailable(f"the node of task {task.name} was removed from the swarm")
        return Place(self.of_node(control, node), container_id, node.id)

    async def _is_known_here(self, reference: str) -> bool:
        if not self.local.is_there:
            return False
        try:
            path = f"{await self.local.prefix()}/containers/{quote(reference, safe='')}/json"
            async with self.local.ask("GET", path) as answer:
                return answer.status == HTTPStatus.OK
        except (EngineFailure, Unavailable):
            return False  # It is away, which must not hide other nodes' tasks.
