"""Seeds run clean, and a seed is one history: the same in every process, whatever the hash seed."""

import os
import subprocess
import sys

import pytest

from skep.sim.runs import report, run_all
from skep.sim.world import Scenario, simulate

SEEDS = int(os.environ.get("SKEP_SIM_SEEDS", "200"))


def scenarios(n: int) -> list[Scenario]:
    """What this gate runs; `make bench` measures the same."""
    return [Scenario(seed, 3 + seed % 6, 40, operation_mean_s=1.5, fault_mean_s=1.2) for seed in range(1, n + 1)]


@pytest.mark.timeout(900)
def test_seeds_run_clean() -> None:
    """Machines, users and faults as the seed draws them; a failure prints what led to it and how to replay it."""
    failed = [outcome for outcome in run_all(scenarios(SEEDS), 2) if outcome.violations]
    assert not failed, "\n\n".join(report(outcome, 40) for outcome in failed[:3])


def test_a_seed_is_one_history() -> None:
    scenario = Scenario(7, 5, 40, operation_mean_s=1.5, fault_mean_s=1.2)
    first, second = simulate(scenario), simulate(scenario)
    assert first.digest == second.digest
    assert first.trace == second.trace
    other = simulate(Scenario(8, 5, 40, operation_mean_s=1.5, fault_mean_s=1.2))
    assert other.digest != first.digest


@pytest.mark.parametrize("hash_seed", ["0", "1", "4242"])
def test_the_hash_seed_changes_nothing(hash_seed: str) -> None:
    command = [
        sys.executable,
        "-m",
        "skep.sim",
        "--seed",
        "9",
        "--nodes",
        "6",
        "--seconds",
        "40",
        "--operations",
        "1.5",
    ]
    shown = subprocess.run(
        [*command, "--faults", "1.2"],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout
    here = simulate(Scenario(9, 6, 40, operation_mean_s=1.5, fault_mean_s=1.2))
    assert here.digest in shown
