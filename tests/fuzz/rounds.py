"""How long a target is fuzzed: a moment with the other tests, `SKEP_FUZZ_SECONDS` for each in `make fuzz`."""

import os
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

SECONDS = float(os.environ.get("SKEP_FUZZ_SECONDS", "0"))


def brief(examples: int) -> settings:
    """Settings of one round."""
    return settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))


def rounds(target: Callable[[], Any]) -> None:
    """Run a hypothesis test once, and again until the time is over; each round draws anew. Says how much that was."""
    began, count = time.monotonic(), 0
    while not count or time.monotonic() < began + SECONDS:
        target()
        count += 1
    print(f"{count} rounds in {time.monotonic() - began:.0f} s")


lasting = pytest.mark.timeout(SECONDS + 120)
