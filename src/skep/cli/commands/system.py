"""`skep info`, `version`, `events` and `system df`.

Edge: the terminal.
"""

import json
import time

import click

import skep
from skep.cli import objects, render
from skep.cli.client import Engine, Json, parse_filters, refusals
from skep.cli.moments import MOMENT
from skep.cli.options import filter_option, format_option, short_format_option


@click.command()
@short_format_option
@click.pass_obj
@refusals
def info(host: str | None, template: str) -> None:
    """Show this node and its swarm.

    \b
    Examples:
      skep info
      skep info --format '{{.Swarm.LocalNodeState}}'
    """
    answer: Json = Engine(host).get("/info")
    if template:
        click.echo(render.one(answer, template))
        return
    swarm = answer["Swarm"]
    lines = [
        f"Name: {answer['Name']}",
        f"Server Version: {answer['ServerVersion']}",
        f"Engine: {answer['Driver']}",
        f"CPUs: {answer['NCPU']}",
        f"Total Memory: {answer['MemTotal'] / (1 << 30):.4g}GiB",
        f"Containers: {answer['Containers']} ({answer['ContainersRunning']} running)",
        f"Swarm: {swarm['LocalNodeState']}",
    ]
    if swarm.get("NodeID"):
        lines += [f" NodeID: {swarm['NodeID']}", f" Is Manager: {str(swarm['ControlAvailable']).lower()}"]
        lines += [f" Node Address: {swarm['NodeAddr']}"]
    if swarm.get("ControlAvailable"):
        lines += [
            f" ClusterID: {swarm['Cluster']['ID']}",
            f" Managers: {swarm['Managers']}",
            f" Nodes: {swarm['Nodes']}",
        ]
    lines += [f" Manager Addresses:\n  {m['Addr']}" for m in (swarm.get("RemoteManagers") or [])[:1]]
    click.echo("\n".join(lines))
    for warning in answer.get("Warnings") or []:
        click.echo(warning, err=True)


@click.command()
@short_format_option
@click.pass_obj
@refusals
def version(host: str | None, template: str) -> None:
    """Show the versions of client and daemon.

    \b
    Examples:
      skep version
      skep version --format '{{.Server.Version}}'
    """
    server: Json = Engine(host).get("/version")
    both = {"Client": {"Version": skep.__version__}, "Server": server}
    if template:
        click.echo(render.one(both, template))
        return
    click.echo(f"Client:\n Version:      {skep.__version__}\n")
    click.echo(f"Server: {server.get('Platform', {}).get('Name', 'Skep')}\n Version:      {server['Version']}")
    click.echo(f" API version:  {server['ApiVersion']} (minimum version {server['MinAPIVersion']})")


@click.command()
@filter_option
@format_option
@click.option("--since", type=MOMENT, default="", help="From this moment on: RFC 3339, seconds since 1970, or 10m.")
@click.option("--until", type=MOMENT, default="", help="Up to this moment.")
@click.pass_obj
@refusals
def events(host: str | None, filters: tuple[str, ...], template: str, since: str, until: str) -> None:
    """Show what happens, as it happens, until interrupted or `--until` has come.

    \b
    Examples:
      skep events --filter type=service
      skep events --since 10m --until 0s --format json
    """
    engine = Engine(host)
    engine.http.timeout_s = None
    chosen = parse_filters(filters)
    query = {"since": since or None, "until": until or None, "filters": json.dumps(chosen) if chosen else None}
    try:
        with engine.stream("GET", "/events", **query) as stream:
            for line in stream.lines():
                _print_event(json.loads(line), template)
    except KeyboardInterrupt:
        return


def _print_event(event: Json, template: str) -> None:
    if template:
        click.echo(render.one(event, template))
        return
    actor = event.get("Actor", {})
    attributes = ", ".join(f"{key}={value}" for key, value in sorted(actor.get("Attributes", {}).items()))
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(event["time"]))
    nanos = event.get("timeNano", 0) % 1_000_000_000
    what = f"{event['Type']} {event['Action']} {actor.get('ID', '')}"
    click.echo(render.plain(f"{moment}.{nanos:09d} {what} ({attributes})"))


DISK_COLUMNS = {"Type": "TYPE", "TotalCount": "TOTAL", "Active": "ACTIVE", "Size": "SIZE", "Reclaimable": "RECLAIMABLE"}


@click.group()
def system() -> None:
    """Look at this node as a whole.

    \b
    Examples:
      skep system df
      skep system info
    """


system.add_command(info)
system.add_command(events)


@system.command()
@format_option
@click.pass_obj
@refusals
def df(host: str | None, template: str) -> None:
    """Show what images, containers and volumes of this node take on disk.

    \b
    Examples:
      skep system df
      skep system df --format '{{.Type}} {{.Size}}'
    """
    objects.say(render.listing(disk_rows(Engine(host).get("/system/df")), DISK_COLUMNS, template))


def disk_rows(found: Json) -> list[Json]:
    """A row for each kind of thing. Source: docker/cli, command/formatter/disk_usage.go."""
    images, containers, volumes = (found.get(kind) or [] for kind in ("Images", "Containers", "Volumes"))
    sizes = [(each.get("UsageData") or {}).get("Size", 0) for each in volumes]
    used = [bool((each.get("UsageData") or {}).get("RefCount")) for each in volumes]
    return [
        _disk_row("Images", [bool(each.get("Containers")) for each in images], [each["Size"] for each in images]),
        _disk_row(
            "Containers",
            [each.get("State") in ("running", "paused", "restarting") for each in containers],
            [each.get("SizeRw") or 0 for each in containers],
        ),
        _disk_row("Local Volumes", used, [max(size, 0) for size in sizes]),
    ]


def _disk_row(kind: str, used: list[bool], sizes: list[int]) -> Json:
    total, idle = sum(sizes), sum(size for size, is_used in zip(sizes, used, strict=True) if not is_used)
    share = f" ({100 * idle // total}%)" if total else ""
    return {
        "Type": kind,
        "TotalCount": str(len(sizes)),
        "Active": str(sum(used)),
        "Size": objects.size_text(total),
        "Reclaimable": f"{objects.size_text(idle)}{share}",
    }
