"""Compose files read from where the caller is, and a stack made to be what they say.

Edge: the caller's files and environment, the terminal, the daemon.
"""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

import click

from skep.cli import render
from skep.cli.client import Engine
from skep.cli.stack_follow import Follow
from skep.cli.stack_state import Deployment
from skep.stack import project as projects
from skep.stack import show
from skep.stack.compose import ComposeService, Project
from skep.stack.convergence import Judgement, Outcome
from skep.stack.errors import ComposeError, UnreadableFile
from skep.stack.plan import StackPlan, Step
from skep.stack.project import Source, start_order

P = ParamSpec("P")
R = TypeVar("R")
USUAL = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")
MAX_FILE_BYTES = 8 << 20
STANDARD_INPUT = "-"


@dataclass(frozen=True, slots=True)
class Wish:
    """What `stack deploy` was asked for. Attributes: timeout: in nanoseconds."""

    name: str
    files: tuple[str, ...]
    profiles: tuple[str, ...]
    prune: bool
    dry_run: bool
    detach: bool
    quiet: bool
    timeout: int
    with_registry_auth: bool = False


def compose_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Let a command end with the lines of what is wrong with the files."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except ComposeError as error:
            raise click.ClickException(render.plain_lines(str(error))) from error

    return run


@compose_errors
def deploy(engine: Engine, wish: Wish) -> Outcome:
    """Carry a deployment out, or only show it."""
    project = load(wish.files, wish.profiles)
    name = wish.name or project.name
    if not name:
        raise click.UsageError("give the stack's name, here or as `name:` in the file")
    for note in project.notes:
        click.echo(render.plain(note), err=True)

    def say(line: str) -> None:
        if not wish.quiet:
            click.echo(render.plain(line))

    deployment = Deployment(engine, name, project, say, wish.prune, wish.with_registry_auth)
    planned = deployment.plan()
    if planned.problems:
        raise click.ClickException(render.plain_lines("\n".join(planned.problems)))
    if wish.dry_run:
        click.echo(render.plain_lines("\n".join(show.plan_lines(planned))))
        return Outcome.CONVERGED
    follow = Follow(engine, name, time.monotonic() + wish.timeout / 1e9, say)
    return _carry_out(deployment, planned, follow, is_detached=wish.detach)


@compose_errors
def print_merged(files: tuple[str, ...], profiles: tuple[str, ...]) -> None:
    """Print what the files say once they are merged and filled in."""
    project = load(files, profiles)
    for note in project.notes:
        click.echo(render.plain(note), err=True)
    click.echo(show.as_yaml(project.tree), nl=False)


def load(files: tuple[str, ...], profiles: tuple[str, ...]) -> Project:
    """Read Compose files, the usual ones if none are named."""
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


def _carry_out(deployment: Deployment, planned: StackPlan, follow: Follow, *, is_detached: bool) -> Outcome:
    planned = deployment.prepare(planned)
    steps = {step.key: step for step in planned.of("service") if step.key}
    for step in planned.of("service", "remove"):
        deployment.write_service(step)
    for wave in start_order(deployment.project.services):
        for key in wave:
            step = steps[key]
            if step.verb == "keep":
                deployment.renew_login(step)
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
