"""Tables and times as Docker prints them."""

import pytest

from skep.cli import render, templates
from skep.lib.durations import DAY, HOUR, MINUTE, SECOND

COLUMNS = {"ID": "ID", "Name": "NAME"}
ROWS = [{"ID": "a1", "Name": "web"}, {"ID": "b2", "Name": "a-rather-long-name"}]


def test_columns_are_at_least_ten_wide_and_three_apart() -> None:
    assert render.listing(ROWS, COLUMNS, "") == "ID        NAME\na1        web\nb2        a-rather-long-name"


def test_table_with_chosen_columns_keeps_its_headings() -> None:
    assert render.listing(ROWS, COLUMNS, "table {{.Name}}\\t{{.ID}}").splitlines()[0] == "NAME                 ID"


def test_template_without_table_prints_a_line_per_row() -> None:
    assert render.listing(ROWS, COLUMNS, "{{.Name}}") == "web\na-rather-long-name"


def test_json_prints_an_object_per_line() -> None:
    assert render.listing(ROWS, COLUMNS, "json").splitlines()[0] == '{"ID":"a1","Name":"web"}'


def test_a_misspelt_field_is_named() -> None:
    with pytest.raises(templates.TemplateError, match="can't evaluate field Nmae; there are ID, Name"):
        render.listing(ROWS, COLUMNS, "{{.Nmae}}")


def test_no_row_can_move_the_cursor_or_fake_a_line() -> None:
    shown = render.listing([{"ID": "x", "Name": "evil\x1b[2J\nweb"}], COLUMNS, "")
    assert "\x1b" not in shown
    assert len(shown.splitlines()) == 2


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (0, "Less than a second"),
        (SECOND, "1 second"),
        (59 * SECOND, "59 seconds"),
        (MINUTE, "About a minute"),
        (59 * MINUTE, "59 minutes"),
        (HOUR, "About an hour"),
        (47 * HOUR, "47 hours"),
        (3 * DAY, "3 days"),
        (21 * DAY, "3 weeks"),
        (90 * DAY, "3 months"),
        (800 * DAY, "2 years"),
    ],
)
def test_times_are_rough_as_in_docker(length: int, expected: str) -> None:
    assert render.human(length) == expected
