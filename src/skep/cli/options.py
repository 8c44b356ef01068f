"""Options that many commands share, and how their words are read.

Pure but for click.
"""

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from skep.lib.durations import parse_duration

F = TypeVar("F", bound=Callable[..., Any])
MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", re.IGNORECASE)
MEMORY_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def format_option(command: F) -> F:
    return click.option("--format", "template", default="", help="table, json or a template like '{{.ID}}'.")(command)


def short_format_option(command: F) -> F:
    """Where nothing is filtered, `-f` is the format."""
    return click.option("-f", "--format", "template", default="", help="json or a template like '{{.ID}}'.")(command)


def filter_option(command: F) -> F:
    return click.option("-f", "--filter", "filters", multiple=True, help="key=value; may be repeated.")(command)


def long_filter_option(command: F) -> F:
    """Where `-f` forces."""
    return click.option("--filter", "filters", multiple=True, help="key=value; may be repeated.")(command)


def quiet_option(command: F) -> F:
    return click.option("-q", "--quiet", is_flag=True, help="Ids only.")(command)


def no_trunc_option(command: F) -> F:
    return click.option("--no-trunc", is_flag=True, help="Nothing is cut short.")(command)


def force_option(text: str) -> Callable[[F], F]:
    return click.option("-f", "--force", is_flag=True, help=text)


class DurationType(click.ParamType[int]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class MemoryType(click.ParamType[int]):
    """`512m`, `2g` or bytes."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = MEMORY.fullmatch(value)
        if match is None:
            self.fail(f'"{value}" is no amount of memory; write one like 512m or 2g', param, ctx)
        return int(float(match[1]) * MEMORY_UNITS[match[2].lower()])


class CpusType(click.ParamType[int]):
    """`0.5` or `2`, as billionths of a CPU."""

    name = "cpus"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return round(float(value) * 1_000_000_000)
        except ValueError:
            self.fail(f'"{value}" is no number of CPUs; write one like 0.5', param, ctx)


DURATION = DurationType()
MEMORY_BYTES = MemoryType()
CPU_NANO = CpusType()
