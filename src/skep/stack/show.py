"""A project and a plan as text for people.

Pure.
"""

import json
from collections.abc import Iterator
from typing import Any, Final

import yaml

from skep.stack.nodes import Kind, Mapping, Node, Scalar, Sequence
from skep.stack.plan import Difference, StackPlan, Step

SIGNS: Final = {"create": "+", "update": "~", "remove": "-"}


def as_yaml(node: Node) -> str:
    """A tree as YAML that reads back as the same: dollars are doubled, what YAML 1.1 would misread is quoted."""
    return yaml.safe_dump(_plain(node), sort_keys=False, allow_unicode=True, default_flow_style=False, width=120)


def _plain(node: Node) -> Any:
    match node:
        case Mapping():
            return {key: _plain(value) for key, value in node.entries.items()}
        case Sequence():
            return [_plain(item) for item in node.items]
        case Scalar(kind=Kind.NULL):
            return None
        case Scalar(kind=Kind.BOOLEAN):
            return node.text.lower() == "true"
        case Scalar(kind=Kind.INTEGER) if len(node.text) < 19 and str(_decimal(node.text)) == node.text:
            return _decimal(node.text)
        case Scalar():
            return node.text.replace("$", "$$")


def _decimal(text: str) -> int | None:
    return int(text) if text.removeprefix("-").isdecimal() else None


def plan_lines(plan: StackPlan) -> Iterator[str]:
    """A plan, a line per object that changes and one per field; one line if nothing does."""
    for step in plan.changes:
        yield f"{SIGNS[step.verb]} {step.kind} {step.name}{_summary(step)}"
        yield from (f"    {difference_line(difference)}" for difference in step.differences)
    if not plan.changes:
        yield f"Nothing to change in {plan.stack}"


def _summary(step: Step) -> str:
    if step.kind != "service" or step.verb != "create":
        return ""
    mode = step.body["Mode"]
    count = (mode.get("Replicated") or {}).get("Replicas")
    replicas = f", {count} replica{'s' if count != 1 else ''}" if count else ""
    return f" ({step.body['TaskTemplate']['ContainerSpec']['Image']}{replicas})"


def difference_line(difference: Difference) -> str:
    return f"{difference.field}: {_value(difference.before)} -> {_value(difference.after)}"


def _value(value: Any) -> str:
    return "(none)" if value is None else json.dumps(value, ensure_ascii=False)
