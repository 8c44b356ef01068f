"""Tables, templates and JSON as Docker prints them.

Pure: rows in, text out.
"""

import json
from collections.abc import Mapping, Sequence

from skep.cli import templates
from skep.lib.durations import DAY, HOUR, MINUTE, SECOND

Row = Mapping[str, object]
MIN_WIDTH, PADDING = 10, 3  # Docker's tabwriter settings.


def plain(text: object) -> str:
    """Text with control characters written out, so that no name can move the cursor or fake a line."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in str(text))


def plain_lines(text: str) -> str:
    """`plain` for a text whose line ends are our own."""
    return "\n".join(plain(line) for line in text.split("\n"))


def table(rows: Sequence[Sequence[str]]) -> str:
    """Align columns as Docker's tabwriter does: three spaces between, columns at least ten wide, the last one free."""
    if not rows:
        return ""
    last = len(rows[0]) - 1
    widths = [max(MIN_WIDTH, max(len(row[column]) for row in rows) + PADDING) for column in range(last)]
    lines = [
        "".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[last]]) for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def listing(rows: Sequence[Row], columns: Mapping[str, str], template: str) -> str:
    """Print rows as a table, by template, or as JSON lines.

    Args:
        rows: Values by field name, as templates call them.
        columns: Heading by field name, in the order of the default table.
        template: As given to `--format`: empty or `table`, `table {{…}}\\t{{…}}`, `json`, or any template.
    Raises:
        templates.TemplateError
    """
    if template == "json":
        return "\n".join(json.dumps(dict(row), separators=(",", ":")) for row in rows)
    if template in ("", "table"):
        template = "table " + "\t".join(f"{{{{.{name}}}}}" for name in columns)
    if template.startswith("table "):
        body = template.removeprefix("table ").replace("\\t", "\t")
        lines = [templates.render(body, columns), *(templates.render(body, shown(row)) for row in rows)]
        return table([line.split("\t") for line in lines])
    return "\n".join(templates.render(template, shown(row)) for row in rows)


def shown(row: Row) -> Row:
    return templates.Fields((key, plain(value) if isinstance(value, str) else value) for key, value in row.items())


def inspect(objects: Sequence[object], template: str) -> str:
    """Print whole objects: indented JSON, or a line each by template."""
    if template in ("", "json"):
        return json.dumps(list(objects), indent=4, ensure_ascii=False)
    return "\n".join(templates.render(template, value) for value in objects)


def one(value: object, template: str) -> str:
    """Print one object by template, or for `json` as one line of JSON.

    Raises:
        templates.TemplateError
    """
    if template == "json":
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return templates.render(template, value)


def ago(nanoseconds: int) -> str:
    """How long ago, in Docker's rough words: `About a minute ago`, `3 hours ago`.

    Source: docker/go-units HumanDuration.
    """
    return f"{human(nanoseconds)} ago"


def human(nanoseconds: int) -> str:
    """A length of time in go-units' words."""
    seconds, minutes, hours = nanoseconds // SECOND, nanoseconds // MINUTE, round(nanoseconds / HOUR)
    if seconds < 1:
        return "Less than a second"
    if seconds == 1:
        return "1 second"
    if seconds < 60:
        return f"{seconds} seconds"
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    days = nanoseconds // DAY
    for limit, size, unit in ((14, 1, "days"), (60, 7, "weeks"), (730, 30, "months")):
        if days < limit:
            return f"{days // size} {unit}"
    return f"{days // 365} years"
