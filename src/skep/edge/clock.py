"""The machine's clock and dice.

Edge: time, os.urandom.
"""

import asyncio
import os
import random
import time

from skep.model.base import Nanoseconds


class SystemClock:
    """Wall-clock time as of its making, advanced by the monotonic clock: a jump of the wall clock moves nothing.

    The monotonic clock stands still while a machine is suspended; CLOCK_BOOTTIME does not, so that is the one used.
    """

    def __init__(self) -> None:
        self._offset = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def now(self) -> Nanoseconds:
        return self._offset + time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    async def sleep(self, length: Nanoseconds) -> None:
        await asyncio.sleep(max(0, length) / 1_000_000_000)


class SystemDice:
    """The operating system's randomness."""

    def __init__(self) -> None:
        self._random = random.SystemRandom()

    def bytes(self, n: int, /) -> bytes:
        return os.urandom(n)

    def fraction(self) -> float:
        return self._random.random()
