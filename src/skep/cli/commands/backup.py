"""`skep backup`: the whole swarm in one sealed file, and back.

Edge: the terminal, files.
"""

import base64
import time
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import click

from skep.cli import backup_file, render
from skep.cli.backup_file import PassPhrase
from skep.cli.client import Engine, Json, refusals
from skep.cli.objects import size_text
from skep.edge.unix_http import EngineRefused
from skep.lib.timestamps import format_rfc3339
from skep.model.errors import SkepError

if TYPE_CHECKING:
    from skep.manager.backup import BackupReader

F = TypeVar("F", bound=Callable[..., Any])
P = ParamSpec("P")
R = TypeVar("R")
RESTORE_S = 600.0
CONTENT_TYPE = "application/vnd.skep.backup"
KINDS = ("node", "service", "task", "network", "secret", "config")


@click.group()
def backup() -> None:
    """Save the whole swarm in one sealed file, and make a swarm out of it.

    \b
    Examples:
      skep backup save swarm.skep
      skep backup inspect swarm.skep
      skep backup restore swarm.skep
    """


def _pass_phrase_option(command: F) -> F:
    return click.option(
        "--passphrase-file",
        type=click.Path(path_type=Path),
        help="Its first line is the pass phrase; - reads standard input.",
    )(command)


def _format_option(command: F) -> F:
    return click.option("--format", "template", default="", help="json or a template like '{{.ClusterID}}'.")(command)


