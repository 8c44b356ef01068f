"""What the SQLite store acknowledged is on the disk after a power cut, and a store that did not wait for it would show.

The disk, the cut and what counts as lost are in `volatile_disk` and `power_cuts`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

N_TRIALS = int(os.environ.get("SKEP_POWER_CUTS", "20"))
"""Of `make soak`; `make trials` cuts a hundred times."""
REPOSITORY = Path(__file__).parents[2]
MISTAKES = [
    pytest.param(("--synchronous", "OFF"), id="no sync"),
    pytest.param(("--lying",), id="a disk that lies", marks=pytest.mark.soak),
]

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(not Path("/dev/fuse").exists(), reason="kernel: no FUSE (CONFIG_FUSE_FS)"),
    pytest.mark.skipif(not Path("/dev/loop-control").exists(), reason="kernel: no loop devices (CONFIG_BLK_DEV_LOOP)"),
]


def trials(directory: Path, n_trials: int, seed: int, *flags: str) -> list[dict[str, Any]]:
    """Run them in a mount namespace of their own, which takes their mounts with it."""
    line = ["unshare", "--mount", sys.executable, "-m", "tests.edge.power_cuts", str(directory), str(n_trials)]
    done = subprocess.run([*line, str(seed), *flags], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    return [json.loads(text) for text in done.stdout.splitlines()]


def check_nothing_lost(outcomes: list[dict[str, Any]]) -> None:
    bad = [outcome for outcome in outcomes if outcome["lost"] or outcome["torn"] or outcome["damage"]]
    assert not bad, bad[:2]
    assert sum(outcome["acknowledged"] for outcome in outcomes) > 10 * len(outcomes)


def test_an_acknowledged_commit_survives_a_power_cut(tmp_path: Path) -> None:
    check_nothing_lost(trials(tmp_path, 2, 11))


@pytest.mark.soak
@pytest.mark.timeout(60 + 6 * N_TRIALS)
def test_no_acknowledged_commit_is_lost_in_many_power_cuts(tmp_path: Path) -> None:
    outcomes = trials(tmp_path, N_TRIALS, 1)
    check_nothing_lost(outcomes)
    amid = sum(outcome["unflushed"] > 0 for outcome in outcomes)
    acknowledged = sum(outcome["acknowledged"] for outcome in outcomes)
    print(
        f"\n{N_TRIALS} power cuts, {amid} of them amid writes; {acknowledged} acknowledged commits looked for, 0 lost"
    )


@pytest.mark.parametrize("flags", MISTAKES)
def test_the_trial_sees_a_store_that_does_not_wait_for_the_disk(tmp_path: Path, flags: tuple[str, ...]) -> None:
    (outcome,) = trials(tmp_path, 1, 2, *flags)
    assert outcome["lost"] or outcome["damage"], outcome
