"""RangeSet against a plain set."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from skep.lib.ranges import RangeSet

SPAN = 60
numbers = st.integers(0, SPAN)
steps = st.lists(st.tuples(st.booleans(), numbers, st.integers(0, 12)))


@given(steps, numbers, st.integers(0, 20))
def test_behaves_like_a_set_of_integers(operations: list[tuple[bool, int, int]], start: int, length: int) -> None:
    ranges, model = RangeSet(), set[int]()
    for is_add, first, size in operations:
        members = set(range(first, first + size + 1))
        if is_add:
            ranges.add(first, first + size)
            model |= members
        else:
            ranges.remove(first, first + size)
            model -= members
    window = set(range(start, start + length + 1))
    assert {number for first, last in ranges for number in range(first, last + 1)} == model
    assert [number in ranges for number in range(SPAN)] == [number in model for number in range(SPAN)]
    assert ranges.count(start, start + length) == len(model & window)
    assert (ranges.overlap(start, start + length) is not None) == bool(model & window)
    assert ranges.next_gap(start) == next(number for number in range(start, SPAN * 3) if number not in model)


@given(steps)
def test_neighbours_are_merged(operations: list[tuple[bool, int, int]]) -> None:
    ranges = RangeSet()
    for is_add, first, size in operations:
        (ranges.add if is_add else ranges.remove)(first, first + size)
    found = list(ranges)
    assert all(left[1] + 1 < right[0] for left, right in pairwise(found))


def test_a_space_filled_from_one_end_is_one_range() -> None:
    ranges = RangeSet()
    for number in range(10_000):
        ranges.add(number)
    assert list(ranges) == [(0, 9_999)]