def _sentences(command: Callable[P, R]) -> Callable[P, R]:
    """Let what is wrong with a file end the command with one line."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except SkepError as error:
            raise click.ClickException(str(error)) from error

    return run


@backup.command()
@click.argument("file", type=click.Path(path_type=Path))
@_pass_phrase_option
@_format_option
@click.pass_obj
@refusals
@_sentences
def save(host: str | None, file: Path, passphrase_file: Path | None, template: str) -> None:
    """Save everything the swarm knows, CA and secrets included, in FILE, sealed by a pass phrase; the swarm goes on.

    \b
    Examples:
      skep backup save swarm.skep
      skep backup save --passphrase-file /root/phrase /backup/swarm.skep
    """
    from skep.model.backup import check_new_pass_phrase

    pass_phrase = PassPhrase(passphrase_file).read(is_new=True)
    check_new_pass_phrase(pass_phrase)
    engine = Engine(host)
    with engine.stream("POST", "/skep/backup", {"PassPhrase": pass_phrase}) as reply:
        is_stale = reply.headers.get("Skep-Stale") == "true"
        reader = backup_file.write(file, reply, pass_phrase)
    found = _document(file, reader)
    if is_stale:
        click.echo("WARNING! This manager is cut off from the others: the backup holds what it knew last.", err=True)
    _note(engine, reader)
    if template:
        click.echo(render.one(found, template))
    else:
        click.echo(
            f"Saved {_counted(found['Objects'])} in {file} ({size_text(found['Size'])}), readable by its owner only."
        )
        click.echo("Without the pass phrase nobody can open it, you included.")


def _note(engine: Engine, reader: "BackupReader") -> None:
    """Tell the swarm, which needs a quorum to remember it; the backup is as good without."""
    if reader.head is None:
        return
    try:
        engine.post("/skep/backup/saved", {"CreatedAt": reader.head.created_at})
    except EngineRefused as error:
        click.echo(f"The backup is whole; the swarm could not note that there is one: {error.message}", err=True)


@backup.command()
@click.argument("file", type=click.Path(path_type=Path))
@_pass_phrase_option
@click.option("--verify", is_flag=True, help="Ask for the pass phrase, and read everything.")
@_format_option
@refusals
@_sentences
def inspect(file: Path, passphrase_file: Path | None, verify: bool, template: str) -> None:
    """Show what a backup is of and whether it is sound; with its pass phrase also what is in it. Needs no daemon.

    \b
    Examples:
      skep backup inspect swarm.skep
      skep backup inspect --passphrase-file /root/phrase --format json swarm.skep
    """
    phrase = PassPhrase(passphrase_file)
    found = _document(file, backup_file.check(file, phrase.read() if phrase.is_given or verify else None))
    click.echo(render.one(found, template) if template else "\n".join(_lines(found)))


@backup.command()
@click.argument("file", type=click.Path(path_type=Path))
@_pass_phrase_option
@click.option(
    "--advertise-addr", default="", help="Address others reach this node at; that of the lost manager if it is here."
)
@click.option("--listen-addr", default="0.0.0.0:2377", show_default=True, help="Where to listen for nodes.")
@click.option("--data-path-addr", default="", help="Address for VXLAN, if another one.")
@click.option("-f", "--force", is_flag=True, help="Also while a manager of that swarm answers.")
@click.pass_obj
@refusals
@_sentences
def restore(host: str | None, /, file: Path, passphrase_file: Path | None, force: bool, **addresses: str) -> None:
    """Make this machine, which is in no swarm, the only manager of the swarm in FILE.

    \b
    Examples:
      skep backup restore swarm.skep
      skep backup restore --advertise-addr 192.168.1.20 swarm.skep
    """
    pass_phrase = PassPhrase(passphrase_file).read()
    found = _document(file, backup_file.check(file, pass_phrase))
    engine = Engine(host)
    engine.http.timeout_s = RESTORE_S
    headers = {
        "Content-Type": CONTENT_TYPE,
        "Content-Length": str(found["Size"]),
        "X-Skep-Pass-Phrase": base64.b64encode(pass_phrase.encode()).decode(),
    }
    asked = {name.replace("_", "-"): value for name, value in addresses.items()}
    with file.open("rb") as content:
        node_id = engine.post_file("/skep/backup/restore", content, headers, force=force, **asked)
    click.echo(f"Restored swarm {found['ClusterID']} as of {_when(found)}: this node ({node_id}) is its only manager.")
    click.echo("\n".join(_hints(engine, node_id)))


def _hints(engine: Engine, node_id: str) -> Iterator[str]:
    nodes = engine.list("/nodes")
    own = next((node for node in nodes if node["ID"] == node_id), {})
    addr = (own.get("ManagerStatus") or {}).get("Addr", "")
    yield f"Nodes that know {addr} as a manager return by themselves. On each of the others, run:\n"
    yield f"    skep node rejoin {addr}\n"
    yield "Former managers are workers now; promote some once they are back: skep node promote NODE"


def _document(file: Path, reader: "BackupReader") -> Json:
    head = reader.head
    if head is None:
        raise click.ClickException(f"{file} has no head")  # A reader that has finished has one.
    return {
        "File": str(file),
        "Size": file.stat().st_size,
        "Format": head.format,
        "ClusterID": head.cluster_id,
        "NodeID": head.node_id,
        "Revision": head.revision,
        "CreatedAt": format_rfc3339(head.created_at),
        "Age": max(time.time_ns() - head.created_at, 0),
        "Skep": head.skep,
        "Objects": dict(reader.counts) if reader.preface is not None else None,
    }


def _lines(found: Json) -> Iterator[str]:
    yield f"Cluster:   {found['ClusterID']}"
    yield f"Made:      {_when(found)}, on node {found['NodeID']}, by Skep {found['Skep']}"
    yield f"Revision:  {found['Revision']}"
    yield f"File:      {size_text(found['Size'])}, format {found['Format']}, checksum sound"
    if found["Objects"] is None:
        yield "Contents:  sealed; --verify asks for the pass phrase and reads them"
    else:
        yield f"Contents:  {_counted(found['Objects'])}; every one can be read"


def _when(found: Json) -> str:
    return f"{found['CreatedAt'].partition('.')[0].removesuffix('Z')}Z ({render.ago(found['Age'])})"


def _counted(objects: dict[str, int]) -> str:
    named = [f"{objects.get(kind, 0)} {kind}{'' if objects.get(kind, 0) == 1 else 's'}" for kind in KINDS]
    return ", ".join(named)
