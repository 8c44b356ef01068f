"""The clock and the dice, as the loops see them.

Port. Only the edges read the machine's; a simulation has its own.
"""

from typing import Protocol

from skep.model.base import Nanoseconds


class Clock(Protocol):
    """Time that never goes back: wall-clock time as of start-up, advanced by the monotonic clock."""

    def now(self) -> Nanoseconds:
        """Nanoseconds since 1970 UTC."""
        ...

    async def sleep(self, length: Nanoseconds) -> None: ...


class Dice(Protocol):
    def bytes(self, n: int, /) -> bytes: ...
    def fraction(self) -> float:
        """Between 0 and 1, for jitter."""
        ...
