"""Values out of nodes, with every refusal naming the place.

Pure. `Reading` collects what is no failure by itself: keys nobody knows, and keys that mean nothing in a swarm.
"""

import shlex
from collections.abc import Callable, Collection, Iterator
from collections.abc import Mapping as Map
from typing import Final, TypeVar

from skep.lib.durations import parse_duration
from skep.stack import notation
from skep.stack.errors import ComposeError
from skep.stack.merge import as_mapping
from skep.stack.nodes import Kind, Mapping, Node, Scalar, Sequence

V = TypeVar("V")
MAX_DIGITS: Final = 18
TRUE: Final = ("true", "yes", "y", "on", "1")
FALSE: Final = ("false", "no", "n", "off", "0")


class Reading:
    """One walk over a project. Attributes: notes: lines for the user; unknown: keys nobody knows."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.unknown: list[ComposeError] = []

    def note(self, node: Node, sentence: str) -> None:
        self.notes.append(f"{node.place}: {sentence}")

    def known(self, node: Node, what: str, keys: Collection[str]) -> Map[str, Node]:
        """A mapping's entries; keys that are not known are remembered, those that begin with `x-` left out."""
        found = mapping(node, what)
        for key in found.entries:
            if key not in keys and not key.startswith("x-"):
                self.unknown.append(ComposeError(found.key_place(key), f'"{key[:60]}" is no key of {what}'))
        return {key: value for key, value in found.entries.items() if key in keys and not _is_null(value)}


def _is_null(node: Node) -> bool:
    return isinstance(node, Scalar) and node.is_null


def mapping(node: Node, what: str) -> Mapping:
    if _is_null(node):
        return Mapping({}, node.place)
    if not isinstance(node, Mapping):
        raise ComposeError(node.place, f"{what} has to be keys and values")
    return node


def text(node: Node) -> str:
    if not isinstance(node, Scalar):
        raise ComposeError(node.place, "a single text is needed here")
    return node.text


def number(node: Node, read: Callable[[str], V]) -> V:
    """Read a scalar by a notation that raises ValueError."""
    written = text(node)
    try:
        return read(written)
    except ValueError as error:
        raise ComposeError(node.place, str(error)) from error


def integer(node: Node) -> int:
    written = text(node).strip()
    digits = written.removeprefix("-")
    if not digits.isascii() or not digits.isdecimal() or len(digits) > MAX_DIGITS:
        raise ComposeError(node.place, f'"{written[:40]}" is no whole number')
    return int(written)


def count(node: Node) -> int:
    found = integer(node)
    if found < 0:
        raise ComposeError(node.place, f"{found} is less than nothing")
    return found


def ratio(node: Node) -> float:
    written = text(node).strip()
    if not notation.NUMBER.fullmatch(written):
        raise ComposeError(node.place, f'"{written[:40]}" is no number; write one like 0.3')
    return float(written)


def boolean(node: Node) -> bool:
    """True or false; the words of YAML 1.1 only as text, which is what a filled in variable is."""
    written = text(node)
    word = written.lower()
    is_word = isinstance(node, Scalar) and node.kind in (Kind.BOOLEAN, Kind.TEXT)
    if is_word and word in TRUE + FALSE:
        return word in TRUE
    raise ComposeError(node.place, f'"{written[:40]}" is neither true nor false')


def file_mode(node: Node) -> int:
    """Permission bits: `0440` (YAML before 1.2) and `0o440` (since) are octal, 288 is decimal and the same."""
    written = text(node).strip()
    is_number = isinstance(node, Scalar) and node.kind is Kind.INTEGER
    try:
        is_octal = not is_number or written.startswith("0")
        found = int(written.removeprefix("0o"), 8) if is_octal else int(written[:MAX_DIGITS])
    except ValueError as error:
        raise ComposeError(node.place, f'"{written[:40]}" is no mode; write one like 0440') from error
    if not 0 <= found <= 0o7777:
        raise ComposeError(node.place, f'"{written[:40]}" is no mode; write one like 0440')
    return found


def duration(node: Node) -> int:
    found = number(node, parse_duration)
    if not 0 <= found < 1 << 62:
        raise ComposeError(node.place, f'"{text(node)[:40]}" is no length of time that is possible')
    return found


def size(node: Node) -> int:
    return number(node, notation.read_bytes)


def items(node: Node) -> tuple[Node, ...]:
    """A list's items; a single text is a list of one."""
    if isinstance(node, Sequence):
        return node.items
    if isinstance(node, Scalar):
        return () if node.is_null else (node,)
    raise ComposeError(node.place, "a list is needed here")


def texts(node: Node) -> list[str]:
    return [text(item) for item in items(node)]


def words(node: Node) -> list[str]:
    """A command: a list as it is, one text split as a shell would."""
    if isinstance(node, Sequence):
        return texts(node)
    try:
        return shlex.split(text(node))
    except ValueError as error:
        raise ComposeError(node.place, f"this command cannot be split into words: {error}") from error


def pairs(node: Node, key: str) -> Iterator[tuple[str, Scalar]]:
    """`A: 1` or `- A=1`, in order."""
    found = mapping(as_mapping(node, key), f"`{key}`")
    for name, value in found.entries.items():
        if not isinstance(value, Scalar):
            raise ComposeError(value.place, f'"{name[:60]}" has to be a single text')
        yield name, value


def labels(node: Node, key: str = "labels") -> dict[str, str]:
    return {name: value.text if not value.is_null else "" for name, value in pairs(node, key)}


def choice(node: Node, among: Collection[str]) -> str:
    written = text(node)
    if written not in among:
        raise ComposeError(node.place, f'"{written[:40]}" is not possible here; there are {", ".join(among)}')
    return written
