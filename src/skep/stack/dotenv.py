"""Files of variables: `.env` beside a Compose file and those of `env_file`.

Pure. Source: Compose documentation, "Syntax for environment variables files".
"""

import re
from collections.abc import Mapping as Map
from typing import Final

from skep.stack.errors import ComposeError
from skep.stack.interpolate import Interpolation
from skep.stack.nodes import Place

ASSIGNMENT: Final = re.compile(r"[ \t]*(?:export[ \t]+)?([^\s=:#'\"]+)[ \t]*(=|:[ \t]|$)[ \t]*", re.MULTILINE)
BLANK: Final = re.compile(r"[ \t]*(#[^\n]*)?(\n|$)")
ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
ESCAPES: Final = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", '"': '"', "$": "$$"}
MAX_BYTES: Final = 1 << 20


def parse_env(source: bytes, file: str, variables: Map[str, str]) -> dict[str, str | None]:
    """Read a file of variables.

    Args:
        variables: What values may refer to, besides the lines before them.
    Returns:
        Values by name in the file's order; None where a name stands alone.
    Raises:
        ComposeError: A line is no assignment.
    """
    try:
        content = source.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeError as error:
        raise ComposeError(Place(file, 1), "the file is not UTF-8 text") from error
    if len(source) > MAX_BYTES:
        raise ComposeError(Place(file, 1), f"the file is larger than {MAX_BYTES} bytes")
    known = dict(variables)
    interpolation = Interpolation(known)
    found: dict[str, str | None] = {}
    position, line = 0, 1
    while position < len(content):
        blank = BLANK.match(content, position)
        end = blank.end() if blank else position
        if not blank:
            name, value, end = _assignment(content, position, Place(file, line), interpolation)
            found[name] = value
            if value is not None:
                known.setdefault(name, value)
        line += content.count("\n", position, end)
        position = end
    return found


def _assignment(source: str, position: int, place: Place, filled: Interpolation) -> tuple[str, str | None, int]:
    head = ASSIGNMENT.match(source, position)
    if head is None:
        raise ComposeError(place, "this is no assignment; write NAME=value")
    if not head[2]:
        return head[1], None, _after_line(source, head.end(), place)
    start = head.end()
    quote = source[start : start + 1]
    if quote in ("'", '"'):
        close = _closing(source, start + 1, quote)
        if close < 0:
            raise ComposeError(place, f"the quote {quote} is not closed")
        body = source[start + 1 : close]
        end = _after_line(source, close + 1, place)
        if quote == "'":
            return head[1], body, end
        escaped = ESCAPE.sub(lambda match: ESCAPES.get(match[1], match[0]), body)
        return head[1], filled.text(escaped, place), end
    newline = source.find("\n", start)
    newline = len(source) if newline < 0 else newline
    body = re.split(r"(?:^|[ \t])#", source[start:newline], maxsplit=1)[0].strip()
    return head[1], filled.text(body, place), min(newline + 1, len(source))


def _closing(source: str, position: int, quote: str) -> int:
    while position < len(source):
        if source[position] == "\\" and quote == '"':
            position += 2
        elif source[position] == quote:
            return position
        else:
            position += 1
    return -1


def _after_line(source: str, position: int, place: Place) -> int:
    rest = BLANK.match(source, position)
    if rest is None:
        raise ComposeError(place, "there is text after the value; quote the whole value")
    return rest.end()
