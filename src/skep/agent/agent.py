"""What runs on every node: takes assignments, carries them out, reports.

Edge: asyncio. The agent holds the assignment set, one executor per task, the mesh and the report book, and joins them;
what each does is in its own module. It keeps no connection: a session (see `agent.handler`) feeds it, and while there
is none it keeps the node as it was told last.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from skep.agent import adoption, preparation
from skep.agent.assignments import TASK_PREFIX, AssignmentSet, Change
from skep.agent.attachments import Attachments
from skep.agent.description import Descriptions, NodeFacts
from skep.agent.engine import Connect, open_engine
from skep.agent.executor import Executor, Found
from skep.agent.fence import Fence
from skep.agent.host import Host
from skep.agent.logs import open_logs
from skep.agent.network import Mesh
from skep.agent.records import DEFAULT_GRACE, RecordStore
from skep.agent.report import ReportBook
from skep.agent.wants import Wants
from skep.core.mesh import naming
from skep.core.templates import NodeNames
from skep.lib.durations import SECOND
from skep.model.assignment import AssignedTask, Delta
from skep.model.lifecycle import TaskState, is_terminal
from skep.model.node import NodeDescription
from skep.model.session import Answer, Hello, LogRequest, ManagerAddress, Question, StreamData, TaskReport
from skep.model.task import TaskStatus
from skep.ports.bytestream import ByteStream
from skep.ports.clock import Clock
from skep.ports.dataplane import DataPlane, DataPlaneFailure
from skep.ports.files import FilePlaces
from skep.ports.probe import Probe
from skep.ports.resolver import NameServer
from skep.ports.runtime import Container, ContainerState, Runtime, RuntimeFailure

LOOK_PERIOD = 15 * SECOND
"""How often all containers are looked at, in case an exit was missed."""

DESCRIBE_PERIOD = 5 * SECOND
"""How often the node is looked at for something new to tell of it."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class NodeMemory:
    """What a node keeps of the swarm from one daemon to the next."""

    assignments: AssignmentSet
    records: RecordStore

    @classmethod
    def on_disk(cls, state_dir: Path, node_id: str) -> "NodeMemory":
        """Files below a directory that survives reboots."""
        return cls(AssignmentSet(state_dir / "assignments", node_id), RecordStore(state_dir / "tasks"))


@dataclass(frozen=True, slots=True)
class Ports:
    """The adapters an agent works through. Attributes: connect: to the engine's socket; None without any."""

    runtime: Runtime
    plane: DataPlane
    names: NameServer
    probe: Probe
    clock: Clock
    files: FilePlaces | None = None
    connect: Connect | None = None


