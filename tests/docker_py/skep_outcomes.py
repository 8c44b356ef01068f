"""A pytest plugin for docker-py's run: writes how many tests had which outcome, for the runner to read."""

import json
import os
from pathlib import Path

import pytest

OUTCOMES = ("passed", "failed", "error", "skipped", "xfailed", "xpassed")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts = {outcome: len(terminalreporter.stats.get(outcome, [])) for outcome in OUTCOMES}
    Path(os.environ["SKEP_OUTCOMES"]).write_text(json.dumps({key: count for key, count in counts.items() if count}))
