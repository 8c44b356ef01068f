"""`skep stack`: applications from Compose files.

Edge: the terminal. What reads Compose files is loaded only by the commands that do.
"""

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import click

from skep.cli import objects, render, task_logs
from skep.cli.client import Engine, parse_filters, refusals
from skep.cli.commands import service as services
from skep.cli.commands import tasks
from skep.cli.complete import live
from skep.cli.options import DURATION, filter_option, format_option, quiet_option
from skep.stack.labels import NAMESPACE, label_filter

COLUMNS = {"Name": "NAME", "Services": "SERVICES"}


@click.group()
def stack() -> None:
    """Manage applications that are described by Compose files.

    \b
    Examples:
      skep stack deploy -c compose.yaml shop
      skep stack deploy --dry-run -c compose.yaml shop
      skep stack ps shop
    """


def _file_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--profile", "profiles", multiple=True, help="Take part in a profile; * for all."),
        click.option("-c", "--compose-file", "files", multiple=True, help="Compose file, - for standard input."),
    ):
        command = option(command)
    return command


@stack.command()
@click.argument("name", required=False, shell_complete=live("stack"))
@_file_options
@click.option("--prune", is_flag=True, help="Remove the stack's services that are no longer in the files.")
@click.option("--dry-run", is_flag=True, help="Show what would be done, field by field, and do nothing.")
@click.option("-d", "--detach", is_flag=True, help="Do not wait until it has converged, nor for what services need.")
@click.option("--with-registry-auth", is_flag=True, help="Give the nodes what docker login left for the registries.")
@click.option("--timeout", type=DURATION, default="5m", show_default=True, help="How long to wait.")
@quiet_option
@click.pass_context
@refusals
def deploy(ctx: click.Context, /, name: str | None, **wish: Any) -> None:
    """Make a stack be what its Compose files say, and wait until it is.

    \b
    Exit status: 0 it has converged, 1 it failed or was rolled back,
    2 some tasks fit on no node, 3 the time was over.

    \b
    Examples:
      skep stack deploy -c compose.yaml shop
      skep stack deploy -c compose.yaml -c compose.prod.yaml --prune --timeout 10m shop
      skep stack deploy --dry-run -c compose.yaml shop
    """
    from skep.cli import stack_deploy  # Imported late: YAML is slow to load.

    ctx.exit(stack_deploy.deploy(Engine(ctx.obj), stack_deploy.Wish(name=name or "", **wish)))


@stack.command()
@_file_options
def config(files: tuple[str, ...], profiles: tuple[str, ...]) -> None:
    """Show what the Compose files say once they are merged and filled in; fails if they are wrong.

    \b
    Examples:
      skep stack config -c compose.yaml
    """
    from skep.cli import stack_deploy  # Imported late: YAML is slow to load.

    stack_deploy.print_merged(files, profiles)


@stack.command()
@format_option
@click.pass_obj
@refusals
def ls(host: str | None, template: str) -> None:
    """List the stacks.

    \b
    Examples:
      skep stack ls
      skep stack ls --format '{{.Name}}'
    """
    counts: dict[str, int] = {}
    for found in Engine(host).list("/services", {"label": [NAMESPACE]}):
        name = found["Spec"]["Labels"][NAMESPACE]
        counts[name] = counts.get(name, 0) + 1
    rows = [{"Name": name, "Services": str(counts[name]), "Orchestrator": "Swarm"} for name in sorted(counts)]
    objects.say(render.listing(rows, COLUMNS, template))


@stack.command()
@click.argument("name", shell_complete=live("stack"))
@tasks.shape_options
@click.pass_obj
@refusals
def ps(host: str | None, /, name: str, filters: tuple[str, ...], **shape: Any) -> None:
    """List the tasks of a stack, with the reason where one does not run.

    \b
    Examples:
      skep stack ps shop
      skep stack ps --no-trunc --filter desired-state=running shop
    """
    engine = Engine(host)
    own = [found["ID"] for found in engine.list("/services", label_filter(name))]
    if not own:
        raise click.ClickException(f"nothing found in stack: {name}; `skep stack ls` has the names")
    chosen = {**parse_filters(filters), "service": own}
    objects.say(tasks.listing(engine, chosen, tasks.Shape(**shape)))


@stack.command("services")
@click.argument("name", shell_complete=live("stack"))
@filter_option
@format_option
@quiet_option
@click.pass_obj
@refusals
def list_services(host: str | None, name: str, filters: tuple[str, ...], template: str, quiet: bool) -> None:
    """List the services of a stack.

    \b
    Examples:
      skep stack services shop
      skep stack services --format '{{.Name}} {{.Replicas}}' shop
    """
    chosen = parse_filters(filters)
    chosen.setdefault("label", []).extend(label_filter(name)["label"])
    found = Engine(host).list("/services", chosen, status=True)
    if not found:
        raise click.ClickException(f"nothing found in stack: {name}; `skep stack ls` has the names")
    services.show_services(found, template, is_quiet=quiet)


@stack.command()
@click.argument("name", shell_complete=live("stack"))
@task_logs.task_log_options
@click.pass_obj
@refusals
def logs(host: str | None, /, name: str, **view: Any) -> None:
    """Show what the tasks of all services of a stack have printed, by time.

    \b
    Examples:
      skep stack logs --tail 20 shop
      skep stack logs --follow --timestamps shop
    """
    task_logs.show(Engine(host), f"/skep/stacks/{quote(name)}/logs", task_logs.LogView(**view), has_terminal=False)


@stack.command()
@click.argument("names", nargs=-1, required=True, shell_complete=live("stack"))
@click.pass_obj
@refusals
def rm(host: str | None, names: tuple[str, ...]) -> None:
    """Remove stacks: their services, secrets, configs and networks. Volumes stay.

    \b
    Examples:
      skep stack rm shop
    """
    from skep.cli import stack_state  # Imported late: it brings the planner along.

    engine = Engine(host)
    for name in names:
        if not stack_state.remove(engine, name, click.echo):
            click.echo(f"Nothing found in stack: {name}", err=True)
