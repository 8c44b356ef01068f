"""One measured figure: its runs, what it has to reach, and the table of many.

Pure.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

COLUMNS = ("group", "figure", "target", "median", "spread", "runs", "verdict")


class Bound(StrEnum):
    """How a target limits a figure."""

    AT_LEAST = ">="
    AT_MOST = "<="
    NONE = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """One row.

    Attributes:
        samples: One number per run; a ratio is taken within a run, of two variants measured one after the other.
        note: What a reader should know about how it came about, such as what was saturated.
    """

    name: str
    unit: str
    samples: Sequence[float]
    bound: Bound = Bound.NONE
    target: float = 0.0
    note: str = ""
    beside: dict[str, float] = field(default_factory=dict)

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def is_met(self) -> bool:
        """Whether the median keeps to the target; true without one."""
        match self.bound:
            case Bound.AT_LEAST:
                return self.median >= self.target
            case Bound.AT_MOST:
                return self.median <= self.target
            case _:
                return True

    @property
    def verdict(self) -> str:
        if self.bound is Bound.NONE:
            return "-"
        return "ok" if self.is_met else "MISSED"


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of them do not exceed.

    Args:
        values: Not empty.
        share: 0 to 1.
    """
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def interleaved(n_rounds: int, variants: Sequence[str]) -> Iterable[Sequence[str]]:
    """The order of variants in each round, turned round every time so that a drift favours neither."""
    for number in range(n_rounds):
        yield variants if number % 2 == 0 else tuple(reversed(variants))


def table(results: Sequence[tuple[str, Figure]]) -> str:
    """All figures as lines of aligned columns, notes below."""
    rows = [COLUMNS, *(_row(group, figure) for group, figure in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    notes = [f"{group}, {figure.name}: {figure.note}" for group, figure in results if figure.note]
    return "\n".join([*lines, "", *notes])


def record(group: str, figure: Figure) -> dict[str, object]:
    """A figure as it is written to JSON."""
    return {
        "group": group,
        "figure": figure.name,
        "unit": figure.unit,
        "bound": figure.bound.value,
        "target": figure.target if figure.bound else None,
        "median": figure.median,
        "min": min(figure.samples),
        "max": max(figure.samples),
        "samples": list(figure.samples),
        "verdict": figure.verdict,
        "note": figure.note,
        "beside": figure.beside,
    }


def _row(group: str, figure: Figure) -> tuple[str, ...]:
    target = f"{figure.bound.value} {_number(figure.target)} {figure.unit}" if figure.bound else "-"
    spread = f"{_number(min(figure.samples))} .. {_number(max(figure.samples))}"
    median = f"{_number(figure.median)} {figure.unit}"
    return (group, figure.name, target.rstrip(), median.rstrip(), spread, str(len(figure.samples)), figure.verdict)


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
