"""How fast the simulator runs: a swarm of twenty nodes, the seeds of `make test`, and long seeds with every fault.

Pure virtual time on one thread. Timed by this process's own processor time, as in `schedule`: what is promised is what
a core does, and that depends little on the other programs of the machine.
"""

from collections.abc import Sequence

from tests.bench.figure import Bound, Figure
from tests.sim.test_seeds import scenarios

from skep.sim.world import Outcome, Scenario, simulate

GATE_SEEDS = 200
GATE_PROCESSES = 2
QUICK_SHARE = 20
STEADY_NODES = 20


def measure(*, quick: bool) -> Sequence[Figure]:
    """Speeds in virtual seconds a second, and how long the gate's seeds take."""
    return [
        _steady(1 if quick else 3, 60 if quick else 120),
        _gate(QUICK_SHARE if quick else 1),
        _faulty(1 if quick else 3),
    ]


def _steady(n_runs: int, seconds: int) -> Figure:
    """Twenty nodes, an operation every three seconds, and nothing goes wrong."""
    outcomes = [_clean(Scenario(run, STEADY_NODES, seconds, 3.0, 0.0)) for run in range(1, n_runs + 1)]
    speeds = [outcome.virtual_s / outcome.cpu_s for outcome in outcomes]
    name = f"{STEADY_NODES} nodes, steady workload: virtual seconds in one"
    return Figure(name, "x", speeds, Bound.AT_LEAST, 100)


def _gate(share: int) -> Figure:
    """The seeds that `make test` runs; in quick mode every nth stands for n."""
    outcomes = [_clean(scenario) for scenario in scenarios(GATE_SEEDS)[::share]]
    took_s = sum(outcome.cpu_s for outcome in outcomes) * share / GATE_PROCESSES
    speed = sum(outcome.virtual_s for outcome in outcomes) / sum(outcome.cpu_s for outcome in outcomes)
    note = f"in {GATE_PROCESSES} processes; {speed:.0f} virtual seconds in one"
    return Figure(f"the {GATE_SEEDS} seeds of make test", "s", [took_s], Bound.AT_MOST, 90, note)


def _faulty(n_runs: int) -> Figure:
    """Ten virtual minutes with all faults, as a long run of `make sim` takes them."""
    outcomes = [_clean(Scenario(seed, 3 + seed % 6, 600)) for seed in range(2, 2 + n_runs)]
    speeds = [outcome.virtual_s / outcome.cpu_s for outcome in outcomes]
    return Figure("600 s with all faults: virtual seconds in one", "x", speeds)


def _clean(scenario: Scenario) -> Outcome:
    """Simulate; what is measured must have worked.

    Raises:
        RuntimeError: The seed failed, with the command that replays it.
    """
    outcome = simulate(scenario)
    if outcome.violations:
        raise RuntimeError(f"{outcome.violations[0]}; replay: {scenario.command}")
    return outcome
