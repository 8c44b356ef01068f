"""`skep secret` and `skep config`: small files the swarm keeps for its services.

Edge: the terminal. Both have the same words; a secret is never shown.
"""

import base64
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from skep.cli import objects, parse, pretty, render
from skep.cli.client import Engine, Json, parse_filters, refusals
from skep.cli.complete import live
from skep.cli.options import filter_option, format_option, quiet_option, short_format_option
from skep.lib.timestamps import parse_rfc3339

COLUMNS = {"ID": "ID", "Name": "NAME", "CreatedAt": "CREATED", "UpdatedAt": "UPDATED"}
FILE = click.Path(allow_dash=True)
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
    return {
        "ID": found["ID"],
        "Name": spec["Name"],
        "Driver": (spec.get("Driver") or {}).get("Name", ""),
        "CreatedAt": _age(found["CreatedAt"]),
        "UpdatedAt": _age(found["UpdatedAt"]),
        "Labels": objects.labels_text(spec.get("Labels")),
    }


def _group(kind: str) -> click.Group:
    """The commands of one kind of file."""
    path = f"/{kind}s"

    @click.option("-l", "--label", multiple=True, help="key=value; may be repeated.")
    @click.option("--template-driver", default="", help='"golang" fills in {{.Node.Hostname}} and its like.')
    @click.argument("name")
    @click.argument("file", type=FILE)
    @click.pass_obj
    @refusals
    def create(host: str | None, name: str, file: str, label: tuple[str, ...], template_driver: str) -> None:
        body: Json = {"Name": name, "Labels": parse.pairs(label), "Data": _contents(file)}
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
        objects.show_list([_row(each) for each in found], COLUMNS, template, is_quiet=quiet)

    @click.argument("names", nargs=-1, required=True, shell_complete=live(kind))
    @short_format_option
    @pretty.pretty_option
    @click.pass_obj
    @refusals
    def inspect(host: str | None, names: tuple[str, ...], template: str, is_pretty: bool) -> None:
        engine = Engine(host)
        found = [engine.get(f"{path}/{quote(name)}") for name in names]
        click.echo(pretty.show(found, _lines, template, is_pretty=is_pretty))

    @click.argument("names", nargs=-1, required=True, shell_complete=live(kind))
    @click.pass_obj
    @refusals
    def rm(host: str | None, names: tuple[str, ...]) -> None:
        objects.remove(Engine(host), {name: f"{path}/{quote(name)}" for name in names})

    @click.argument("name", shell_complete=live(kind))
    @click.argument("file", type=FILE)
    @click.pass_obj
    @refusals
    def rotate(host: str | None, name: str, file: str) -> None:
        click.echo(Engine(host).post(f"/skep{path}/{quote(name)}/rotate", {"Data": _contents(file)})["ID"])

    def help_of(text: str, *examples: str) -> str:
        lines = "\n".join(f"  skep {kind} {example}" for example in examples)
        return f"{text}\n\n\b\nExamples:\n{lines}"

    group = click.Group(kind, help=help_of(f"Manage {kind}s.", "create tls.key ./key.pem", "ls"))
    group.command(
        help=help_of(
            f"Make a {kind}; prints its id. {FILE_HELP}",
            "create tls.key ./key.pem",
            "create --label team=shop --template-driver golang site.conf - < site.conf",
        )
    )(create)
    group.command(help=help_of(f"List the {kind}s.", "ls", "ls --filter name=tls --format '{{.ID}} {{.Name}}'"))(ls)
    group.command(
        help=help_of(
            f"Show what is known of {kind}s, as JSON, by template, or to be read.",
            "inspect --pretty tls.key",
            "inspect --format '{{json .Spec.Labels}}' tls.key",
        )
    )(inspect)
    group.command(help=help_of(f"Remove {kind}s that no service uses.", "rm tls.key site.conf"))(rm)
    group.command(
        help=help_of(
            f"Give a {kind}'s name a new value; the services that use it are updated within their limits. {FILE_HELP}",
            "rotate tls.key ./new-key.pem",
        )
    )(rotate)
    return group


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    """To be read; of a config also what is in it."""
    yield from pretty.file_lines(found)
    if data := found["Spec"].get("Data"):
        yield "Data:"
        yield from base64.b64decode(data).decode(errors="replace").splitlines()


secret = _group("secret")
config = _group("config")
