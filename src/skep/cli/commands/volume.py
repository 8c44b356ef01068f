"""`skep volume`: local volumes of the node that is asked.

Edge: the terminal.
"""

import json
from urllib.parse import quote

import click

from skep.cli import objects, parse
from skep.cli.client import Engine, Json, confirm, parse_filters, refusals
from skep.cli.complete import live
from skep.cli.options import (
    filter_option,
    force_option,
    format_option,
    long_filter_option,
    quiet_option,
    short_format_option,
)

COLUMNS = {"Driver": "DRIVER", "Name": "VOLUME NAME"}


@click.group()
def volume() -> None:
    """Manage volumes of this node.

    \b
    Examples:
      skep volume create data
      skep volume ls
    """


@volume.command()
@click.argument("name", default="")
@click.option("-d", "--driver", default="local", show_default=True)
@click.option("--label", multiple=True, help="key=value; may be repeated.")
@click.option("-o", "--opt", multiple=True, help="Driver option, key=value.")
@click.pass_obj
@refusals
def create(host: str | None, name: str, driver: str, label: tuple[str, ...], opt: tuple[str, ...]) -> None:
    """Make a volume; prints its name.

    \b
    Examples:
      skep volume create data
      skep volume create --label team=shop -o type=tmpfs -o device=tmpfs scratch
    """
    body = {"Name": name, "Driver": driver, "Labels": parse.pairs(label), "DriverOpts": parse.pairs(opt)}
    click.echo(Engine(host).post("/volumes/create", body)["Name"])


@volume.command()
@filter_option
@format_option
@quiet_option
@click.pass_obj
@refusals
def ls(host: str | None, filters: tuple[str, ...], template: str, quiet: bool) -> None:
    """List this node's volumes.

    \b
    Examples:
      skep volume ls
      skep volume ls --filter label=team=shop --format '{{.Name}}'
    """
    engine = Engine(host)
    query = {"filters": json.dumps(parse_filters(filters))} if filters else {}
    found = sorted(engine.get("/volumes", **query)["Volumes"] or [], key=lambda each: each["Name"])
    objects.show_list([_row(each) for each in found], COLUMNS, template, is_quiet=quiet, key="Name")


def _row(found: Json) -> Json:
    """One volume by Docker's names for `--format`. Source: docker/cli, command/formatter/volume.go."""
    return {
        "Name": found["Name"],
        "Driver": found["Driver"],
        "Scope": found.get("Scope", "local"),
        "Mountpoint": found.get("Mountpoint", ""),
        "Labels": objects.labels_text(found.get("Labels")),
    }


@volume.command()
@click.argument("names", nargs=-1, required=True, shell_complete=live("volume"))
@short_format_option
@click.pass_obj
@refusals
def inspect(host: str | None, names: tuple[str, ...], template: str) -> None:
    """Show everything known of volumes, as JSON or by template.

    \b
    Examples:
      skep volume inspect data
      skep volume inspect --format '{{.Mountpoint}}' data
    """
    objects.show(Engine(host), (f"/volumes/{quote(name)}" for name in names), template)


@volume.command()
@click.argument("names", nargs=-1, required=True, shell_complete=live("volume"))
@force_option("Do not mind a volume that is not there.")
@click.pass_obj
@refusals
def rm(host: str | None, names: tuple[str, ...], force: bool) -> None:
    """Remove volumes that no container uses.

    \b
    Examples:
      skep volume rm data scratch
    """
    objects.remove(Engine(host), {name: f"/volumes/{quote(name)}" for name in names}, force=force)


@volume.command()
@click.option("-a", "--all", "is_all", is_flag=True, help="Also volumes with a name of their own.")
@long_filter_option
@force_option("Do not ask first.")
@click.pass_obj
@refusals
def prune(host: str | None, is_all: bool, filters: tuple[str, ...], force: bool) -> None:
    """Remove this node's volumes that no container uses.

    \b
    Examples:
      skep volume prune
      skep volume prune --all --force --filter label=team=shop
    """
    which = "all volumes" if is_all else "anonymous volumes"
    confirm(f"This removes {which} of this node that no container uses.", is_forced=force)
    chosen = parse_filters(filters)
    if is_all:
        chosen["all"] = ["true"]
    answer = Engine(host).post("/volumes/prune", filters=json.dumps(chosen))
    for name in answer.get("VolumesDeleted") or []:
        click.echo(name)
    click.echo(f"Total reclaimed space: {objects.size_text(answer.get('SpaceReclaimed') or 0)}")
