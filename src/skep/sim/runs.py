"""Many seeds one after the other, in several processes if asked to, and what came of them so far.

Edge: processes, the clock for how long the rest will take, standard error for how far it is. Not part of `__main__`:
spawned processes cannot import from there.
"""

import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import connection

from skep.sim.world import Outcome, Scenario, simulate

ON_TERMINAL_S, IN_LOG_S = 1.0, 60.0
"""How often a long run says how far it is."""


@dataclass(slots=True)
class Tally:
    """What a run has seen so far. Attributes: failed: seeds, as they came."""

    seeds: int
    done: int = 0
    failed: list[int] = field(default_factory=list)
    virtual_s: float = 0.0
    cpu_s: float = 0.0
    began_at: float = field(default_factory=time.monotonic)
    _shown_at: float = field(default_factory=time.monotonic)
    _is_shown: bool = False

    def take(self, outcome: Outcome) -> None:
        """Count one seed."""
        self.done += 1
        self.virtual_s += outcome.virtual_s
        self.cpu_s += outcome.cpu_s
        if outcome.violations:
            self.failed.append(outcome.scenario.seed)

    @property
    def speed(self) -> float:
        """Virtual seconds in one of a processor; 0 before the first seed."""
        return self.virtual_s / self.cpu_s if self.cpu_s else 0.0

    @property
    def progress(self) -> str:
        """One line of how far the run is, and how long the rest will take at this rate."""
        left_s = (time.monotonic() - self.began_at) / max(self.done, 1) * (self.seeds - self.done)
        hours, minutes = divmod(round(left_s / 60), 60)
        return (
            f"{self.done} of {self.seeds} seeds, {len(self.failed)} failed, {self.speed:.0f} times, "
            f"{hours}:{minutes:02} h left"
        )

    @property
    def summary(self) -> str:
        """The run in one line, and which seeds failed."""
        seeds = f"{self.done} seeds" if self.done == self.seeds else f"{self.done} of {self.seeds} seeds"
        line = (
            f"{seeds}, {len(self.failed)} failed; "
            f"{self.virtual_s:.0f} virtual s in {self.cpu_s:.0f} CPU s: {self.speed:.0f} times"
        )
        return f"{line}\nfailed: {' '.join(map(str, sorted(self.failed)))}" if self.failed else line

    def show_progress(self) -> None:
        """Say how far the run is: on a terminal in place, in a log now and then."""
        is_terminal = sys.stderr.isatty()
        now = time.monotonic()
        if self.done == self.seeds or now - self._shown_at < (ON_TERMINAL_S if is_terminal else IN_LOG_S):
            return
        self._shown_at, self._is_shown = now, is_terminal
        print(
            f"\r{self.progress}\x1b[K" if is_terminal else self.progress,
            end="" if is_terminal else "\n",
            file=sys.stderr,
            flush=True,
        )

    def clear_progress(self) -> None:
        """Make room on the terminal for a line of its own."""
        if self._is_shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._is_shown = False


def run_all(scenarios: Sequence[Scenario], jobs: int) -> Iterator[Outcome]:
    """Run scenarios, in several processes if asked to; outcomes come in any order, clean ones without their trace.

    Raises:
        BrokenProcessPool: One of the processes was killed.
    """
    if jobs == 1:
        gc.freeze()
        yield from map(simulate, scenarios)
        return
    todo = iter(scenarios)
    context = multiprocessing.get_context("spawn")
    pool = futures.ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin_process)
    try:
        running: dict[futures.Future[Outcome], Scenario] = {}
        while True:
            for scenario in todo:
                running[pool.submit(_simulate, scenario)] = scenario
                if len(running) >= 2 * jobs:  # One under way and one at hand for each: outcomes do not pile up.
                    break
            if not running:
                return
            done, _ = futures.wait(running, return_when=futures.FIRST_COMPLETED)
            for future in done:
                yield _outcome_of(future, running.pop(future))
    finally:
        _end(pool)


def _simulate(scenario: Scenario) -> Outcome:
    outcome = simulate(scenario)
    if not outcome.violations:
        outcome.trace.clear()  # Nobody reads it; it would only travel between processes.
    return outcome


def _outcome_of(future: futures.Future[Outcome], scenario: Scenario) -> Outcome:
    """What a process found; that the simulator itself failed is a finding, too."""
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, BrokenProcessPool):
        raise error
    return Outcome(scenario, violations=[f"the simulator failed: {error!r}"])


def _begin_process() -> None:
    """Leave Ctrl-C, which reaches every process of the terminal, to the first of them, and end when that one does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()  # Every seed begins with a collection, which need not look through the program each time.
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


def _end(pool: futures.ProcessPoolExecutor) -> None:
    """End the processes, also in the middle of a seed."""
    processes = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.terminate()
    for process in processes:
        process.join()


def report(outcome: Outcome, lines: int) -> str:
    """A failure in full: what, what led to it, and how to see it again."""
    violations = "\n".join(f"  {each}" for each in outcome.violations[:5])
    led_to = "\n".join(outcome.trace[-lines:])
    return f"seed {outcome.scenario.seed} failed:\n{violations}\n{led_to}\nreplay: {outcome.scenario.command}"
