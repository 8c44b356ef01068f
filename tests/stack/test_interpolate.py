"""Variables in all forms."""

import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skep.stack.dotenv import parse_env
from skep.stack.errors import ComposeError
from skep.stack.interpolate import Interpolation
from skep.stack.nodes import Place

SET = {"A": "a", "EMPTY": "", "N": "3"}
HERE = Place("f", 7)


@pytest.mark.parametrize(
    ("written", "filled"),
    [
        ("no variable", "no variable"),
        ("$A", "a"),
        ("${A}", "a"),
        ("x${A}y$N.", "xay3."),
        ("$$A", "$A"),
        ("$$$A", "$a"),
        ("$NOPE|${NOPE}", "|"),
        ("${NOPE:-d}", "d"),
        ("${EMPTY:-d}", "d"),
        ("${EMPTY-d}", ""),
        ("${NOPE-d}", "d"),
        ("${A:-d}", "a"),
        ("${NOPE:-}", ""),
        ("${A:+y}", "y"),
        ("${EMPTY:+y}", ""),
        ("${EMPTY+y}", "y"),
        ("${NOPE+y}", ""),
        ("${A:?e}", "a"),
        ("${EMPTY?e}", ""),
        ("${NOPE:-${A}}", "a"),
        ("${NOPE:-${NO:-${N}}x}", "3x"),
        ("${NOPE:-$A-${N}}", "a-3"),
        ("${A:-${NOPE:?never}}", "a"),
        ("${NOPE:+${NOPE:?never}}", ""),
        ("${NOPE:-a:b-c?d+e}", "a:b-c?d+e"),
        ("${NOPE:-$$}", "$"),
        ("}{", "}{"),
    ],
)
def test_forms(written: str, filled: str) -> None:
    assert Interpolation(SET).text(written, HERE) == filled


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("${NOPE:?set it}", "NOPE is required: set it"),
        ("${EMPTY:?set it}", "EMPTY is required: set it"),
        ("${NOPE?}", "NOPE is required: it is not set"),
        ("${NOPE:?${A} first}", "a first"),
        ("${A", "followed by neither"),
        ("${A:-x", "not closed"),
        ("${}", "no name"),
        ("$", "no name"),
        ("$1", "no name"),
        ("${1A}", "no name"),
        ("${A!x}", "neither"),
        ("${A:x}", "neither"),
        ("${N:-" * 40 + "}" * 40, "nested more than"),
    ],
)
def test_what_is_refused_names_the_line(written: str, reason: str) -> None:
    with pytest.raises(ComposeError, match=reason) as caught:
        Interpolation(SET).text(written, HERE)
    assert str(caught.value).startswith("f:7: ")


def test_missing_variables_are_remembered_with_their_first_place() -> None:
    interpolation = Interpolation(SET)
    interpolation.text("$NOPE", HERE)
    interpolation.text("$NOPE ${OTHER:-x}", Place("f", 9))
    assert interpolation.missing == {"NOPE": HERE}


def test_few_characters_cannot_name_a_long_value_without_end() -> None:
    began = time.monotonic()
    with pytest.raises(ComposeError, match="expand to more than"):
        Interpolation({"A": "x" * 100_000}).text("$A" * 100_000, HERE)
    assert time.monotonic() - began < 1


@given(st.text("${}:-?+A1x \n", max_size=60))
def test_any_text_is_filled_in_or_refused(written: str) -> None:
    with suppress(ComposeError):
        assert "${A" not in Interpolation({"A": "a"}).text(written.replace("$$", ""), HERE)


ENV = """\ufeff# a comment
A=1
export B = two words # not this
C='literal $A # kept'
D="line\\n$A \\$A # kept"
E=
F
G: yaml-like
H=a#b
I="over
two lines" # after
J=${A:-x}-${NOPE:-y}
K=last"""


def test_a_file_of_variables() -> None:
    assert parse_env(ENV.encode(), ".env", {}) == {
        "A": "1",
        "B": "two words",
        "C": "literal $A # kept",
        "D": "line\n1 $A # kept",
        "E": "",
        "F": None,
        "G": "yaml-like",
        "H": "a#b",
        "I": "over\ntwo lines",
        "J": "1-y",
        "K": "last",
    }


@pytest.mark.parametrize(
    ("text", "line"),
    [("A=1\n=2", 2), ("A=1\n\nB='x", 3), ('A="x" y', 1), ("a b", 1), ("A=${X", 1), ("A='1\n2'\nB=$", 3)],
)
def test_a_wrong_line_of_variables_is_named(text: str, line: int) -> None:
    with pytest.raises(ComposeError) as caught:
        parse_env(text.encode(), ".env", {})
    assert caught.value.place == Place(".env", line)


@given(st.text("A=:#'\" \\\n$X{}-", max_size=80))
def test_any_file_of_variables_is_read_or_refused(text: str) -> None:
    with suppress(ComposeError):
        parse_env(text.encode(), ".env", {"X": "x"})
