"""Serve a task's log to a manager.

Edge: asyncio; reads from the engine.
"""

from collections.abc import AsyncIterator

from skep.agent.executor import Executor
from skep.model.errors import NotFound, Unavailable
from skep.model.lifecycle import is_terminal
from skep.model.session import LogRequest, StreamData
from skep.ports.runtime import LogOptions, NoSuchContainer, Runtime, RuntimeFailure


async def open_logs(runtime: Runtime, executor: Executor | None, request: LogRequest) -> AsyncIterator[StreamData]:
    """Yield a task's log entries in order.

    A follower of a task that has no container yet waits for it.

    Raises:
        NotFound: The task is not on this node. Unavailable: the engine is away.
    """
    if executor is None:
        raise NotFound(f"task {request.task_id} is not on this node (any more)")
    if not executor.container_id:
        if not request.follow or is_terminal(executor.seen.state):
            return
        await executor.has_container.wait()
    options = LogOptions(
        follow=request.follow,
        stdout=request.stdout,
        stderr=request.stderr,
        since=request.since,
        tail=request.tail,
    )
    if not executor.container_id:
        return
    try:
        async for entry in runtime.logs(executor.container_id, options):
            yield StreamData(stream=0, channel=entry.channel, timestamp=entry.timestamp, payload=entry.payload)
    except NoSuchContainer:
        return
    except RuntimeFailure as failure:
        raise Unavailable(f"the log of task {request.task_id} cannot be read: {failure}") from failure
