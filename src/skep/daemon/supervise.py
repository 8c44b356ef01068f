"""Keeps the daemon's loops running: one that fails is logged and started again, more slowly each time.

Edge: asyncio tasks. Failing is never normal; this is the last place where an unforeseen error stops.
"""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 5.0
SETTLED_S = 30.0

log = structlog.get_logger(__name__)


class Supervisor:
    """A group of loops that end together."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def keep(self, name: str, loop: Callable[[], Awaitable[None]]) -> None:
        """Run a loop until `close`; one that returns is done, one that raises runs again."""
        task = asyncio.create_task(self._run(name, loop), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def watch(
        self, name: str, ending: Callable[[], Awaitable[None]], on_failure: Callable[[BaseException], None]
    ) -> None:
        """Tell of a failure that cannot be mended by starting a loop again."""

        async def wait() -> None:
            try:
                await ending()
            except Exception as error:  # Whatever ended it, the daemon has to be told.
                log.exception("a part of the daemon is lost", part=name)
                on_failure(error)

        self.keep(name, wait)

    async def _run(self, name: str, loop: Callable[[], Awaitable[None]]) -> None:
        delay_s = FIRST_DELAY_S
        clock = asyncio.get_running_loop().time
        while True:
            started = clock()
            try:
                await loop()
            except Exception:  # This is the supervisor: no fault of one loop ends the others.
                log.exception("a loop failed and is started again", loop=name, delay_s=delay_s)
            else:
                return
            if clock() - started > SETTLED_S:
                delay_s = FIRST_DELAY_S
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, LONGEST_DELAY_S)

    async def close(self) -> None:
        """Cancel every loop and wait for them."""
        current = asyncio.current_task()
        tasks = [task for task in self._tasks if task is not current]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
