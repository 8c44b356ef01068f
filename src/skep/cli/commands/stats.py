"""`skep stats`: what tasks and containers use of processor, memory, network and disks.

Edge: the terminal, the clock.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import click

from skep.cli import objects, render
from skep.cli.client import Engine, Json, refusals
from skep.cli.complete import live
from skep.cli.options import format_option, no_trunc_option
from skep.edge.unix_http import EngineRefused

COLUMNS = {
    "ID": "CONTAINER ID",
    "Name": "NAME",
    "CPUPerc": "CPU %",
    "MemUsage": "MEM USAGE / LIMIT",
    "MemPerc": "MEM %",
    "NetIO": "NET I/O",
    "BlockIO": "BLOCK I/O",
    "PIDs": "PIDS",
}
SHORT_ID, AT_ONCE, PAUSE_S = 12, 16, 1.0
CLEAR = "\x1b[H\x1b[J"


@click.command()
@click.argument("names", nargs=-1, metavar="[TASK|CONTAINER...]", shell_complete=live("task"))
@click.option("-a", "--all", "is_all", is_flag=True, help="Also those that are stopped.")
@click.option("--no-stream", is_flag=True, help="Once only.")
@format_option
@no_trunc_option
@click.pass_obj
@refusals
def stats(
    host: str | None, names: tuple[str, ...], is_all: bool, no_stream: bool, template: str, no_trunc: bool
) -> None:
    """Show what tasks and containers use, again and again until interrupted; all of them if none is named.

    \b
    Examples:
      skep stats
      skep stats --no-stream --format '{{.Name}} {{.CPUPerc}} {{.MemUsage}}' web.1
    """
    sampler = _Sampler(Engine(host), is_whole=no_trunc)
    try:
        while True:
            shown = sampler.sample(names or sampler.listed(is_all=is_all))
            if no_stream and sampler.is_first:  # What the processor did takes two looks.
                time.sleep(PAUSE_S)
                shown = sampler.sample(names or sampler.listed(is_all=is_all))
            text = render.listing(shown, COLUMNS, template)
            if not no_stream and template in ("", "table"):
                click.echo(CLEAR, nl=False)
            objects.say(text)
            if no_stream:
                return
            time.sleep(PAUSE_S)
    except KeyboardInterrupt:
        return


class _Sampler:
    """Looks again and again. Attributes: is_first: some engine told of now alone, and there was no look before."""

    def __init__(self, engine: Engine, *, is_whole: bool) -> None:
        self.is_first = False
        self._engine = engine
        self._is_whole = is_whole
        self._before: dict[str, Json] = {}

    def listed(self, *, is_all: bool) -> list[str]:
        return [each["Id"] for each in self._engine.list("/containers/json", all=is_all)]

    def sample(self, names: Sequence[str]) -> list[Json]:
        """One row for each container; one that ended meanwhile is left out where several were asked for."""
        from concurrent.futures import ThreadPoolExecutor  # Imported late: completion needs none of it.

        def ask(name: str) -> Json | None:
            try:
                found: Json = self._engine.get(f"/containers/{quote(name, safe='')}/stats", stream="false")
            except EngineRefused as error:
                if error.status == objects.NOT_FOUND and len(names) > 1:
                    return None
                raise
            return found

        self.is_first = False
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return [self._row(name, found) for name, found in zip(names, pool.map(ask, names), strict=True) if found]

    def _row(self, name: str, found: Json) -> Json:
        if not (found.get("precpu_stats") or {}).get("system_cpu_usage"):  # Podman tells of now alone.
            self.is_first |= name not in self._before
            found["precpu_stats"] = self._before.get(name) or {}
        self._before[name] = found.get("cpu_stats") or {}
        return row(found, is_whole=self._is_whole)


def row(found: Mapping[str, Any], *, is_whole: bool) -> Json:
    """One answer by Docker's names for `--format`. Source: docker/cli, command/container/stats_helpers.go."""
    memory = found.get("memory_stats") or {}
    detail = memory.get("stats") or {}
    used = memory.get("usage", 0) - (detail.get("total_inactive_file") or detail.get("inactive_file") or 0)
    limit = memory.get("limit", 0)
    networks = (found.get("networks") or {}).values()
    received, sent = (sum(each.get(name, 0) for each in networks) for name in ("rx_bytes", "tx_bytes"))
    blocks = (found.get("blkio_stats") or {}).get("io_service_bytes_recursive") or ()
    read, written = (sum(each["value"] for each in blocks if each["op"].lower() == op) for op in ("read", "write"))
    id = str(found.get("id") or found.get("Id") or "")
    return {
        "ID": id if is_whole else id[:SHORT_ID],
        "Container": id if is_whole else id[:SHORT_ID],
        "Name": str(found.get("name") or "").removeprefix("/"),
        "CPUPerc": f"{cpu_percent(found):.2f}%",
        "MemUsage": f"{objects.binary_size_text(max(used, 0))} / {objects.binary_size_text(limit)}",
        "MemPerc": f"{100 * max(used, 0) / limit if limit else 0:.2f}%",
        "NetIO": f"{objects.size_text(received)} / {objects.size_text(sent)}",
        "BlockIO": f"{objects.size_text(read)} / {objects.size_text(written)}",
        "PIDs": str((found.get("pids_stats") or {}).get("current", 0)),
    }


def cpu_percent(found: Mapping[str, Any]) -> float:
    """Of one processor, since the sample before: 250 is two and a half of them."""
    now, before = found.get("cpu_stats") or {}, found.get("precpu_stats") or {}
    used = _usage(now) - _usage(before)
    passed = now.get("system_cpu_usage", 0) - before.get("system_cpu_usage", 0)
    count = now.get("online_cpus") or len((now.get("cpu_usage") or {}).get("percpu_usage") or ()) or 1
    return 100.0 * count * used / passed if used > 0 and passed > 0 else 0.0


def _usage(sample: Mapping[str, Any]) -> int:
    return int((sample.get("cpu_usage") or {}).get("total_usage", 0))
