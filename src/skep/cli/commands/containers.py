"""`skep ps`, `logs`, `inspect`, `top` and kin: containers of this node, and those of tasks wherever they run.

Edge: the terminal. A container is meant by its id or name, a task's by its place (`web.1`) or its id as well.
"""

import json
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import click

from skep.cli import objects, render, task_logs
from skep.cli.client import Engine, Json, Refused, parse_filters, refusals
from skep.cli.complete import live
from skep.cli.options import (
    filter_option,
    force_option,
    format_option,
    no_trunc_option,
    quiet_option,
    short_format_option,
)
from skep.edge.unix_http import EngineRefused

COLUMNS = {
    "ID": "CONTAINER ID",
    "Image": "IMAGE",
    "Command": "COMMAND",
    "RunningFor": "CREATED",
    "Status": "STATUS",
    "Ports": "PORTS",
    "Node": "NODE",
    "Names": "NAMES",
}
SHORT_ID, SHORT_COMMAND = 12, 20
NODE_LABEL = "com.docker.swarm.node.id"
KINDS = ("container", "network", "volume", "service", "task", "node", "secret", "config")

references = click.argument("names", nargs=-1, required=True, metavar="TASK|CONTAINER...", shell_complete=live("task"))
reference = click.argument("name", metavar="TASK|CONTAINER", shell_complete=live("task"))
signal_option = click.option("-s", "--signal", default="", help="Such as SIGTERM or HUP.")
timeout_option = click.option("-t", "--timeout", type=int, help="Seconds until it is killed.")


def path_of(name: str) -> str:
    return f"/containers/{quote(name, safe='')}"


@click.command()
@click.option("-a", "--all", "is_all", is_flag=True, help="Also those that are stopped.")
@click.option("-n", "--last", type=int, help="The last so many, running or not.")
@click.option("-s", "--size", is_flag=True, help="With the size of their files.")
@filter_option
@format_option
@quiet_option
@no_trunc_option
@click.pass_obj
@refusals
def ps(host: str | None, /, filters: tuple[str, ...], template: str, quiet: bool, **options: Any) -> None:
    """List containers: this node's, and on a manager those of tasks on every node.

    \b
    Examples:
      skep ps
      skep ps --all --filter name=web --format '{{.Names}} {{.Node}} {{.Status}}'
    """
    engine = Engine(host)
    chosen = parse_filters(filters)
    found = engine.list("/containers/json", chosen, all=options["is_all"], limit=options["last"], size=options["size"])
    names: dict[str, str] = {}
    if not quiet and any(NODE_LABEL in (each.get("Labels") or {}) for each in found):
        names = _node_names(engine)
    rows = [_row(each, names, is_whole=options["no_trunc"]) for each in found]
    columns = {**COLUMNS, "Size": "SIZE"} if options["size"] else COLUMNS
    objects.show_list(rows, columns, template, is_quiet=quiet)


def _node_names(engine: Engine) -> dict[str, str]:
    """Host names by id, where this node may say."""
    try:
        return {node["ID"]: node["Description"]["Hostname"] for node in engine.list("/nodes")}
    except EngineRefused:
        return {}  # A worker: the ids have to do.


def _row(found: Json, nodes: dict[str, str], *, is_whole: bool) -> Json:
    """One container by Docker's names for `--format`. Source: docker/cli, command/formatter/container.go."""
    labels = found.get("Labels") or {}
    command = str(found.get("Command") or "")
    if len(command) > SHORT_COMMAND and not is_whole:
        command = f"{command[: SHORT_COMMAND - 1]}…"
    created = int(found.get("Created") or 0)
    node = labels.get(NODE_LABEL, "")
    return {
        "ID": found["Id"] if is_whole else found["Id"][:SHORT_ID],
        "Names": ",".join(name.removeprefix("/") for name in found.get("Names") or ()),
        "Image": found.get("Image", ""),
        "Command": json.dumps(command, ensure_ascii=False),
        "CreatedAt": time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(created)),
        "RunningFor": render.ago(time.time_ns() - created * 1_000_000_000),
        "State": found.get("State", ""),
        "Status": found.get("Status", ""),
        "Ports": _ports(found.get("Ports") or ()),
        "Size": objects.size_text(found.get("SizeRw") or 0),
        "Labels": objects.labels_text(labels),
        "Mounts": ",".join(mount.get("Name") or mount.get("Source", "") for mount in found.get("Mounts") or ()),
        "Networks": ",".join((found.get("NetworkSettings") or {}).get("Networks") or ()),
        "Node": nodes.get(node, node),
    }


