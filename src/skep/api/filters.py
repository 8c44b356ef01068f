"""The `filters` of list requests.

Pure. Two spellings must be read: the Go client's `{"name": {"web": true}}` and docker-py's `{"name": ["web"]}`.
Source: moby's api/types/filters and swarmkit's manager/controlapi.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from skep.model.errors import InvalidSpec

_TRUE = frozenset({"1", "true"})
_FALSE = frozenset({"0", "false"})


class Filters:
    """What a list is narrowed to: for each key, values of which one must match (labels: all of them)."""

    def __init__(self, wanted: Mapping[str, Sequence[str]]) -> None:
        self._wanted = wanted

    def __bool__(self) -> bool:
        return bool(self._wanted)

    def __contains__(self, key: str) -> bool:
        return key in self._wanted

    def values(self, key: str) -> Sequence[str]:
        return self._wanted.get(key, ())

    def allow(self, *keys: str) -> "Filters":
        """Check the keys.

        Raises:
            InvalidSpec: One is none of `keys`; in Docker's words.
        """
        for key in self._wanted:
            if key not in keys:
                raise InvalidSpec(f"invalid filter '{key}'")
        return self

    def is_exact(self, key: str, candidate: str) -> bool:
        """Whether nothing was asked under that key, or just this."""
        wanted = self._wanted.get(key)
        return not wanted or candidate in wanted

    def is_prefix(self, key: str, candidate: str) -> bool:
        """Whether nothing was asked under that key, or the candidate begins with it."""
        wanted = self._wanted.get(key)
        return not wanted or candidate.startswith(tuple(wanted))

    def is_pattern(self, key: str, candidate: str) -> bool:
        """Whether the candidate matches a name pattern.

        A pattern is text to be found anywhere, with `^`, `$` and `.*`; Docker takes any regular expression, of
        which a hostile one would stall every other request here.
        """
        wanted = self._wanted.get(key)
        return not wanted or any(text == candidate or _pattern(text).search(candidate) for text in wanted)

    def has_labels(self, key: str, labels: Mapping[str, str]) -> bool:
        """Whether every label asked for, as `key` or `key=value`, is there."""
        for text in self.values(key):
            name, has_value, value = text.partition("=")
            if name not in labels or (has_value and labels[name] != value):
                return False
        return True

    def is_true(self, key: str) -> bool:
        """Read a key that holds one truth value.

        Raises:
            InvalidSpec: It holds anything else.
        """
        values = self.values(key)
        if not values:
            return False
        if len(values) == 1 and values[0].lower() in _TRUE | _FALSE:
            return values[0].lower() in _TRUE
        raise InvalidSpec(f"invalid filter '{key}={','.join(values)}'")


NONE = Filters({})


def read(text: str) -> Filters:
    """Read the `filters` of a query.

    Args:
        text: JSON in either spelling; empty for no filter.
    Raises:
        InvalidSpec: It is neither.
    """
    if not text:
        return NONE
    try:
        raw = msgspec.json.decode(text, type=dict[str, dict[str, bool] | list[str] | None])
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise InvalidSpec(f"invalid filter: {error}") from error
    return Filters({key: tuple(_chosen(values)) for key, values in raw.items() if values})


def _chosen(values: dict[str, bool] | list[str] | None) -> Iterable[str]:
    if isinstance(values, dict):
        return (value for value, is_on in values.items() if is_on)
    return values or ()


def _pattern(text: str) -> re.Pattern[str]:
    body = text.removeprefix("^").removesuffix("$")
    middle = ".*".join(re.escape(part) for part in body.split(".*"))
    return re.compile(f"{'^' if text.startswith('^') else ''}{middle}{'$' if text.endswith('$') else ''}")
