"""Every deliberately broken variant is caught by some seed, soon, and for what is wrong with it."""

import re

import pytest
from tests.sim.mutants import MUTANTS

from skep.sim.world import Scenario, simulate

LIMIT = 100


def test_there_are_enough_mutants() -> None:
    assert len(MUTANTS) >= 15


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_variant_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another violation than its own proves nothing: the variant may merely have shaken loose a bug of the product."""
    mutant = MUTANTS[name]
    mutant.apply(monkeypatch)
    others: list[str] = []
    for seed in range(1, LIMIT + 1):
        outcome = simulate(Scenario(seed, 3 + seed % 6, 60, operation_mean_s=1.5, fault_mean_s=1.2))
        if any(re.search(mutant.violates, violation) for violation in outcome.violations):
            return
        others.extend(outcome.violations)
    pytest.fail(f"{LIMIT} seeds did not notice that {name}; what they did notice: {others[:5]}")