def _ports(ports: Any) -> str:
    return ", ".join(
        f"{port.get('IP') or '0.0.0.0'}:{port['PublicPort']}->{port['PrivatePort']}/{port['Type']}"  # noqa: S104 -- shown, not bound
        if port.get("PublicPort")
        else f"{port['PrivatePort']}/{port['Type']}"
        for port in ports
    )


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=live("task", "service", "node"))
@click.option("--type", "kind", type=click.Choice(KINDS), help="Look among these only.")
@short_format_option
@click.option("-s", "--size", is_flag=True, help="Of containers also the size of their files.")
@click.pass_obj
@refusals
def inspect(host: str | None, names: tuple[str, ...], kind: str | None, template: str, size: bool) -> None:
    """Show everything known of containers or, where none is called so, of whatever is.

    \b
    Examples:
      skep inspect web.1
      skep inspect --format '{{.State.Pid}}' web.1
      skep inspect --type node worker1
    """
    engine = Engine(host)
    kinds = (kind,) if kind else KINDS
    click.echo(render.inspect([_find(engine, name, kinds, size=size) for name in names], template))


def _find(engine: Engine, name: str, kinds: tuple[str, ...], *, size: bool) -> Json:
    for kind in kinds:
        path = f"{path_of(name)}/json" if kind == "container" else f"/{kind}s/{quote(name, safe='')}"
        try:
            found: Json = engine.get(path, size=size if kind == "container" else None)
        except EngineRefused as error:
            if len(kinds) == 1 or error.status not in (objects.NOT_FOUND, 501, 503):
                raise
        else:
            return found
    raise Refused(f"Error: No such object: {name}; see skep ps, skep service ls and skep node ls for what there is")


@click.command()
@reference
@task_logs.log_options
@click.pass_obj
@refusals
def logs(host: str | None, /, name: str, **view: Any) -> None:
    """Show what a task or container has printed; of all tasks of a service: `skep service logs`.

    \b
    Examples:
      skep logs --tail 20 web.1
      skep logs --follow --since 10m web.1
    """
    engine = Engine(host)
    found: Json = engine.get(f"{path_of(name)}/json")
    has_terminal = bool(found["Config"].get("Tty"))
    shown = task_logs.LogView(**view, raw=True)
    task_logs.show(engine, f"{path_of(name)}/logs", shown, has_terminal=has_terminal)


@click.command(context_settings={"ignore_unknown_options": True})
@reference
@click.argument("ps_options", nargs=-1, type=click.UNPROCESSED, metavar="[PS OPTIONS]")
@click.pass_obj
@refusals
def top(host: str | None, name: str, ps_options: tuple[str, ...]) -> None:
    """List the processes of a task or container.

    \b
    Examples:
      skep top web.1
      skep top web.1 -o pid,args
    """
    answer = Engine(host).get(f"{path_of(name)}/top", ps_args=" ".join(ps_options) or None)
    click.echo(render.table([[render.plain(cell) for cell in row] for row in (answer["Titles"], *answer["Processes"])]))


def _each(host: str | None, names: tuple[str, ...], act: Callable[[Engine, str], object]) -> None:
    """Do something to containers one by one, going on after one that refuses."""
    engine = Engine(host)
    engine.http.timeout_s = None  # Stopping takes as long as the container is given.
    objects.each(names, lambda name: act(engine, name))


@click.command()
@references
@signal_option
@timeout_option
@click.pass_obj
@refusals
def stop(host: str | None, names: tuple[str, ...], signal: str, timeout: int | None) -> None:
    """Stop tasks or containers; a task's service starts another, as its restart policy says.

    \b
    Examples:
      skep stop web.1
      skep stop --timeout 30 my-container
    """
    _each(host, names, lambda e, name: e.post(f"{path_of(name)}/stop", signal=signal or None, t=timeout))


@click.command()
@references
@signal_option
@timeout_option
@click.pass_obj
@refusals
def restart(host: str | None, names: tuple[str, ...], signal: str, timeout: int | None) -> None:
    """Stop and start containers.

    \b
    Examples:
      skep restart my-container
    """
    _each(host, names, lambda e, name: e.post(f"{path_of(name)}/restart", signal=signal or None, t=timeout))


@click.command()
@references
@click.pass_obj
@refusals
def start(host: str | None, names: tuple[str, ...]) -> None:
    """Start containers that are stopped.

    \b
    Examples:
      skep start my-container
    """
    _each(host, names, lambda engine, name: engine.post(f"{path_of(name)}/start"))


@click.command()
@references
@signal_option
@click.pass_obj
@refusals
def kill(host: str | None, names: tuple[str, ...], signal: str) -> None:
    """Send a signal to tasks or containers; SIGKILL if none is named.

    \b
    Examples:
      skep kill --signal HUP web.1
    """
    _each(host, names, lambda engine, name: engine.post(f"{path_of(name)}/kill", signal=signal or None))


@click.command()
@references
@force_option("Also those that run.")
@click.option("-v", "--volumes", is_flag=True, help="With their anonymous volumes.")
@click.pass_obj
@refusals
def rm(host: str | None, names: tuple[str, ...], force: bool, volumes: bool) -> None:
    """Remove containers.

    \b
    Examples:
      skep rm my-container
      skep rm --force --volumes my-container
    """
    _each(host, names, lambda engine, name: engine.delete(path_of(name), force=force, v=volumes))
