"""`skep cluster`: how the managers fare, going on with one of them, and where one keeps the state.

Edge: the terminal; `store sqlite` works on this machine's files, with no daemon running.
"""

import importlib
import time
from collections.abc import Iterator
from pathlib import Path

import click

from skep.cli import render
from skep.cli.client import Engine, Json, refusals
from skep.cli.objects import binary_size_text
from skep.lib.timestamps import parse_rfc3339
from skep.model.errors import SkepError

MANY_S = 60.0


@click.group()
def cluster() -> None:
    """See how the managers of a swarm fare, and go on when they do not.

    \b
    Examples:
      skep cluster status
      skep cluster recover
    """


@cluster.command()
@click.option("--format", "template", default="", help="json or a template like '{{.Quorum}}'.")
@click.pass_obj
@refusals
def status(host: str | None, template: str) -> None:
    """Show the managers, their quorum and their store, and what would break the swarm.

    \b
    Examples:
      skep cluster status
      skep cluster status --format '{{range .Risks}}{{println .}}{{end}}'
    """
    found = Engine(host).get("/skep/cluster")
    click.echo(render.one(found, template) if template else "\n".join(_status_lines(found, time.time_ns())))


def _status_lines(found: Json, now: int) -> Iterator[str]:
    rows = [["MANAGER", "ADDRESS", "ROLE", "REACHABLE", "BEHIND"]]
    for manager in found["Managers"]:
        name = manager["Hostname"] or manager["ID"] or "(not started yet)"
        rows.append(
            [
                render.plain(name) + (" *" if manager["Self"] else ""),
                manager["Addr"] or "-",
                manager["Role"],
                "yes" if manager["Reachable"] else "no",
                "-" if manager["Lag"] is None else str(manager["Lag"]),
            ]
        )
    yield render.table(rows)
    yield ""
    yield f"Quorum:        {found['Quorum']}"
    yield f"Store:         {_store_line(found['Store'])}"
    own, root = (_day(found["Certificates"][name]) for name in ("Manager", "Root"))
    yield f"Certificates:  this manager's until {own}, the swarm's root until {root}"
    last = found["LastBackup"]
    yield f"Last backup:   {render.ago(max(now - parse_rfc3339(last), 0)) if last else 'none is known'}"
    if found["Risks"]:
        yield ""
        yield "What would break it:"
        yield from (f"  - {render.plain(risk)}" for risk in found["Risks"])


def _store_line(store: Json) -> str:
    name = f"{store['Kind']} {store['Version']}".strip()
    size = binary_size_text(store["Size"])
    limit = f" of {binary_size_text(store['Limit'])}" if store["Limit"] else ""
    free = f", {binary_size_text(store['Free'])} free on its disk" if store["Free"] else ""
    return f"{name}, {size}{limit}, revision {store['Revision']}{free}"


def _day(moment: str) -> str:
    return moment.partition("T")[0]


@cluster.command()
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--plan", "is_plan_only", is_flag=True, help="Only show what would be done.")
@click.option("--format", "template", default="", help="Of the plan: json or a template like '{{.Danger}}'.")
@click.pass_obj
@refusals
def recover(host: str | None, yes: bool, is_plan_only: bool, template: str) -> None:
    """Let this manager go on alone, when too few are left for a quorum: shows what that means, and asks.

    \b
    Examples:
      skep cluster recover --plan
      skep cluster recover --yes
    """
    engine = Engine(host)
    plan = engine.get("/skep/cluster/recovery")
    click.echo(render.one(plan, template) if template else "\n".join(_plan_lines(plan)))
    if is_plan_only:
        return
    if not yes:
        click.confirm("\nGo on?", abort=True)
    engine.http.timeout_s = MANY_S
    node_id = engine.post("/swarm/init", {"ForceNewCluster": True, "ListenAddr": "0.0.0.0:2377"})
    click.echo(
        f"\nThis node ({node_id}) is the only manager now. Promote others once they are back: skep node promote NODE"
    )


def _plan_lines(plan: Json) -> Iterator[str]:
    if plan["Failure"]:
        yield f"The state cannot be read before: {render.plain(plan['Failure'])}\n"
    yield "This node will:"
    yield from (f"  {n}. {step}" for n, step in enumerate(plan["Steps"], 1))
    if plan["Nodes"]:
        yield ""
        header = ["NODE", "IS NOW", "WILL BE"]
        names = ([render.plain(node["Hostname"] or node["ID"]), node["Was"], node["Becomes"]] for node in plan["Nodes"])
        yield render.table([header, *names])
        yield f"\n{plan['Unchanged']} other node{'' if plan['Unchanged'] == 1 else 's'} will stay as they are."
    if plan["Losses"]:
        yield "\nWhat will be lost:"
        yield from (f"  - {loss}" for loss in plan["Losses"])
    if plan["Danger"]:
        yield f"\nWARNING! {plan['Danger'][0].upper()}{plan['Danger'][1:]}."


@cluster.group()
def store() -> None:
    """Choose where a manager keeps the swarm's state.

    \b
    Examples:
      skep cluster store sqlite
    """


@store.command()
@click.option("--data-dir", type=click.Path(path_type=Path), default=Path("/var/lib/skep"), show_default=True)
@click.option("--run-dir", type=click.Path(path_type=Path), default=Path("/run/skep"), show_default=True)
@click.option("--etcd", multiple=True, help="https://HOST:2379 of the external etcd that skepd was told of.")
@click.option("--etcd-ca", type=click.Path(path_type=Path), help="Root certificate of that etcd.")
@click.option("--etcd-cert", type=click.Path(path_type=Path), help="Certificate to show to it.")
@click.option("--etcd-key", type=click.Path(path_type=Path), help="Key of that certificate.")
def sqlite(
    data_dir: Path,
    run_dir: Path,
    etcd: tuple[str, ...],
    etcd_ca: Path | None,
    etcd_cert: Path | None,
    etcd_key: Path | None,
) -> None:
    """Move the state of a swarm with one manager back from etcd to a file; skepd must be stopped meanwhile.

    \b
    Examples:
      skep cluster store sqlite
      skep cluster store sqlite --etcd https://etcd1:2379 --etcd-ca ca.pem --etcd-cert cert.pem --etcd-key key.pem
    """
    # By name, as `main` does it: the daemon lies beside the command line, not below it.
    move, config = (importlib.import_module(f"skep.daemon.{name}") for name in ("store_commands", "config"))
    try:
        external = config.external_etcd(etcd, etcd_ca, etcd_cert, etcd_key)
        click.echo(move.to_sqlite(data_dir.absolute(), run_dir.absolute(), external=external))
    except SkepError as error:
        raise click.ClickException(str(error)) from error
