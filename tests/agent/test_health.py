"""What health checks mean."""

import pytest

from skep.agent.health import HealthRecord, begin, command_of, effective_test, judge, next_pause
from skep.core.task_steps import Health
from skep.lib.durations import MILLISECOND, SECOND
from skep.model.service import Healthcheck
from skep.ports.runtime import HealthTest

IMAGE = HealthTest(test=["CMD", "image"], interval=7 * SECOND, timeout=2 * SECOND, start_period=0, retries=5)


@pytest.mark.parametrize(
    ("wanted", "image", "test"),
    [
        pytest.param(None, None, None, id="none at all"),
        pytest.param(None, IMAGE, IMAGE, id="the image's"),
        pytest.param(Healthcheck(test=["NONE"]), IMAGE, None, id="turned off"),
        pytest.param(
            Healthcheck(test=[], retries=1),
            IMAGE,
            HealthTest(test=["CMD", "image"], interval=7 * SECOND, timeout=2 * SECOND, start_period=0, retries=1),
            id="the image's with other retries",
        ),
        pytest.param(
            Healthcheck(test=["CMD-SHELL", "true"]),
            None,
            HealthTest(
                test=["CMD-SHELL", "true"], interval=30 * SECOND, timeout=30 * SECOND, start_period=0, retries=3
            ),
            id="Docker's defaults",
        ),
    ],
)
def test_the_services_check_is_merged_over_the_images(
    wanted: Healthcheck | None, image: HealthTest | None, test: HealthTest | None
) -> None:
    assert effective_test(wanted, image) == test


@pytest.mark.parametrize(
    ("test", "command"),
    [
        (["CMD", "a", "b"], ["a", "b"]),
        (["CMD-SHELL", "a | b"], ["/bin/sh", "-c", "a | b"]),
        (["a", "b"], ["a", "b"]),
    ],
)
def test_commands(test: list[str], command: list[str]) -> None:
    assert command_of(HealthTest(test=test, interval=1, timeout=1, start_period=0, retries=1)) == command


A_TEST = HealthTest(test=["CMD", "x"], interval=10 * SECOND, timeout=SECOND, start_period=25 * SECOND, retries=3)


def play(record: HealthRecord, *results: bool) -> list[tuple[int, Health]]:
    """Probe at the pauses asked for; returns the moments, in seconds, and states of changes."""
    now, changes = record.started_at, []
    for is_success in results:
        now += next_pause(record, A_TEST)
        before = record.state
        record = judge(record, A_TEST, is_success=is_success, now=now)
        if record.state is not before:
            changes.append((now // SECOND, record.state))
    return changes


def test_healthy_is_noticed_long_before_the_first_interval() -> None:
    assert next_pause(begin(0), A_TEST) == 500 * MILLISECOND
    assert play(begin(0), True) == [(0, Health.HEALTHY)]
    assert play(begin(0), False, True) == [(1, Health.HEALTHY)]


def test_failures_count_once_per_interval_and_only_after_the_start_period() -> None:
    [(at_s, state)] = play(begin(0), *[False] * 12)
    assert state is Health.UNHEALTHY
    assert at_s >= 25 + 2 * 10, "three regular failures after the start period"


def test_a_success_ends_a_streak() -> None:
    assert play(begin(0, was_healthy=True), False, False, True, False, False) == []
    assert [state for _, state in play(begin(0, was_healthy=True), False, False, False)] == [Health.UNHEALTHY]


def test_an_adopted_healthy_container_is_asked_at_intervals() -> None:
    assert next_pause(begin(0, was_healthy=True), A_TEST) == A_TEST.interval
