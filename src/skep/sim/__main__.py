"""`python -m skep.sim`: replay one seed, or run many.

Edge: prints. However a run ends, what it found is printed, and the exit status says no more than was seen: 0 for every
seed clean, 1 for violations, 2 for a process of the run that was killed, 130 for a run interrupted before its end.
"""

import signal
import sys
from concurrent.futures.process import BrokenProcessPool

import click

from skep.sim.runs import Tally, report, run_all
from skep.sim.world import Outcome, Scenario

CLEAN, FAILED, KILLED, INTERRUPTED = 0, 1, 2, 130


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
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    tally = Tally(seeds)
    ended, status = "", CLEAN
    try:
        for outcome in run_all(scenarios, jobs):
            tally.take(outcome)
            if outcome.violations:
                tally.clear_progress()
                print(report(outcome, trace), flush=True)
            elif seeds == 1:
                print(_of_one(outcome))
            tally.show_progress()
    except KeyboardInterrupt:
        ended, status = "interrupted: ", INTERRUPTED
    except BrokenProcessPool:
        ended, status = "ended early, because one of its processes was killed: ", KILLED
    tally.clear_progress()
    print(ended + tally.summary)
    sys.exit(FAILED if tally.failed else status)


def _of_one(outcome: Outcome) -> str:
    return f"clean; digest {outcome.digest}, {outcome.revisions} revisions, at rest after {outcome.rest_s:.0f} s"


if __name__ == "__main__":
    main()
