"""Keep the node's kernel and its name server at the newest assignment version, and know which one is in force.

Edge: asyncio; drives the data plane. Changes that arrive while one is being programmed are folded into the next. A
version counts as applied only when the data plane has read it back and names answer accordingly: managers stop tasks
on the strength of it.
"""

import asyncio
from collections.abc import Sequence

import structlog

from skep.agent.assignments import AssignmentSet, Change
from skep.agent.waiting import BackOff, wait_event
from skep.core.names import ZoneItem
from skep.lib.durations import MILLISECOND, SECOND
from skep.model.assignment import ItemKey
from skep.model.task import Task
from skep.ports.clock import Clock
from skep.ports.dataplane import DataPlane, DataPlaneFailure, SandboxConfig, SandboxInterface
from skep.ports.resolver import Asker, NameServer

AUDIT_PERIOD = 10 * SECOND
LONGEST_PAUSE = SECOND // 2
"""Between tries at a kernel that refuses: once it takes rules again, this node must keep the drain limit again."""

log = structlog.get_logger(__name__)


class Mesh:
    """The network side of a node. One event loop."""

    def __init__(self, assignments: AssignmentSet, plane: DataPlane, names: NameServer, clock: Clock) -> None:
        self._assignments = assignments
        self._plane = plane
        self._names = names
        self._clock = clock
        self._zone_put: dict[ItemKey, ZoneItem] = {}
        self._zone_remove: set[ItemKey] = set()
        self._is_changed = asyncio.Event()
        self._is_applied = asyncio.Condition()
        self.applied_version = 0
        self.trouble = ""

    def note(self, change: Change) -> None:
        """The assignment set changed: bring the kernel and the names after it."""
        for key in change.removed:
            self._zone_put.pop(key, None)
            self._zone_remove.add(key)
        for key, item in change.put.items():
            if isinstance(item, ZoneItem):
                self._zone_put[key] = item
                self._zone_remove.discard(key)
        self._is_changed.set()

    def note_all(self) -> None:
        """As `note`, for a set just taken over from an earlier daemon.

        Names answer from it at once: the kernel still does what that daemon programmed, and a sandbox opened before
        the first programming must not be told that its own names do not exist.
        """
        intent = self._assignments.intent
        self._names.change({**intent.networks, **intent.endpoints, **intent.services}, ())
        self._is_changed.set()

    async def run(self) -> None:
        """Program every change until cancelled; compare kernel and intent now and then."""
        pauses = BackOff(100 * MILLISECOND, LONGEST_PAUSE)
        while True:
            is_changed = await wait_event(self._is_changed, self._clock, AUDIT_PERIOD)
            try:
                if is_changed:
                    await self._program()
                elif self.applied_version:
                    await self._repair()
            except DataPlaneFailure as failure:
                self.trouble = str(failure)
                log.warning("the kernel could not be programmed", error=str(failure))
                self._is_changed.set()
                await self._clock.sleep(pauses.next())
            else:
                self.trouble = ""
                pauses.reset()

    async def _program(self) -> None:
        self._is_changed.clear()
        epoch, version = self._assignments.epoch, self._assignments.version
        if version == 0:  # Nothing was ever assigned: whatever the kernel holds is not ours to undo.
            return
        await self._plane.program(self._assignments.intent)
        put, remove = self._zone_put, self._zone_remove
        self._zone_put, self._zone_remove = {}, set()
        self._names.change(put, remove)
        if epoch != self._assignments.epoch:  # The numbering changed meanwhile: its first version is programmed next.
            return
        async with self._is_applied:
            self.applied_version = version
            self._is_applied.notify_all()

    async def _repair(self) -> None:
        for drift in await self._plane.repair():
            log.warning("kernel repaired", place=drift.place, what=drift.what)

    async def wait_applied(self, after: int) -> int:
        """Wait until `applied_version` is greater than `after`; returns it."""
        async with self._is_applied:
            await self._is_applied.wait_for(lambda: self.applied_version > after)
            return self.applied_version

    def forget(self) -> None:
        """The numbering of versions starts anew."""
        self.applied_version = 0

    def sandbox_of(self, task: Task) -> SandboxConfig:
        """The sandbox a task is to have."""
        ingress = self._assignments.ingress_network_id
        overlays = [a for a in task.attachments if a.network_id != ingress and a.address]
        at_ingress = [a.address for a in task.attachments if ingress and a.network_id == ingress]
        return SandboxConfig(
            task_id=task.id,
            interfaces=[SandboxInterface(network_id=a.network_id, address=a.address) for a in overlays],
            ingress_address=at_ingress[0].split("/")[0] if at_ingress else "",
            gateway=self.has_way_out([a.network_id for a in overlays]),
        )

    def has_way_out(self, network_ids: Sequence[str]) -> bool:
        """Whether who is on these networks may leave them: one is not internal, or there is none."""
        networks = [self._assignments.network(network_id) for network_id in network_ids]
        return not networks or any(network is not None and not network.internal for network in networks)

    def asker_of(self, task: Task) -> Asker:
        """How a task's sandbox may ask for names."""
        sandbox = self.sandbox_of(task)
        spec = task.spec.container_spec
        dns = spec.dns_config if spec is not None else None
        return Asker(
            task_id=task.id,
            networks=tuple(interface.network_id for interface in sandbox.interfaces),
            is_forwarding=sandbox.gateway,
            resolvers=tuple(dns.nameservers or ()) if dns is not None else (),
        )
