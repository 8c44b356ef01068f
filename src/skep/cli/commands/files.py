"""`skep secret` and `skep config`: small files the swarm keeps for its services.

Edge: the terminal. Both have the same words; a secret is never shown.
"""

import base64
import sys
import time
from pathlib import Path
from urllib.parse import quote

import click

from skep.cli import render
from skep.cli.client import Engine, Json, parse_filters, refusals
from skep.cli.options import filter_option, format_option, parse_labels, quiet_option
from skep.lib.timestamps import parse_rfc3339

COLUMNS = {"ID": "ID", "Name": "NAME", "CreatedAt": "CREATED", "UpdatedAt": "UPDATED"}
FILE_HELP = "FILE is a path, or - for standard input."


def _contents(file: str) -> str:
    """A file's content in base64."""
    try:
        raw = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise click.ClickException(f"{file} cannot be read: {error.strerror}") from error
    return base64.b64encode(raw).decode()


def _age(moment: str) -> str:
    return render.ago(time.time_ns() - parse_rfc3339(moment))


def _row(found: Json) -> Json:
    """One file by Docker's names for `--format`. Source: docker/cli, command/secret/formatter.go."""
    spec = found["Spec"]
    labels = spec.get("Labels") or {}
    return {
        "ID": found["ID"],
        "Name": spec["Name"],
        "CreatedAt": _age(found["CreatedAt"]),
        "UpdatedAt": _age(found["UpdatedAt"]),
        "Labels": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
    }


def _group(kind: str) -> click.Group:
    """The commands of one kind of file."""
    path = f"/{kind}s"

    @click.option("-l", "--label", multiple=True, help="key=value; may be repeated.")
    @click.option("--template-driver", default="", help='"golang" fills in {{.Node.Hostname}} and its like.')
    @click.argument("name")
    @click.argument("file")
    @click.pass_obj
    @refusals
    def create(host: str | None, name: str, file: str, label: tuple[str, ...], template_driver: str) -> None:
        body: Json = {"Name": name, "Labels": parse_labels(label), "Data": _contents(file)}
        if template_driver:
            body["Templating"] = {"Name": template_driver}
        click.echo(Engine(host).post(f"{path}/create", body)["ID"])

    @filter_option
    @format_option
    @quiet_option
    @click.pass_obj
    @refusals
    def ls(host: str | None, filters: tuple[str, ...], template: str, quiet: bool) -> None:
        found = sorted(Engine(host).list(path, parse_filters(filters)), key=lambda each: each["Spec"]["Name"])
        rows = [_row(each) for each in found]
        click.echo("\n".join(row["ID"] for row in rows) if quiet else render.listing(rows, COLUMNS, template))

    @click.argument("names", nargs=-1, required=True)
    @format_option
    @click.pass_obj
    @refusals
    def inspect(host: str | None, names: tuple[str, ...], template: str) -> None:
        engine = Engine(host)
        click.echo(render.inspect([engine.get(f"{path}/{quote(name)}") for name in names], template))

    @click.argument("names", nargs=-1, required=True)
    @click.pass_obj
    @refusals
    def rm(host: str | None, names: tuple[str, ...]) -> None:
        engine = Engine(host)
        for name in names:
            engine.delete(f"{path}/{quote(name)}")
            click.echo(name)

    @click.argument("name")
    @click.argument("file")
    @click.pass_obj
    @refusals
    def rotate(host: str | None, name: str, file: str) -> None:
        click.echo(Engine(host).post(f"/skep{path}/{quote(name)}/rotate", {"Data": _contents(file)})["ID"])

    example = f"skep {kind} create NAME FILE\n    skep {kind} rotate NAME FILE"
    group = click.Group(kind, help=f"Manage {kind}s.\n\n    \b\n    {example}")
    group.command(help=f"Make a {kind}; prints its id. {FILE_HELP}")(create)
    group.command(help=f"List the {kind}s.")(ls)
    group.command(help=f"Show what is known of {kind}s, as JSON or by template.")(inspect)
    group.command(help=f"Remove {kind}s that no service uses.")(rm)
    group.command(
        help=f"Give a {kind}'s name a new value; the services that use it are updated within their limits. {FILE_HELP}"
    )(rotate)
    return group


secret = _group("secret")
config = _group("config")
