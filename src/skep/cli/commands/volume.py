"""`skep volume`: local volumes of the node that is asked.

Edge: the terminal.
"""

import json
from urllib.parse import quote

import click

from skep.cli import render
from skep.cli.client import Engine, Json, parse_filters, refusals
from skep.cli.options import filter_option, format_option, parse_labels, quiet_option

COLUMNS = {"Driver": "DRIVER", "Name": "VOLUME NAME"}


@click.group()
def volume() -> None:
    """Manage volumes of this node.

    \b
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
    """Make a volume; prints its name."""
    body = {"Name": name, "Driver": driver, "Labels": parse_labels(label), "DriverOpts": parse_labels(opt)}
    click.echo(Engine(host).post("/volumes/create", body)["Name"])


@volume.command()
@filter_option
@format_option
@quiet_option
@click.pass_obj
@refusals
def ls(host: str | None, filters: tuple[str, ...], template: str, quiet: bool) -> None:
    """List this node's volumes."""
    engine = Engine(host)
    query = {"filters": json.dumps(parse_filters(filters))} if filters else {}
    found = sorted(engine.get("/volumes", **query)["Volumes"] or [], key=lambda each: each["Name"])
    rows = [_row(each) for each in found]
    click.echo("\n".join(row["Name"] for row in rows) if quiet else render.listing(rows, COLUMNS, template))


def _row(found: Json) -> Json:
    """One volume by Docker's names for `--format`. Source: docker/cli, command/formatter/volume.go."""
    labels = found.get("Labels") or {}
    return {
        "Name": found["Name"],
        "Driver": found["Driver"],
        "Scope": found.get("Scope", "local"),
        "Mountpoint": found.get("Mountpoint", ""),
        "Labels": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
    }


@volume.command()
@click.argument("names", nargs=-1, required=True)
@format_option
@click.pass_obj
@refusals
def inspect(host: str | None, names: tuple[str, ...], template: str) -> None:
    """Show everything known of volumes, as JSON or by template."""
    engine = Engine(host)
    click.echo(render.inspect([engine.get(f"/volumes/{quote(name)}") for name in names], template))


@volume.command()
@click.argument("names", nargs=-1, required=True)
@click.option("-f", "--force", is_flag=True, help="Do not mind a volume that is not there.")
@click.pass_obj
@refusals
def rm(host: str | None, names: tuple[str, ...], force: bool) -> None:
    """Remove volumes that no container uses."""
    engine = Engine(host)
    for name in names:
        engine.delete(f"/volumes/{quote(name)}", force=force)
        click.echo(name)
