"""Which managers may go, and what the rest can bear."""

import pytest

from skep.core import quorum
from skep.core.quorum import Voter


def voters(shape: str) -> list[Voter]:
    """`++-`: three, of whom the last cannot be reached; named m0, m1, …"""
    return [Voter(f"m{n}", sign == "+") for n, sign in enumerate(shape)]


@pytest.mark.parametrize(("n", "needed"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (7, 4)])
def test_more_than_half_are_needed(n: int, needed: int) -> None:
    assert quorum.needed(n) == needed


@pytest.mark.parametrize(
    ("shape", "node_id", "refusal"),
    [
        pytest.param("+", "m0", "attempting to demote the last manager of the swarm", id="the last"),
        pytest.param("++", "m1", "", id="one of two"),
        pytest.param("+-", "m1", "", id="the dead one of two: one of one is left"),
        pytest.param("+-", "m0", "would result in a loss of quorum", id="the living one of two"),
        pytest.param("+++", "m0", "", id="one of three"),
        pytest.param("++-", "m2", "", id="the dead one of three"),
        pytest.param("++-", "m0", "would result in a loss of quorum", id="a living one of three, one dead"),
        pytest.param("+--", "m1", "would result in a loss of quorum", id="a dead one without a quorum"),
        pytest.param("++++-", "m0", "", id="a living one of five"),
        pytest.param("+++--", "m0", "would result in a loss of quorum", id="a living one of five, two dead"),
        pytest.param("+++--", "m4", "", id="a dead one of five"),
        pytest.param("++", "worker", "", id="no manager"),
    ],
)
def test_a_demotion_leaves_a_quorum_or_is_refused(shape: str, node_id: str, refusal: str) -> None:
    said = quorum.refuse_demotion(voters(shape), node_id)
    assert (refusal in said) if refusal else said == ""


def test_a_manager_is_not_removed_before_it_is_demoted() -> None:
    assert quorum.refuse_node_removal(voters("+++"), "m1").endswith("It must be demoted to worker before removal")
    assert quorum.refuse_node_removal(voters("+++"), "worker") == ""


@pytest.mark.parametrize(
    ("shape", "says", "says_not"),
    [
        pytest.param("+", "Removing the last manager erases", "force-new-cluster", id="the last"),
        pytest.param("++", "leaves 1 managers out of 2", "erases", id="two"),
        pytest.param("+++", "You are attempting to leave", "leaves 2 managers", id="three bear it"),
        pytest.param("++-", "leaves 1 managers out of 3", "erases", id="three, one dead"),
    ],
)
def test_who_leaves_is_warned(shape: str, says: str, says_not: str) -> None:
    warning = quorum.refuse_leaving(voters(shape))
    assert says in warning
    assert says_not not in warning
    assert "`--force`" in warning


@pytest.mark.parametrize(
    ("shape", "spare", "says"),
    [
        ("+", 0, "one manager"),
        ("++", 0, "bear no loss"),
        ("+++", 1, "1 more may fail"),
        ("++-", 0, "one more failure stops every change"),
        ("+--", -1, "no quorum: 1 of 3"),
        ("+-", -1, "no quorum: 1 of 2"),
        ("++++", 1, "one fewer would bear as much"),
        ("+++++", 2, "2 more may fail"),
    ],
)
def test_the_verdict_says_what_may_still_fail(shape: str, spare: int, says: str) -> None:
    assert quorum.spare(voters(shape)) == spare
    assert says in quorum.verdict(voters(shape))


def test_removing_whoever_may_go_never_loses_the_quorum() -> None:
    """All shapes of up to seven managers, exhaustively."""
    for n in range(1, 8):
        for bits in range(2**n):
            all_voters = voters("".join("+" if bits >> place & 1 else "-" for place in range(n)))
            for voter in all_voters:
                rest = [other for other in all_voters if other is not voter]
                if not quorum.refuse_demotion(all_voters, voter.node_id):
                    assert quorum.spare(rest) >= 0