class Agent:
    """A node's agent; implements `agent.handler.Handler`. One event loop.

    Args:
        memory: A directory of its own that survives reboots, or what stands for it.
    """

    def __init__(self, facts: NodeFacts, ports: Ports, memory: Path | NodeMemory) -> None:
        self._facts = facts
        self._ports = ports
        self._descriptions = Descriptions(facts, ports.runtime)
        kept = memory if isinstance(memory, NodeMemory) else NodeMemory.on_disk(memory, facts.node_id)
        self._assignments = kept.assignments
        self._mesh = Mesh(self._assignments, ports.plane, ports.names, ports.clock)
        self._book = ReportBook()
        self._wants = Wants()
        self._host = Host(
            node=NodeNames(facts.node_id, facts.hostname, facts.os, facts.architecture),
            runtime=ports.runtime,
            plane=ports.plane,
            names=ports.names,
            probe=ports.probe,
            clock=ports.clock,
            records=kept.records,
            mesh=self._mesh,
            boot_id=facts.boot_id,
            report=self._book.note,
            wants=self._wants,
            files=ports.files,
        )
        self.attachments = Attachments(self._host, self._assignments)
        self._executors: dict[str, Executor] = {}
        self._fence = Fence(ports.clock, self._executors.values)
        self._sweeping: set[str] = set()
        self._broken: set[str] = set()
        self._inventory: adoption.Inventory | None = None
        self._is_confirmed = False
        self._is_current = False
        self._described: NodeDescription | None = None
        self._is_due = asyncio.Event()
        self._is_empty = asyncio.Event()
        self.managers: Sequence[ManagerAddress] = ()
        self.on_managers: Callable[[Sequence[ManagerAddress]], None] = lambda _: None

    # --- running -------------------------------------------------------------------

    def load(self) -> None:
        """Take over the assignments an earlier daemon remembered; call it once, before anything else."""
        self._assignments.load()
        self.attachments.load()
        if self._assignments.version:
            self._mesh.note_all()

    async def run(self) -> None:
        """Work until cancelled, which touches no container and no sandbox: the next run adopts them."""
        self._executors.clear()
        self._sweeping.clear()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._mesh.run())
            self._inventory = await self._take_inventory()
            group.create_task(self._watch_exits())
            group.create_task(self._look_around())
            group.create_task(self._fence.run())
            group.create_task(self.attachments.run())
            self._is_due.set()
            while True:
                await self._is_due.wait()
                self._is_due.clear()
                self._match_executors(group)

    async def _take_inventory(self) -> adoption.Inventory:
        """What is on the node; waits for an engine that is away, since nothing may be started beside what runs."""
        between = preparation.pauses()
        while True:
            try:
                existing = await self._ports.plane.sandboxes()
                sandboxes = frozenset(name for name in existing if not naming.is_plain(name))
                found = await self._ports.runtime.list_containers()
            except (RuntimeFailure, DataPlaneFailure) as failure:
                log.warning("waiting to see what runs on this node", error=str(failure))
                await self._ports.clock.sleep(between.next())
            else:
                records = frozenset(name for name in self._host.records.task_ids() if not naming.is_plain(name))
                records |= frozenset(self._ports.files.task_ids() if self._ports.files else ())
                containers = adoption.own_containers(found, self._facts.node_id, sandboxes | records)
                return adoption.Inventory(containers, sandboxes, self._facts.boot_id, records)

    def _match_executors(self, group: asyncio.TaskGroup) -> None:
        """Have an executor for every assigned task, and for every one of which something is left to be removed.

        A task of which nothing of this boot is here is begun only once a manager has spoken: after a power cut the
        memory of the assignments may be an older one, and the task may have been stopped or removed since, and its
        addresses given to others.
        """
        for assigned in list(self._assignments.intent.tasks.values()):
            if assigned.task.id not in self._executors.keys() | self._broken and not assigned.task.is_attachment:
                found = self._find(assigned)
                if self._is_current or found.may_go_on:
                    self._engage(group, assigned, found)
        for task_id in sorted(self._leftovers() - self._sweeping):  # Sorted, so that a simulation replays exactly.
            if task_id in self._executors:
                self._executors[task_id].dismiss()
            else:
                self._sweeping.add(task_id)
                group.create_task(self._sweep(task_id), name=f"sweep {task_id}")
        if not self._executors and not self._sweeping:
            self._is_empty.set()

    def _engage(self, group: asyncio.TaskGroup, assigned: AssignedTask, found: Found) -> None:
        task_id = assigned.task.id
        executor = Executor(self._host, assigned, self._assignments.version, found)
        self._executors[task_id] = executor
        self._is_empty.clear()
        group.create_task(self._execute(executor), name=f"task {task_id}")

    def _find(self, assigned: AssignedTask) -> Found:
        record = self._host.records.load(assigned.task.id)
        inventory = self._inventory or adoption.Inventory({}, (), self._facts.boot_id)
        return adoption.adopt(assigned, record, inventory)

    def _leftovers(self) -> set[str]:
        """Ids of tasks that are not assigned and of which something is, or may be, here.

        What was dismissed goes at once. What nobody ever mentioned goes only after a manager sent the whole set: until
        then the memory of the assignments may be what was lost.
        """
        gone = set(self._assignments.dismissed)
        if self._is_confirmed and self._inventory is not None:
            gone |= self._inventory.task_ids
        return gone - {assigned.task.id for assigned in self._assignments.intent.tasks.values()}

    async def _execute(self, executor: Executor) -> None:
        """Supervise one executor: a fault in it fails its own task, never the node."""
        task_id = executor.task.id
        try:
            await executor.run()
        except Exception as error:  # A supervisor: whatever the fault, the other tasks go on.
            log.exception("a task's executor failed", task=task_id)
            status = executor.status
            if not is_terminal(status.state):
                self._book.note(task_id, _internal_error(status, self._ports.clock.now(), error))
            self._broken.add(task_id)  # Not tried again; what it left is swept once it is dismissed.
            del self._executors[task_id]
            self._is_due.set()
        else:
            self._forget(task_id)

    async def _sweep(self, task_id: str) -> None:
        """Remove what is left of a task that has no executor."""
        container = self._inventory.containers.get(task_id) if self._inventory else None
        if container is not None and container.state is ContainerState.RUNNING:
            await self._stop_gently(task_id, container)
        await preparation.remove_container(self._host, task_id, container.id if container else "")
        await preparation.release_sandbox(self._host, task_id)
        self._host.records.remove(task_id)
        self._sweeping.discard(task_id)
        self._forget(task_id)

    async def _stop_gently(self, task_id: str, container: Container) -> None:
        record = self._host.records.load(task_id)
        try:
            await self._ports.runtime.stop(container.id, grace=record.stop_grace if record else DEFAULT_GRACE)
        except RuntimeFailure as failure:  # Removing it, which is tried until it succeeds, kills it.
            log.warning("a leftover container could not be stopped", container=container.id, error=str(failure))

    def _forget(self, task_id: str) -> None:
        """Nothing of the task is left here."""
        self._executors.pop(task_id, None)
        self._broken.discard(task_id)
        self._book.forget(task_id)
        self._assignments.forget(task_id)
        if self._inventory is not None:
            self._inventory = self._inventory.without(task_id)
        self._is_due.set()

    async def _watch_exits(self) -> None:
        between = preparation.pauses()
        while True:
            try:
                async for container_id in self._ports.runtime.exits():
                    between.reset()
                    await self._look_at(container_id)
            except RuntimeFailure as failure:
                log.warning("the engine tells no exits", error=str(failure))
            await self._ports.clock.sleep(between.next())
            await self._look_at_all()

    async def _look_around(self) -> None:
        while True:
            await self._ports.clock.sleep(LOOK_PERIOD)
            await self._look_at_all()

    async def _look_at(self, container_id: str) -> None:
        await self.attachments.ended(container_id)
        for executor in list(self._executors.values()):
            if executor.container_id == container_id:
                await executor.look()

    async def _look_at_all(self) -> None:
        await self.attachments.look_at_all()
        try:
            found = await self._ports.runtime.list_containers()
        except RuntimeFailure as failure:  # Not known is not gone: nothing is said of the containers.
            log.warning("the containers cannot be looked at", error=str(failure))
            return
        by_id: dict[str, Container] = {container.id: container for container in found}
        for executor in list(self._executors.values()):
            if executor.is_observed and executor.container_id in by_id:
                executor.observe(by_id[executor.container_id])
            elif executor.is_observed:
                await executor.look()

    # --- Handler ---------------------------------------------------------------------

    async def hello(self) -> Hello:
        self._book.renew()
        self._wants.renew()
        description, capabilities = await self._descriptions.describe()
        self._described = description
        return Hello(
            description=description,
            underlay=self._facts.underlay,
            capabilities=capabilities,
            epoch=self._assignments.epoch,
            assignment_version=self._assignments.version,
        )

    async def wait_outdated(self) -> None:
        while True:
            await self._ports.clock.sleep(DESCRIBE_PERIOD)
            description, _ = await self._descriptions.describe()
            if description != self._described:
                return

    def connected(self) -> None:
        self._fence.connected()

    def disconnected(self) -> None:
        self._fence.disconnected()

    async def assign(self, epoch: str, delta: Delta) -> None:
        if epoch != self._assignments.epoch and delta.base == 0:
            self._mesh.forget()
        change = self._assignments.take(epoch, delta)
        self._is_confirmed = self._is_confirmed or change.is_full
        if not self._is_current:
            self._is_current = True
            self._is_due.set()  # What waited for a manager's word may begin, also on one that changes nothing.
        self._mesh.note(change)
        self.attachments.note()
        self._pass_on(change)

    def _pass_on(self, change: Change) -> None:
        for item in change.put.values():
            if isinstance(item, AssignedTask) and item.task.id in self._executors:
                self._executors[item.task.id].assign(item, self._assignments.version)
        for key in change.removed:
            executor = self._executors.get(key.removeprefix(TASK_PREFIX)) if key.startswith(TASK_PREFIX) else None
            if executor is not None:
                executor.dismiss()
        keys = (*change.put, *change.removed)
        if change.is_full or any(key.startswith(TASK_PREFIX) for key in keys):
            self._is_due.set()

    @property
    def applied_version(self) -> int:
        return self._mesh.applied_version

    async def wait_applied(self, after: int) -> int:
        return await self._mesh.wait_applied(after)

    async def next_reports(self) -> Sequence[TaskReport]:
        return await self._book.wait_news()

    async def reported(self, reports: Sequence[TaskReport]) -> None:
        self._book.confirm(reports)

    async def next_wanted(self) -> Sequence[Question]:
        return await self._wants.next()

    def answered(self, answer: Answer) -> None:
        self._wants.take(answer)

    async def managers_changed(self, managers: Sequence[ManagerAddress]) -> None:
        self.managers = managers
        self.on_managers(managers)

    def open_stream(self, request: LogRequest) -> AsyncIterator[StreamData]:
        return open_logs(self._ports.runtime, self._executors.get(request.task_id), request)

    async def open_engine(self) -> ByteStream:
        return await open_engine(self._ports.runtime, self._ports.connect, self._facts.hostname)

    async def removed(self, reason: str) -> None:
        """Stop every task with its grace, remove everything of theirs and of the mesh, and forget the assignments."""
        log.warning("this node is no longer of the swarm: its tasks are stopped", reason=reason)
        self._is_empty.clear()
        await self.assign(self._assignments.epoch, Delta(base=0, version=self._assignments.version + 1))
        await self._is_empty.wait()
        await self.attachments.clear()
        self._assignments.clear()
        self._mesh.forget()
        await self._clear_plane()
        self._host.records.clear()

    async def _clear_plane(self) -> None:
        between = preparation.pauses()
        while True:
            try:
                return await self._ports.plane.clear()
            except DataPlaneFailure as failure:
                log.warning("the mesh cannot be removed yet", error=str(failure))
                await self._ports.clock.sleep(between.next())


def _internal_error(status: TaskStatus, now: int, error: Exception) -> TaskStatus:
    return TaskStatus(
        timestamp=now,
        state=TaskState.FAILED,
        message=status.message,
        err=f"the node's agent failed on this task: {error}",
        container=status.container,
    )
