"""`skep service why|rebalance`, `skep task why`, and what `--dry-run` shows.

Edge: the terminal. The answers come from the daemon's own routes; here they are laid out.
"""

from collections import Counter
from collections.abc import Iterator
from urllib.parse import quote

import click

from skep.cli import render
from skep.cli.client import Engine, Json, refusals
from skep.cli.complete import live
from skep.cli.options import format_option

SHORT_ID = 12


@click.group()
def task() -> None:
    """Look into single tasks.

    \b
    Examples:
      skep task why web.1
    """


@task.command("why")
@click.argument("reference", metavar="TASK", shell_complete=live("task"))
@format_option
@click.pass_obj
@refusals
def task_why(host: str | None, reference: str, template: str) -> None:
    """Say why a task does not do its work: what it waits for, or how it ended.

    \b
    Examples:
      skep task why zw5tqtm0l9ti
    """
    _show(Engine(host).get(f"/skep/tasks/{quote(reference)}/why"), template)


@click.command("why")
@click.argument("reference", metavar="SERVICE", shell_complete=live("service"))
@format_option
@click.pass_obj
@refusals
def service_why(host: str | None, reference: str, template: str) -> None:
    """Say why a service's tasks do not run: every node against every filter, and the nearest fix.

    \b
    Examples:
      skep service why web
    """
    _show(Engine(host).get(f"/skep/services/{quote(reference)}/why"), template)


def _show(answer: Json, template: str) -> None:
    click.echo(render.one(answer, template) if template else "\n".join(answer_lines(answer)))


@click.command()
@click.argument("reference", metavar="SERVICE", shell_complete=live("service"))
@click.option("--dry-run", is_flag=True, help="Only say which tasks would move.")
@click.pass_obj
@refusals
def rebalance(host: str | None, reference: str, dry_run: bool) -> None:
    """Move tasks to nodes that have fewer of them: start-first, as many at once as an update would.

    \b
    Examples:
      skep service rebalance --dry-run web
      skep service rebalance web
    """
    answer = Engine(host).post(f"/skep/services/{quote(reference)}/rebalance", **{"dry-run": dry_run})
    verb = "would move" if dry_run else "moves"
    for move in answer["Moves"]:
        click.echo(f"{move['Name']} {verb} from {move['From']} to {move['To']}")
    if not answer["Moves"]:
        click.echo(f"{reference} is spread evenly, or is being changed just now")


def answer_lines(answer: Json) -> Iterator[str]:
    """Lay out the answer to `why`."""
    yield from answer["Reasons"]
    if not answer["Tasks"] and not answer["Reasons"]:
        yield f"all is well: {answer['Fine']} running" if answer["Fine"] else "no task is wanted"
    for each in answer["Tasks"]:
        where = f" on {each['Hostname']}" if each["Hostname"] else ""
        name = each["Name"] or each["ID"]
        yield f"{name} ({each['State']}{where}): {each['Cause']}"
    for table in answer["Tables"]:
        yield ""
        yield from _table_lines(table)


def _table_lines(table: Json) -> Iterator[str]:
    columns = {"NODE": "NODE"}
    rows: list[Json] = []
    for node in table["Nodes"]:
        row = {"NODE": node["Hostname"]}
        for found in node["Filters"]:
            columns[found["Name"]] = found["Name"].upper()
            row[found["Name"]] = f"{'ok' if found['Admitted'] else 'NO'}  {found['Figures']}".strip()
        rows.append(row)
    yield render.listing(rows, columns, "")
    if table["Fix"]:
        yield f"nearest fix: {table['Fix']}"


def show_rehearsal(engine: Engine, spec: Json, service_id: str = "") -> None:
    """Print what would become of a service."""
    answer = engine.post("/skep/services/rehearse", spec, service=service_id or None)
    for reason in answer["Reasons"]:
        click.echo(reason)
    placements = answer["Placements"]
    rows = [
        {
            "Slot": str(each["Slot"]) if each["Slot"] or not each["NodeID"] else "-",
            "Node": each["Hostname"] or "-",
            "Change": "new" if each["New"] else "stays",
            "Error": each["Err"],
        }
        for each in placements
    ]
    columns = {"Slot": "SLOT", "Node": "NODE", "Change": "CHANGE", "Error": "ERROR"}
    click.echo(render.listing(rows, columns, ""))
    counts = Counter(each["Hostname"] for each in placements if each["Hostname"])
    click.echo("dry run, nothing was changed: " + ", ".join(f"{n} on {host}" for host, n in sorted(counts.items())))
