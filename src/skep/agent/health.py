"""Health checks: what to run, when, and what its results mean.

Pure, but for `follow`, the thin loop that runs the command. The rules are Docker's (moby/daemon/health.go), with one
addition: until a container is healthy it is also asked between the regular probes, with growing pauses from half a
second; those early probes can find it healthy but never count as failures, so a task need not wait a whole interval to
be ready.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from skep.core.task_steps import Health
from skep.lib.durations import MILLISECOND, SECOND
from skep.model.base import Nanoseconds
from skep.model.service import Healthcheck
from skep.ports.clock import Clock
from skep.ports.runtime import HealthTest, Runtime, RuntimeFailure

DEFAULT_INTERVAL = 30 * SECOND
DEFAULT_TIMEOUT = 30 * SECOND
DEFAULT_RETRIES = 3
FIRST_EARLY_PROBE = 500 * MILLISECOND


@dataclass(frozen=True, slots=True)
class HealthRecord:
    """Attributes: counted_at: when the last regular probe was due; streak: regular failures in a row."""

    started_at: Nanoseconds
    counted_at: Nanoseconds
    state: Health = Health.STARTING
    streak: int = 0
    probes: int = 0


def effective_test(wanted: Healthcheck | None, image: HealthTest | None) -> HealthTest | None:
    """Merge a service's health check over its image's.

    Returns:
        None if there is none or it is turned off.
    """
    test = list(wanted.test or ()) if wanted is not None else []
    test = test or (list(image.test) if image is not None else [])
    if not test or test[0] == "NONE":
        return None
    over = wanted or Healthcheck()
    base = image or HealthTest(test=(), interval=0, timeout=0, start_period=0, retries=0)
    return HealthTest(
        test=test,
        interval=over.interval or base.interval or DEFAULT_INTERVAL,
        timeout=over.timeout or base.timeout or DEFAULT_TIMEOUT,
        start_period=over.start_period or base.start_period,
        retries=over.retries or base.retries or DEFAULT_RETRIES,
    )


def command_of(test: HealthTest) -> list[str]:
    """The command line to run inside the container."""
    kind, *rest = test.test
    match kind:
        case "CMD":
            return rest
        case "CMD-SHELL":
            return ["/bin/sh", "-c", *rest]
        case _:  # Docker's old form: the words themselves.
            return [kind, *rest]


def begin(now: Nanoseconds, *, was_healthy: bool = False) -> HealthRecord:
    """The record of a container just started, or adopted in a known state."""
    return HealthRecord(started_at=now, counted_at=now, state=Health.HEALTHY if was_healthy else Health.STARTING)


def next_pause(record: HealthRecord, test: HealthTest) -> Nanoseconds:
    """How long to wait before the next probe."""
    if record.state is not Health.STARTING:
        return test.interval
    return min(test.interval, FIRST_EARLY_PROBE * (1 << min(record.probes, 16)))


def judge(record: HealthRecord, test: HealthTest, *, is_success: bool, now: Nanoseconds) -> HealthRecord:
    """Take one probe's result into account."""
    record = replace(record, probes=record.probes + 1)
    if is_success:
        return replace(record, state=Health.HEALTHY, streak=0, counted_at=now)
    is_early = record.state is Health.STARTING and now - record.counted_at < test.interval
    if is_early:
        return record
    record = replace(record, counted_at=now)
    if record.state is Health.STARTING and now - record.started_at < test.start_period:
        return record
    streak = record.streak + 1
    return replace(record, streak=streak, state=Health.UNHEALTHY if streak >= test.retries else record.state)


@dataclass(frozen=True, slots=True)
class Asked:
    """A container and how it is asked."""

    runtime: Runtime
    container_id: str
    test: HealthTest


async def follow(asked: Asked, clock: Clock, record: HealthRecord) -> AsyncIterator[Health]:
    """Probe a running container for as long as the caller listens; yields its health whenever it changes.

    An engine that cannot be asked says nothing about the container and changes nothing.
    """
    test = asked.test
    while True:
        await clock.sleep(next_pause(record, test))
        try:
            result = await asked.runtime.exec(asked.container_id, command_of(test), timeout=test.timeout)
            is_success = result.exit_code == 0
        except TimeoutError:
            is_success = False
        except RuntimeFailure:
            record = replace(record, probes=record.probes + 1)
            continue
        before = record.state
        record = judge(record, test, is_success=is_success, now=clock.now())
        if record.state is not before:
            yield record.state
