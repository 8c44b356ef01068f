"""What the commands for every kind of object have in common: lists, inspection and removal.

Edge: the terminal and the daemon.
"""

from collections.abc import Iterable, Mapping, Sequence

import click

from skep.cli import render
from skep.cli.client import Engine, Json, Refused
from skep.edge.unix_http import EngineRefused

NOT_FOUND = 404


def say(text: str) -> None:
    """Print a text that may have no lines at all, as a list of nothing has."""
    if text:
        click.echo(text)


def show_list(
    rows: Sequence[Json], columns: Mapping[str, str], template: str, *, is_quiet: bool, key: str = "ID"
) -> None:
    """Print a list, or with `--quiet` only each row's `key`."""
    say("\n".join(row[key] for row in rows) if is_quiet else render.listing(rows, columns, template))


def show(engine: Engine, paths: Iterable[str], template: str, **query: object) -> None:
    """Print whole objects as JSON or by template."""
    click.echo(render.inspect([engine.get(path, **query) for path in paths], template))


def remove(engine: Engine, paths: Mapping[str, str], *, is_missing_fine: bool = False, **query: object) -> None:
    """Remove objects one by one, going on after one that cannot be.

    Args:
        paths: Path by the name the user gave.
        is_missing_fine: What is not there counts as removed.
    Raises:
        Refused: With a line for each that is still there.
    """
    failures: list[str] = []
    for name, path in paths.items():
        try:
            engine.delete(path, **query)
            click.echo(name)
        except EngineRefused as error:
            if is_missing_fine and error.status == NOT_FOUND:
                continue
            failures.append(f"Error response from daemon: {error.message}")
    if failures:
        raise Refused("\n".join(failures))


def labels_text(labels: Mapping[str, str] | None) -> str:
    """Labels in one field: `a=1,b=2`."""
    return ",".join(f"{key}={value}" for key, value in sorted((labels or {}).items()))


def size_text(n_bytes: float) -> str:
    """A size in go-units' words: four digits, powers of a thousand. Source: docker/go-units, HumanSize."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.4g}{unit}"
        n_bytes /= 1000
    return f"{n_bytes:.4g}TB"
