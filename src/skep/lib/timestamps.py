"""Moments as integer nanoseconds since 1970 UTC, and as RFC 3339 text with nanoseconds.

Pure. Integers keep Go's precision, which floats lose.
"""

import datetime
import re

RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?([Zz]|[+-]\d\d:\d\d)")
ZERO = "0001-01-01T00:00:00Z"  # Go's zero time; clients read it as "never".


def format_rfc3339(moment_ns: int) -> str:
    """Write a moment as Go's RFC3339Nano; 0 gives Go's zero time."""
    if moment_ns <= 0:
        return ZERO
    seconds, nanos = divmod(moment_ns, 1_000_000_000)
    text = datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f".{nanos:09d}".rstrip("0") if nanos else ""
    return f"{text}{fraction}Z"


def parse_rfc3339(text: str) -> int:
    """Read RFC 3339 text, with or without a fraction.

    Returns:
        Nanoseconds since 1970; 0 for Go's zero time.
    Raises:
        ValueError: With a sentence that names the text.
    """
    match = RFC3339.fullmatch(text)
    if match is None:
        raise ValueError(f'"{text}" is not an RFC 3339 time, like 2026-01-31T12:00:00Z')
    date, clock, fraction, zone = match.groups()
    whole = datetime.datetime.fromisoformat(f"{date}T{clock}{'+00:00' if zone in 'Zz' else zone}")
    if whole.year <= 1:
        return 0
    return int(whole.timestamp()) * 1_000_000_000 + int((fraction or "").ljust(9, "0") or 0)
