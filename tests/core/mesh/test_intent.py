"""Folding deltas: every table lands where its items belong, and what a delta leaves alone is shared."""

import pytest

from skep.core.mesh.intent import NodeIntent, changes, fold
from skep.model.assignment import (
    AssignedTask,
    BalancedService,
    ClusterFacts,
    Delta,
    Item,
    NetworkEndpoint,
    OverlayNetwork,
    Peer,
    PublishedService,
)
from skep.model.service import TaskSpec
from skep.model.task import Task

ITEMS: dict[str, Item] = {
    "peers": Peer(node_id="n2", underlay="192.168.77.2"),
    "networks": OverlayNetwork(network_id="a", name="a", vni=4097, subnets=[]),
    "endpoints": NetworkEndpoint(network_id="a", task_id="t", node_id="n2", address="10.0.1.5"),
    "services": BalancedService(network_id="a", service_id="s", names=["s"]),
    "published": PublishedService(service_id="s", ports=[]),
    "tasks": AssignedTask(task=Task(id="t", spec=TaskSpec())),
}


def full() -> NodeIntent:
    items = [ClusterFacts(cluster_id="c"), *ITEMS.values()]
    return fold(NodeIntent(), Delta(base=0, version=3, put=items), "n1")


def test_a_full_set_fills_every_table() -> None:
    intent = full()
    assert (intent.version, intent.node_id) == (3, "n1")
    assert intent.cluster == ClusterFacts(cluster_id="c")
    for table, item in ITEMS.items():
        assert getattr(intent, table) == {item.key: item}


@pytest.mark.parametrize("table", ITEMS)
def test_a_delta_touches_its_own_table_only(table: str) -> None:
    before = full()
    after = fold(before, Delta(base=3, version=4, remove=[ITEMS[table].key]), "n1")
    assert getattr(after, table) == {}
    assert getattr(before, table) != {}
    assert all(getattr(after, other) is getattr(before, other) for other in ITEMS if other != table)
    back = fold(after, Delta(base=4, version=5, put=[ITEMS[table]]), "n1")
    assert getattr(back, table) == getattr(before, table)


def test_a_full_set_forgets_what_was_held() -> None:
    assert fold(full(), Delta(base=0, version=9), "n1") == NodeIntent(version=9, node_id="n1")


def test_removing_what_is_not_there_is_no_error() -> None:
    after = fold(full(), Delta(base=3, version=4, remove=["peer/none", "cluster", "unheard-of/x"]), "n1")
    assert after.cluster is None
    assert after.peers == full().peers


def test_a_delta_on_another_version_is_refused() -> None:
    with pytest.raises(ValueError, match="ask for a full set"):
        fold(full(), Delta(base=2, version=5), "n1")


def test_changes_names_what_two_tables_do_not_share() -> None:
    a, b, c = object(), object(), object()
    before = {"same": a, "gone": b, "changed": b}
    after = {"same": a, "changed": c, "new": c}
    assert set(changes(before, after)) == {(b, c), (None, c), (b, None)}
    assert list(changes(before, before)) == []
