"""Durations as Docker writes them: Go's `1m30s` for people, integer nanoseconds on the wire.

Pure.
"""

import re

NANOSECOND = 1
MICROSECOND = 1_000
MILLISECOND = 1_000_000
SECOND = 1_000_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

UNITS = {
    "ns": NANOSECOND,
    "us": MICROSECOND,
    "µs": MICROSECOND,
    "ms": MILLISECOND,
    "s": SECOND,
    "m": MINUTE,
    "h": HOUR,
}
PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")


def parse_duration(text: str) -> int:
    """Read a Go duration such as `1h2m3.5s` or `0`.

    Returns:
        Nanoseconds, negative for a leading minus.
    Raises:
        ValueError: With a sentence that names the text.
    Source: Go's time.ParseDuration.
    """
    body = text.strip()
    sign = -1 if body.startswith("-") else 1
    body = body.lstrip("+-")
    if body == "0":
        return 0
    total, position = 0.0, 0
    while position < len(body):
        part = PART.match(body, position)
        if part is None:
            break
        total += float(part[1]) * UNITS[part[2]]
        position = part.end()
    if not body or position != len(body):
        raise ValueError(f'"{text}" is not a duration; write a number with a unit, like 10s or 1m30s')
    return sign * round(total)


def format_duration(nanoseconds: int) -> str:
    """Write nanoseconds as Go prints a duration: `1m30s`, `250ms`, `0s`."""
    if nanoseconds == 0:
        return "0s"
    sign, rest = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    if rest < SECOND:
        for unit, size in (("ms", MILLISECOND), ("µs", MICROSECOND), ("ns", NANOSECOND)):
            if rest >= size:
                return f"{sign}{_decimal(rest, size)}{unit}"
    hours, rest = divmod(rest, HOUR)
    minutes, rest = divmod(rest, MINUTE)
    text = f"{hours}h" if hours else ""
    text += f"{minutes}m" if hours or minutes else ""
    return f"{sign}{text}{_decimal(rest, SECOND)}s"


def _decimal(amount: int, size: int) -> str:
    whole, fraction = divmod(amount, size)
    if not fraction:
        return str(whole)
    digits = f"{fraction:0{len(str(size)) - 1}d}".rstrip("0")
    return f"{whole}.{digits}"
