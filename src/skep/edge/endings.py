"""Stop containers and wait for their ends, the same way for every engine.

Edge: pidfds and the clock. An engine learns of an end some milliseconds after the kernel; whoever waits here waits for
both, so that what is inspected afterwards says so. An engine's own stop holds locks and counts in whole seconds.
"""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress

from skep.edge.exitwatch import wait_process
from skep.model.base import Nanoseconds
from skep.ports.runtime import Container, ContainerState, NoSuchContainer, RuntimeFailure

SETTLE_LIMIT_S = 5.0
SETTLE_INTERVAL_S = 0.02
WAIT_START_S = 0.25
ENGINE_AWAY_S = 1.0
KILL_LIMIT_S = 10.0
SECOND = 1_000_000_000


class Endings:
    """One engine's."""

    def __init__(
        self, look: Callable[[str], Awaitable[Container]], send: Callable[[Container, int], Awaitable[None]]
    ) -> None:
        """Args: look: inspects a container. send: signals a running one's first process; no error if it is gone."""
        self._look = look
        self._send = send

    async def stop(self, container: Container, number: int, grace: Nanoseconds) -> None:
        """Signal a container, kill it after its grace, and return once the engine knows that it has ended."""
        if container.state is not ContainerState.RUNNING:
            return
        await self._send(container, number)
        try:
            async with asyncio.timeout(grace / SECOND):
                await wait_process(container.pid)
        except TimeoutError:
            await self.kill(container)
        await self.settle(container.id)

    async def kill(self, container: Container) -> None:
        """Kill a running container; returns once its first process is gone.

        Raises:
            RuntimeFailure: It hangs in the kernel.
        """
        await self._send(container, signal.SIGKILL)
        try:
            async with asyncio.timeout(KILL_LIMIT_S):
                await wait_process(container.pid)
        except TimeoutError as error:
            raise RuntimeFailure(
                f"container {container.name} did not die of SIGKILL in {KILL_LIMIT_S:.0f} s: its process "
                f"{container.pid} hangs in the kernel"
            ) from error

    async def settle(self, container_id: str) -> None:
        """Wait until the engine says that this container, whose process is gone, has ended; not for ever."""
        with suppress(TimeoutError, RuntimeFailure):
            async with asyncio.timeout(SETTLE_LIMIT_S):
                container = await self._look(container_id)
                while container.state is ContainerState.RUNNING:
                    await asyncio.sleep(SETTLE_INTERVAL_S)
                    container = await self._look(container_id)

    async def wait_exited(self, container_id: str) -> None:
        """Return once it has ended or is gone, however long that takes and whatever happens to the engine meanwhile."""
        while True:
            try:
                container = await self._look(container_id)
            except NoSuchContainer:
                return
            except RuntimeFailure:
                await asyncio.sleep(ENGINE_AWAY_S)
                continue
            match container.state:
                case ContainerState.EXITED:
                    return
                case ContainerState.RUNNING:
                    await wait_process(container.pid)
            await asyncio.sleep(SETTLE_INTERVAL_S if container.state is ContainerState.RUNNING else WAIT_START_S)
