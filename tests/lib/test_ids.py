"""Ids look as Docker's do."""

import re

from hypothesis import given
from hypothesis import strategies as st

from skep.lib.ids import new_id


@given(st.binary(min_size=64, max_size=64))
def test_an_id_is_25_letters_and_digits(entropy: bytes) -> None:
    assert re.fullmatch(r"[0-9a-z]{25}", new_id(lambda count: entropy[:count]))


def test_different_dice_give_different_ids() -> None:
    assert new_id(lambda count: b"\x01" * count) != new_id(lambda count: b"\x02" * count)
