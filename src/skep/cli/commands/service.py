"""`skep service`: what runs in a swarm.

Edge: the terminal.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from skep.cli import objects, parse, pretty, service_lists, service_spec, task_logs
from skep.cli.client import Engine, Json, parse_filters, refusals
from skep.cli.commands import explain, tasks
from skep.cli.complete import live
from skep.cli.options import filter_option, format_option, quiet_option, short_format_option
from skep.edge.unix_http import EngineRefused

COLUMNS = {
    "ID": "ID",
    "Name": "NAME",
    "Mode": "MODE",
    "Replicas": "REPLICAS",
    "Image": "IMAGE",
    "Ports": "PORTS",
}
SHORT_ID = 12


@click.group()
def service() -> None:
    """Manage services.

    \b
    Examples:
      skep service create --name web --replicas 3 -p 8080:80 nginx
      skep service ps web
      skep service scale web=5
    """


FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@contextmanager
def _notations() -> Iterator[None]:
    """Turns an option that cannot be read into a usage error."""
    try:
        yield
    except parse.BadNotation as error:
        raise click.UsageError(str(error)) from error


def _lookup(engine: Engine) -> service_lists.Lookup:
    """Ids by kind and name: specs name networks, secrets and configs by id.

    A network that the swarm does not have keeps its name: it may be one that every node has, such as `host`.
    """

    def find(kind: str, name: str) -> str:
        try:
            found: Json = engine.get(f"/{kind}s/{quote(name)}", scope="swarm" if kind == "network" else None)
        except EngineRefused as error:
            if kind != "network" or error.status != objects.NOT_FOUND:
                raise
            return name
        return str(found.get("ID") or found["Id"])

    return find


def _env_of(files: Sequence[Path]) -> list[str]:
    """The variables of files: `NAME=value`, or `NAME` for what the caller's own environment has."""
    found: list[str] = []
    for file in files:
        for line in file.read_text(errors="replace").splitlines():
            name, separator, _ = line.strip().partition("=")
            if not name or name.startswith("#"):
                continue
            if separator:
                found.append(line.strip())
            elif name in os.environ:
                found.append(f"{name}={os.environ[name]}")
    return found


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
        from skep.cli import progress  # Imported late: most commands wait for nothing.

        progress.follow(engine, service_id, is_quiet=is_quiet)


