"""Placement constraints: which nodes a service's tasks may run on.

Pure. All constraints of a service must hold. Text is compared without regard to case, label keys with it; nothing in
a value is a pattern. A key that does not exist matches no node, so that a spelling mistake shows as a refusal and
not as a task on the wrong machine.
"""

import enum
import functools
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

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
    """One condition on a node. Attributes: key, value: as written, without surrounding blanks."""

    key: str
    operator: Operator
    value: str

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
    if constraint.key.lower() == "node.ip":
        return _matches_address(constraint, node.status.addr)
    actual = _actual(constraint.key, node)
    if actual is None:
        return False
    return (actual.casefold() == constraint.value.casefold()) == (constraint.operator is Operator.EQUAL)


def matches_all(constraints: Iterable[Constraint], node: Node) -> bool:
    """Whether a node satisfies every constraint; True when there are none."""
    return all(matches(constraint, node) for constraint in constraints)


def _actual(key: str, node: Node) -> str | None:
    """What a node has under a key; "" for a label it does not carry, None for a key that does not exist."""
    folded = key.lower()
    if folded.startswith(NODE_LABEL):
        return node.spec.labels.get(key[len(NODE_LABEL) :], "")
    if folded.startswith(ENGINE_LABEL):
        return (node.description.engine.labels or {}).get(key[len(ENGINE_LABEL) :], "")
    match folded:
        case "node.id":
            return node.id
        case "node.hostname":
            return node.description.hostname
        case "node.role":
            return node.role.value
        case "node.platform.os":
            return node.description.platform.os
        case "node.platform.arch":
            return node.description.platform.architecture
        case _:
            return None


def _matches_address(constraint: Constraint, text: str) -> bool:
    """Compare a node's address with an address or a subnet; what is neither matches no node."""
    try:
        wanted = ipaddress.ip_network(constraint.value, strict=False)
    except ValueError:
        return False
    try:
        is_within = ipaddress.ip_address(text) in wanted
    except ValueError:
        is_within = False  # A node that has not said its address is in no subnet.
    return is_within == (constraint.operator is Operator.EQUAL)
