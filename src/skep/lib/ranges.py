"""Sets of integers kept as ranges: what is taken of a large number space.

Pure. Neighbouring ranges are merged, so a space filled from one end costs one entry however full it is, and the first
gap is found by bisection. The invariant throughout: ranges are sorted, disjoint and never touch.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class RangeSet:
    """A mutable set of integers, given and stored as inclusive ranges."""

    __slots__ = ("_ends", "_starts")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for first, last in ranges:
            self.add(first, last)

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._starts, number) - 1
        return at >= 0 and self._ends[at] >= number

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """The ranges in ascending order, both ends included."""
        return iter(zip(self._starts, self._ends, strict=True))

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __repr__(self) -> str:
        return f"RangeSet({list(self)!r})"

    def add(self, first: int, last: int | None = None) -> None:
        """Take in every number from `first` to `last` (by default only `first`), also those already in."""
        last = first if last is None else last
        low = bisect_left(self._ends, first - 1)
        high = bisect_right(self._starts, last + 1)
        if low < high:
            first, last = min(first, self._starts[low]), max(last, self._ends[high - 1])
        self._starts[low:high] = [first]
        self._ends[low:high] = [last]

    def remove(self, first: int, last: int | None = None) -> None:
        """Let go of every number from `first` to `last` (by default only `first`), also those not in."""
        last = first if last is None else last
        low = bisect_left(self._ends, first)
        high = bisect_right(self._starts, last)
        if low >= high:
            return
        left, right = self._starts[low], self._ends[high - 1]
        kept = [piece for piece in ((left, first - 1), (last + 1, right)) if piece[0] <= piece[1]]
        self._starts[low:high] = [piece[0] for piece in kept]
        self._ends[low:high] = [piece[1] for piece in kept]

    def overlap(self, first: int, last: int) -> tuple[int, int] | None:
        """The lowest of our ranges that shares a number with `first`..`last`; None if there is none."""
        at = bisect_left(self._ends, first)
        if at < len(self._starts) and self._starts[at] <= last:
            return self._starts[at], self._ends[at]
        return None

    def next_gap(self, number: int) -> int:
        """The lowest integer that is at least `number` and not in the set."""
        at = bisect_right(self._starts, number) - 1
        return self._ends[at] + 1 if at >= 0 and self._ends[at] >= number else number

    def count(self, first: int, last: int) -> int:
        """How many numbers of `first`..`last` are in the set."""
        at = bisect_left(self._ends, first)
        total = 0
        while at < len(self._starts) and self._starts[at] <= last:
            total += min(last, self._ends[at]) - max(first, self._starts[at]) + 1
            at += 1
        return total
