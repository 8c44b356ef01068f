"""`skep exec` and `skep attach`: a task's or container's programs, wherever in the swarm they run.

Edge: the terminal.
"""

import signal
import sys
from contextlib import ExitStack
from typing import Any
from urllib.parse import quote

import click

from skep.cli import hijack
from skep.cli.client import Engine, Json, refusals
from skep.cli.complete import live


@click.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("-i", "--interactive", is_flag=True, help="Pass standard input on.")
@click.option("-t", "--tty", is_flag=True, help="Give it a terminal.")
@click.option("-d", "--detach", is_flag=True, help="Do not wait for its end.")
@click.option("-e", "--env", multiple=True, help="NAME=value; may be repeated.")
@click.option("-u", "--user", default="", help="name or uid, with :group if need be.")
@click.option("-w", "--workdir", default="", help="Working directory.")
@click.option("--privileged", is_flag=True, help="With all capabilities.")
@click.argument("reference", metavar="TASK|CONTAINER", shell_complete=live("task"))
@click.argument("command", nargs=-1, required=True, metavar="COMMAND [ARG...]", type=click.UNPROCESSED)
@click.pass_context
@refusals
def execute(ctx: click.Context, /, reference: str, command: tuple[str, ...], **options: Any) -> None:
    """Run a command in a task or container, wherever it is; ends with the command's exit status.

    \b
    Examples:
      skep exec -it web.1 sh
      skep exec web.1 cat /etc/hosts
      skep exec -i web.1 tar x -C /data < backup.tar
    """
    if options["tty"] and options["interactive"]:
        hijack.require_terminal()
    engine = Engine(ctx.obj)
    body = {
        "Cmd": list(command),
        "Env": list(options["env"]),
        "User": options["user"],
        "WorkingDir": options["workdir"],
        "Privileged": options["privileged"],
        "Tty": options["tty"],
        "AttachStdin": options["interactive"] and not options["detach"],
        "AttachStdout": not options["detach"],
        "AttachStderr": not options["detach"],
    }
    exec_id = engine.post(f"/containers/{quote(reference, safe='')}/exec", body)["Id"]
    path = f"/exec/{quote(exec_id)}"
    if options["detach"]:
        engine.post(f"{path}/start", {"Detach": True, "Tty": options["tty"]})
        return
    started = {"Detach": False, "Tty": options["tty"]}
    _carry(engine, f"{path}/start", started, path, has_terminal=options["tty"], has_input=options["interactive"])
    ctx.exit(engine.get(f"{path}/json").get("ExitCode") or 0)


@click.command()
@click.option("--no-stdin", is_flag=True, help="Only look.")
@click.option(
    "--sig-proxy", type=bool, is_flag=False, flag_value=True, default=False, help="Pass Ctrl-C and SIGTERM on to it."
)
@click.argument("reference", metavar="TASK|CONTAINER", shell_complete=live("task"))
@click.pass_context
@refusals
def attach(ctx: click.Context, reference: str, no_stdin: bool, sig_proxy: bool) -> None:
    """Connect to the program of a task or container; leaving leaves it running.

    \b
    Examples:
      skep attach --no-stdin web.1
    """
    engine = Engine(ctx.obj)
    path = f"/containers/{quote(reference, safe='')}"
    found: Json = engine.get(f"{path}/json")
    has_input = bool(found["Config"].get("OpenStdin")) and not no_stdin
    if has_input and found["Config"]["Tty"]:
        hijack.require_terminal()
    if sig_proxy:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda caught, _: engine.post(f"{path}/kill", signal=signal.Signals(caught).name))
    query = f"stream=1&stdout=1&stderr=1&stdin={int(has_input)}"
    _carry(engine, f"{path}/attach?{query}", None, path, has_terminal=found["Config"]["Tty"], has_input=has_input)
    ctx.exit(engine.get(f"{path}/json")["State"].get("ExitCode") or 0)


def _carry(engine: Engine, start: str, body: object, resized: str, *, has_terminal: bool, has_input: bool) -> None:
    """Connect the caller's terminal, or its standard input and output, to a stream until it ends."""
    is_typed = has_terminal and has_input
    if has_input and not is_typed and engine.http.tls is not None:
        raise click.UsageError("piped input does not get through TLS with an end; use the node's own socket, or docker")
    with ExitStack() as stack:
        connection, ahead = hijack.open_stream(engine, start, body)
        stack.callback(connection.close)
        if is_typed:
            stack.enter_context(
                hijack.raw_terminal(lambda rows, columns: engine.post(f"{resized}/resize", h=rows, w=columns))
            )
        try:
            stdin = sys.stdin.fileno() if has_input else None
            hijack.carry(connection, ahead, hijack.Output(is_framed=not has_terminal), stdin)
        except KeyboardInterrupt:
            return
