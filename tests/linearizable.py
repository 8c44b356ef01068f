"""Whether a recorded history of one register could have happened one operation at a time.

Pure. Wing and Gong's search with Lowe's memory of visited configurations: an operation takes effect at one moment
between its call and its return. Values are unique, so that a state is a value. An operation of unknown outcome may take
effect at any moment after its call, or never.
Source: Wing & Gong 1993, Testing and Verifying Concurrent Objects; Lowe 2017, Testing for Linearizability.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from math import inf


class Kind(Enum):
    READ = auto()
    SWAPPED = auto()
    """It replaced `seen` by `value`."""
    REFUSED = auto()
    """It would have replaced `seen`, which was not there."""
    UNKNOWN = auto()
    """It may have replaced `seen` by `value`."""


@dataclass(frozen=True, slots=True)
class Operation:
    """Attributes: seen: what was read, or was to be replaced; None for absence. value: the new one."""

    kind: Kind
    called_at: float
    returned_at: float
    seen: str | None
    value: str | None = None

    def apply(self, state: str | None) -> tuple[bool, str | None]:
        """Whether it fits the state, and the state after it."""
        match self.kind:
            case Kind.READ:
                return state == self.seen, state
            case Kind.REFUSED:
                return state != self.seen, state
            case Kind.SWAPPED | Kind.UNKNOWN:
                return state == self.seen, self.value


def is_linearizable(history: Sequence[Operation]) -> bool:
    """Search for an order; the register begins absent.

    Args:
        history: Of one register, in any order; the values written are unique.
    """
    operations = sorted(history, key=lambda each: each.called_at)
    ends = [inf if each.kind is Kind.UNKNOWN else each.returned_at for each in operations]
    needed = sum(1 << n for n, each in enumerate(operations) if each.kind is not Kind.UNKNOWN)
    visited: set[tuple[int, str | None]] = set()
    stack: list[tuple[int, int, str | None]] = [(0, 0, None)]
    while stack:
        done, first, state = stack.pop()
        if done & needed == needed:
            return True
        while done >> first & 1:
            first += 1
        # Whatever was called before the earliest return among the rest may be next.
        earliest = inf
        for n in range(first, len(operations)):
            if operations[n].called_at > earliest:
                break
            if done >> n & 1:
                continue
            earliest = min(earliest, ends[n])
        for n in range(first, len(operations)):
            if operations[n].called_at > earliest:
                break
            if done >> n & 1:
                continue
            fits, after = operations[n].apply(state)
            if fits and (key := (done | 1 << n, after)) not in visited:
                visited.add(key)
                stack.append((done | 1 << n, first, after))
    return False
