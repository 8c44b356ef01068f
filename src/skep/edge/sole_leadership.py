"""The leadership of a manager that is the only one: it always leads.

Edge: asyncio only. Goes with the SQLite store, whose file's lock keeps every other daemon away.
"""

import asyncio

from skep.ports.leadership import Leader


class SoleTerm:
    """Implements `ports.leadership.Term`. Ends only by resigning."""

    lease = ""
    revision = 0

    def __init__(self) -> None:
        self._over = asyncio.Event()

    async def wait_lost(self) -> None:
        await self._over.wait()

    async def hold(self, length_s: float) -> None:
        """Nobody else could lead meanwhile."""

    async def resign(self) -> None:
        self._over.set()


class SoleCandidate:
    """Implements `ports.leadership.Candidate`."""

    def __init__(self, node_id: str) -> None:
        self._node_id = node_id
        self._term: SoleTerm | None = None
        self._n_terms = 0

    async def win(self) -> SoleTerm:
        """Lead. A term still under way ends: nobody decides twice."""
        if self._term is not None:
            await self._term.resign()
        self._term = SoleTerm()
        self._n_terms += 1
        return self._term

    async def leader(self) -> Leader | None:
        is_over = self._term is None or self._term._over.is_set()
        return None if is_over else Leader(self._node_id, self._n_terms)

    async def depose(self, leader: Leader) -> None:
        """There is no other that could lead."""

    async def close(self) -> None:
        if self._term is not None:
            await self._term.resign()
