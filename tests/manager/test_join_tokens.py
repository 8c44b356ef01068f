"""Limits of join tokens: by time, by nodes, counted with the admission itself."""

import asyncio

import msgspec
import pytest
from tests.factories import a_cluster
from tests.manager.test_control import a_control

from skep.manager.join_tokens import charged, is_good, role_of_token
from skep.model.cluster import Cluster, JoinTokens, TokenLimit, TokenLimits
from skep.model.errors import InvalidSpec, SkepError
from skep.model.identity import REFUSED, Identity, Newcomer
from skep.model.node import Role

HOUR = 3600 * 1_000_000_000
NOW = 1_700_000_000_000_000_000


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        pytest.param(None, True, id="none"),
        pytest.param(TokenLimit(), True, id="neither"),
        pytest.param(TokenLimit(ends_at=NOW + 1), True, id="before-its-end"),
        pytest.param(TokenLimit(ends_at=NOW), False, id="at-its-end"),
        pytest.param(TokenLimit(uses_left=1), True, id="one-left"),
        pytest.param(TokenLimit(uses_left=0), False, id="used-up"),
        pytest.param(TokenLimit(uses_left=1, ends_at=NOW - 1), False, id="left-but-ended"),
    ],
)
def test_how_long_a_token_is_good(limit: TokenLimit | None, expected: bool) -> None:
    assert is_good(limit, NOW) is expected


def test_one_who_has_joined_may_ask_again_until_the_token_ends() -> None:
    assert is_good(TokenLimit(uses_left=0), NOW, has_joined=True)
    assert not is_good(TokenLimit(uses_left=5, ends_at=NOW), NOW, has_joined=True)


def limited(**limits: TokenLimit) -> Cluster:
    tokens = JoinTokens(worker="w", manager="m")
    return msgspec.structs.replace(a_cluster(), join_tokens=tokens, token_limits=TokenLimits(**limits))


def test_a_use_is_taken_from_its_own_token_only() -> None:
    cluster = limited(worker=TokenLimit(uses_left=2), manager=TokenLimit(uses_left=7))
    after = charged(cluster, "w", NOW)
    assert after is not None
    assert after.token_limits == TokenLimits(worker=TokenLimit(uses_left=1), manager=TokenLimit(uses_left=7))
    assert charged(limited(manager=TokenLimit(uses_left=7)), "w", NOW) is None
    assert charged(limited(worker=TokenLimit(ends_at=NOW + 1)), "w", NOW) is None


@pytest.mark.parametrize("token", ["w", "replaced", ""])
def test_a_token_that_ended_meanwhile_lets_nobody_in(token: str) -> None:
    with pytest.raises(InvalidSpec, match=REFUSED):
        charged(limited(worker=TokenLimit(uses_left=0)), token, NOW)


def a_newcomer(name: str, token: str) -> Newcomer:
    return Newcomer(identity=Identity(node_id=name, role=Role.WORKER, cluster_id="cluster"), token=token)


@pytest.mark.anyio
async def test_many_at_once_get_no_more_places_than_there_are() -> None:
    async with a_control() as control:
        cluster = await control.renew_join_token(Role.WORKER, expiry=HOUR, uses=3)
        token = cluster.join_tokens.worker
        assert role_of_token(token, cluster) is Role.WORKER
        asked = [control.registry.admit(a_newcomer(f"n{number % 6}", token)) for number in range(12)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        refusals = [answer for answer in answers if answer is not None]
        assert all(isinstance(answer, SkepError) and str(answer) == REFUSED for answer in refusals)
        joined = [node for node in control.view.nodes.values() if node.id.startswith("n")]
        assert len(joined) == 3
        assert len(answers) - len(refusals) == 6  # Each of the three asked twice, and that was one use.
        assert control.cluster().token_limits.worker == TokenLimit(
            uses_left=0, ends_at=cluster.token_limits.worker.ends_at if cluster.token_limits.worker else 0
        )


@pytest.mark.anyio
async def test_a_rotated_token_has_no_limits_and_its_neighbour_keeps_its_own() -> None:
    async with a_control() as control:
        before = await control.renew_join_token(Role.WORKER, expiry=0, uses=3)
        await control.renew_join_token(Role.MANAGER, expiry=HOUR, uses=0)
        cluster = control.cluster()
        after = await control.update_cluster(cluster.version, cluster.spec, rotate_worker_token=True)
        assert after.join_tokens.worker != before.join_tokens.worker
        assert after.token_limits.worker is None
        assert after.token_limits.manager is not None


@pytest.mark.anyio
@pytest.mark.parametrize(("expiry", "uses"), [(-1, 0), (0, -1), (10_000 * 24 * HOUR, 0), (0, 10_000_000)])
async def test_limits_beyond_reason_are_refused(expiry: int, uses: int) -> None:
    async with a_control() as control:
        with pytest.raises(InvalidSpec, match="choose smaller limits"):
            await control.renew_join_token(Role.WORKER, expiry=expiry, uses=uses)
