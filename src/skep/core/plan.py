"""What a decision answers.

Pure. A decision is `f(view, …, now) -> Plan`; nothing has happened until the plan's changes are committed. Run
again on the result, a decision answers an empty plan.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from skep.model.base import Nanoseconds
from skep.store.changes import Change


@dataclass(frozen=True, slots=True)
class Plan:
    """Changes to commit together.

    Attributes:
        changes: In an order in which every prefix is a legal state.
        wake_at: When to decide again even if nothing changes; None for never.
        notes: Sentences for the log: what was decided and why.
    """

    changes: tuple[Change, ...] = ()
    wake_at: Nanoseconds | None = None
    notes: tuple[str, ...] = ()


NOTHING = Plan()


def earliest(moments: Iterable[Nanoseconds | None]) -> Nanoseconds | None:
    """The first of several wake-up times, ignoring None; None if there is none."""
    return min((moment for moment in moments if moment is not None), default=None)
