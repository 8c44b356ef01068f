"""What the commands for every kind of object have in common: lists, inspection and removal.

Edge: the terminal and the daemon.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

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


def each(names: Iterable[str], act: Callable[[str], object], *, is_missing_fine: bool = False) -> None:
    """Do something to objects one by one, naming each that it was done to, and going on after one that refuses.

    Args:
        is_missing_fine: It need not be said of what is not there.
    Raises:
        Refused: With a line for each refusal.
    """
    failures: list[str] = []
    for name in names:
        try:
            act(name)
            click.echo(name)
        except EngineRefused as error:
            if not (is_missing_fine and error.status == NOT_FOUND):
                failures.append(f"Error response from daemon: {error.message}")
    if failures:
        raise Refused("\n".join(failures))


def remove(engine: Engine, paths: Mapping[str, str], *, is_missing_fine: bool = False, **query: object) -> None:
    """Remove objects one by one; see `each`. Args: paths: by the name the user gave."""
    each(paths, lambda name: engine.delete(paths[name], **query), is_missing_fine=is_missing_fine)


def labels_text(labels: Mapping[str, str] | None) -> str:
    """Labels in one field: `a=1,b=2`."""
    return ",".join(f"{key}={value}" for key, value in sorted((labels or {}).items()))


def size_text(n_bytes: float) -> str:
    """A size in go-units' words: four digits, powers of a thousand. Source: docker/go-units, HumanSize."""
    return _size(n_bytes, 1000, ("B", "kB", "MB", "GB", "TB"))


def binary_size_text(n_bytes: float) -> str:
    """As `size_text`, with powers of 1024. Source: docker/go-units, BytesSize."""
    return _size(n_bytes, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))


def _size(n_bytes: float, base: int, units: Sequence[str]) -> str:
    unit = 0
    while n_bytes >= base and unit < len(units) - 1:
        n_bytes, unit = n_bytes / base, unit + 1
    return f"{n_bytes:.4g}{units[unit]}"
