"""Which tasks are moved to even out a service, by hand and by policy."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.factories import GIB, a_cluster, a_node, a_service, a_state, a_task, a_template, commit, put

from skep.core import schedule
from skep.core.orchestrate.rebalance import SETTLED_AFTER, Rebalancer, Spared, moves
from skep.core.plan import Dirty
from skep.core.schedule import Inventory
from skep.core.schedule.site import MAX_FAILURES
from skep.lib.durations import SECOND
from skep.model.base import Object
from skep.model.cluster import Cluster, SwarmSpec
from skep.model.lifecycle import TaskState
from skep.model.node import Availability, Node
from skep.model.service import (
    ContainerSpec,
    Mount,
    RestartCondition,
    RestartPolicy,
    Service,
    TaskSpec,
    UpdateConfig,
    UpdateStatus,
)
from skep.model.task import Task
from skep.store.changes import Put
from skep.store.state import State

NOW = 10_000 * SECOND


def placed(service: Service, *node_ids: str) -> list[Task]:
    """Running tasks, the first the oldest."""
    return [
        a_task(f"t{n}", service=service, slot=n, state=TaskState.RUNNING, node_id=node_id, created_at=n)
        for n, node_id in enumerate(node_ids, 1)
    ]


def found(service: Service, *objects: Object) -> list[tuple[str, str]]:
    view = a_state(service, *objects)
    inventory = Inventory.of(view)
    before = {id: (dict(site.by_service), site.total, site.memory_used) for id, site in inventory.sites.items()}
    answer = [(move.task.id, move.target_id) for move in moves(view, service, inventory, NOW)]
    after = {id: (dict(site.by_service), site.total, site.memory_used) for id, site in inventory.sites.items()}
    assert before == after, "trying leaves the inventory as it was"
    return answer


def template(**fields: object) -> TaskSpec:
    return a_template(**fields)  # type: ignore[arg-type]  # each case gives the fields it is about


@pytest.mark.parametrize(
    ("spec", "nodes", "places", "expected"),
    [
        pytest.param({}, ["a", "b"], "aaaa", [("t4", "b"), ("t3", "b")], id="an-empty-node-gets-the-newest"),
        pytest.param({}, ["a", "b"], "aab", [], id="one-more-is-even-enough"),
        pytest.param({}, ["a", "b", "c"], "aaabbb", [("t6", "c"), ("t3", "c")], id="from-each-of-two"),
        pytest.param({"max_replicas": 2}, ["a", "b"], "aabb", [], id="full-by-max-replicas"),
        pytest.param({"constraints": ["node.id==a"]}, ["a", "b"], "aaaa", [], id="only-where-it-may-be"),
        pytest.param({"memory": 16 * GIB}, ["a", "b"], "aaaa", [], id="only-where-there-is-room"),
    ],
)
def test_moves(spec: dict[str, object], nodes: list[str], places: str, expected: list[tuple[str, str]]) -> None:
    web = a_service(template=template(**spec))
    assert found(web, *map(a_node, nodes), *placed(web, *places)) == expected


def test_spread_preferences_come_before_nodes() -> None:
    web = a_service(template=a_template(spread=["node.labels.zone"]))
    zones = [a_node("a", labels={"zone": "1"}), a_node("b", labels={"zone": "1"}), a_node("c", labels={"zone": "2"})]
    assert found(web, *zones, *placed(web, "a", "b", "c", "c")) == [], "two in each zone is even"
    assert found(web, *zones, *placed(web, "a", "a", "b", "b")) == [("t4", "c"), ("t3", "c"), ("t2", "b")]


def test_nodes_that_take_no_tasks_get_none() -> None:
    web = a_service()
    paused = a_node("b", availability=Availability.PAUSE)
    assert found(web, a_node("a"), paused, *placed(web, "a", "a", "a")) == []


def test_a_task_that_would_not_be_replaced_stays_where_it_is() -> None:
    never = RestartPolicy(condition=RestartCondition.NONE)
    web = a_service(template=msgspec.structs.replace(a_template(), restart_policy=never))
    assert found(web, a_node("a"), a_node("b"), *placed(web, "a", "a", "a")) == []


@pytest.mark.parametrize(("label", "expected"), [("sticky", []), ("", [("t3", "b")])])
def test_a_task_stays_with_its_data(label: str, expected: list[tuple[str, str]]) -> None:
    data = ContainerSpec(image="db", mounts=[Mount(type="volume", source="data", target="/data")])
    web = a_service(template=msgspec.structs.replace(a_template(), container_spec=data))
    web = msgspec.structs.replace(web, spec=msgspec.structs.replace(web.spec, labels={"skep.volume": label}))
    assert found(web, a_node("a"), a_node("b"), *placed(web, "a", "a", "a")) == expected


def test_a_service_that_is_on_the_move_is_left_alone() -> None:
    web = a_service()
    tasks = placed(web, "a", "a", "a")
    starting = [msgspec.structs.replace(tasks[0], move="why"), *tasks[1:]]
    assert found(web, a_node("a"), a_node("b"), *starting) == []
    rolling = msgspec.structs.replace(web, update_status=UpdateStatus(state="updating"))
    assert found(rolling, a_node("a"), a_node("b"), *tasks) == []


# --- by policy -------------------------------------------------------------------


def automatic(policy: str = "auto") -> Cluster:
    return a_cluster(spec=SwarmSpec(labels={"skep.rebalance": policy}))


def up_since(id: str, moment: int) -> Node:
    node = a_node(id)
    return msgspec.structs.replace(node, status=msgspec.structs.replace(node.status, since=moment))


def marked(view: State, now: int, rebalancer: Rebalancer | None = None, dirty: Dirty | None = None) -> list[str]:
    plan = (rebalancer or Rebalancer()).reconcile(view, dirty or Dirty(), Inventory.of(view), now)
    return [change.value.id for change in plan.changes if isinstance(change, Put)]


def test_a_settled_node_gets_tasks_few_at_a_time() -> None:
    web = a_service()
    web = msgspec.structs.replace(
        web, spec=msgspec.structs.replace(web.spec, update_config=UpdateConfig(parallelism=1))
    )
    view = a_state(automatic(), web, a_node("a"), up_since("b", NOW), *placed(web, "a", "a", "a", "a"))
    rebalancer = Rebalancer()
    early = rebalancer.reconcile(view, Dirty(), Inventory.of(view), NOW + SECOND)
    assert (early.changes, early.wake_at) == ((), NOW + SETTLED_AFTER)
    assert marked(view, NOW + SETTLED_AFTER, rebalancer) == ["t4"]
    assert marked(view, NOW + SETTLED_AFTER + 1, rebalancer) == ["t4"], "the store did not take it"
    commit(view, rebalancer.reconcile(view, Dirty(), Inventory.of(view), NOW + SETTLED_AFTER + 2))
    assert marked(view, NOW + SETTLED_AFTER + 3, rebalancer) == []
    put(view, *placed(web, "a", "a", "a", "a"))
    assert marked(view, NOW + SETTLED_AFTER + 4, rebalancer) == [], "nothing new"
    assert marked(view, NOW + SETTLED_AFTER + 5, rebalancer, Dirty(services={"web"})) == ["t4"]


def test_a_node_that_takes_tasks_again_gets_some() -> None:
    web = a_service()
    tasks = placed(web, "a", "a", "a")
    for away in (Availability.PAUSE, Availability.DRAIN):
        view = a_state(automatic(), web, a_node("a"), a_node("b", availability=away), *tasks)
        rebalancer = Rebalancer()
        assert marked(view, NOW, rebalancer) == []
        put(view, a_node("b"))
        assert marked(view, NOW + 1, rebalancer) == ["t3"]
        assert marked(view, NOW + 2, rebalancer) == ["t3"], "the store did not take it"


def test_without_the_policy_nothing_moves() -> None:
    web = a_service()
    tasks = placed(web, "a", "a", "a", "a")
    for cluster in (a_cluster(), automatic("manual")):
        assert marked(a_state(cluster, web, a_node("a"), a_node("b"), *tasks), NOW) == []


def test_what_was_tried_in_vain_is_not_tried_again() -> None:
    web = a_service()
    tasks = placed(web, "a", "a", "a")
    vain = a_task("x", service=web, slot=3, state=TaskState.FAILED, desired=TaskState.SHUTDOWN, node_id="b", ordinal=9)
    assert marked(a_state(automatic(), web, a_node("a"), a_node("b"), *tasks, vain), NOW) == []


# --- never back and forth ----------------------------------------------------------


def failures(service: Service, node_id: str, number: int) -> list[Task]:
    """Tasks of a service that failed on a node a moment ago."""
    ended = {"state": TaskState.FAILED, "desired": TaskState.SHUTDOWN, "node_id": node_id}
    made = [a_task(f"f{n}", service=service, slot=100 + n, **ended) for n in range(number)]
    return [
        msgspec.structs.replace(task, status=msgspec.structs.replace(task.status, timestamp=NOW - SECOND))
        for task in made
    ]


@pytest.mark.parametrize(("number", "expected"), [(MAX_FAILURES - 1, ["t3"]), (MAX_FAILURES, [])])
def test_nothing_is_brought_where_the_scheduler_avoids_the_service(number: int, expected: list[str]) -> None:
    """Simulated, seed 110516: the scheduler put the replacement elsewhere, and it was to be moved again, for ever."""
    web = a_service()
    tasks = [*placed(web, "a", "a", "a"), *failures(web, "b", number)]
    assert [task for task, _ in found(web, a_node("a"), a_node("b"), *tasks)] == expected


PLACES = st.lists(st.sampled_from("abcd"), min_size=1, max_size=9)


@given(
    places=PLACES,
    zones=st.fixed_dictionaries(dict.fromkeys("abcd", st.sampled_from("xyz"))),
    is_spread=st.booleans(),
    tried=st.sets(st.integers(1, 9), max_size=4),
    unsettled=st.sets(st.sampled_from("abcd"), max_size=2),
    failed=st.sampled_from(["", "a", "b"]),
)
def test_moves_come_to_an_end_whatever_is_left_as_it_is(
    places: list[str], zones: dict[str, str], is_spread: bool, tried: set[int], unsettled: set[str], failed: str
) -> None:
    """One at a time, as a service with a parallelism of one makes them; whoever was moved is a new task."""
    web = a_service(template=a_template(spread=["node.labels.zone"] if is_spread else []))
    nodes = [a_node(id, labels={"zone": zone}) for id, zone in zones.items()]
    tasks = placed(web, *places)
    spared = Spared({f"t{n}" for n in tried}, unsettled)
    for _ in range(len(places) * len(nodes)):
        view = a_state(web, *nodes, *tasks, *failures(web, failed, MAX_FAILURES if failed else 0))
        planned = moves(view, web, Inventory.of(view), NOW, spared)
        if not planned:
            return
        move = planned[0]
        assert move.task.id not in spared.tasks
        assert move.target_id not in spared.nodes
        heir = a_task(f"{move.task.id}x", service=web, slot=move.task.slot, state=TaskState.PENDING, created_at=NOW)
        put(view, heir)
        commit(view, schedule.reconcile(view, Dirty(tasks={heir.id}), Inventory.of(view), NOW))
        chosen = next(task for task in view.tasks.values() if task.id == heir.id)
        assert chosen.node_id == move.target_id
        running = msgspec.structs.replace(chosen, version=0, status=move.task.status)
        tasks = [running if task.id == move.task.id else task for task in tasks]
    raise AssertionError("it never comes to rest")
