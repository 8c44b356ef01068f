"""`skep cp`: files into and out of tasks and containers.

Edge: the caller's files, the terminal. Files travel as tar archives. Source: docker/cli, command/container/cp.go, for
what a path that ends in a slash or in `/.` means.
"""

import posixpath
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote

import click

from skep.cli.client import Engine, Json, refusals
from skep.edge.unix_http import EngineRefused, StreamedReply

if TYPE_CHECKING:
    from tarfile import TarInfo

STREAM = "-"
DIRECTORY = 1 << 31
"""Go's bit for directories in a file mode."""


@click.command()
@click.argument("source", metavar="[TASK|CONTAINER:]SOURCE")
@click.argument("target", metavar="[TASK|CONTAINER:]TARGET")
@click.option("-L", "--follow-link", is_flag=True, help="Copy what a link SOURCE leads to.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing of what was copied.")
@click.pass_obj
@refusals
def cp(host: str | None, source: str, target: str, follow_link: bool, quiet: bool) -> None:
    """Copy files into or out of a task or container, wherever it is; - is a tar archive on standard input or output.

    \b
    Examples:
      skep cp ./site.conf web.1:/etc/nginx/conf.d/
      skep cp web.1:/var/log/nginx ./logs
      skep cp web.1:/data - > data.tar
    """
    engine = Engine(host)
    engine.http.timeout_s = None
    from_name, from_path = _split(source)
    to_name, to_path = _split(target)
    if bool(from_name) == bool(to_name):
        raise click.UsageError("one of SOURCE and TARGET has to be in a container: write NAME:PATH")
    if from_name:
        _copy_out(engine, _archive(from_name), from_path, to_path)
    else:
        _copy_in(engine, _archive(to_name), from_path, to_path, is_followed=follow_link)
    if not quiet and STREAM not in (from_path, to_path):
        click.echo(f"Successfully copied {source} to {target}", err=True)


def _split(text: str) -> tuple[str, str]:
    """Container and path; a path that begins with `/` or `.` is the caller's whatever is in it."""
    name, separator, path = text.partition(":")
    return (name, path) if separator and not text.startswith(("/", ".")) else ("", text)


def _archive(name: str) -> str:
    return f"/containers/{quote(name, safe='')}/archive"


def _copy_out(engine: Engine, archive: str, path: str, target: str) -> None:
    import tarfile  # Imported late: completion needs none of it.

    place = Path(target).absolute()  # So that it has a name, whatever it is called here.
    with engine.stream("GET", archive, path=path) as stream:
        if target == STREAM:
            while data := stream.read_some():
                sys.stdout.buffer.write(data)
            return
        is_contents = path.endswith("/.")
        may_be_made = place.parent.is_dir() and (is_contents or not target.endswith("/"))
        if not (place.is_dir() or may_be_made):
            raise click.ClickException(f"there is no directory {target}; make it first")
        readable: Any = _Reader(stream)
        try:
            with tarfile.open(fileobj=readable, mode="r|") as tar:
                if is_contents:
                    place.mkdir(exist_ok=True)
                tar.extraction_filter = _as_checked
                into, members = (place, tar) if place.is_dir() else (place.parent, _renamed(tar, place.name))
                tar.extractall(into, members=_checked(members, into))  # noqa: S202  # That looks at every member.
        except (OSError, tarfile.TarError) as error:
            raise click.ClickException(f"{target} cannot be written: {error}; what was copied before stays") from error


def _renamed(members: "Iterable[TarInfo]", name: str) -> "Iterator[TarInfo]":
    """The members of an archive of one file or directory, under another name."""
    for member in members:
        _, _, below = member.name.strip("/").partition("/")
        member.name = posixpath.join(name, below) if below else name
        if member.islnk():
            _, _, linked = member.linkname.strip("/").partition("/")
            member.linkname = posixpath.join(name, linked)
        yield member


def _checked(members: "Iterable[TarInfo]", directory: Path) -> "Iterator[TarInfo]":
    """The members, each looked at when its turn comes: what was unpacked before may have put a link in its way.

    The filters of `tarfile` itself came with Python 3.11.4, later than Debian 12's.
    """
    import tarfile

    inside = directory.resolve()
    for member in members:
        member.name = member.name.lstrip("/")
        if not (inside / member.name).resolve().is_relative_to(inside):
            raise tarfile.ExtractError(f"{member.name} in the archive would be written outside of {inside}")
        member.mode &= 0o755
        yield member


def _as_checked(member: "TarInfo", path: str) -> "TarInfo":
    """For `tarfile` from 3.11.4 on, whose own filter would refuse absolute links, too."""
    return member


class _Reader:
    """An answer's body as the file that `tarfile` wants."""

    def __init__(self, stream: StreamedReply) -> None:
        self._stream = stream

    def read(self, n_bytes: int) -> bytes:
        return self._stream.read(n_bytes)


def _copy_in(engine: Engine, archive: str, source: str, target: str, *, is_followed: bool) -> None:
    if source == STREAM:
        _send(engine, archive, target, sys.stdin.buffer)
        return
    import tarfile
    import tempfile

    place = Path(source)
    if not place.exists() and not place.is_symlink():
        raise click.ClickException(f"there is no {source} here")
    directory, name = target, place.absolute().name
    if source.endswith("/."):
        name = "."
    elif not (target.endswith("/") or _is_directory(engine, archive, target)):
        directory, name = posixpath.split(target.rstrip("/"))
    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w") as tar:
            tar.add(place.resolve() if is_followed else place, arcname=name)
        length = file.tell()
        file.seek(0)
        _send(engine, archive, directory or "/", file, {"Content-Length": str(length)})


def _is_directory(engine: Engine, archive: str, path: str) -> bool:
    import base64
    import json

    try:
        with engine.stream("HEAD", archive, path=path) as reply:
            headers = {name.lower(): value for name, value in reply.headers.items()}
            stat: Json = json.loads(base64.b64decode(headers.get("x-docker-container-path-stat", "e30=")))
    except EngineRefused as error:
        if error.status != 404:
            raise
        return False
    return bool(int(stat.get("mode", 0)) & DIRECTORY)


def _send(
    engine: Engine, archive: str, directory: str, file: IO[bytes], headers: Mapping[str, str] | None = None
) -> None:
    path = f"{archive}?path={quote(directory)}&noOverwriteDirNonDir=true"
    engine.http.call("PUT", path, file, {"Content-Type": "application/x-tar", **(headers or {})})
