"""The functions of `--format` templates, and how Go prints and judges values.

Pure. Source: text/template's funcs.go and docker/cli's templates package.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Value = object


class TemplateError(ValueError):
    """The template cannot be read or does not fit; the text says where."""


def printed(value: Value) -> str:
    """A value as Go's `%v` has it."""
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "map[" + " ".join(f"{key}:{printed(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, list | tuple):
        return "[" + " ".join(printed(item) for item in value) + "]"
    return str(value)


def is_true(value: Value) -> bool:
    """Whether `if` takes it: anything but nothing, zero and what is empty."""
    return bool(value)


def _index(collection: Value, *keys: Value) -> Value:
    for key in keys:
        if isinstance(collection, Mapping):
            collection = collection.get(key, "")
        elif isinstance(collection, Sequence) and isinstance(key, int) and 0 <= key < len(collection):
            collection = collection[key]
        else:
            raise TemplateError(f"template: index out of range: {printed(key)}")
    return collection


def _join(items: Value, separator: Value = "") -> str:
    if not isinstance(items, Sequence):
        raise TemplateError("template: join wants a list")
    return str(separator).join(printed(item) for item in items)


def _length(value: Value) -> int:
    if not isinstance(value, Sequence | Mapping):
        raise TemplateError(f"template: len of {printed(value)}")
    return len(value)


def _format(form: Value, *values: Value) -> str:
    """`printf` with `%s`, `%d`, `%v`, `%q`, `%f`, widths and precisions."""
    quoted = [json.dumps(printed(value), ensure_ascii=False) if "%q" in str(form) else value for value in values]
    plain = [
        value if isinstance(value, int | float) and not isinstance(value, bool) else printed(value) for value in quoted
    ]
    try:
        return str(form).replace("%v", "%s").replace("%q", "%s") % tuple(plain)
    except (TypeError, ValueError) as error:
        raise TemplateError(f"template: printf: {error}") from error


def _slice(value: Value, *bounds: Value) -> Value:
    if not isinstance(value, Sequence) or not all(isinstance(bound, int) for bound in bounds):
        raise TemplateError("template: slice wants a text or a list, and numbers")
    first, last = (*bounds, 0, None)[:2] if len(bounds) < 2 else bounds[:2]
    chosen: Any = value
    return chosen[first : last if len(bounds) > 1 else None]


def _compare(holds: Callable[[Any, Any], bool]) -> Callable[..., bool]:
    def compare(one: Value, *others: Value) -> bool:
        try:
            return any(holds(one, other) for other in others)
        except TypeError as error:
            raise TemplateError("template: incompatible types for comparison") from error

    return compare


def _first(values: Sequence[Value], *, wanted: bool) -> Value:
    """Of `and` and `or`: the first value that decides, or else the last."""
    return next((value for value in values if is_true(value) is wanted), values[-1] if values else "")


FUNCTIONS: Mapping[str, Callable[..., Value]] = {
    "json": lambda value: json.dumps(value, separators=(",", ":"), ensure_ascii=False),
    "lower": lambda value: printed(value).lower(),
    "upper": lambda value: printed(value).upper(),
    "title": lambda value: printed(value).title(),
    "len": _length,
    "join": _join,
    "split": lambda value, separator: printed(value).split(str(separator)) if separator else list(printed(value)),
    "index": _index,
    "slice": _slice,
    "pad": lambda value, before, after: (
        " " * int(before) + printed(value) + " " * int(after) if value else printed(value)
    ),
    "print": lambda *values: "".join(printed(value) for value in values),
    "printf": _format,
    "println": lambda *values: " ".join(printed(value) for value in values) + "\n",
    "truncate": lambda value, length: printed(value)[:length],
    "eq": _compare(lambda one, other: one == other),
    "ne": _compare(lambda one, other: one != other),
    "lt": _compare(lambda one, other: one < other),
    "le": _compare(lambda one, other: one <= other),
    "gt": _compare(lambda one, other: one > other),
    "ge": _compare(lambda one, other: one >= other),
    "and": lambda *values: _first(values, wanted=False),
    "or": lambda *values: _first(values, wanted=True),
    "not": lambda value: not is_true(value),
}


def call(name: str, arguments: Sequence[Value]) -> Value:
    """Call a function.

    Raises:
        TemplateError: There is none of that name, or its arguments do not fit.
    """
    if name not in FUNCTIONS:
        raise TemplateError(f'template: function "{name}" not defined; there are {", ".join(sorted(FUNCTIONS))}')
    try:
        return FUNCTIONS[name](*arguments)
    except (TypeError, ValueError) as error:
        if isinstance(error, TemplateError):
            raise
        raise TemplateError(f"template: wrong arguments for {name}") from error
