"""`skep node`: the machines of a swarm.

Edge: the terminal.
"""

from typing import Any
from urllib.parse import quote

import click

from skep.cli import objects, parse, pretty, render
from skep.cli.client import Engine, Json, parse_filters, refusals
from skep.cli.commands import tasks
from skep.cli.complete import live
from skep.cli.options import filter_option, force_option, format_option, quiet_option, short_format_option

COLUMNS = {
    "ID": "ID",
    "Hostname": "HOSTNAME",
    "Status": "STATUS",
    "Availability": "AVAILABILITY",
    "ManagerStatus": "MANAGER STATUS",
    "EngineVersion": "ENGINE VERSION",
}
TABLE = "table {{.ID}} {{.Mark}}\t" + "\t".join(f"{{{{.{name}}}}}" for name in COLUMNS if name != "ID")


@click.group()
def node() -> None:
    """Manage the nodes of a swarm.

    \b
    Examples:
      skep node ls
      skep node update --availability drain worker1
    """


@node.command()
@filter_option
@format_option
@quiet_option
@click.pass_obj
@refusals
def ls(host: str | None, filters: tuple[str, ...], template: str, quiet: bool) -> None:
    """List the nodes; `*` marks the one that answers.

    \b
    Examples:
      skep node ls
      skep node ls --filter role=manager --format '{{.Hostname}} {{.Status}}'
    """
    engine = Engine(host)
    found = sorted(engine.list("/nodes", parse_filters(filters)), key=lambda n: n["Description"]["Hostname"])
    if quiet:
        objects.say("\n".join(n["ID"] for n in found))
        return
    own = engine.get("/info")["Swarm"]["NodeID"]
    rows = [_row(n, own) for n in found]
    if template in ("", "table"):
        template = TABLE
    if template == "json":
        rows = [{key: value for key, value in row.items() if key != "Mark"} for row in rows]
    click.echo(render.listing(rows, COLUMNS, template))


def _row(found: Json, own: str) -> Json:
    manager = found.get("ManagerStatus") or {}
    return {
        "ID": found["ID"],
        "Self": found["ID"] == own,
        "Mark": "*" if found["ID"] == own else " ",
        "Hostname": found["Description"]["Hostname"],
        "Status": found["Status"]["State"].capitalize(),
        "Availability": found["Spec"]["Availability"].capitalize(),
        "ManagerStatus": "Leader" if manager.get("Leader") else manager.get("Reachability", "").capitalize(),
        "EngineVersion": found["Description"]["Engine"]["EngineVersion"],
        "TLSStatus": "Ready" if found["Description"].get("TLSInfo") else "Unknown",
    }


def resolve(engine: Engine, reference: str) -> Json:
    """A node by id or name; `self` is the one that answers."""
    if reference == "self":
        reference = engine.get("/info")["Swarm"]["NodeID"]
    found: Json = engine.get(f"/nodes/{quote(reference)}")
    return found


@node.command()
@click.argument("nodes", nargs=-1, required=True, shell_complete=live("node"))
@short_format_option
@pretty.pretty_option
@click.pass_obj
@refusals
def inspect(host: str | None, nodes: tuple[str, ...], template: str, is_pretty: bool) -> None:
    """Show everything known of nodes, as JSON, by template, or to be read.

    \b
    Examples:
      skep node inspect --pretty worker1
      skep node inspect --format '{{.Status.Addr}}' self
    """
    engine = Engine(host)
    found = [resolve(engine, reference) for reference in nodes]
    click.echo(pretty.show(found, pretty.node_lines, template, is_pretty=is_pretty))


@node.command()
@click.argument("nodes", nargs=-1, shell_complete=live("node"))
@tasks.shape_options
@click.pass_obj
@refusals
def ps(host: str | None, /, nodes: tuple[str, ...], filters: tuple[str, ...], **shape: Any) -> None:
    """List the tasks on nodes; on the one that answers if none is named.

    \b
    Examples:
      skep node ps
      skep node ps --filter desired-state=running worker1 worker2
    """
    engine = Engine(host)
    chosen = parse_filters(filters)
    chosen["node"] = [resolve(engine, reference)["ID"] for reference in nodes or ("self",)]
    objects.say(tasks.listing(engine, chosen, tasks.Shape(**shape)))


