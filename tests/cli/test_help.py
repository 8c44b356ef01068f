"""Every command explains itself with an example that can be typed; what it shows can be had as JSON or by template."""

import re
import shlex
from collections.abc import Iterator

import click
import pytest

from skep.cli.main import main

SHOWS = ("inspect", "ls", "ps", "services", "why", "info", "version", "stats", "events", "df")


def walk(path: str, command: click.Command, context: click.Context) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from walk(f"{path} {name}", child, context)


ALL = dict(walk("skep", main, click.Context(main)))


def examples(command: click.Command) -> list[str]:
    text = command.get_help(click.Context(command))
    section = re.search(r"^  Examples:\n((?: {3,}\S.*\n?)+)", text, re.MULTILINE)
    return [line.strip() for line in section[1].splitlines()] if section else []


@pytest.mark.parametrize("path", sorted(ALL))
def test_help_has_an_example_that_parses(path: str) -> None:
    found = examples(ALL[path])
    assert found, f'give `{path}` an "Examples:" part'
    for line in found:
        words = shlex.split(re.sub(r"^source <\((.*)\)$|(?<= )[<>] \S+$", r"\1", line))
        if words[0] == "skep":
            parse(line, words[1:])


def parse(line: str, words: list[str]) -> None:
    command: click.Command = main
    context: click.Context | None = None
    name = "skep"
    while True:
        context = command.make_context(name, list(words), parent=context, resilient_parsing=False)
        if not isinstance(command, click.Group):
            return
        rest = [*context._protected_args, *context.args]
        found_name, found, words = command.resolve_command(context, rest)
        assert found is not None, line
        assert found_name is not None, line
        name, command = found_name, found


@pytest.mark.parametrize("path", sorted(path for path in ALL if path.split()[-1] in SHOWS and "lab" not in path))
def test_what_shows_something_takes_a_format(path: str) -> None:
    assert any("--format" in parameter.opts for parameter in ALL[path].params)


@pytest.mark.parametrize("path", sorted(ALL))
def test_every_option_is_explained_or_plain(path: str) -> None:
    """An option without a word of help has to say it all by its name and kind."""
    silent = [
        parameter.opts[0]
        for parameter in ALL[path].params
        if isinstance(parameter, click.Option) and parameter.is_flag and not (parameter.help or parameter.hidden)
    ]
    assert set(silent) <= {"--read-only", "--init", "-t"}
