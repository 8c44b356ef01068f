"""`python -m skep.sim`: replay one seed, or run many.

Edge: prints; many seeds run in several processes.
"""

import multiprocessing
import sys
from collections.abc import Sequence

import click

from skep.sim.world import Outcome, Scenario, simulate


@click.command()
@click.option("--seed", default=1, help="The first seed.")
@click.option("--seeds", default=1, help="How many seeds to run.")
@click.option("--nodes", default=0, help="Machines; 0 draws 3 to 8 from the seed.")
@click.option("--seconds", default=60, help="Virtual time of work and faults.")
@click.option("--operations", default=3.0, help="Mean seconds between two operations; 0 for none.")
@click.option("--faults", default=4.0, help="Mean seconds between two faults; 0 for none.")
@click.option("--jobs", default=1, help="Processes.")
@click.option("--trace", default=60, help="Lines of what led to a failure; 0 for everything.")
def main(
    seed: int, seeds: int, nodes: int, seconds: int, operations: float, faults: float, jobs: int, trace: int
) -> None:
    """Simulate a swarm with faults, from a seed; a failure prints the command that replays it."""
    scenarios = [
        Scenario(number, nodes or 3 + number % 6, seconds, operations, faults) for number in range(seed, seed + seeds)
    ]
    n_failed, virtual, cpu = 0, 0.0, 0.0
    for outcome in run_all(scenarios, jobs):
        virtual += outcome.virtual_s
        cpu += outcome.cpu_s
        if outcome.violations:
            n_failed += 1
            print(report(outcome, trace), flush=True)
        elif seeds == 1:
            print(
                f"clean; digest {outcome.digest}, {outcome.revisions} revisions, at rest after {outcome.rest_s:.0f} s"
            )
    print(f"{seeds} seeds, {n_failed} failed; {virtual:.0f} virtual s in {cpu:.0f} CPU s: {virtual / cpu:.0f} times")
    sys.exit(1 if n_failed else 0)


def run_all(scenarios: Sequence[Scenario], jobs: int):  # type: ignore[no-untyped-def]  # an iterator of outcomes
    """Run scenarios, in several processes if asked to; outcomes come in any order."""
    if jobs == 1:
        yield from map(simulate, scenarios)
        return
    with multiprocessing.get_context("spawn").Pool(jobs, maxtasksperchild=50) as pool:
        yield from pool.imap_unordered(simulate, scenarios)


def report(outcome: Outcome, lines: int) -> str:
    """A failure in full: what, what led to it, and how to see it again."""
    violations = "\n".join(f"  {each}" for each in outcome.violations[:5])
    led_to = "\n".join(outcome.trace[-lines:])
    return f"seed {outcome.scenario.seed} failed:\n{violations}\n{led_to}\nreplay: {outcome.scenario.command}"


if __name__ == "__main__":
    main()
