"""Every deliberately broken variant is caught by some seed, soon."""

import pytest
from tests.sim.mutants import MUTANTS

from skep.sim.world import Scenario, simulate

pytestmark = pytest.mark.soak  # About a minute: the gate is run by `make soak`.

LIMIT = 40


def test_there_are_enough_mutants() -> None:
    assert len(MUTANTS) >= 15


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_variant_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS[name](monkeypatch)
    for seed in range(1, LIMIT + 1):
        outcome = simulate(Scenario(seed, 3 + seed % 6, 60, operation_mean_s=1.5, fault_mean_s=1.2))
        if outcome.violations:
            return
    pytest.fail(f"{LIMIT} seeds did not notice that {name}")
