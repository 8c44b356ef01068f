"""How much of a stream is under way: the accounts of whoever receives it.

Pure. The sender may send while it has any credit left; the receiver gives credit back as parts are taken from its
buffer, so that the buffer never holds more than the first grant and one part.
"""

from typing import Final

from skep.model.session import INITIAL_CREDIT, MAX_PAYLOAD, StreamData, cost_of

REGRANT: Final = INITIAL_CREDIT // 2
"""Credit is given back in portions of at least this many bytes."""


class Overdrawn(Exception):
    """The sender sent more than it was granted."""


class Account:
    """What the other end may still send on one stream."""

    def __init__(self) -> None:
        self._left = INITIAL_CREDIT
        self._unreturned = 0

    def charge(self, part: StreamData) -> None:
        """Account for a part that came.

        Raises:
            Overdrawn: There was no credit for it, or it is longer than any part may be.
        """
        if self._left <= 0 or len(part.payload) > MAX_PAYLOAD:
            raise Overdrawn(f"stream {part.stream} was sent more than it may hold")
        self._left -= cost_of(part)

    def regrant(self, part: StreamData) -> int:
        """Account for a part that was taken from the buffer; returns the credit to give back now, 0 for none yet."""
        self._unreturned += cost_of(part)
        if self._unreturned < REGRANT:
            return 0
        granted, self._unreturned = self._unreturned, 0
        self._left += granted
        return granted
