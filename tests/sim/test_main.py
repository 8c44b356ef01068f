"""A run of many seeds says how it went however it ends, and its exit status says no more than was seen."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result

from skep.sim import runs
from skep.sim.__main__ import main
from skep.sim.world import Outcome, Scenario

COMMAND = [sys.executable, "-m", "skep.sim", "--seconds", "600", "--faults", "0"]


def run(monkeypatch: pytest.MonkeyPatch, outcome: Callable[[Scenario], Outcome]) -> Result:
    """Five seeds with these outcomes."""
    monkeypatch.setattr(runs, "simulate", outcome)
    return CliRunner().invoke(main, ["--seeds", "5"])


def clean(scenario: Scenario) -> Outcome:
    return Outcome(scenario, virtual_s=60, cpu_s=0.5)


def test_clean_seeds_exit_with_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(monkeypatch, clean)
    assert result.exit_code == 0
    assert "5 seeds, 0 failed; 300 virtual s in 2 CPU s: 120 times" in result.output


def test_a_failure_is_told_with_its_replay_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def third_fails(scenario: Scenario) -> Outcome:
        violations = ["an address is held twice"] if scenario.seed == 3 else []
        return Outcome(scenario, violations, trace=["what led to it"], virtual_s=60, cpu_s=0.5)

    result = run(monkeypatch, third_fails)
    assert result.exit_code == 1
    assert "seed 3 failed:\n  an address is held twice\nwhat led to it\nreplay: python -m skep.sim --seed 3" in (
        result.output
    )
    assert "5 seeds, 1 failed" in result.output
    assert "failed: 3" in result.output.splitlines()


@pytest.mark.parametrize(("violations", "status"), [([], 130), (["something"], 1)], ids=["so far clean", "failed"])
def test_an_interrupted_run_still_sums_up(monkeypatch: pytest.MonkeyPatch, violations: list[str], status: int) -> None:
    def third_interrupts(scenario: Scenario) -> Outcome:
        if scenario.seed == 3:
            raise KeyboardInterrupt
        return Outcome(scenario, list(violations), virtual_s=60, cpu_s=0.5)

    result = run(monkeypatch, third_interrupts)
    assert result.exit_code == status
    assert f"interrupted: 2 of 5 seeds, {2 * len(violations)} failed" in result.output


def test_progress_tells_the_rate_and_what_is_left() -> None:
    tally = runs.Tally(100, began_at=time.monotonic() - 3600)
    for seed in range(25):
        tally.take(clean(Scenario(seed)))
    assert tally.progress == "25 of 100 seeds, 0 failed, 120 times, 3:00 h left"


def test_several_processes_end_with_a_terminated_run() -> None:
    process = subprocess.Popen(
        [*COMMAND, "--seeds", "1000", "--jobs", "2"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    )
    try:
        _wait_children(process.pid, 2)
        children = _children(process.pid)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert "interrupted: " in output
    assert " of 1000 seeds, 0 failed" in output
    assert not [child for child in children if _is_alive(child)]


def test_a_killed_process_ends_the_run() -> None:
    process = subprocess.Popen(
        [*COMMAND, "--seeds", "1000", "--jobs", "2"], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        _wait_children(process.pid, 2)
        os.kill(_children(process.pid)[0], signal.SIGKILL)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 2
    assert "one of its processes was killed" in output


def _children(pid: int) -> list[int]:
    """The processes that simulate: multiprocessing's tracker is none of them."""
    shown = subprocess.run(
        ["ps", "-ww", "--ppid", str(pid), "-o", "pid=", "-o", "args="], capture_output=True, text=True, check=False
    )
    return [int(line.split()[0]) for line in shown.stdout.splitlines() if "spawn_main" in line]


def _wait_children(pid: int, n: int) -> None:
    deadline = time.monotonic() + 30
    while len(_children(pid)) < n:
        assert time.monotonic() < deadline, "the processes did not start"
        time.sleep(0.05)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
