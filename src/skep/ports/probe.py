"""Which TCP ports are listened on, found without sending a packet.

Port.
"""

from typing import Protocol


class Probe(Protocol):
    def listening(self, pid: int) -> frozenset[int]:
        """TCP ports on which something listens, beyond loopback, in the network namespace of a process.

        Returns:
            Empty also when the process is gone.
        """
        ...

    def taken(self) -> frozenset[int]:
        """TCP ports on which the node's own programs listen, beyond loopback."""
        ...
