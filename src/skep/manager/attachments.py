"""Gives plain containers of nodes a place on attachable networks, and takes it back.

Edge: asyncio through `Writes`; the leader chooses the address. A node speaks for its own containers only. What it asks
twice is answered twice and done once: the id of an attachment is the node's own choice.
Source: swarmkit/manager/resourceapi/allocator.go.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from skep.manager.control.find import find_network
from skep.manager.control.writes import Writes
from skep.manager.replica import Subscription
from skep.model.errors import Conflict, Forbidden, NotFound, SkepError, Unavailable
from skep.model.lifecycle import TaskState, is_terminal
from skep.model.network import Network, NetworkAttachmentConfig
from skep.model.service import NetworkAttachmentSpec, TaskSpec
from skep.model.session import AttachmentAnswered, AttachmentStep, AttachmentWanted
from skep.model.task import Task, TaskStatus
from skep.ports.store import Compacted, StoreError
from skep.store.changes import Delete, Put
from skep.store.state import View

ALLOCATION_S: Final = 10.0
RPC: Final = "rpc error: code = {code} desc = {reason}"


class Attachments:
    """Answers what nodes ask about their containers' networks."""

    def __init__(self, writes: Writes, watch: Callable[[], Subscription]) -> None:
        """Args: watch: Batches from now on."""
        self._writes = writes
        self._watch = watch

    async def answer(self, node_id: str, wanted: AttachmentWanted) -> AttachmentAnswered:
        """Do what a node wants; a refusal is an answer too."""
        try:
            network = await self._do(node_id, wanted)
        except SkepError as refusal:
            return AttachmentAnswered(wanted=wanted, error=str(refusal), refusal=type(refusal).__name__)
        except StoreError as failure:
            return AttachmentAnswered(wanted=wanted, error=str(failure), refusal=Unavailable.__name__)
        return AttachmentAnswered(
            wanted=wanted,
            network_id=network.id if network else "",
            network_name=network.spec.name if network else "",
        )

    async def _do(self, node_id: str, wanted: AttachmentWanted) -> Network | None:
        match wanted.step:
            case AttachmentStep.CHECK:
                return attachable(self._writes.view, wanted.network)
            case AttachmentStep.ATTACH:
                return await self._attach(node_id, wanted)
            case AttachmentStep.DETACH:
                await self._writes.transact(lambda view: detachment(view, node_id, wanted.task_id))
                return None

    async def _attach(self, node_id: str, wanted: AttachmentWanted) -> Network:
        network = attachable(self._writes.view, wanted.network)
        watch = self._watch()
        now = self._writes.clock.now()

        def operation(view: View) -> Sequence[Put]:
            attachable(view, network.id)
            known = view.tasks.get(wanted.task_id)
            if known is None:
                return [Put(_attachment(view, node_id, network, wanted, now))]
            _check_own(known, node_id)
            return []

        await self._writes.transact(operation)
        try:
            async with asyncio.timeout(ALLOCATION_S):
                await self._wait_allocated(wanted.task_id, watch)
        except TimeoutError as error:
            await self._writes.transact(lambda view: detachment(view, node_id, wanted.task_id))
            raise Unavailable(
                "attaching to network failed, make sure your network options are correct and check manager logs: "
                "context deadline exceeded"
            ) from error
        except Conflict:
            await self._writes.transact(lambda view: detachment(view, node_id, wanted.task_id))
            raise
        return network

    async def _wait_allocated(self, task_id: str, watch: Subscription) -> None:
        """Wait until the leader has decided.

        Raises:
            Conflict: There is no such address to be had.
        """
        while True:
            task = self._writes.view.tasks.get(task_id)
            if task is None:
                raise Unavailable("the container was taken off the network again")
            if task.status.state >= TaskState.ASSIGNED:
                return
            if task.status.err:
                raise Conflict(RPC.format(code="ResourceExhausted", reason=task.status.err))
            try:
                await anext(watch)
            except Compacted:
                watch = self._watch()


def attachable(view: View, reference: str) -> Network:
    """The network that is meant, if plain containers may join it.

    Raises:
        NotFound, Forbidden: With Docker's sentences.
    """
    try:
        network = find_network(view, reference)
    except NotFound:
        raise NotFound(f"network {reference} not found") from None
    if not network.spec.attachable:
        reason = f"network {reference} not manually attachable"
        raise Forbidden(RPC.format(code="PermissionDenied", reason=reason))
    return network


def detachment(view: View, node_id: str, task_id: str) -> Sequence[Delete]:
    """What taking a container off its network changes: nothing if it is off already.

    Raises:
        Forbidden: It is not that node's.
    """
    task = view.tasks.get(task_id)
    if task is None:
        return ()
    _check_own(task, node_id)
    return [Delete("task", task.id, task.version)]


def _check_own(task: Task, node_id: str) -> None:
    if not task.is_attachment or task.node_id != node_id:
        raise Forbidden(RPC.format(code="PermissionDenied", reason=f"task {task.id} is not this node's attachment"))
    if is_terminal(task.status.state):
        raise Conflict(RPC.format(code="FailedPrecondition", reason=f"attachment {task.id} has ended"))


def _attachment(view: View, node_id: str, network: Network, wanted: AttachmentWanted, now: int) -> Task:
    if node_id not in view.nodes:
        raise Forbidden(RPC.format(code="PermissionDenied", reason=f"node {node_id} is not of this swarm"))
    return Task(
        id=wanted.task_id,
        node_id=node_id,
        desired_state=TaskState.RUNNING,
        status=TaskStatus(state=TaskState.NEW, timestamp=now, message="created"),
        spec=TaskSpec(
            network_attachment_spec=NetworkAttachmentSpec(container_id=wanted.container_id, address=wanted.address),
            networks=[NetworkAttachmentConfig(target=network.id, aliases=list(wanted.names) or None)],
            runtime="attachment",
        ),
        created_at=now,
        updated_at=now,
    )
