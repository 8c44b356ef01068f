"""JSON as Docker's clients send it, decoded into the model, and answers as they read them.

Pure. Go's JSON decoder is lenient where msgspec is strict: it takes `null` for anything, field names in any case, and
enumerations in any case or empty. All of that is evened out here, once, along the type that is wanted.
"""

import enum
import functools
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from skep.model.errors import InvalidSpec

T = TypeVar("T")
Document = dict[str, object]
"""A JSON object under construction; values may be model structures."""

_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1

encode = msgspec.json.Encoder().encode


def decode(raw: bytes, kind: type[T]) -> T:
    """Read a request's body.

    Args:
        raw: JSON text; anything a Go client writes for that type.
        kind: A structure of the model.
    Raises:
        InvalidSpec: It is not JSON, or does not fit; the sentence names the field.
    """
    return fit(parse(raw), kind)


def parse(raw: bytes) -> Any:
    """Read JSON text as it is.

    Raises:
        InvalidSpec: It is not JSON.
    """
    if not raw.strip():
        raise InvalidSpec("invalid JSON: got EOF while reading request body")
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, ValueError) as error:
        raise InvalidSpec(f"invalid JSON: {error}") from error


def fit(value: object, kind: type[T]) -> T:
    """Make a structure of decoded JSON.

    Raises:
        InvalidSpec: It does not fit; the sentence names the field.
    """
    wanted: object = kind
    try:
        return msgspec.convert(_level(value, _type_of(wanted), "$"), kind)
    except msgspec.ValidationError as error:
        raise InvalidSpec(f"invalid request body: {_sentence(str(error))}") from error
    except RecursionError as error:
        raise InvalidSpec("invalid request body: it is nested too deeply") from error


def _sentence(message: str) -> str:
    """Turn msgspec's "Expected `int`, got `str` - at `$.Mode.Replicas`" into "Mode.Replicas: expected int, got str"."""
    text, _, path = message.partition(" - at ")
    text = text.replace("`", "")
    where = path.replace("`", "").removeprefix("$").removeprefix(".")
    lowered = text[:1].lower() + text[1:]
    return f"{where}: {lowered}" if where else lowered


@functools.cache
def _type_of(kind: object) -> inspect.Type:
    return inspect.type_info(kind)


@functools.cache
def _fields_of(struct: type) -> dict[str, inspect.Field]:
    found = _type_of(struct)
    fields = found.fields if isinstance(found, inspect.StructType) else ()
    return {field.encode_name.lower(): field for field in fields}


def _level(value: Any, kind: inspect.Type, path: str) -> Any:
    """Drop nulls and unknown fields, and spell names and enumerations as the type does."""
    if isinstance(kind, inspect.UnionType):
        kind = next(part for part in kind.types if not isinstance(part, inspect.NoneType))
    match kind:
        case inspect.StructType() if isinstance(value, dict):
            return _level_struct(value, kind, path)
        case inspect.ListType() if isinstance(value, list):
            return [_level(item, kind.item_type, f"{path}[{n}]") for n, item in enumerate(value)]
        case inspect.DictType() if isinstance(value, dict):
            present = ((key, inner) for key, inner in value.items() if inner is not None)
            return {key: _level(inner, kind.value_type, f"{path}.{key}") for key, inner in present}
        case inspect.EnumType() if isinstance(value, str):
            return value.lower()
        case inspect.IntType() if isinstance(value, int) and not _INT_MIN <= value <= _INT_MAX:
            raise msgspec.ValidationError(f"Expected a 64-bit number - at `{path}`")
        case _:
            return value


def _level_struct(value: dict[str, Any], kind: inspect.StructType, path: str) -> dict[str, Any]:
    fields = _fields_of(kind.cls)
    found: dict[str, Any] = {}
    for key, inner in value.items():
        field = fields.get(key.lower())
        if field is None or inner is None or (inner == "" and _is_enum(field.type)):
            continue
        found[field.encode_name] = _level(inner, field.type, f"{path}.{field.encode_name}")
    return found


def _is_enum(kind: inspect.Type) -> bool:
    parts = kind.types if isinstance(kind, inspect.UnionType) else (kind,)
    return any(isinstance(part, inspect.EnumType) and issubclass(part.cls, enum.Enum) for part in parts)
