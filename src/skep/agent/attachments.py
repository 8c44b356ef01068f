"""Plain containers of this node on the swarm's networks: their addresses, interfaces and names, while they run.

Edge: asyncio; asks managers, drives the data plane and the name server, looks at the engine. An attachment is a task
that runs nothing and holds an address; it belongs to a container of which a record is kept here, written before the
manager is asked. So whatever a killed daemon leaves is either claimed by a record and kept, or by none and given back.
Long, because a container's way in, its end and a daemon's new start all go through the same records under one lock.
"""

import asyncio
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import structlog

from skep.agent import preparation
from skep.agent.assignments import AssignmentSet
from skep.agent.attached import AttachedBook, AttachedContainer, ContainerEndpoint
from skep.agent.host import Host
from skep.agent.plain_sandboxes import NOTHING_FITS, PlainSandboxes
from skep.core.mesh import naming
from skep.lib.durations import SECOND
from skep.model import errors
from skep.model.assignment import OverlayNetwork
from skep.model.errors import Conflict, NotFound, SkepError, Unavailable
from skep.model.session import AttachmentAnswered, AttachmentStep, AttachmentWanted
from skep.model.task import Task
from skep.ports.dataplane import DataPlaneFailure, SandboxConfig
from skep.ports.runtime import Container, ContainerState, NoSuchContainer, RuntimeFailure

ANSWER_S: Final = 20.0
REVIVAL: Final = 5 * SECOND
"""How long an ended container keeps its addresses if its engine starts it again by itself."""
REFUSALS: Final = {
    kind.__name__: kind for kind in (errors.InvalidSpec, errors.NotFound, errors.Forbidden, errors.Conflict)
}

log = structlog.get_logger(__name__)


