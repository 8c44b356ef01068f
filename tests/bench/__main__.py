"""`python -m tests.bench`: measure what the project promises of its speed and size.

Edge: real namespaces, engines and daemons, all made here and removed again; one table on stdout, one JSON file.
"""

import argparse
import importlib
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench.figure import Figure, record, table

GROUPS = ("mesh", "first_packet", "propagation", "start", "schedule", "simulate", "store", "managers", "api")
DEFAULT_JSON = Path(__file__).parents[2] / "build" / "bench.json"


def main(arguments: Sequence[str]) -> int:
    """Run the groups asked for; the exit status says whether every target was met (0) or not (1)."""
    asked = _parse(arguments)
    if os.geteuid() != 0:
        print("the benchmarks need root, for namespaces and nftables; run them with sudo", file=sys.stderr)
        return 2
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    results: list[tuple[str, Figure]] = []
    for group in asked.only or GROUPS:
        started = time.monotonic()
        print(f"… {group}", file=sys.stderr, flush=True)
        module = importlib.import_module(f"tests.bench.{group}")
        results += [(group, figure) for figure in module.measure(quick=asked.quick)]
        print(f"… {group} took {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    print(table(results))
    _write(asked.json, results)
    print(f"\nwritten to {asked.json}")
    return 0 if all(figure.is_met for _, figure in results) else 1


def _interrupt(number: int, frame: object) -> None:
    """Stop where we are and clean up; asyncio's own handler would cancel the cleaning up instead."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--only", action="append", choices=GROUPS, help="this group only; may be repeated")
    parser.add_argument("--quick", action="store_true", help="fewer runs: to see that it works, not to compare")
    parser.add_argument("--json", type=Path, default=DEFAULT_JSON, help="where the figures go (default: %(default)s)")
    return parser.parse_args(arguments)


def _write(path: Path, results: Sequence[tuple[str, Figure]]) -> None:
    machine = {
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "load_after": os.getloadavg()[0],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    records = [record(group, figure) for group, figure in results]
    path.write_text(json.dumps({"machine": machine, "figures": records}, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
