"""One round of decisions: each builds on what the ones before it would change, and all of it is one plan.

Pure: the loop in `manager.loop` commits the plan and comes back when it says.
"""

from collections.abc import Iterable
from typing import Protocol

from skep.core.plan import Dirty, Plan, earliest
from skep.model.base import Nanoseconds
from skep.store.state import Draft, View


class Decision(Protocol):
    """Looks at what is dirty, and answers what to change.

    Run again on its own result it changes nothing. Its `wake_at` speaks for everything it cares for, dirty or not.
    """

    def __call__(self, view: View, dirty: Dirty, now: Nanoseconds, /) -> Plan: ...


def decide(view: View, dirty: Dirty, decisions: Iterable[Decision], now: Nanoseconds) -> Plan:
    """Run decisions in order on one draft.

    Args:
        dirty: What changed since the last round; left as it is.
    Returns:
        All changes together, in an order in which every prefix is a legal state.
    """
    draft = Draft(view)
    seen = Dirty()
    seen.merge(dirty)
    plans: list[Plan] = []
    for decision in decisions:
        plan = decision(draft, seen, now)
        draft.lay(plan.changes)
        seen.note_changes(plan.changes)
        plans.append(plan)
    return Plan(
        changes=draft.changes(),
        wake_at=earliest(plan.wake_at for plan in plans),
        notes=tuple(note for plan in plans for note in plan.notes),
    )