@service.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("image")
@click.argument("arguments", nargs=-1, metavar="[COMMAND] [ARG...]")
@_options(
    click.option("--name", help="Made up if not given."),
    click.option("--mode", type=click.Choice(list(service_spec.MODES)), default="replicated", show_default=True),
    click.option("--env-file", "env_files", type=FILE, multiple=True, help="Variables from a file, a line each."),
    service_lists.create_options,
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
    """Make a service and wait until its tasks run.

    \b
    Examples:
      skep service create --name web --replicas 3 -p 8080:80 nginx
      skep service create --name db --secret db.pass --mount source=data,target=/data postgres
      skep service create --dry-run --constraint node.labels.zone==east nginx
    """
    engine = Engine(host)
    options["env"] = (*_env_of(options.pop("env_files")), *options["env"])
    with _notations():
        spec = service_spec.new_spec(image, arguments, options, _lookup(engine))
    if dry_run:
        explain.show_rehearsal(engine, spec)
        return
    from skep.cli import registry_login  # Imported late: it brings the model of images along.

    login = registry_login.auth_header(image) if options["with_registry_auth"] else ""
    if not options["no_resolve_image"]:
        registry_login.pinned(engine, spec, login)
    answer = engine.post_with_login("/services/create", spec, login)
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
    """List the services.

    \b
    Examples:
      skep service ls
      skep service ls --filter mode=global --format '{{.Name}} {{.Replicas}}'
    """
    show_services(Engine(host).list("/services", parse_filters(filters), status=True), template, is_quiet=quiet)


def show_services(found: Sequence[Json], template: str, *, is_quiet: bool) -> None:
    """The table of services that `service ls` and `stack services` print."""
    rows = [_row(service) for service in sorted(found, key=lambda s: str(s["Spec"]["Name"]))]
    objects.show_list(rows, COLUMNS, template, is_quiet=is_quiet)


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
@click.argument("services", nargs=-1, required=True, shell_complete=live("service"))
@tasks.shape_options
@click.pass_obj
@refusals
def ps(host: str | None, /, services: tuple[str, ...], filters: tuple[str, ...], **shape: Any) -> None:
    """List the tasks of services, with the reason where one does not run.

    \b
    Examples:
      skep service ps web
      skep service ps --no-trunc --filter desired-state=running web db
    """
    engine = Engine(host)
    chosen = parse_filters(filters)
    chosen["service"] = [engine.get(f"/services/{quote(reference)}")["ID"] for reference in services]
    objects.say(tasks.listing(engine, chosen, tasks.Shape(**shape)))


@service.command()
@click.argument("services", nargs=-1, required=True, shell_complete=live("service"))
@short_format_option
@pretty.pretty_option
@click.pass_obj
@refusals
def inspect(host: str | None, services: tuple[str, ...], template: str, is_pretty: bool) -> None:
    """Show everything known of services, as JSON, by template, or to be read.

    \b
    Examples:
      skep service inspect --pretty web
      skep service inspect --format '{{json .Endpoint.VirtualIPs}}' web
    """
    engine = Engine(host)
    found = [engine.get(f"/services/{quote(reference)}", insertDefaults=True) for reference in services]
    if is_pretty:
        networks = {each["Id"]: each["Name"] for each in engine.list("/networks")}
        found = [pretty.name_networks(each, networks) for each in found]
    click.echo(pretty.show(found, pretty.service_lines, template, is_pretty=is_pretty))


@service.command()
@click.argument("reference", metavar="SERVICE", shell_complete=live("service"))
@_options(
    click.option("--image", help="The image it is to run."),
    click.option("--args", help="New arguments, as one text."),
    click.option("--force", is_flag=True, help="Replace the tasks even if nothing changed."),
    click.option("--rollback", is_flag=True, help="Go back to the spec before this one."),
    service_lists.update_options,
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
    """Change a service and wait until the change has converged.

    \b
    Examples:
      skep service update --image nginx:1.27 web
      skep service update --secret-rm db.pass --secret-add source=db.pass2,target=db.pass db
      skep service update --force --update-parallelism 2 web
    """
    engine = Engine(host)
    found: Json = engine.get(f"/services/{quote(reference)}")
    spec = found["Spec"]
    if not rollback:
        with _notations():
            spec = service_spec.changed_spec(spec, options, _lookup(engine))
    if dry_run:
        explain.show_rehearsal(engine, found["PreviousSpec"] if rollback else spec, found["ID"])
        return
    from skep.cli import registry_login  # Imported late: as above.

    image = spec["TaskTemplate"]["ContainerSpec"]["Image"]
    login = registry_login.auth_header(image) if options["with_registry_auth"] else ""
    if options["image"] and not rollback and not options["no_resolve_image"]:
        registry_login.pinned(engine, spec, login)
    _update(engine, found, spec, rollback=rollback, login=login)
    click.echo(reference)
    _finish(engine, found["ID"], is_detached=detach, is_quiet=quiet)


def _update(engine: Engine, found: Json, spec: Json, *, rollback: bool = False, login: str = "") -> None:
    path = f"/services/{quote(found['ID'])}/update"
    query = {"version": found["Version"]["Index"], "rollback": "previous" if rollback else None}
    answer = engine.post_with_login(path, spec, login, **query)
    for warning in (answer or {}).get("Warnings") or []:
        click.echo(warning, err=True)


@service.command()
@click.argument("reference", metavar="SERVICE", shell_complete=live("service"))
@detach_option
@quiet_option
@click.pass_obj
@refusals
def rollback(host: str | None, reference: str, detach: bool, quiet: bool) -> None:
    """Go back to the spec before this one, and wait until that has converged.

    \b
    Examples:
      skep service rollback web
    """
    engine = Engine(host)
    found: Json = engine.get(f"/services/{quote(reference)}")
    _update(engine, found, found["Spec"], rollback=True)
    click.echo(reference)
    _finish(engine, found["ID"], is_detached=detach, is_quiet=quiet)


@service.command()
@click.argument("scales", nargs=-1, required=True, metavar="SERVICE=REPLICAS...", shell_complete=live("scale"))
@detach_option
@click.pass_obj
@refusals
def scale(host: str | None, scales: tuple[str, ...], detach: bool) -> None:
    """Set the number of tasks of services.

    \b
    Examples:
      skep service scale web=5 worker=2
    """
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
@click.argument("services", nargs=-1, required=True, shell_complete=live("service"))
@click.pass_obj
@refusals
def rm(host: str | None, services: tuple[str, ...]) -> None:
    """Remove services; their tasks are stopped gracefully.

    \b
    Examples:
      skep service rm web db
    """
    objects.remove(Engine(host), {reference: f"/services/{quote(reference)}" for reference in services})


@service.command()
@click.argument("reference", metavar="SERVICE|TASK", shell_complete=live("service", "task"))
@task_logs.task_log_options
@click.pass_obj
@refusals
def logs(host: str | None, /, reference: str, **view: Any) -> None:
    """Show what the tasks of a service, or one task, have printed, wherever they ran.

    \b
    Examples:
      skep service logs --tail 20 web
      skep service logs --follow --since 10m web
      skep service logs web.1
    """
    engine = Engine(host)
    kind, found = _service_or_task(engine, reference)
    template = found["Spec"]["TaskTemplate"] if kind == "services" else found["Spec"]
    has_terminal = bool((template.get("ContainerSpec") or {}).get("TTY"))
    task_logs.show(engine, f"/{kind}/{quote(found['ID'])}/logs", task_logs.LogView(**view), has_terminal=has_terminal)


def _service_or_task(engine: Engine, reference: str) -> tuple[str, Json]:
    try:
        return "services", engine.get(f"/services/{quote(reference)}")
    except EngineRefused as error:
        if error.status != objects.NOT_FOUND:
            raise
        return "tasks", engine.get(f"/tasks/{quote(reference)}")
