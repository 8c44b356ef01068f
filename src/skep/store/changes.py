"""What a transaction does to the state: objects put and objects deleted.

Pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from skep.model.base import Object
from skep.model.codec import KIND_OF


@dataclass(frozen=True, slots=True)
class Put:
    """Create or replace an object. Its `version` says what it was read at; 0 creates it."""

    value: Object

    @property
    def kind(self) -> str:
        return KIND_OF[type(self.value)]

    @property
    def id(self) -> str:
        return self.value.id


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove an object that was read at `version`."""

    kind: str
    id: str
    version: int


Change = Put | Delete


@dataclass(frozen=True, slots=True)
class Event:
    """One object's change as it was committed. `old` is None for a creation, `new` for a deletion."""

    kind: str
    id: str
    old: Object | None
    new: Object | None


@dataclass(frozen=True, slots=True)
class Batch:
    """All events of one revision."""

    revision: int
    events: Sequence[Event]