@node.command()
@click.argument("reference", metavar="NODE", shell_complete=live("node"))
@click.option("--availability", type=click.Choice(["active", "pause", "drain"]), help="drain moves its tasks away.")
@click.option("--role", type=click.Choice(["worker", "manager"]), help="What the node is to be.")
@click.option("--label-add", multiple=True, help="key=value; may be repeated.")
@click.option("--label-rm", multiple=True, help="Key of a label; may be repeated.")
@click.pass_obj
@refusals
def update(
    host: str | None,
    reference: str,
    availability: str | None,
    role: str | None,
    label_add: tuple[str, ...],
    label_rm: tuple[str, ...],
) -> None:
    """Change a node's availability, role or labels.

    \b
    Examples:
      skep node update --availability drain worker1
      skep node update --label-add zone=east --label-rm old worker1
    """
    engine = Engine(host)
    found = resolve(engine, reference)
    spec: Json = found["Spec"]
    labels = {**(spec.get("Labels") or {}), **parse.pairs(label_add)}
    spec["Labels"] = {key: value for key, value in labels.items() if key not in label_rm}
    spec["Availability"] = availability or spec["Availability"]
    spec["Role"] = role or spec["Role"]
    engine.post(f"/nodes/{quote(found['ID'])}/update", spec, version=found["Version"]["Index"])
    click.echo(reference)


@node.command()
@click.argument("nodes", nargs=-1, required=True, shell_complete=live("node"))
@click.pass_obj
@refusals
def promote(host: str | None, nodes: tuple[str, ...]) -> None:
    """Make workers managers.

    \b
    Examples:
      skep node promote worker1 worker2
    """
    _change_roles(Engine(host), nodes, "manager", "is already a manager", "promoted to a manager in the swarm")


@node.command()
@click.argument("nodes", nargs=-1, required=True, shell_complete=live("node"))
@click.pass_obj
@refusals
def demote(host: str | None, nodes: tuple[str, ...]) -> None:
    """Make managers workers.

    \b
    Examples:
      skep node demote manager2
    """
    _change_roles(Engine(host), nodes, "worker", "is already a worker", "demoted in the swarm")


def _change_roles(engine: Engine, nodes: tuple[str, ...], role: str, unchanged: str, changed: str) -> None:
    for reference in nodes:
        found = resolve(engine, reference)
        if found["Spec"]["Role"] == role:
            click.echo(f"Node {reference} {unchanged}.")
            continue
        spec = {**found["Spec"], "Role": role}
        engine.post(f"/nodes/{quote(found['ID'])}/update", spec, version=found["Version"]["Index"])
        click.echo(f"Node {reference} {changed}.")


@node.command()
@click.argument("nodes", nargs=-1, required=True, shell_complete=live("node"))
@force_option("Also nodes that are up.")
@click.pass_obj
@refusals
def rm(host: str | None, nodes: tuple[str, ...], force: bool) -> None:
    """Remove nodes from the swarm; their certificates are refused from then on.

    \b
    Examples:
      skep node rm worker3
      skep node rm --force worker4
    """
    objects.remove(Engine(host), {reference: f"/nodes/{quote(reference)}" for reference in nodes}, force=force)


@node.command()
@click.argument("managers", nargs=-1, required=True)
@click.pass_obj
@refusals
def rejoin(host: str | None, managers: tuple[str, ...]) -> None:
    """Tell this node where its managers are now, after they were restored elsewhere. MANAGERS are HOST[:PORT].

    \b
    Examples:
      skep node rejoin 192.168.1.20:2377
    """
    Engine(host).post("/skep/rejoin", {"Addrs": list(managers)})
    click.echo("This node is in touch with its swarm again.")
