"""Clocks and dice of the simulated machines.

Pure over the loop's virtual time: every node has its own clock, somewhat off and somewhat fast or slow; all dice are
drawn from the seed.
"""

import random
from collections.abc import Coroutine
from typing import Any

from skep.model.base import Nanoseconds
from skep.sim.loop import SimLoop

EPOCH = 1_800_000_000 * 1_000_000_000
MILLION = 1_000_000


class SimClock:
    """A machine's clock. Implements `ports.clock.Clock`."""

    def __init__(self, loop: SimLoop, *, offset: Nanoseconds = 0, ppm: int = 0) -> None:
        """Args: offset: how far it is off; ppm: how much too fast it runs, in millionths."""
        self._loop = loop
        self._origin = EPOCH + offset
        self._ppm = ppm

    def now(self) -> Nanoseconds:
        elapsed = self._loop.now
        return self._origin + elapsed + elapsed * self._ppm // MILLION

    def sleep(self, length: Nanoseconds) -> Coroutine[Any, Any, None]:
        return self._loop.sleep(length - length * self._ppm // MILLION)


class SimDice:
    """Dice from a seed. Implements `ports.clock.Dice`."""

    def __init__(self, source: random.Random) -> None:
        self._source = source

    def bytes(self, n: int, /) -> bytes:
        return self._source.randbytes(n)

    def fraction(self) -> float:
        return self._source.random()


class _Source(random.Random):
    """Draws whole numbers just as `random.Random` does, without its checks: every delay is drawn."""

    def randint(self, a: int, b: int) -> int:
        width = b - a + 1
        n_bits = width.bit_length()
        drawn = self.getrandbits(n_bits)
        while drawn >= width:
            drawn = self.getrandbits(n_bits)
        return a + drawn


def dice_of(seed: int, purpose: str) -> random.Random:
    """A source of its own for every part of the world: what one draws leaves the others as they are."""
    return _Source(f"{seed}/{purpose}")
