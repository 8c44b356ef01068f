"""The decision about a task, exhaustively: every state, phase and wish."""

import itertools

import pytest

from skep.core.task_steps import Act, Advance, Health, Observed, Phase, Wanted, next_step
from skep.model.lifecycle import TaskState as S
from skep.model.lifecycle import is_terminal

ON_NODE = [S.ASSIGNED, S.ACCEPTED, S.PREPARING, S.READY, S.STARTING, S.RUNNING]
ENDED = [S.COMPLETE, S.SHUTDOWN, S.FAILED, S.REJECTED]
RUN, STOP = Wanted(desired=S.RUNNING), Wanted(desired=S.SHUTDOWN, is_drained=True)

EVERY_OBSERVATION = [
    Observed(
        state=state,
        phase=phase,
        health=health,
        is_prepared=is_prepared,
        is_stopping=is_stopping,
        exit_code=exit_code,
        refusal=refusal,
        is_lost=is_lost,
    )
    for state, phase, health, is_prepared, is_stopping, exit_code, refusal, is_lost in itertools.product(
        ON_NODE + ENDED, Phase, Health, (False, True), (False, True), (None, 0, 1), ("", "no"), (False, True)
    )
]
EVERY_WISH = [
    Wanted(desired=desired, is_drained=is_drained, is_removed=is_removed)
    for desired, is_drained, is_removed in itertools.product(
        (S.READY, S.RUNNING, S.COMPLETE, S.SHUTDOWN, S.REMOVE), (False, True), (False, True)
    )
]


@pytest.mark.parametrize("wanted", EVERY_WISH, ids=str)
def test_rules_that_always_hold(wanted: Wanted) -> None:
    for seen in EVERY_OBSERVATION:
        step = next_step(wanted, seen)
        if isinstance(step, Advance):
            assert step.state > seen.state, f"{seen} goes back"
            assert (step.state in (S.FAILED, S.REJECTED)) == bool(step.err), f"{seen}: {step}"
        if step is Act.START:
            assert (seen.phase, seen.state, wanted.must_stop) == (Phase.CREATED, S.STARTING, False)
        if step is Act.PREPARE:
            assert seen.state <= S.STARTING, f"{seen} is prepared again"
            assert not wanted.must_stop
            assert not seen.is_lost
        if step is Act.STOP:
            assert seen.phase is Phase.RUNNING
            assert wanted.may_stop or seen.health is Health.UNHEALTHY or seen.is_lost or seen.refusal
        assert (step is Act.CLEAN_UP) == (is_terminal(seen.state) and wanted.is_removed)
        if seen.phase is Phase.RUNNING and not is_terminal(seen.state):
            assert not (isinstance(step, Advance) and is_terminal(step.state)), f"{seen} ends while it runs"


@pytest.mark.parametrize(
    ("wanted", "seen", "step"),
    [
        pytest.param(RUN, Observed(), Advance(S.ACCEPTED, "accepted"), id="accept"),
        pytest.param(RUN, Observed(state=S.ACCEPTED), Advance(S.PREPARING, "preparing"), id="begin to prepare"),
        pytest.param(RUN, Observed(state=S.PREPARING), Act.PREPARE, id="prepare"),
        pytest.param(
            RUN,
            Observed(state=S.PREPARING, phase=Phase.CREATED, is_prepared=True),
            Advance(S.READY, "prepared"),
            id="prepared",
        ),
        pytest.param(
            Wanted(desired=S.READY), Observed(state=S.READY, phase=Phase.CREATED, is_prepared=True), Act.HOLD, id="hold"
        ),
        pytest.param(
            RUN, Observed(state=S.READY, phase=Phase.CREATED), Act.PREPARE, id="adopted at ready: complete it first"
        ),
        pytest.param(
            RUN,
            Observed(state=S.READY, phase=Phase.CREATED, is_prepared=True),
            Advance(S.STARTING, "starting"),
            id="mark the start before it",
        ),
        pytest.param(
            RUN,
            Observed(state=S.STARTING, phase=Phase.RUNNING),
            Advance(S.RUNNING, "started"),
            id="no check",
        ),
        pytest.param(
            RUN,
            Observed(state=S.STARTING, phase=Phase.RUNNING, health=Health.STARTING),
            Act.WATCH,
            id="unhealthy yet",
        ),
        pytest.param(
            Wanted(desired=S.SHUTDOWN), Observed(state=S.RUNNING, phase=Phase.RUNNING), Act.WATCH, id="not drained yet"
        ),
        pytest.param(STOP, Observed(state=S.RUNNING, phase=Phase.RUNNING), Act.STOP, id="drained"),
        pytest.param(
            STOP,
            Observed(state=S.RUNNING, phase=Phase.EXITED, is_stopping=True, exit_code=137),
            Advance(S.SHUTDOWN, "shutdown"),
            id="stopped by us, however it ended",
        ),
        pytest.param(
            STOP,
            Observed(state=S.RUNNING, phase=Phase.EXITED, exit_code=0),
            Advance(S.COMPLETE, "finished"),
            id="it ended by itself before it was stopped",
        ),
        pytest.param(
            RUN,
            Observed(state=S.PREPARING, refusal="No such image: x"),
            Advance(S.REJECTED, "preparing", "No such image: x"),
            id="rejected before the start",
        ),
        pytest.param(
            RUN,
            Observed(state=S.STARTING, phase=Phase.CREATED, refusal="no such file"),
            Advance(S.FAILED, "starting", "no such file"),
            id="failed at the start",
        ),
        pytest.param(
            Wanted(desired=S.COMPLETE), Observed(state=S.RUNNING, phase=Phase.RUNNING), Act.WATCH, id="a job runs on"
        ),
    ],
)
def test_steps(wanted: Wanted, seen: Observed, step: Advance | Act) -> None:
    assert next_step(wanted, seen) == step
