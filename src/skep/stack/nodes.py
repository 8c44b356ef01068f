"""A YAML document as a tree that knows where each part stands.

Pure. Scalars keep the text they were written with: whether `0440` is a number, and to which base, is for the one who
knows what the key means.
"""

import enum
from collections.abc import Mapping as Map
from dataclasses import dataclass, field, replace
from typing import Final


@dataclass(frozen=True, slots=True)
class Place:
    """Attributes: line: from 1; 0 for a place in no file."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


class Kind(enum.Enum):
    TEXT = "text"
    INTEGER = "integer"
    FLOAT = "number"
    BOOLEAN = "boolean"
    NULL = "null"


@dataclass(frozen=True, slots=True)
class Scalar:
    text: str
    kind: Kind
    place: Place
    tag: str = ""

    @property
    def is_null(self) -> bool:
        return self.kind is Kind.NULL


@dataclass(frozen=True, slots=True)
class Sequence:
    items: tuple["Node", ...]
    place: Place
    tag: str = ""


@dataclass(frozen=True, slots=True)
class Mapping:
    """Attributes: keys: where each key of `entries` stands."""

    entries: Map[str, "Node"]
    place: Place
    tag: str = ""
    keys: Map[str, Place] = field(default_factory=dict)

    def key_place(self, key: str) -> Place:
        return self.keys.get(key, self.place)

    def with_entries(self, entries: Map[str, "Node"], keys: Map[str, Place] | None = None) -> "Mapping":
        return replace(self, entries=entries, keys={**self.keys, **(keys or {})})


Node = Scalar | Sequence | Mapping
RESET: Final = "!reset"
OVERRIDE: Final = "!override"


def null(place: Place) -> Scalar:
    return Scalar("", Kind.NULL, place)


def text(value: str, place: Place) -> Scalar:
    return Scalar(value, Kind.TEXT, place)
