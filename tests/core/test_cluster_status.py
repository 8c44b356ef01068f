"""What is said of the managers and their store, and of what would break them."""

from collections.abc import Mapping, Sequence

import msgspec
import pytest
from tests.factories import a_cluster, a_node, a_state

from skep.core import cluster_status
from skep.core.cluster_status import ClusterStatus, Papers
from skep.lib.durations import DAY
from skep.model.council import Progress
from skep.model.node import ManagerStatus, Node, NodeSpec, NodeState, NodeStatus, Role
from skep.model.store_status import EXTERNAL, StoreEndpoint, StoreMember, StoreStatus

NOW = 1_000 * DAY
SOUND = Papers(ends_at=NOW + 60 * DAY, renew_by=NOW + 40 * DAY, root_ends_at=NOW + 5_000 * DAY)
FRESH = NOW - DAY


def a_manager(id: str, *, leader: bool = False) -> Node:
    status = ManagerStatus(leader=leader, addr=f"{id}:2377")
    return msgspec.structs.replace(a_node(id), spec=NodeSpec(role=Role.MANAGER), manager_status=status)


def etcd(*members: StoreMember, **fields: object) -> StoreStatus:
    return msgspec.structs.replace(StoreStatus(kind="etcd", limit_bytes=4 << 30, members=list(members)), **fields)


def judged(
    store: StoreStatus, nodes: Sequence[Node], *, papers: Papers = SOUND, backed_up_at: int = FRESH
) -> ClusterStatus:
    view = a_state(a_cluster(backed_up_at=backed_up_at), *nodes, a_node("w1"))
    return cluster_status.judge(view, store, papers, "m1", NOW)


THREE = [a_manager("m1"), a_manager("m2", leader=True), a_manager("m3")]


def test_a_manager_alone_with_a_file_has_one_line() -> None:
    found = judged(StoreStatus(kind="sqlite", free_bytes=10 << 30), [a_manager("m1", leader=True)])
    (row,) = found.managers
    assert (row.hostname, row.role, row.is_self, row.is_reachable, row.lag) == ("m1", "leader", True, True, None)
    assert "if it is lost" in found.quorum
    assert found.has_quorum
    assert found.risks == []


def test_all_is_well_with_three_and_this_one_comes_first() -> None:
    members = [StoreMember(node_id=id, lag=0 if id == "m2" else None) for id in ("m2", "m3", "m1")]
    found = cluster_status.judge(a_state(a_cluster(backed_up_at=FRESH), *THREE), etcd(*members), SOUND, "m2", NOW)
    assert [(row.node_id, row.role) for row in found.managers] == [("m2", "leader"), ("m1", "voter"), ("m3", "voter")]
    assert found.quorum == "3 of 3 managers are reachable; 1 more may fail"
    assert found.risks == []


def test_a_manager_out_of_reach_leaves_no_spare() -> None:
    members = [StoreMember(node_id=id, is_reachable=id != "m3") for id in ("m1", "m2", "m3")]
    found = judged(etcd(*members), THREE)
    assert found.has_quorum
    assert [risk.partition(":")[0] for risk in found.risks] == [
        "the loss of any one manager that is reachable stops every change",
        "m3 cannot be reached",
    ]


def test_what_the_leader_has_noticed_counts_though_the_store_is_still_connected() -> None:
    gone = msgspec.structs.replace(THREE[2], manager_status=ManagerStatus(reachability="unreachable", addr="m3:2377"))
    down = msgspec.structs.replace(THREE[1], status=NodeStatus(state=NodeState.DOWN))
    members = [StoreMember(node_id=id) for id in ("m1", "m2", "m3")]
    assert [row.is_reachable for row in judged(etcd(*members), [THREE[0], THREE[1], gone]).managers] == [
        True,
        True,
        False,
    ]
    assert not judged(etcd(*members), [THREE[0], down, gone]).has_quorum


def test_without_a_quorum_it_is_said_first_and_what_to_do() -> None:
    members = [StoreMember(node_id=id, is_reachable=id == "m1") for id in ("m1", "m2", "m3")]
    found = judged(etcd(*members), THREE)
    assert not found.has_quorum
    assert found.quorum.startswith("no quorum: 1 of 3")
    assert "skep cluster recover" in found.risks[0]


def test_learners_and_those_that_never_came_have_no_vote() -> None:
    asked = msgspec.structs.replace(a_node("w9"), spec=NodeSpec(role=Role.MANAGER))
    members = [StoreMember(node_id="m1"), StoreMember(node_id="m2"), StoreMember(node_id="m3", is_voter=False)]
    found = judged(etcd(*members), [*THREE, asked])
    assert {row.node_id: row.role for row in found.managers} == {
        "m1": "voter", "m2": "leader", "m3": "learner", "w9": "absent",
    }  # fmt: skip
    assert "two managers" in found.quorum
    assert [risk for risk in found.risks if risk.startswith(("m3 has no vote", "w9 is asked"))]


