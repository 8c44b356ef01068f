"""`skep lab`: a whole swarm on one machine.

Edge: the terminal.
"""

import dataclasses
import json
import os
import sys
from pathlib import Path

import click

from skep.edge.unix_http import EngineRefused, EngineUnreachable
from skep.lab import lab as labs
from skep.lab import layout, nodes, underlay
from skep.lab.underlay import LabFailure
from skep.model.errors import SkepError

DEFAULT_DIR = "/var/lib/skep-lab"
COLUMNS = ("NAME", "ID", "ADDRESS", "SOCKET", "PID", "STATE")

dir_option = click.option(
    "--dir",
    "directory",
    default=DEFAULT_DIR,
    show_default=True,
    envvar="SKEP_LAB",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the lab lives; two directories are two labs.",
)


class LabGroup(click.Group):
    """Turns every refusal below it into one line and exit status 1."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (SkepError, LabFailure, EngineRefused, EngineUnreachable) as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=LabGroup)
def lab() -> None:
    """Make nodes out of namespaces on this machine: a swarm to learn on, to demonstrate, to break.

    \b
    Examples:
      skep lab up --nodes 3
      skep lab exec node1 -- docker node ls
      skep lab kill node2
      skep lab down
    """
    if os.geteuid() != 0:
        raise LabFailure("a lab needs root, for namespaces and nftables; run it with sudo")


@lab.command()
@click.option("--nodes", "node_count", default=3, show_default=True, help="How many nodes.")
@click.option("--managers", "manager_count", default=1, show_default=True, help="How many of them are managers.")
@click.option("--engine", default="podman", show_default=True, help=f"One of {', '.join(layout.ENGINES)}.")
@click.option("--no-join", is_flag=True, help="Start the daemons only; no swarm.")
@click.option("--daemon-option", "options", multiple=True, help="Passed to every skepd; may be repeated.")
@dir_option
def up(
    node_count: int, manager_count: int, engine: str, no_join: bool, options: tuple[str, ...], directory: Path
) -> None:
    """Make a lab and wait until every node is ready.

    \b
    Examples:
      skep lab up --nodes 3
      skep lab up --nodes 5 --managers 3 --engine process
    """
    plan = layout.plan_lab(
        directory, node_count=node_count, manager_count=manager_count, engine=engine, options=list(options)
    )
    labs.up(plan, is_joined=not no_join, say=lambda step: click.echo(f"… {step}", err=True))
    first = plan.nodes[0]
    click.echo(f"{plan.node_count} nodes are ready in {plan.root}. Next:\n")
    click.echo(f"  export DOCKER_HOST=unix://{first.socket}")
    click.echo("  docker swarm init" if no_join else "  docker node ls")
    click.echo(f"  skep lab ls --dir {plan.root}")
    click.echo(f"  skep lab exec client --dir {plan.root} -- curl http://{first.underlay}:PORT/")
    click.echo(f"  skep lab down --dir {plan.root}")


@lab.command()
@dir_option
def down(directory: Path) -> None:
    """Remove the lab with everything it made.

    \b
    Examples:
      skep lab down
    """
    labs.down(directory)
    click.echo(f"the lab in {directory} is gone")


@lab.command()
@click.option("--json", "is_json", is_flag=True, help="One JSON array.")
@dir_option
def ls(is_json: bool, directory: Path) -> None:
    """List the nodes.

    \b
    Examples:
      skep lab ls
    """
    reports = labs.listing(layout.load_lab(directory))
    if is_json:
        click.echo(json.dumps([dataclasses.asdict(report) for report in reports], indent=2))
        return
    rows = [COLUMNS, *((r.name, r.id, r.address, r.socket, str(r.pid or "-"), r.state) for r in reports)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    for row in rows:
        click.echo("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@lab.command("exec", context_settings={"ignore_unknown_options": True})
@click.argument("node")
@dir_option
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(node: str, directory: Path, command: tuple[str, ...]) -> None:
    """Run a command in a node, or as `client`, outside the swarm. DOCKER_HOST is set to the node's socket.

    \b
    Examples:
      skep lab exec node1 -- docker node ls
      skep lab exec client -- curl http://10.99.0.1:8080/
    """
    plan = layout.load_lab(directory)
    line = nodes.exec_command(plan, node, command)
    if node != layout.CLIENT:
        os.environ["DOCKER_HOST"] = f"unix://{plan.node(node).socket}"
    sys.stdout.flush()
    os.execvp(line[0], line)  # noqa: S606 -- the user's own command, as they typed it


@lab.command()
@click.argument("node")
@dir_option
def cut(node: str, directory: Path) -> None:
    """Cut a node's underlay link.

    \b
    Examples:
      skep lab cut node2
    """
    plan = layout.load_lab(directory)
    nodes.require_running(plan.node(node))
    underlay.set_link(plan, plan.node(node), is_up=False)


@lab.command()
@click.argument("node")
@dir_option
def heal(node: str, directory: Path) -> None:
    """Restore a node's underlay link.

    \b
    Examples:
      skep lab heal node2
    """
    plan = layout.load_lab(directory)
    nodes.require_running(plan.node(node))
    underlay.set_link(plan, plan.node(node), is_up=True)


@lab.command()
@click.argument("node")
@dir_option
def freeze(node: str, directory: Path) -> None:
    """Stop every process of a node where it stands, daemon and containers.

    \b
    Examples:
      skep lab freeze node2
    """
    nodes.freeze_node(layout.load_lab(directory).node(node), is_frozen=True)


@lab.command()
@click.argument("node")
@dir_option
def thaw(node: str, directory: Path) -> None:
    """Let a frozen node go on.

    \b
    Examples:
      skep lab thaw node2
    """
    nodes.freeze_node(layout.load_lab(directory).node(node), is_frozen=False)


@lab.command()
@click.argument("node")
@dir_option
def kill(node: str, directory: Path) -> None:
    """Take a node's power: nothing gets to say goodbye.

    \b
    Examples:
      skep lab kill node2
    """
    plan = layout.load_lab(directory)
    nodes.require_running(plan.node(node))
    nodes.kill_node(plan, plan.node(node))


@lab.command()
@click.argument("node")
@dir_option
def start(node: str, directory: Path) -> None:
    """Start a node that was killed and wait until it is ready again.

    \b
    Examples:
      skep lab start node2
    """
    plan = layout.load_lab(directory)
    nodes.boot_node(plan, plan.node(node))
    labs.wait_ready(plan, plan.node(node))
