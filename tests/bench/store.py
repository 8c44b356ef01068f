"""Durable commits on SQLite and on three members of etcd: one after the other, and of many writers at once.

Edge: files in a directory of their own, etcd on loopback with all three members on this one machine and disk. What a
sync costs is the disk's; the ratio shows that it is shared.
"""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.bench.figure import Bound, Figure, percentile
from tests.etcd_members import running

from skep.edge.etcd.store import EtcdStore
from skep.edge.sqlite import SqliteStore
from skep.ports.store import Store, Write

N_WRITERS = 64
ROW = bytes(800)


@dataclass(frozen=True, slots=True)
class Subject:
    """A store to measure. Attributes: n_commits: of each writer, in each run; note: on what limits it."""

    name: str
    open: Callable[[], Awaitable[Store]]
    n_commits: int
    note: str


def measure(*, quick: bool) -> Sequence[Figure]:
    """Rates and latencies of both stores, with one writer and with many."""
    n_runs = 2 if quick else 5
    with tempfile.TemporaryDirectory(prefix="skep-bench-") as folder:
        directory = Path(folder)
        sqlite = Subject(
            "SQLite",
            lambda: SqliteStore.open(directory / "store.db"),
            100 if quick else 300,
            "group commit: they share syncs",
        )
        figures = list(asyncio.run(_measure(sqlite, n_runs)))
        # Of the rest only this is promised: what etcd makes of a disk that three members share is not ours.
        figures[-1] = replace(figures[-1], bound=Bound.AT_LEAST, target=2)
        with running(directory / "etcd", 3) as members:
            etcd = Subject(
                "etcd",
                lambda: EtcdStore.open(members.target(), "bench", "m0"),
                20 if quick else 60,
                "three members on one machine and disk: each commit is synced three times",
            )
            figures += asyncio.run(_measure(etcd, n_runs))
    return figures


async def _measure(subject: Subject, n_runs: int) -> Sequence[Figure]:
    alone: list[Sequence[float]] = []
    together: list[Sequence[float]] = []
    ratios: list[float] = []
    rates: dict[int, list[float]] = {1: [], N_WRITERS: []}
    store = await subject.open()
    try:
        for run in range(n_runs):
            for n_writers, latencies in ((1, alone), (N_WRITERS, together)):
                started = time.perf_counter()
                lanes = [_lane(store, f"{run}-{n_writers}-{lane}", subject.n_commits) for lane in range(n_writers)]
                latencies.append([taken for lane in await asyncio.gather(*lanes) for taken in lane])
                rates[n_writers].append(n_writers * subject.n_commits / (time.perf_counter() - started))
            ratios.append(rates[N_WRITERS][-1] / rates[1][-1])
    finally:
        await store.close()
    name = subject.name
    return [
        Figure(f"{name}: commits, one after the other", "/s", rates[1]),
        Figure(f"{name}: latency of those, p50", "ms", [percentile(run, 0.5) * 1000 for run in alone]),
        Figure(f"{name}: latency of those, p99", "ms", [percentile(run, 0.99) * 1000 for run in alone]),
        Figure(f"{name}: commits, {N_WRITERS} writers", "/s", rates[N_WRITERS]),
        Figure(f"{name}: latency of those, p99", "ms", [percentile(run, 0.99) * 1000 for run in together]),
        Figure(f"{name}: {N_WRITERS} writers over one", "x", ratios, note=subject.note),
    ]


async def _lane(store: Store, name: str, n_commits: int) -> Sequence[float]:
    taken: list[float] = []
    for number in range(n_commits):
        started = time.perf_counter()
        await store.commit([Write("task", f"{name}-{number}", ROW, 0)])
        taken.append(time.perf_counter() - started)
    return taken
