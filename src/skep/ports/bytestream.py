"""A connection of raw bytes whose two directions end apart, as a socket's do.

Port. It may be a socket of this machine, or a stream over a node's session.
"""

from typing import Protocol


class StreamBroken(Exception):
    """The other end takes no more, or the connection broke: one sentence."""


class ByteStream(Protocol):
    """Used by at most one sender and one receiver at a time."""

    async def send(self, data: bytes, /) -> None:
        """Send all of it; waits while the other end is slow.

        Raises:
            StreamBroken: It takes no more; what it said before can still be received.
        """
        ...

    async def send_end(self) -> None:
        """Say that nothing more will be sent; receiving goes on.

        Raises:
            StreamBroken.
        """
        ...

    async def receive(self) -> bytes:
        """Some bytes as soon as there are any; none at the end.

        Raises:
            StreamBroken: It broke off.
            skep.model.errors.SkepError: The other end refused to serve it, with why.
        """
        ...

    async def close(self) -> None:
        """End both directions now; idempotent."""
        ...
