"""What a decision answers.

Pure. A decision is `f(view, …, now) -> Plan`; nothing has happened until the plan's changes are committed. Run
again on the result, a decision answers an empty plan.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from skep.model.base import Nanoseconds
from skep.model.task import Task
from skep.store.changes import Batch, Change, Put
from skep.store.state import View


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


@dataclass(slots=True)
class Dirty:
    """Ids of the objects whose change asks for decisions. Only these are looked at."""

    services: set[str] = field(default_factory=set)
    tasks: set[str] = field(default_factory=set)
    nodes: set[str] = field(default_factory=set)
    networks: set[str] = field(default_factory=set)
    is_cluster: bool = False

    @classmethod
    def everything(cls, view: View) -> "Dirty":
        """All there is: for the first decision of a new leader."""
        return cls(
            services={service.id for service in view.services.values()},
            tasks={task.id for task in view.tasks.values()},
            nodes={node.id for node in view.nodes.values()},
            networks={network.id for network in view.networks.values()},
            is_cluster=True,
        )

    def merge(self, other: "Dirty") -> None:
        """Mark what another has marked too."""
        self.services |= other.services
        self.tasks |= other.tasks
        self.nodes |= other.nodes
        self.networks |= other.networks
        self.is_cluster = self.is_cluster or other.is_cluster

    def clear(self) -> None:
        """Mark nothing any more."""
        for ids in (self.services, self.tasks, self.nodes, self.networks):
            ids.clear()
        self.is_cluster = False

    def note(self, batch: Batch) -> None:
        """Mark everything a committed batch touched."""
        for event in batch.events:
            self._mark(event.kind, event.id, event.new or event.old)

    def note_changes(self, changes: Iterable[Change]) -> None:
        """Mark everything an uncommitted plan touches, so that the next decision of the same step sees it."""
        for change in changes:
            self._mark(change.kind, change.id, change.value if isinstance(change, Put) else None)

    def _mark(self, kind: str, id: str, value: object) -> None:
        match kind:
            case "task":
                self.tasks.add(id)
                if isinstance(value, Task):
                    self.services.add(value.service_id)
            case "service":
                self.services.add(id)
            case "node":
                self.nodes.add(id)
            case "network":
                self.networks.add(id)
            case "cluster":
                self.is_cluster = True
            case _:
                pass

    def __bool__(self) -> bool:
        return bool(self.services or self.tasks or self.nodes or self.networks or self.is_cluster)
