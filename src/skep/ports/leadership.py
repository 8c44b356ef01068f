"""Which of the managers decides.

Port. A term is one manager's leadership; its lease goes with every write, so that a store refuses what a former leader
still sends. Every adapter passes tests/contract/test_leadership.py.
"""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Leader:
    """Attributes: node_id: who leads; term: grows with every change."""

    node_id: str
    term: int


class Term(Protocol):
    """One leadership of this manager, from its winning on."""

    @property
    def lease(self) -> str:
        """For `Store.commit`; "" where nobody else can lead."""
        ...

    @property
    def revision(self) -> int:
        """Decide only on a state at least as new: whatever earlier leaders wrote is in it."""
        ...

    async def wait_lost(self) -> None:
        """Return as soon as it is over, or can no longer be known not to be: stop deciding at once."""
        ...

    async def hold(self, length_s: float) -> None:
        """Keep it through so many seconds of silence from here on, if a leader's usual lease is no longer than that.

        For what is known beforehand, as a restart of this manager's own store; 0 brings the usual lease back. Until
        then a manager that falls silent unforeseen is followed no sooner.

        Raises:
            StoreUnavailable: It could not be had; the term goes on as before.
        """
        ...

    async def resign(self) -> None:
        """End it; another manager may lead at once. Idempotent, and returns soon even if nobody answers."""
        ...


class Candidate(Protocol):
    """This manager's part in it."""

    async def win(self) -> Term:
        """Wait until this manager leads; trouble on the way is waited out."""
        ...

    async def leader(self) -> Leader | None:
        """Who leads now; None if nobody does.

        Raises:
            StoreUnavailable: It cannot be known at present.
        """
        ...

    async def depose(self, leader: Leader) -> None:
        """End the term of a leader whose manager is gone, before its lease has run out; does its best, soon.

        One that is not gone loses its leadership by this and nothing else: the store refuses what it still sends.
        """
        ...

    async def close(self) -> None:
        """Let go of what it holds; terms end with it."""
        ...
