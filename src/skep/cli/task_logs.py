"""Logs of tasks, each line with the name of the task that wrote it.

Edge: the daemon and the terminal. Source: docker/cli, command/service/logs.go.
"""

import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import click

from skep.cli.client import Engine, Json
from skep.cli.moments import MOMENT
from skep.edge.unix_http import StreamedReply

FRAME_HEADER = struct.Struct(">BxxxL")
STDERR = 2
SHORT_ID = 12


@dataclass(frozen=True, slots=True)
class LogView:
    """What of a log is shown and how; the fields are the options of `log_options` and `task_log_options`."""

    follow: bool
    tail: str
    since: str
    until: str
    timestamps: bool
    raw: bool = False
    details: bool = False
    no_resolve: bool = False
    no_trunc: bool = False
    no_task_ids: bool = False

    def query(self, *, has_details: bool) -> dict[str, object]:
        """For the daemon's `/logs`."""
        return {
            "stdout": True,
            "stderr": True,
            "follow": self.follow,
            "timestamps": self.timestamps,
            "details": has_details,
            "tail": self.tail,
            "since": self.since or None,
            "until": self.until or None,
        }


def log_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of every log."""
    for option in (
        click.option("-t", "--timestamps", is_flag=True, help="Put the time before each line."),
        click.option("--until", type=MOMENT, default="", help="Up to this moment."),
        click.option(
            "--since", type=MOMENT, default="", help="From a moment on: RFC 3339, seconds since 1970, or 10m."
        ),
        click.option("-n", "--tail", default="all", show_default=True, help="Last lines only."),
        click.option("-f", "--follow", is_flag=True, help="Go on as new lines come."),
    ):
        command = option(command)
    return command


def task_log_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of logs of several tasks."""
    for option in (
        click.option("--raw", is_flag=True, help="Without the task's name before each line."),
        click.option("--details", is_flag=True, help="With the ids of node, service and task."),
        click.option("--no-resolve", is_flag=True, help="Ids instead of names."),
        click.option("--no-trunc", is_flag=True, help="Whole ids."),
        click.option("--no-task-ids", is_flag=True, help="Without the tasks' ids."),
    ):
        command = option(command)
    return log_options(command)


def copy_frames(stream: StreamedReply) -> None:
    """Copy a multiplexed stream to stdout and stderr as it comes, to the byte."""
    while frame := read_frame(stream):
        channel, payload = frame
        write(sys.stderr.buffer if channel == STDERR else sys.stdout.buffer, payload)


def copy_raw(stream: StreamedReply) -> None:
    """Copy a terminal's output as it comes."""
    while data := stream.read_some():
        write(sys.stdout.buffer, data)


def write(out: BinaryIO, data: bytes) -> None:
    out.write(data)
    out.flush()


def read_frame(stream: StreamedReply) -> tuple[int, bytes] | None:
    """The next frame's channel and payload; None at the end."""
    header = stream.read(FRAME_HEADER.size)
    if len(header) < FRAME_HEADER.size:
        return None
    channel, length = FRAME_HEADER.unpack(header)
    return channel, stream.read(length)


def show(engine: Engine, path: str, view: LogView, *, has_terminal: bool) -> None:
    """Print the logs of tasks until they end or, where they are followed, until interrupted.

    Args:
        has_terminal: The tasks have terminals: their output is no sequence of lines, and is not labelled.
    """
    engine.http.timeout_s = None if view.follow else engine.http.timeout_s
    is_plain = has_terminal or (view.raw and not view.details)
    names = _Labels(engine, view)
    try:
        with engine.stream("GET", path, **view.query(has_details=not is_plain)) as stream:
            if has_terminal:
                copy_raw(stream)
            elif is_plain:
                copy_frames(stream)
            else:
                while frame := read_frame(stream):
                    channel, payload = frame
                    line = payload.decode(errors="replace")
                    click.echo(line if view.raw else names.label(line), nl=False, err=channel == STDERR)
    except KeyboardInterrupt:
        return


class _Labels:
    """Turns the ids before each log line into `web.1.<task>@node1`."""

    def __init__(self, engine: Engine, view: LogView) -> None:
        self._engine = engine
        self._view = view
        self._known: dict[str, str] = {}
        self._objects: dict[str, Json | None] = {}

    def label(self, line: str) -> str:
        head, _, rest = line.partition(" ")
        moment = ""
        if self._view.timestamps:
            moment, (head, _, rest) = f"{head} ", rest.partition(" ")
        details = dict(pair.partition("=")[::2] for pair in head.split(","))
        task_id = details.get("com.docker.swarm.task.id", "")
        if task_id not in self._known:
            self._known[task_id] = self._name(task_id, details)
        return f"{moment}{self._known[task_id]}    | {f'{head} ' if self._view.details else ''}{rest}"

    def _name(self, task_id: str, details: dict[str, str]) -> str:
        service_id = details.get("com.docker.swarm.service.id", "")
        node_id = details.get("com.docker.swarm.node.id", "")
        task = self._find("tasks", task_id) or {}
        name, where = service_id, node_id
        if not self._view.no_resolve:
            service, node = self._find("services", service_id), self._find("nodes", node_id)
            name = service["Spec"]["Name"] if service else service_id
            where = node["Description"]["Hostname"] if node else node_id
        shown = task_id if self._view.no_trunc else task_id[:SHORT_ID]
        place = f"{name}.{task.get('Slot') or node_id}"
        return f"{place if self._view.no_task_ids else f'{place}.{shown}'}@{where}"

    def _find(self, kind: str, id: str) -> Json | None:
        if id and id not in self._objects:
            self._objects[id] = self._engine.names(kind, {id}).get(id)
        return self._objects.get(id)
