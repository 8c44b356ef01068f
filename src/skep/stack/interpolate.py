"""Variables in Compose files: `${X}` in all its forms.

Pure. `$$` is a dollar; defaults may hold variables in turn, and what is not used is not evaluated: a `${B:?…}` inside
the default of a variable that is set does no harm.
Source: Compose specification, 12-interpolation.md.
"""

import re
from collections.abc import Mapping as Map
from dataclasses import dataclass, field
from typing import Final

from skep.stack.errors import ComposeError
from skep.stack.nodes import Kind, Mapping, Node, Place, Scalar, Sequence

NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
OPERATOR: Final = re.compile(r":?[-?+]")
MAX_DEPTH: Final = 20
MAX_PRODUCED: Final = 4 << 20


@dataclass(slots=True)
class Interpolation:
    """One project's interpolation.

    Attributes:
        missing: Variables that were neither set nor given a default, with their first place; they read as empty.
        n_produced: Characters written so far; bounded, because few characters can name a long value often.
    """

    variables: Map[str, str]
    missing: dict[str, Place] = field(default_factory=dict)
    n_produced: int = 0

    def text(self, source: str, place: Place) -> str:
        """Fill in a text.

        Raises:
            ComposeError: The notation is wrong, or a required variable is not set.
        """
        if "$" not in source:
            return source
        scan = _Scan(self, source, place)
        filled, _ = scan.word(0, 0, is_used=True)
        return filled

    def tree(self, node: Node) -> Node:
        """Fill in every value of a tree; keys stay as they are. What was filled in is text, whatever it looks like."""
        match node:
            case Scalar():
                if "$" not in node.text:
                    return node
                return Scalar(self.text(node.text, node.place), Kind.TEXT, node.place, node.tag)
            case Sequence():
                return Sequence(tuple(self.tree(item) for item in node.items), node.place, node.tag)
            case Mapping():
                return node.with_entries({key: self.tree(value) for key, value in node.entries.items()})

    def produced(self, text: str, place: Place) -> str:
        self.n_produced += len(text)
        if self.n_produced > MAX_PRODUCED:
            raise ComposeError(place, f"variables expand to more than {MAX_PRODUCED} characters")
        return text


@dataclass(slots=True)
class _Scan:
    """Reads one text from left to right."""

    whole: Interpolation
    source: str
    place: Place

    def word(self, position: int, depth: int, *, is_used: bool) -> tuple[str, int]:
        """Read until the end, or inside of braces (`depth` above 0) up to and with the closing one."""
        if depth > MAX_DEPTH:
            raise ComposeError(self.place, f"variables are nested more than {MAX_DEPTH} deep")
        parts: list[str] = []
        source = self.source
        while position < len(source):
            if depth and source[position] == "}":
                return "".join(parts), position + 1
            if source[position] == "$":
                value, position = self._variable(position + 1, depth, is_used=is_used)
                parts.append(value)
                continue
            end = _next(source, position + 1, "$}" if depth else "$")
            parts.append(source[position:end])
            position = end
        if depth:
            raise self._wrong("a `${` is not closed")
        return "".join(parts), position

    def _variable(self, position: int, depth: int, *, is_used: bool) -> tuple[str, int]:
        if self.source.startswith("$", position):
            return "$", position + 1
        if self.source.startswith("{", position):
            return self._braced(position + 1, depth, is_used=is_used)
        name = NAME.match(self.source, position)
        if name is None:
            raise self._wrong("a `$` is followed by no name")
        return self._value(name[0], is_used), name.end()

    def _braced(self, position: int, depth: int, *, is_used: bool) -> tuple[str, int]:
        name = NAME.match(self.source, position)
        if name is None:
            raise self._wrong("a `${` is followed by no name")
        if self.source.startswith("}", name.end()):
            return self._value(name[0], is_used), name.end() + 1
        operator = OPERATOR.match(self.source, name.end())
        if operator is None:
            raise self._wrong(f"${{{name[0]} is followed by neither `}}` nor one of :- - :? ? :+ +")
        value = self.whole.variables.get(name[0])
        is_set = bool(value) if operator[0].startswith(":") else value is not None
        takes_word = is_set if operator[0].endswith("+") else not is_set
        word, end = self.word(operator.end(), depth + 1, is_used=is_used and takes_word)
        if not is_used:
            return "", end
        if operator[0].endswith("?") and not is_set:
            raise ComposeError(self.place, f"the variable {name[0]} is required: {word or 'it is not set'}")
        if takes_word:
            return word, end
        return ("" if operator[0].endswith("+") else self._value(name[0], is_used)), end

    def _value(self, name: str, is_used: bool) -> str:
        if not is_used:
            return ""
        if name not in self.whole.variables:
            self.whole.missing.setdefault(name, self.place)
            return ""
        return self.whole.produced(self.whole.variables[name], self.place)

    def _wrong(self, reason: str) -> ComposeError:
        return ComposeError(self.place, f'"{self.source[:80]}" cannot be filled in: {reason}; write $$ for a dollar')


def _next(source: str, position: int, stops: str) -> int:
    found = [at for stop in stops if (at := source.find(stop, position)) >= 0]
    return min(found, default=len(source))