@pytest.mark.parametrize(
    ("store", "words"),
    [
        (etcd(StoreMember(node_id="m1", lag=5_000)), "m1 is 5000 changes behind"),
        (etcd(StoreMember(node_id="m1"), size_bytes=int(3.6 * (1 << 30))), "the store is 90 % full"),
        (etcd(StoreMember(node_id="m1"), alarms=["NOSPACE"]), "raised an alarm (NOSPACE)"),
        (etcd(StoreMember(node_id="m1"), free_bytes=100 << 20), "100 MiB are free"),
        (etcd(failure="it is silent"), "it is silent"),
    ],
)
def test_a_store_in_need_is_a_risk(store: StoreStatus, words: str) -> None:
    (risk,) = judged(store, [a_manager("m1", leader=True)]).risks
    assert words in risk


@pytest.mark.parametrize(
    ("papers", "backed_up_at", "words"),
    [
        (Papers(NOW + DAY, NOW - 1, NOW + 5_000 * DAY), FRESH, "should have been renewed"),
        (Papers(NOW + DAY, NOW + 1, NOW + 30 * DAY), FRESH, "root certificate ends soon"),
        (SOUND, 0, "no backup is known"),
        (SOUND, NOW - 9 * DAY, "9 days old"),
    ],
)
def test_what_grows_old_is_a_risk(papers: Papers, backed_up_at: int, words: str) -> None:
    store = StoreStatus(kind="sqlite", free_bytes=10 << 30)
    (risk,) = judged(store, [a_manager("m1", leader=True)], papers=papers, backed_up_at=backed_up_at).risks
    assert words in risk


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        pytest.param({}, {}, id="nobody-says"),
        pytest.param({"m1": (9, 9)}, {"m1": 0}, id="alone"),
        pytest.param({"m1": (9, 7)}, {"m1": 2}, id="alone-and-behind"),
        pytest.param({"m1": (100, 100), "m2": (100, 98), "m3": (40, 40)}, {"m1": 0, "m2": 2, "m3": 60}, id="three"),
        pytest.param({"m1": (40, 40), "m2": (100, 100)}, {"m1": 60, "m2": 0}, id="the-one-that-is-asked-is-behind"),
        pytest.param({"m1": (7, 8), "m2": (6, 6)}, {"m1": 0, "m2": 1}, id="read-while-it-went-on"),
    ],
)
def test_everyone_is_measured_by_the_newest_that_any_knows_of(
    numbers: Mapping[str, tuple[int, int]], expected: Mapping[str, int]
) -> None:
    found = {id: Progress(member_id=1, committed=known, applied=taken) for id, (known, taken) in numbers.items()}
    assert cluster_status.lags(found) == expected


def test_another_manager_that_is_far_behind_is_a_risk_and_one_that_did_not_say_is_none() -> None:
    members = [StoreMember(node_id=id, lag=lag) for id, lag in (("m1", 0), ("m2", None), ("m3", 5_000))]
    found = judged(etcd(*members), THREE)
    assert [row.lag for row in found.managers] == [0, None, 5_000]
    assert found.risks == ["m3 is 5000 changes behind: see that its disk and network are fast enough"]


# --- an external etcd ------------------------------------------------------------------


def external(*failures: str, **fields: object) -> StoreStatus:
    endpoints = [StoreEndpoint(url=f"https://e{n}:2379", failure=failure) for n, failure in enumerate(failures)]
    members = [StoreMember(node_id=id) for id in ("m1", "m2", "m3")]
    return msgspec.structs.replace(StoreStatus(kind=EXTERNAL, endpoints=endpoints, members=members), **fields)


def test_with_an_external_etcd_managers_have_no_votes() -> None:
    gone = [msgspec.structs.replace(node, status=NodeStatus(state=NodeState.DOWN)) for node in THREE[1:]]
    found = judged(external("", "it is silent"), [THREE[0], *gone])
    assert [(row.role, row.is_reachable) for row in found.managers] == [
        ("follower", True),
        ("leader", False),
        ("follower", False),
    ]
    assert found.has_quorum
    assert found.quorum == "the external etcd answers at 1 of 2 endpoints; any one manager suffices"
    assert [risk.partition(":")[0] for risk in found.risks] == [
        "nothing is decided while the one manager that is reachable is away",
        "m2 cannot be reached",
        "m3 cannot be reached",
        "the external etcd does not answer at https",
    ]
    assert judged(external("", ""), THREE).risks == []


def test_without_the_external_etcd_nothing_can_be_changed() -> None:
    found = judged(external("away", failure="none of its endpoints answers"), THREE)
    assert not found.has_quorum
    assert found.quorum.startswith("no quorum: none of its endpoints answers; nothing can be changed")
