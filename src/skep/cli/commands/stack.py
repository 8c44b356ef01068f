"""`skep stack`: applications from Compose files.

Edge: the terminal and the files of the caller.
"""

import os
import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click

from skep.cli import render, stack_state
from skep.cli.client import Engine, parse_filters, refusals
from skep.cli.commands import service as services
from skep.cli.commands import tasks
from skep.cli.options import DURATION, filter_option, format_option, quiet_option
from skep.cli.stack_follow import Follow
from skep.cli.stack_state import Deployment, label_filter
from skep.stack import project as projects
from skep.stack import show
from skep.stack.compose import ComposeService, Project
from skep.stack.convergence import Judgement, Outcome
from skep.stack.convert import NAMESPACE
from skep.stack.errors import ComposeError, UnreadableFile
from skep.stack.plan import StackPlan, Step
from skep.stack.project import Source, start_order

P = ParamSpec("P")
R = TypeVar("R")
USUAL = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")
MAX_FILE_BYTES = 8 << 20
STANDARD_INPUT = "-"
COLUMNS = {"Name": "NAME", "Services": "SERVICES"}


@click.group()
def stack() -> None:
    """Manage applications that are described by Compose files.

    \b
    skep stack deploy -c compose.yaml shop
    skep stack deploy --dry-run -c compose.yaml shop
    skep stack ps shop
    """


def _compose_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Let a command end with the lines of what is wrong with the files."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except ComposeError as error:
            raise click.ClickException(render.plain_lines(str(error))) from error

    return run


def _file_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--profile", "profiles", multiple=True, help="Take part in a profile; * for all."),
        click.option("-c", "--compose-file", "files", multiple=True, help="Compose file, - for standard input."),
    ):
        command = option(command)
    return command


def _load(files: tuple[str, ...], profiles: tuple[str, ...]) -> Project:
    chosen = files or _usual_files()
    first = chosen[0]
    directory = Path.cwd() if first == STANDARD_INPUT else Path(first).absolute().parent
    named = profiles or tuple(filter(None, os.environ.get("COMPOSE_PROFILES", "").split(",")))
    source = Source(chosen, str(directory), _read, dict(os.environ), frozenset(named))
    return projects.load(source)


def _usual_files() -> tuple[str, ...]:
    if named := os.environ.get("COMPOSE_FILE"):
        return tuple(named.split(os.environ.get("COMPOSE_PATH_SEPARATOR", os.pathsep)))
    found = next((name for name in USUAL if Path(name).exists()), None)
    if found is None:
        raise ComposeError(None, f"there is no {USUAL[0]} here; name a Compose file with -c")
    return (found,)


