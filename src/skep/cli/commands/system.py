"""`skep info`, `version` and `events`.

Edge: the terminal.
"""

import json
import time
from urllib.parse import quote

import click

import skep
from skep.cli import render
from skep.cli.client import Engine, Json, parse_filters, refusals
from skep.cli.options import filter_option, format_option
from skep.lib.timestamps import parse_rfc3339


@click.command()
@format_option
@click.pass_obj
@refusals
def info(host: str | None, template: str) -> None:
    """Show this node and its swarm."""
    answer: Json = Engine(host).get("/info")
    if template:
        click.echo(json.dumps(answer) if template == "json" else render.inspect([answer], template))
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
@format_option
@click.pass_obj
@refusals
def version(host: str | None, template: str) -> None:
    """Show the versions of client and daemon."""
    server: Json = Engine(host).get("/version")
    both = {"Client": {"Version": skep.__version__}, "Server": server}
    if template:
        click.echo(json.dumps(both) if template == "json" else render.inspect([both], template))
        return
    click.echo(f"Client:\n Version:      {skep.__version__}\n")
    click.echo(f"Server: {server.get('Platform', {}).get('Name', 'Skep')}\n Version:      {server['Version']}")
    click.echo(f" API version:  {server['ApiVersion']} (minimum version {server['MinAPIVersion']})")


@click.command()
@filter_option
@format_option
@click.option("--since", help="From this moment on: RFC 3339 or seconds since 1970.")
@click.option("--until", help="Up to this moment.")
@click.pass_obj
@refusals
def events(host: str | None, filters: tuple[str, ...], template: str, since: str | None, until: str | None) -> None:
    """Show what happens, as it happens, until interrupted or `--until` has come."""
    engine = Engine(host)
    engine.http.timeout_s = None
    query = {"since": _moment(since), "until": _moment(until)}
    chosen = parse_filters(filters)
    parts = [f"{key}={value}" for key, value in query.items() if value]
    if chosen:
        parts.append(f"filters={json.dumps(chosen)}".replace(" ", ""))

    path = "/events" + ("?" + "&".join(quote(part, safe="=") for part in parts) if parts else "")
    try:
        with engine.http.stream("GET", path) as stream:
            for line in stream.lines():
                _print_event(json.loads(line), template)
    except KeyboardInterrupt:
        return


def _moment(text: str | None) -> str:
    if not text or text.replace(".", "").isdecimal():
        return text or ""
    try:
        return f"{parse_rfc3339(text) / 1e9:.9f}"
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _print_event(event: Json, template: str) -> None:
    if template:
        click.echo(json.dumps(event) if template == "json" else render.inspect([event], template))
        return
    actor = event.get("Actor", {})
    attributes = ", ".join(f"{key}={value}" for key, value in sorted(actor.get("Attributes", {}).items()))
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(event["time"]))
    nanos = event.get("timeNano", 0) % 1_000_000_000
    what = f"{event['Type']} {event['Action']} {actor.get('ID', '')}"
    click.echo(render.plain(f"{moment}.{nanos:09d} {what} ({attributes})"))
