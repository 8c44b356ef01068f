"""Moments as users write them for `--since` and `--until`.

Edge: the clock, for what is said relative to now. Source: moby's api/types/time.
"""

import time
from typing import Any

import click

from skep.lib.durations import parse_duration
from skep.lib.timestamps import parse_rfc3339


class MomentType(click.ParamType[str]):
    """`2026-01-31T12:00:00Z`, `1769860800.5`, or `10m` for ten minutes ago; as seconds since 1970, empty for none."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if not text or text.replace(".", "", 1).isdecimal():
            return text
        try:
            nanoseconds = parse_rfc3339(text) if "T" in text else time.time_ns() - parse_duration(text)
        except ValueError:
            self.fail(f'"{text}" is no moment; write 2026-01-31T12:00:00Z, seconds since 1970, or 10m', param, ctx)
        return f"{nanoseconds // 1_000_000_000}.{nanoseconds % 1_000_000_000:09d}"


MOMENT = MomentType()
