"""Placement constraints: which nodes a service's tasks may run on.

Pure. All constraints of a service must hold. Text is compared without regard to case, label keys with it; nothing in
a value is a pattern. A key that does not exist matches no node, so that a spelling mistake shows as a refusal and
not as a task on the wrong machine.
"""

import enum
import functools
import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from skep.model.errors import InvalidSpec
from skep.model.node import Node

NODE_LABEL = "node.labels."
ENGINE_LABEL = "engine.labels."
KEY = re.compile(r"[a-z_][a-z0-9\-_.]+", re.IGNORECASE)
VALUE = re.compile(r"[a-z0-9:\-_\s.*()?+\[\]\\^$|/]+", re.IGNORECASE)


class Operator(enum.StrEnum):
    EQUAL = "=="
    DIFFERENT = "!="


@dataclass(frozen=True, slots=True)
class Constraint:
    """One condition on a node.

    Attributes:
        key, value: As written, without surrounding blanks.
        holds: The condition as a function, made once: the scheduler asks it of every node for every service.
    """

    key: str
    operator: Operator
    value: str
    holds: Callable[[Node], bool] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "holds", _condition(self.key, self.operator, self.value))

    def __str__(self) -> str:
        return f"{self.key} {self.operator} {self.value}"


def parse(texts: Iterable[str] | None) -> list[Constraint]:
    """Read constraints such as `node.labels.zone==north`.

    Args:
        texts: As a client sent them; None and empty mean no constraint.
    Returns:
        One constraint per text, in order.
    Raises:
        InvalidSpec: A text is no constraint; the sentence names it.
    Source: swarmkit/manager/constraint/constraint.go, Parse.
    """
    return [_parse_one(text) for text in texts or ()]


@functools.lru_cache(maxsize=4096)
def _parse_one(text: str) -> Constraint:
    for operator in Operator:
        key, found, value = (part.strip() for part in text.partition(operator))
        if not found:
            continue
        if not KEY.fullmatch(key):
            raise InvalidSpec(f"key '{key}' is invalid in constraint '{text}'; write one such as node.labels.zone")
        if not VALUE.fullmatch(value):
            raise InvalidSpec(f"value '{value}' is invalid in constraint '{text}'; use letters, digits and - _ . : /")
        return Constraint(key, operator, value)
    raise InvalidSpec(f"constraint '{text}' expected one operator from ==, !=")


def matches(constraint: Constraint, node: Node) -> bool:
    """Whether a node satisfies a constraint; False for a key that does not exist.

    Source: swarmkit/manager/constraint/constraint.go, NodeMatches.
    """
    return constraint.holds(node)


def matches_all(constraints: Iterable[Constraint], node: Node) -> bool:
    """Whether a node satisfies every constraint; True when there are none."""
    for constraint in constraints:  # noqa: SIM110  # all() with a generator costs half of the whole check
        if not constraint.holds(node):
            return False
    return True


def _condition(key: str, operator: Operator, value: str) -> Callable[[Node], bool]:
    is_equal = operator is Operator.EQUAL
    if key.lower() == "node.ip":
        return lambda node: _is_within(value, node.status.addr) is is_equal
    read = _reader(key)
    wanted = value.casefold()
    return lambda node: (actual := read(node)) is not None and (actual.casefold() == wanted) is is_equal


def _reader(key: str) -> Callable[[Node], str | None]:
    """How to learn what a node has under a key: "" for a label it lacks, None for a key that does not exist."""
    folded = key.lower()
    if folded.startswith(NODE_LABEL):
        label = key[len(NODE_LABEL) :]
        return lambda node: node.spec.labels.get(label, "")
    if folded.startswith(ENGINE_LABEL):
        label = key[len(ENGINE_LABEL) :]
        return lambda node: (node.description.engine.labels or {}).get(label, "")
    return READERS.get(folded, lambda node: None)


READERS: Final[Mapping[str, Callable[[Node], str]]] = {
    "node.id": lambda node: node.id,
    "node.hostname": lambda node: node.description.hostname,
    "node.role": lambda node: node.role.value,
    "node.platform.os": lambda node: node.description.platform.os,
    "node.platform.arch": lambda node: node.description.platform.architecture,
}


def _is_within(wanted: str, text: str) -> bool | None:
    """Whether an address is an address or in a subnet; None if `wanted` is neither, which matches no node."""
    try:
        subnet = ipaddress.ip_network(wanted, strict=False)
    except ValueError:
        return None
    try:
        return ipaddress.ip_address(text) in subnet
    except ValueError:
        return False  # A node that has not said its address is in no subnet.
