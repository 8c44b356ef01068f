"""Wait until a task's published TCP ports are listened on.

Edge: waits on the clock. Why: a replacement that joins the balancer before it listens makes requests fail a second
time. A task that never listens stays out of balancing, and its status says so.
"""

from collections.abc import AsyncIterator, Callable

from skep.agent.waiting import BackOff
from skep.lib.durations import MILLISECOND, SECOND
from skep.ports.clock import Clock

FIRST_LOOK = 10 * MILLISECOND
QUICK_LOOK = 100 * MILLISECOND
SLOW_LOOK = 2 * SECOND
QUICK_PHASE = 60 * SECOND
PATIENCE = 3 * SECOND
"""After this long the wait is told to users."""


async def missing_ports(look: Callable[[], frozenset[int]], clock: Clock) -> AsyncIterator[frozenset[int]]:
    """Look until no port is missing.

    Args:
        look: Answers the ports not listened on now.
    Yields:
        The ports not listened on: once when patience is over, and the empty set at the end.
    """
    began = clock.now()
    pauses = BackOff(FIRST_LOOK, QUICK_LOOK)
    is_told = False
    while missing := look():
        waited = clock.now() - began
        if waited >= PATIENCE and not is_told:
            is_told = True
            yield missing
        await clock.sleep(pauses.next() if waited < QUICK_PHASE else SLOW_LOOK)
    yield frozenset()


def waiting_text(missing: frozenset[int]) -> str:
    """One sentence for a task's status."""
    ports = ", ".join(f"{port}/tcp" for port in sorted(missing))
    return f"started, but nothing listens on {ports} yet: it gets no traffic until then"
