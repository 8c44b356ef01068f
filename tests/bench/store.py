"""Durable commits on the SQLite store: one after the other, and of many writers at once.

Edge: a file in a directory of its own. What a sync costs is the disk's; the second figure shows that it is shared.
"""

import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench.figure import Bound, Figure, percentile

from skep.edge.sqlite import SqliteStore
from skep.ports.store import Write

N_WRITERS = 64
ROW = bytes(800)


def measure(*, quick: bool) -> Sequence[Figure]:
    """Rates and latencies of both."""
    return asyncio.run(_measure(n_runs=2 if quick else 5, n_commits=100 if quick else 300))


async def _measure(n_runs: int, n_commits: int) -> Sequence[Figure]:
    alone: list[Sequence[float]] = []
    together: list[Sequence[float]] = []
    ratios: list[float] = []
    rates: dict[int, list[float]] = {1: [], N_WRITERS: []}
    with tempfile.TemporaryDirectory(prefix="skep-bench-") as directory:
        store = await SqliteStore.open(Path(directory) / "store.db")
        try:
            for run in range(n_runs):
                for n_writers, latencies in ((1, alone), (N_WRITERS, together)):
                    started = time.perf_counter()
                    lanes = [_lane(store, f"{run}-{n_writers}-{lane}", n_commits) for lane in range(n_writers)]
                    latencies.append([taken for lane in await asyncio.gather(*lanes) for taken in lane])
                    rates[n_writers].append(n_writers * n_commits / (time.perf_counter() - started))
                ratios.append(rates[N_WRITERS][-1] / rates[1][-1])
        finally:
            await store.close()
    return [
        Figure("commits, one after the other", "/s", rates[1]),
        Figure("latency of those, p99", "ms", [percentile(run, 0.99) * 1000 for run in alone]),
        Figure(f"commits, {N_WRITERS} writers", "/s", rates[N_WRITERS]),
        Figure("latency of those, p99", "ms", [percentile(run, 0.99) * 1000 for run in together]),
        Figure(f"{N_WRITERS} writers over one", "x", ratios, Bound.AT_LEAST, 2, "group commit: they share syncs"),
    ]


async def _lane(store: SqliteStore, name: str, n_commits: int) -> Sequence[float]:
    taken: list[float] = []
    for number in range(n_commits):
        started = time.perf_counter()
        await store.commit([Write("task", f"{name}-{number}", ROW, 0)])
        taken.append(time.perf_counter() - started)
    return taken
