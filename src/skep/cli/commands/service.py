"""`skep service`: what runs in a swarm.

Edge: the terminal.
"""

import struct
import sys
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote

import click

from skep.cli import parse, progress, render, service_spec
from skep.cli.client import Engine, Json, parse_filters, refusals
from skep.cli.commands import explain, tasks
from skep.cli.options import filter_option, format_option, quiet_option
from skep.edge.unix_http import EngineRefused, StreamedReply

COLUMNS = {
    "ID": "ID",
    "Name": "NAME",
    "Mode": "MODE",
    "Replicas": "REPLICAS",
    "Image": "IMAGE",
    "Ports": "PORTS",
}
SHORT_ID = 12
FRAME_HEADER = struct.Struct(">BxxxL")


@click.group()
def service() -> None:
    """Manage services.

    \b
    skep service create --name web --replicas 3 -p 8080:80 nginx
    skep service ps web
    skep service scale web=5
    """


def _options(*made: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def give(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(made):
            command = option(command)
        return command

    return give


service.add_command(explain.service_why)
service.add_command(explain.rebalance)

dry_run_option = click.option("--dry-run", is_flag=True, help="Only show what would be placed where.")
detach_option = click.option("-d", "--detach", is_flag=True, help="Do not wait until it has converged.")


def _finish(engine: Engine, service_id: str, *, is_detached: bool, is_quiet: bool) -> None:
    if not is_detached:
        progress.follow(engine, service_id, is_quiet=is_quiet)


@service.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("image")
@click.argument("arguments", nargs=-1, metavar="[COMMAND] [ARG...]")
@_options(
    click.option("--name", help="Made up if not given."),
    click.option("--mode", type=click.Choice(list(service_spec.MODES)), default="replicated"),
    click.option("--network", multiple=True, help="NAME or name=NAME,alias=ALIAS; may be repeated."),
    click.option("-p", "--publish", multiple=True, help="8080:80 or published=8080,target=80,mode=host."),
    click.option("-e", "--env", multiple=True),
    click.option("--mount", multiple=True, help="type=bind,source=/a,target=/b,readonly"),
    click.option("--constraint", multiple=True, help="node.role==worker"),
    click.option("--placement-pref", multiple=True, help="spread=node.labels.zone"),
)
@service_spec.shared_options
@detach_option
@dry_run_option
@quiet_option
@click.pass_obj
@refusals
def create(
    host: str | None,
    /,
    image: str,
    arguments: tuple[str, ...],
    detach: bool,
    dry_run: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Make a service and wait until its tasks run."""
    engine = Engine(host)
    try:
        spec = service_spec.new_spec(image, arguments, options)
    except parse.BadNotation as error:
        raise click.UsageError(str(error)) from error
    if dry_run:
        explain.show_rehearsal(engine, spec)
        return
    answer = engine.post("/services/create", spec)
    for warning in answer.get("Warnings") or []:
        click.echo(warning, err=True)
    click.echo(answer["ID"])
    _finish(engine, answer["ID"], is_detached=detach, is_quiet=quiet)


@service.command()
@filter_option
@format_option
@quiet_option
@click.pass_obj
@refusals
def ls(host: str | None, filters: tuple[str, ...], template: str, quiet: bool) -> None:
    """List the services."""
    click.echo(listing(Engine(host).list("/services", parse_filters(filters), status=True), template, is_quiet=quiet))


def listing(found: Sequence[Json], template: str, *, is_quiet: bool) -> str:
    """The table of services that `service ls` and `stack services` print."""
    rows = [_row(service) for service in sorted(found, key=lambda s: str(s["Spec"]["Name"]))]
    return "\n".join(row["ID"] for row in rows) if is_quiet else render.listing(rows, COLUMNS, template)


def _row(found: Json) -> Json:
    spec, status = found["Spec"], found.get("ServiceStatus") or {}
    mode = next(iter(spec["Mode"]))
    maximum = (spec["TaskTemplate"].get("Placement") or {}).get("MaxReplicas")
    total = spec["Mode"].get("ReplicatedJob", {}).get("TotalCompletions")
    if mode == "GlobalJob":
        total = status.get("DesiredTasks", 0) + status.get("CompletedTasks", 0)
    ports = (found.get("Endpoint") or {}).get("Ports") or []
    return {
        "ID": found["ID"][:SHORT_ID],
        "Name": spec["Name"],
        "Mode": {"ReplicatedJob": "replicated job", "GlobalJob": "global job"}.get(mode, mode.lower()),
        "Replicas": f"{status.get('RunningTasks', 0)}/{status.get('DesiredTasks', 0)}"
        + (f" (max {maximum} per node)" if maximum else "")
        + (f" ({status.get('CompletedTasks', 0)}/{total} completed)" if total is not None else ""),
        "Image": spec["TaskTemplate"]["ContainerSpec"]["Image"].partition("@")[0],
        "Ports": ", ".join(
            f"*:{port['PublishedPort']}->{port['TargetPort']}/{port['Protocol']}"
            for port in ports
            if port.get("PublishMode") == "ingress"
        ),
    }


@service.command()
@click.argument("services", nargs=-1, required=True)
@filter_option
@format_option
@quiet_option
@click.option("--no-trunc", is_flag=True, help="Whole ids and errors.")
@click.pass_obj
@refusals
def ps(
    host: str | None, services: tuple[str, ...], filters: tuple[str, ...], template: str, quiet: bool, no_trunc: bool
) -> None:
    """List the tasks of services, with the reason where one does not run."""
    engine = Engine(host)
    chosen = parse_filters(filters)
    chosen["service"] = [engine.get(f"/services/{quote(reference)}")["ID"] for reference in services]
    click.echo(tasks.listing(engine, chosen, template, is_quiet=quiet, is_whole=no_trunc))


@service.command()
@click.argument("services", nargs=-1, required=True)
@format_option
@click.pass_obj
@refusals
def inspect(host: str | None, services: tuple[str, ...], template: str) -> None:
    """Show everything known of services, as JSON or by template."""
    engine = Engine(host)
    found = [engine.get(f"/services/{quote(reference)}", insertDefaults=True) for reference in services]
    click.echo(render.inspect(found, template))


@service.command()
@click.argument("reference", metavar="SERVICE")
@_options(
    click.option("--image"),
    click.option("--args", help="New arguments, as one text."),
    click.option("--force", is_flag=True, help="Replace the tasks even if nothing changed."),
    click.option("--rollback", is_flag=True, help="Go back to the spec before this one."),
    click.option("--env-add", multiple=True),
    click.option("--env-rm", multiple=True),
    click.option("--constraint-add", multiple=True),
    click.option("--constraint-rm", multiple=True),
    click.option("--label-add", multiple=True),
    click.option("--label-rm", multiple=True),
    click.option("--mount-add", multiple=True),
    click.option("--mount-rm", multiple=True),
    click.option("--network-add", multiple=True),
    click.option("--network-rm", multiple=True),
    click.option("--publish-add", multiple=True),
    click.option("--publish-rm", multiple=True),
)
@service_spec.shared_options
@detach_option
@dry_run_option
@quiet_option
@click.pass_obj
@refusals
def update(
    host: str | None, /, reference: str, detach: bool, dry_run: bool, quiet: bool, rollback: bool, **options: Any
) -> None:
    """Change a service and wait until the change has converged."""
    engine = Engine(host)
    found: Json = engine.get(f"/services/{quote(reference)}")
    spec = found["Spec"]
    if not rollback:
        try:
            spec = service_spec.changed_spec(spec, options)
        except parse.BadNotation as error:
            raise click.UsageError(str(error)) from error
    if dry_run:
        explain.show_rehearsal(engine, found["PreviousSpec"] if rollback else spec, found["ID"])
        return
    _update(engine, found, spec, rollback=rollback)
    click.echo(reference)
    _finish(engine, found["ID"], is_detached=detach, is_quiet=quiet)


def _update(engine: Engine, found: Json, spec: Json, *, rollback: bool = False) -> None:
    path = f"/services/{quote(found['ID'])}/update"
    answer = engine.post(path, spec, version=found["Version"]["Index"], rollback="previous" if rollback else None)
    for warning in (answer or {}).get("Warnings") or []:
        click.echo(warning, err=True)


@service.command()
@click.argument("reference", metavar="SERVICE")
@detach_option
@quiet_option
@click.pass_obj
@refusals
def rollback(host: str | None, reference: str, detach: bool, quiet: bool) -> None:
    """Go back to the spec before this one, and wait until that has converged."""
    engine = Engine(host)
    found: Json = engine.get(f"/services/{quote(reference)}")
    _update(engine, found, found["Spec"], rollback=True)
    click.echo(reference)
    _finish(engine, found["ID"], is_detached=detach, is_quiet=quiet)


@service.command()
@click.argument("scales", nargs=-1, required=True, metavar="SERVICE=REPLICAS...")
@detach_option
@click.pass_obj
@refusals
def scale(host: str | None, scales: tuple[str, ...], detach: bool) -> None:
    """Set the number of tasks of services."""
    engine = Engine(host)
    scaled: list[str] = []
    for text in scales:
        reference, _, number = text.partition("=")
        if not number.isdecimal():
            raise click.UsageError(f'invalid scale specifier "{text}": write SERVICE=REPLICAS')
        found: Json = engine.get(f"/services/{quote(reference)}")
        spec = found["Spec"]
        try:
            service_spec.apply_size(spec["Mode"], int(number), None)
        except parse.BadNotation as error:
            raise click.ClickException(f"{reference}: scale can only be used with replicated or job mode") from error
        _update(engine, found, spec)
        click.echo(f"{reference} scaled to {number}")
        scaled.append(found["ID"])
    for service_id in scaled:
        _finish(engine, service_id, is_detached=detach, is_quiet=False)


@service.command()
@click.argument("services", nargs=-1, required=True)
@click.pass_obj
@refusals
def rm(host: str | None, services: tuple[str, ...]) -> None:
    """Remove services; their tasks are stopped gracefully."""
    engine = Engine(host)
    failures: list[str] = []
    for reference in services:
        try:
            engine.delete(f"/services/{quote(reference)}")
            click.echo(reference)
        except EngineRefused as error:
            failures.append(error.message)
    if failures:
        raise click.ClickException("\n".join(failures))


@service.command()
@click.argument("reference", metavar="SERVICE|TASK")
@click.option("-f", "--follow", is_flag=True, help="Go on as new lines come.")
@click.option("-n", "--tail", default="all", show_default=True, help="Last lines only.")
@click.option("--since", default="", help="RFC 3339 or seconds since 1970.")
@click.option("-t", "--timestamps", is_flag=True)
@click.option("--raw", is_flag=True, help="Without the task's name before each line.")
@click.pass_obj
@refusals
def logs(host: str | None, reference: str, follow: bool, tail: str, since: str, timestamps: bool, raw: bool) -> None:
    """Show what the tasks of a service, or one task, have printed, wherever they ran."""
    engine = Engine(host)
    engine.http.timeout_s = None if follow else engine.http.timeout_s
    kind, found = _service_or_task(engine, reference)
    query = f"stdout=1&stderr=1&details=1&tail={quote(tail)}&since={quote(since)}"
    query += f"&follow={int(follow)}&timestamps={int(timestamps)}"
    names = _TaskNames(engine)
    try:
        with engine.http.stream("GET", f"/{kind}/{quote(found['ID'])}/logs?{query}") as stream:
            while frame := _frame(stream):
                channel, line = frame
                out = sys.stderr if channel == 2 else sys.stdout
                out.write(line if raw else names.label(line, has_timestamp=timestamps))
                out.flush()
    except KeyboardInterrupt:
        return


def _service_or_task(engine: Engine, reference: str) -> tuple[str, Json]:
    try:
        return "services", engine.get(f"/services/{quote(reference)}")
    except EngineRefused as error:
        if error.status != 404:
            raise
        return "tasks", engine.get(f"/tasks/{quote(reference)}")


def _frame(stream: StreamedReply) -> tuple[int, str] | None:
    header = stream.read(FRAME_HEADER.size)
    if len(header) < FRAME_HEADER.size:
        return None
    channel, length = FRAME_HEADER.unpack(header)
    return channel, stream.read(length).decode(errors="replace")


class _TaskNames:
    """Turns the ids before each log line into `web.1@node1`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.known: dict[str, str] = {}

    def label(self, line: str, *, has_timestamp: bool) -> str:
        head, _, rest = line.partition(" ")
        moment = ""
        if has_timestamp:
            moment, (head, _, rest) = f"{head} ", rest.partition(" ")
        details = dict(pair.partition("=")[::2] for pair in head.split(","))
        task_id = details.get("com.docker.swarm.task.id", "")
        if task_id and task_id not in self.known:
            self.known[task_id] = self._name(task_id, details)
        return f"{moment}{self.known.get(task_id, task_id)}    | {rest}"

    def _name(self, task_id: str, details: Json) -> str:
        task = self.engine.names("tasks", {task_id}).get(task_id, {})
        service_id, node_id = details["com.docker.swarm.service.id"], details["com.docker.swarm.node.id"]
        service = self.engine.names("services", {service_id}).get(service_id)
        node = self.engine.names("nodes", {node_id}).get(node_id)
        name = service["Spec"]["Name"] if service else service_id
        where = node["Description"]["Hostname"] if node else node_id
        return f"{name}.{task.get('Slot') or node_id}.{task_id[:SHORT_ID]}@{where}"