class Attachments:
    """All of a node. One event loop.

    Attributes:
        book: The containers.
    """

    def __init__(self, host: Host, assignments: AssignmentSet) -> None:
        self.book = AttachedBook(host.records)
        self._host = host
        self._assignments = assignments
        self._locks: dict[str, asyncio.Lock] = {}
        self._making: set[str] = set()
        self._dropping: set[str] = set()
        self._sandboxes = PlainSandboxes(host, assignments)
        self._is_current = False
        self._news = asyncio.Event()
        self._is_due = asyncio.Event()

    # --- the node's life ----------------------------------------------------------------

    def load(self) -> None:
        """Read what an earlier daemon remembered; once, before anything else."""
        self.book.load()

    async def run(self) -> None:
        """Take over what an earlier daemon left, then give back what nobody claims, until cancelled."""
        self._dropping.clear()
        self._sandboxes.forget_all()
        async with asyncio.TaskGroup() as group:
            await self._release_orphans()
            await self.look_at_all()
            while True:
                await self._is_due.wait()
                self._is_due.clear()
                for task_id in self._unclaimed() - self._dropping:
                    self._dropping.add(task_id)
                    group.create_task(self._give_back(task_id))

    def note(self) -> None:
        """A manager spoke: the assignments are as it wants them."""
        self._is_current = True
        self._news.set()
        self._is_due.set()

    async def look_at_all(self) -> None:
        """See which containers are gone, ended or running again."""
        for sandbox_id in list(self.book.containers):
            await self.look_at(sandbox_id)

    async def ended(self, container_id: str) -> None:
        """A container, of whatever kind, has ended or was removed."""
        container = self.book.find(container_id)
        if container is not None:
            await self.look_at(container.sandbox_id)

    async def clear(self) -> None:
        """The node is no longer of the swarm: nothing of its networks stays."""
        for sandbox_id in list(self.book.containers):
            await self._forget(sandbox_id)

    async def _release_orphans(self) -> None:
        """Sandboxes of which there is no record: a create was cut short."""
        try:
            for name in await self._host.plane.sandboxes():
                if naming.is_plain(name) and name not in self.book.containers:
                    await self._host.plane.release(name)
        except DataPlaneFailure as failure:
            log.warning("sandboxes without container cannot be removed yet", error=str(failure))

    def _unclaimed(self) -> set[str]:
        """Attachments of this node that belong to no container."""
        if not self._is_current:
            return set()
        assigned = {each.task.id for each in self._assignments.intent.tasks.values() if each.task.is_attachment}
        return assigned - {task_id for each in self.book.containers.values() for task_id in each.task_ids}

    async def _give_back(self, task_id: str) -> None:
        try:
            await self._host.wants.ask(AttachmentWanted(step=AttachmentStep.DETACH, task_id=task_id))
        finally:
            self._dropping.discard(task_id)

    # --- what the API asks ----------------------------------------------------------------

    async def check(self, network: str) -> tuple[str, str]:
        """Make sure that plain containers may join a network; returns its id and name.

        Raises:
            NotFound, Forbidden: With Docker's sentences. Unavailable: no manager answers.
        """
        answer = await self._ask(AttachmentWanted(step=AttachmentStep.CHECK, network=network))
        return answer.network_id, answer.network_name

    async def make(self, container: AttachedContainer) -> tuple[Path, Path]:
        """Make an empty sandbox for a container that the engine is about to make.

        Returns:
            Where its namespace is, and the directory of the files it reads.
        Raises:
            Unavailable: The kernel does not do it now.
        """
        self._making.add(container.sandbox_id)
        self.book.save(container)
        try:
            await preparation.wait_networks(self._host, self._assignments.version)
            config = SandboxConfig(task_id=container.sandbox_id, interfaces=(), gateway=False)
            namespace = await self._host.plane.prepare(config)
            self._sandboxes.write_files(container, ())
        except NOTHING_FITS as failure:
            await self.discard(container.sandbox_id)
            raise Unavailable(f"no network can be prepared for the container: {failure}") from failure
        return namespace, self._host.records.path(container.sandbox_id)

    async def bind(self, sandbox_id: str, container_id: str, name: str) -> None:
        """The engine has made it."""
        container = self.book.containers[sandbox_id]
        self.book.save(msgspec.structs.replace(container, container_id=container_id, name=name))
        self._making.discard(sandbox_id)

    async def discard(self, sandbox_id: str) -> None:
        """The engine has not made it."""
        self._making.discard(sandbox_id)
        async with self._lock(sandbox_id):
            await self._forget(sandbox_id)

    def new_sandbox_id(self) -> str:
        """A name for a sandbox that is to be made."""
        return naming.plain_sandbox(self._host.new_id())

    def lock(self, container: AttachedContainer) -> asyncio.Lock:
        """Held while a container is being started, so that it is not taken for one that has ended."""
        return self._lock(container.sandbox_id)

    async def settle(self, container_id: str) -> None:
        """A container was told to begin or to end: what it does not need any more is free when this returns."""
        container = self.book.find(container_id)
        if container is None:
            return
        await self.look_at(container.sandbox_id)
        await self._give_back_now(container.task_ids)

    async def _give_back_now(self, task_ids: Sequence[str]) -> None:
        claimed = {task_id for each in self.book.containers.values() for task_id in each.task_ids}
        try:
            async with asyncio.timeout(ANSWER_S):
                for task_id in set(task_ids) - claimed:
                    await self._give_back(task_id)
        except TimeoutError:
            log.warning("addresses are given back once a manager answers")

    async def attach(self, container_id: str) -> None:
        """Have a container's networks ready for its first instruction; its lock is held.

        Raises:
            SkepError: It cannot have them; nothing is held for it then.
        """
        container = self.book.find(container_id)
        if container is not None and not container.is_borrowed:
            await self._attach(container)

    async def connect(self, container: AttachedContainer, endpoint: ContainerEndpoint) -> None:
        """Add a network to a container, at once where it runs.

        Args:
            container: As it is in the book, or new to it.
        Raises:
            SkepError: It cannot have it; it stays as it was.
        """
        async with self._lock(container.sandbox_id):
            known = self.book.containers.get(container.sandbox_id)
            before = known or container
            taken = {each.number for each in before.endpoints}
            number = next(number for number in itertools.count(before.first_number) if number not in taken)
            added = msgspec.structs.replace(endpoint, number=number)
            after = msgspec.structs.replace(before, endpoints=[*before.endpoints, added])
            self.book.save(after)
            try:
                await self._look(after)
            except BaseException:
                if known is None:
                    await self._forget(container.sandbox_id)
                else:
                    self.book.save(known)
                    await self._shape_again(known)
                self._is_due.set()
                raise

    async def disconnect(self, container_id: str, network_id: str) -> None:
        """Take a container off a network at once."""
        found = self.book.find(container_id)
        if found is None:
            return
        async with self._lock(found.sandbox_id):
            container = self.book.containers[found.sandbox_id]
            kept = [each for each in container.endpoints if each.network_id != network_id]
            container = msgspec.structs.replace(container, endpoints=kept)
            self.book.save(container)
            try:
                await self._shape_again(container)
                if container.is_borrowed and not kept:
                    self._sandboxes.restore_files(container)
                    await self._forget(container.sandbox_id)
            finally:
                self._is_due.set()
        await self._give_back_now(found.task_ids)

    @property
    def networks(self) -> Sequence[OverlayNetwork]:
        """The networks this node takes part in, by name."""
        return sorted(self._assignments.intent.networks.values(), key=lambda network: network.name)

    @property
    def tasks(self) -> Sequence[Task]:
        """Everything assigned to this node, attachments among it."""
        return [each.task for each in self._assignments.intent.tasks.values()]

    def address_of(self, endpoint: ContainerEndpoint) -> str:
        """With prefix length; empty while it has none."""
        return self._sandboxes.address_of(endpoint)

    def gateway_of(self, endpoint: ContainerEndpoint) -> str:
        """The gateway of its network; empty if that is not known here."""
        network = self._assignments.network(endpoint.network_id)
        return next((subnet.gateway for subnet in network.subnets), "") if network is not None else ""

    # --- one container --------------------------------------------------------------------

    def _lock(self, sandbox_id: str) -> asyncio.Lock:
        return self._locks.setdefault(sandbox_id, asyncio.Lock())

    async def look_at(self, sandbox_id: str) -> None:
        """Bring a container's attachments to what it does now."""
        if sandbox_id in self._making:
            return
        async with self._lock(sandbox_id):
            container = self.book.containers.get(sandbox_id)
            if container is None:
                return
            try:
                await self._look(container)
            except SkepError as refusal:
                log.warning("a container cannot have its networks", container=container.name, reason=str(refusal))

    async def _look(self, container: AttachedContainer) -> None:
        try:
            seen = await self._host.runtime.inspect(container.container_id)
        except NoSuchContainer:
            await self._forget(container.sandbox_id)
            return
        except RuntimeFailure as failure:  # Not known is not gone.
            log.warning("a container cannot be looked at", container=container.name, error=str(failure))
            return
        if seen.state is ContainerState.RUNNING:
            await self._attach(await self._taken_over(container, seen))
        elif container.task_ids and not self._may_revive(container, seen):
            await self._detach(container)

    def _may_revive(self, container: AttachedContainer, seen: Container) -> bool:
        return container.is_lasting and self._host.clock.now() - seen.finished_at < REVIVAL

    async def _attach(self, container: AttachedContainer) -> None:
        """Have all its networks in force.

        Raises:
            SkepError: One cannot be had; those that it had before stay.
        """
        lost = [each for each in container.endpoints if not each.task_id or self._is_lost(each.task_id)]
        fresh = {each.number: msgspec.structs.replace(each, task_id=self._host.new_id()) for each in lost}
        wanted = container.changed(fresh)
        if fresh:
            self.book.save(wanted)
        try:
            for endpoint in fresh.values():
                await self._ask(
                    AttachmentWanted(
                        step=AttachmentStep.ATTACH,
                        task_id=endpoint.task_id,
                        network=endpoint.network_id,
                        container_id=container.container_id,
                        names=wanted.names(endpoint),
                        address=endpoint.address,
                    ),
                    endpoint.network,
                )
            await self._wait_assigned([each.task_id for each in fresh.values()])
            await self._sandboxes.shape(wanted)
        except BaseException:
            self.book.save(container.changed({each.number: msgspec.structs.replace(each, task_id="") for each in lost}))
            self._is_due.set()
            raise

    async def _detach(self, container: AttachedContainer) -> None:
        """Let go of its addresses; its namespace waits, empty, for another start."""
        freed = {each.number: msgspec.structs.replace(each, task_id="") for each in container.endpoints}
        container = container.changed(freed)
        self.book.save(container)
        await self._shape_again(container)
        self._is_due.set()

    async def _forget(self, sandbox_id: str) -> None:
        """Remove everything of a container that is gone; the record goes last, so that none of it can be left over."""
        try:
            await self._sandboxes.release(sandbox_id)
        except DataPlaneFailure as failure:
            log.warning("a sandbox cannot be removed yet", sandbox=sandbox_id, error=str(failure))
            container = self.book.containers.get(sandbox_id)
            if container is not None:  # Its addresses are free; the rest is tried again when it is looked at.
                self.book.save(msgspec.structs.replace(container, endpoints=[]))
        else:
            self.book.remove(sandbox_id)
            self._locks.pop(sandbox_id, None)
        self._is_due.set()

    def _is_lost(self, task_id: str) -> bool:
        """Whether the managers know nothing of an attachment."""
        return self._is_current and self._sandboxes.task(task_id) is None

    async def _wait_assigned(self, task_ids: Sequence[str]) -> None:
        try:
            async with asyncio.timeout(ANSWER_S):
                while not all(self._sandboxes.task(task_id) for task_id in task_ids):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError as error:
            raise Unavailable("the swarm's managers gave an address and did not say which; try again") from error

    async def _ask(self, wanted: AttachmentWanted, network: str = "") -> AttachmentAnswered:
        """Ask a manager.

        Args:
            network: Its name, for the refusal.
        """
        name = network or wanted.network
        try:
            async with asyncio.timeout(ANSWER_S):
                answer = await self._host.wants.ask(wanted)
        except TimeoutError as error:
            raise Unavailable(
                f"Could not attach to network {name}: no manager of the swarm answers; try again"
            ) from error
        if not isinstance(answer, AttachmentAnswered):
            raise Unavailable(f"Could not attach to network {name}: the manager answered something else")
        if answer.refusal == NotFound.__name__:
            raise NotFound(answer.error)
        if answer.error:
            raise REFUSALS.get(answer.refusal, Conflict)(f"Could not attach to network {name}: {answer.error}")
        return answer

    async def _taken_over(self, container: AttachedContainer, seen: Container) -> AttachedContainer:
        """A container whose namespace the engine makes anew with every start: let go of the one before."""
        if not container.is_borrowed or container.pid == seen.pid:
            return container
        try:
            await self._sandboxes.release(container.sandbox_id)
        except DataPlaneFailure as failure:
            raise Unavailable(f"the container's network cannot be prepared: {failure}") from failure
        container = msgspec.structs.replace(container, pid=seen.pid)
        self.book.save(container)
        return container

    async def _shape_again(self, container: AttachedContainer) -> None:
        """Take interfaces away; what cannot be done now is done when the container is looked at."""
        try:
            await self._sandboxes.shape(container)
        except SkepError as failure:
            log.warning("a container's networks cannot be changed yet", container=container.name, error=str(failure))
