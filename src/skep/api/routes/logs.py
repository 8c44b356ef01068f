"""Logs of services and tasks, gathered from wherever the tasks run.

Edge: HTTP. Without a terminal each line is a frame with an 8-byte header: channel, three zeros, length.
Source: moby's daemon/logs.go and api/server/httputils/write_log_stream.go; pkg/stdcopy for the frames.
"""

import asyncio
import contextlib
import struct
from collections.abc import Callable, Sequence

from aiohttp import web

from skep.api.backend import TaskLogEntry
from skep.api.call import Call
from skep.api.routes.events import moment
from skep.lib.durations import SECOND
from skep.lib.timestamps import format_rfc3339
from skep.model.errors import InvalidSpec, NotFound
from skep.model.task import Task
from skep.ports.runtime import LogOptions
from skep.stack.labels import NAMESPACE

MULTIPLEXED = "application/vnd.docker.multiplexed-stream"
RAW = "application/vnd.docker.raw-stream"


async def of_service(call: Call) -> web.StreamResponse:
    """GET /services/{id}/logs."""
    control = call.control
    service = control.find_service(call.params["id"])
    tasks = control.view.tasks.where("service", service.id)
    return await _send(call, tasks, lambda task: task.service_id == service.id)


async def of_task(call: Call) -> web.StreamResponse:
    """GET /tasks/{id}/logs."""
    return await _send(call, [call.control.find_task(call.params["id"])])


async def of_stack(call: Call) -> web.StreamResponse:
    """GET /skep/stacks/{name}/logs: of the tasks of every service that bears the stack's label."""
    view, name = call.control.view, call.params["name"]
    services = [each for each in view.services.values() if each.spec.labels.get(NAMESPACE) == name]
    if not services:
        raise NotFound(f"nothing found in stack: {name}; see which there are with skep stack ls")
    tasks = [task for service in services for task in view.tasks.where("service", service.id)]

    def is_of_stack(task: Task) -> bool:
        service = view.services.get(task.service_id)
        return service is not None and service.spec.labels.get(NAMESPACE) == name

    return await _send(call, tasks, is_of_stack, is_framed=True)


async def _send(
    call: Call,
    tasks: Sequence[Task],
    is_wanted: Callable[[Task], bool] | None = None,
    *,
    is_framed: bool = False,
) -> web.StreamResponse:
    """Send the logs of tasks, and of those wanted that come up meanwhile.

    Args:
        is_framed: Frames even if all tasks have terminals.
    """
    options = _options(call)
    until = moment(call.text("until"), "until")
    has_terminal = not is_framed and bool(tasks) and all(_has_terminal(task) for task in tasks)
    entries = call.control.service_logs(tasks, options, is_wanted)
    stream = await call.stream(RAW if has_terminal else MULTIPLEXED)
    with contextlib.suppress(TimeoutError):  # `until` is reached.
        async with asyncio.timeout(max(until - call.backend.clock.now(), 0) / SECOND if until else None):
            async for item in entries:
                if until and item.entry.timestamp > until:
                    continue
                line = _line(item, has_times=call.flag("timestamps"), has_details=call.flag("details"))
                await stream.write(line if has_terminal else _frame(item.entry.channel, line))
    await stream.write_eof()
    return stream


def _options(call: Call) -> LogOptions:
    if not (call.flag("stdout") or call.flag("stderr")):
        raise InvalidSpec("Bad parameters: you must choose at least one stream")
    tail = call.text("tail") or "all"
    if tail != "all" and not (tail.isascii() and tail.isdecimal() and len(tail) < 10):
        raise InvalidSpec(f"invalid tail '{tail}': it must be a number of lines, or all")
    return LogOptions(
        follow=call.flag("follow"),
        stdout=call.flag("stdout"),
        stderr=call.flag("stderr"),
        since=moment(call.text("since"), "since"),
        tail=-1 if tail == "all" else int(tail),
    )


def _has_terminal(task: Task) -> bool:
    return task.spec.container_spec is not None and task.spec.container_spec.tty


def _line(item: TaskLogEntry, *, has_times: bool, has_details: bool) -> bytes:
    """One line with what was asked for before it; the CLI takes the three ids apart to name the task."""
    prefix = f"{_fixed_time(item.entry.timestamp)} " if has_times else ""
    if has_details:
        task = item.task
        prefix += (
            f"com.docker.swarm.node.id={task.node_id},"
            f"com.docker.swarm.service.id={task.service_id},"
            f"com.docker.swarm.task.id={task.id} "
        )
    return prefix.encode() + item.entry.payload


def _fixed_time(nanoseconds: int) -> str:
    """RFC 3339 with always nine decimals, so that lines align."""
    whole = format_rfc3339(nanoseconds - nanoseconds % SECOND)
    return f"{whole[:-1]}.{nanoseconds % SECOND:09d}Z"


def _frame(channel: int, payload: bytes) -> bytes:
    return struct.pack(">BxxxL", channel, len(payload)) + payload
