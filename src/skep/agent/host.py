"""What every part of the executor works with: the node's ports and names.

Edge: holds adapters, does nothing itself.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

from skep.agent.network import Mesh
from skep.agent.records import RecordStore
from skep.agent.wants import Wants
from skep.core.templates import NodeNames
from skep.lib.ids import new_id
from skep.model.task import TaskStatus
from skep.ports.clock import Clock
from skep.ports.dataplane import DataPlane
from skep.ports.files import FilePlaces
from skep.ports.probe import Probe
from skep.ports.resolver import NameServer
from skep.ports.runtime import Runtime


@dataclass(frozen=True, slots=True)
class Host:
    """A node, as its executors see it.

    Attributes:
        boot_id: Differs after every boot of the machine.
        files: In memory, for secrets and configs; None where there is no such place. wants: asks managers for them.
        report: Takes each status of a task (by id) as it is reached.
        new_id: Names what the node itself brings into being.
    """

    node: NodeNames
    runtime: Runtime
    plane: DataPlane
    names: NameServer
    probe: Probe
    clock: Clock
    records: RecordStore
    mesh: Mesh
    boot_id: str
    report: Callable[[str, TaskStatus], None]
    wants: Wants
    files: FilePlaces | None = None
    new_id: Callable[[], str] = lambda: new_id(os.urandom)

    def drop_files(self, task_id: str) -> None:
        """Remove a task's secrets and configs from memory."""
        if self.files is not None:
            self.files.remove(task_id)
