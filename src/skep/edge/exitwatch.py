"""Notice the end of processes that are not our children, at no cost while they live.

Edge: pidfds on the event loop. One descriptor per container and no polling: the kernel wakes us. The engine learns of
an exit a little later than the kernel, so each is announced only after `settle` says that the engine knows it too.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable


async def wait_process(pid: int) -> None:
    """Return once the process has ended; at once if there is none."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


class ExitWatch:
    """Announces containers as their first processes end."""

    def __init__(self, settle: Callable[[str], Awaitable[None]]) -> None:
        """Args: settle: returns once the engine itself says that this container has ended; must have a limit."""
        self._settle = settle
        self._watched: dict[str, tuple[int, asyncio.Task[None]]] = {}
        self._listeners: set[asyncio.Queue[str]] = set()
        self._unheard: dict[str, None] = {}

    def watch(self, container_id: str, pid: int) -> None:
        """Announce this container's end; watching the same process twice is once."""
        known = self._watched.get(container_id)
        if known is not None and known[0] == pid:
            return
        if known is not None:
            known[1].cancel()
        task = asyncio.create_task(self._announce(container_id, pid), name=f"exit of {container_id[:12]}")
        self._watched[container_id] = (pid, task)

    async def exits(self) -> AsyncIterator[str]:
        """Ids as they end, from now on; the first listener also gets what ended before anyone listened."""
        queue: asyncio.Queue[str] = asyncio.Queue()
        for container_id in self._unheard:
            queue.put_nowait(container_id)
        self._unheard.clear()
        self._listeners.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._listeners.discard(queue)

    async def close(self) -> None:
        """Stop watching."""
        tasks = [task for _, task in self._watched.values()]
        self._watched.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _announce(self, container_id: str, pid: int) -> None:
        await wait_process(pid)
        await self._settle(container_id)
        known = self._watched.get(container_id)
        if known is not None and known[0] == pid:
            del self._watched[container_id]
        if not self._listeners:
            self._unheard[container_id] = None
        for queue in self._listeners:
            queue.put_nowait(container_id)
