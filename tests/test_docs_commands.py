"""Every `skep` command line in the pages parses, and every command is on the page that lists them."""

import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from skep.cli.main import COMMANDS, main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```[a-z]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`(skep [^`]+)`")


def lines_of(page: Path) -> list[str]:
    text = page.read_text()
    fenced = [
        line.partition(" #")[0].strip()
        for block in FENCE.findall(text)
        for line in block.replace("\\\n", " ").splitlines()
        if line.strip().startswith("skep ")
    ]
    return fenced + SPAN.findall(FENCE.sub("", text))


def words_of(line: str) -> list[str]:
    """A line's words, without marks for what may be left out and what the shell does; of a choice the first."""
    plain = re.sub(r"\{([^\\|}]+)[^}]*\}", r"\1", line).replace("[", "").replace("]", "").replace("...", "")
    return shlex.split(re.split(r" [|<>] ", plain)[0])[1:]


ALL = [pytest.param(line, id=f"{page.name}: {line}") for page in PAGES for line in dict.fromkeys(lines_of(page))]


@pytest.mark.parametrize("line", ALL)
def test_the_line_parses(line: str) -> None:
    command: click.Command = main
    words = words_of(line)
    if words == ["COMMAND", "--help"] or words == ["daemon"]:
        return
    context: click.Context | None = None
    name = "skep"
    while True:
        if isinstance(command, click.Group) and not words:
            return  # A group by its name, as in "`skep lab`".
        context = command.make_context(name, words, parent=context)
        if not isinstance(command, click.Group):
            return
        rest = [*context._protected_args, *context.args]
        name, found, words = command.resolve_command(context, rest)  # type: ignore[assignment]  # it raises if unknown
        assert found is not None
        command = found


def commands() -> Iterator[str]:
    for word, (place, _) in COMMANDS.items():
        module, _, attribute = place.partition(":")
        yield from _leaves(f"skep {word}", getattr(importlib.import_module(module), attribute))


def _leaves(path: str, command: click.Command) -> Iterator[str]:
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from _leaves(f"{path} {name}", child)
    else:
        yield path


@pytest.mark.parametrize("command", sorted(commands()))
def test_the_command_is_on_its_page(command: str) -> None:
    listed = SPAN.findall((ROOT / "docs" / "reference" / "cli.md").read_text())
    assert any(line == command or line.startswith(f"{command} ") for line in listed), f"list `{command}` in cli.md"
