"""Waiting for something or for a time, by the injected clock.

Edge: asyncio.
"""

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

from skep.model.base import Nanoseconds
from skep.ports.clock import Clock

T = TypeVar("T")


class Interrupted(Exception):
    """The event came before the work was done; the work was cancelled."""


async def wait_event(event: asyncio.Event, clock: Clock, length: Nanoseconds) -> bool:
    """Wait until the event is set, at most that long.

    Returns:
        Whether it is set.
    """
    if event.is_set():
        return True
    try:
        await unless(event, clock.sleep(length))
    except Interrupted:
        return True
    return event.is_set()


async def unless(event: asyncio.Event, work: Coroutine[Any, Any, T] | Awaitable[T]) -> T:
    """Do some work, or give it up when the event is set.

    Raises:
        Interrupted: It was given up.
    """
    doing = asyncio.ensure_future(work)
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({doing, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        raise Interrupted
    finally:
        for task in (doing, waiting):
            if not task.done():
                task.cancel()
        await asyncio.gather(doing, waiting, return_exceptions=True)


class BackOff:
    """Growing pauses between attempts. Attributes: first, most: lengths of the first and the longest pause."""

    def __init__(self, first: Nanoseconds, most: Nanoseconds) -> None:
        self._first = first
        self._most = most
        self.attempts = 0

    def next(self) -> Nanoseconds:
        length = min(self._first * (1 << min(self.attempts, 32)), self._most)
        self.attempts += 1
        return length

    def reset(self) -> None:
        self.attempts = 0