def _read(path: str) -> bytes:
    try:
        if path == STANDARD_INPUT:
            content = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        else:
            with open(path, "rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise UnreadableFile(getattr(error, "strerror", None) or str(error)) from error
    if len(content) > MAX_FILE_BYTES:
        raise UnreadableFile(f"it is larger than {MAX_FILE_BYTES} bytes")
    return content


@stack.command()
@click.argument("name", required=False)
@_file_options
@click.option("--prune", is_flag=True, help="Remove the stack's services that are no longer in the files.")
@click.option("--dry-run", is_flag=True, help="Show what would be done, field by field, and do nothing.")
@click.option("-d", "--detach", is_flag=True, help="Do not wait until it has converged, nor for what services need.")
@click.option("--timeout", type=DURATION, default="5m", show_default=True, help="How long to wait.")
@quiet_option
@click.pass_context
@refusals
@_compose_errors
def deploy(
    ctx: click.Context, /, name: str | None, files: tuple[str, ...], profiles: tuple[str, ...], **options: Any
) -> None:
    """Make a stack be what its Compose files say, and wait until it is.

    \b
    Exit status: 0 it has converged, 1 it failed or was rolled back,
    2 some tasks fit on no node, 3 the time was over.
    """
    project = _load(files, profiles)
    chosen = name or project.name
    if not chosen:
        raise click.UsageError("give the stack's name, here or as `name:` in the file")
    for note in project.notes:
        click.echo(render.plain(note), err=True)

    def say(line: str) -> None:
        if not options["quiet"]:
            click.echo(render.plain(line))

    deployment = Deployment(Engine(ctx.obj), chosen, project, say, options["prune"])
    planned = deployment.plan()
    if planned.problems:
        raise click.ClickException(render.plain_lines("\n".join(planned.problems)))
    if options["dry_run"]:
        click.echo(render.plain_lines("\n".join(show.plan_lines(planned))))
        return
    deadline = time.monotonic() + options["timeout"] / 1e9
    follow = Follow(deployment.engine, chosen, deadline, say)
    ctx.exit(_carry_out(deployment, planned, follow, is_detached=options["detach"]))


def _carry_out(deployment: Deployment, planned: StackPlan, follow: Follow, *, is_detached: bool) -> Outcome:
    planned = deployment.prepare(planned)
    steps = {step.key: step for step in planned.of("service") if step.key}
    for step in planned.of("service", "remove"):
        deployment.write_service(step)
    for wave in start_order(deployment.project.services):
        for key in wave:
            step = steps[key]
            if step.verb == "keep":
                continue
            if not is_detached and (ended := _await(follow, deployment.project.services[key], step)):
                return ended
            deployment.write_service(step)
            follow.changed.add(step.name)
    if is_detached:
        return Outcome.CONVERGED
    ended, judgements = follow.wait_converged([step.name for step in steps.values()])
    _report(ended, judgements)
    if ended is Outcome.CONVERGED:
        did = "converged" if follow.changed else "runs as described; nothing was changed"
        deployment.say(f"Stack {deployment.stack} {did}")
    return ended


def _await(follow: Follow, service: ComposeService, step: Step) -> Outcome | None:
    """Wait for what a service depends on; answers what to end with if that will not come."""
    if not service.depends_on:
        return None
    ended, judgements = follow.wait_dependencies(service)
    if ended is Outcome.CONVERGED:
        return None
    needed = ", ".join(dependency.service for dependency in service.depends_on)
    click.echo(f"{step.name} was not deployed: it waits for {needed}", err=True)
    _report(ended, judgements)
    return ended


def _report(ended: Outcome, judgements: list[Judgement]) -> None:
    if ended is Outcome.CONVERGED:
        return
    sentence = {
        Outcome.FAILED: "The deployment failed",
        Outcome.UNPLACEABLE: "Some tasks fit on no node",
        Outcome.TIMED_OUT: "The time was over before the stack had converged",
    }
    click.echo(f"{sentence[ended]}:", err=True)
    for judgement in judgements:
        for reason in judgement.reasons or ([judgement.line] if judgement.running < judgement.wanted else []):
            click.echo(f"  {render.plain(reason)}", err=True)


@stack.command()
@_file_options
@_compose_errors
def config(files: tuple[str, ...], profiles: tuple[str, ...]) -> None:
    """Show what the Compose files say once they are merged and filled in; fails if they are wrong."""
    project = _load(files, profiles)
    for note in project.notes:
        click.echo(render.plain(note), err=True)
    click.echo(show.as_yaml(project.tree), nl=False)


@stack.command()
@format_option
@click.pass_obj
@refusals
def ls(host: str | None, template: str) -> None:
    """List the stacks."""
    counts: dict[str, int] = {}
    for found in Engine(host).list("/services", {"label": [NAMESPACE]}):
        name = found["Spec"]["Labels"][NAMESPACE]
        counts[name] = counts.get(name, 0) + 1
    rows = [{"Name": name, "Services": str(counts[name]), "Orchestrator": "Swarm"} for name in sorted(counts)]
    click.echo(render.listing(rows, COLUMNS, template))


@stack.command()
@click.argument("name")
@filter_option
@format_option
@quiet_option
@click.option("--no-trunc", is_flag=True, help="Whole ids and errors.")
@click.pass_obj
@refusals
def ps(host: str | None, name: str, filters: tuple[str, ...], template: str, quiet: bool, no_trunc: bool) -> None:
    """List the tasks of a stack, with the reason where one does not run."""
    engine = Engine(host)
    own = [found["ID"] for found in engine.list("/services", label_filter(name))]
    if not own:
        raise click.ClickException(f"nothing found in stack: {name}")
    chosen = {**parse_filters(filters), "service": own}
    click.echo(tasks.listing(engine, chosen, template, is_quiet=quiet, is_whole=no_trunc))


@stack.command("services")
@click.argument("name")
@filter_option
@format_option
@quiet_option
@click.pass_obj
@refusals
def list_services(host: str | None, name: str, filters: tuple[str, ...], template: str, quiet: bool) -> None:
    """List the services of a stack."""
    chosen = parse_filters(filters)
    chosen.setdefault("label", []).extend(label_filter(name)["label"])
    found = Engine(host).list("/services", chosen, status=True)
    if not found:
        raise click.ClickException(f"nothing found in stack: {name}")
    click.echo(services.listing(found, template, is_quiet=quiet))


@stack.command()
@click.argument("names", nargs=-1, required=True)
@click.pass_obj
@refusals
def rm(host: str | None, names: tuple[str, ...]) -> None:
    """Remove stacks: their services, secrets, configs and networks. Volumes stay."""
    engine = Engine(host)
    for name in names:
        if not stack_state.remove(engine, name, click.echo):
            click.echo(f"Nothing found in stack: {name}", err=True)
