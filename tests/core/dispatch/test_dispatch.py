"""Who is told what, and when a task counts as drained."""

import msgspec
import pytest
from tests.factories import a_cluster, a_network, a_node, a_port, a_service, a_state, a_task, put, with_status

from skep.core import dispatch
from skep.core.dispatch import DRAIN_LIMIT
from skep.model.assignment import (
    AssignedTask,
    BalancedService,
    ClusterFacts,
    Delta,
    Item,
    NetworkEndpoint,
    Peer,
    PublishedService,
)
from skep.model.base import Object
from skep.model.lifecycle import TaskState
from skep.model.network import Attachment
from skep.model.node import NodeState
from skep.model.service import Endpoint, EndpointSpec, Service, VirtualIP
from skep.model.task import ContainerStatus, Task
from skep.store.changes import Delete

ASSIGNED, RUNNING, SHUTDOWN = TaskState.ASSIGNED, TaskState.RUNNING, TaskState.SHUTDOWN


class Swarm:
    """A dispatcher with nodes that apply what they are sent, and acknowledge only when told to."""

    def __init__(self, *objects: Object) -> None:
        self.now = 0
        self.state = a_state(a_cluster(), *objects)
        self.dispatcher = dispatch.Dispatcher("epoch", self.state, self.now)
        self.held: dict[str, dict[str, Item]] = {}
        self.version: dict[str, int] = {}
        self.deltas: dict[str, Delta] = {}

    def attach(self, *node_ids: str, epoch: str = "epoch") -> None:
        for id in node_ids:
            self.take({id: self.dispatcher.attach(id, epoch if id in self.version else "", self.version.get(id, 0))})

    def put(self, *objects: Object) -> None:
        self.take(self.dispatcher.observe(put(self.state, *objects), self.state, self.now))

    def delete(self, kind: str, id: str) -> None:
        batch = self.state.apply([Delete(kind, id, 0)], self.state.revision + 1)
        self.take(self.dispatcher.observe(batch, self.state, self.now))

    def ack(self, *node_ids: str) -> None:
        for id in node_ids:
            self.take(self.dispatcher.applied(id, self.version[id], self.now))

    def tick(self, now: int) -> int | None:
        self.now = now
        deltas, wake_at = self.dispatcher.tick(now)
        self.take(deltas)
        return wake_at

    def take(self, deltas: dict[str, Delta]) -> None:
        self.deltas = deltas
        for id, delta in deltas.items():
            assert delta.base in (0, self.version.get(id, 0)), "a delta applies to what the node holds"
            items = dict(self.held.get(id, {})) if delta.base else {}
            assert not {item.key for item in delta.put} & set(delta.remove)
            for key in delta.remove:
                items.pop(key, None)
            items |= {item.key: item for item in delta.put}
            self.held[id], self.version[id] = items, delta.version

    def task(self, id: str = "t1") -> Task:
        found = self.state.tasks.get(id)
        assert found is not None
        return found

    def want(self, id: str, desired: TaskState) -> None:
        self.put(msgspec.structs.replace(self.task(id), desired_state=desired))

    def backends(self, node_id: str, key: str) -> list[str]:
        item = self.held[node_id][key]
        assert isinstance(item, BalancedService | PublishedService)
        return [backend.task_id for backend in item.backends]

    def is_drained(self, id: str = "t1") -> bool:
        item = self.held[self.task(id).node_id][f"task/{id}"]
        assert isinstance(item, AssignedTask)
        return item.drained


def served(id: str, node: str, *, network: str = "net", state: TaskState = RUNNING, last: int = 5) -> Task:
    addresses = {"ingress": f"10.0.0.{last}/24"}
    if network:
        addresses[network] = f"10.0.1.{last}/24"
    return a_task(id, service=WEB, node_id=node, state=state, accepting=state == RUNNING, addresses=addresses)


ENDPOINT = Endpoint(
    spec=EndpointSpec(ports=[a_port(8080)]),
    ports=[a_port(8080)],
    virtual_ips=[VirtualIP(network_id="ingress", addr="10.0.0.2/24"), VirtualIP(network_id="net", addr="10.0.1.2/24")],
)
WEB: Service = a_service("web", networks=["net"], ports=[a_port(8080)], endpoint=ENDPOINT)
NETWORKS = (
    a_network("ingress", ingress=True, vni=4096, subnet="10.0.0.0/24", gateway="10.0.0.1"),
    a_network("net", vni=4097, subnet="10.0.1.0/24", gateway="10.0.1.1"),
)
NODES = tuple(
    a_node(f"n{n}", addr=f"192.0.2.{n}", ingress=Attachment(network_id="ingress", address=f"10.0.0.25{n}/24"))
    for n in (1, 2, 3)
)


def a_swarm(*objects: Object) -> Swarm:
    swarm = Swarm(*NETWORKS, *NODES, WEB, *objects)
    swarm.attach("n1", "n2", "n3")
    return swarm


def node(id: str, **changes: object) -> Object:
    return msgspec.structs.replace(next(node for node in NODES if node.id == id), **changes)


class TestWhoIsToldWhat:
    def test_everyone_hears_of_cluster_peers_ingress_and_published_ports(self) -> None:
        it = a_swarm(served("t1", "n1"))
        held = it.held["n3"]
        assert held["cluster"] == ClusterFacts(cluster_id="cluster", ingress_network_id="ingress")
        assert held["peer/n1"] == Peer(node_id="n1", hostname="n1", underlay="192.0.2.1", mesh_address="10.0.0.251/24")
        assert {"peer/n2", "peer/n3", "network/ingress", "endpoint/ingress/t1"} <= held.keys()
        assert it.backends("n3", "published/web") == ["t1"]

    def test_overlays_are_for_those_that_take_part(self) -> None:
        it = a_swarm(served("t1", "n1"))
        private = {"network/net", "endpoint/net/t1", "service/net/web"}
        assert private <= it.held["n1"].keys()
        assert not private & it.held["n2"].keys()
        service = it.held["n1"]["service/net/web"]
        assert isinstance(service, BalancedService)
        assert (service.names, service.virtual_ip) == (["web"], "10.0.1.2")

    def test_a_node_joins_with_its_first_task_and_leaves_with_its_last(self) -> None:
        it = a_swarm(served("t1", "n1"))
        it.put(served("t2", "n2", state=ASSIGNED, last=6))
        assert {"network/net", "endpoint/net/t1", "endpoint/net/t2", "service/net/web"} <= it.held["n2"].keys()
        it.put(with_status(it.task("t2"), state=TaskState.FAILED))
        assert not {"network/net", "endpoint/net/t1", "endpoint/net/t2", "service/net/web"} & it.held["n2"].keys()
        assert "endpoint/net/t2" not in it.held["n1"]

    def test_tasks_are_their_nodes_own_until_deleted(self) -> None:
        it = a_swarm(a_task("t1", service=WEB, state=TaskState.PENDING, node_id="n1"))
        assert "task/t1" not in it.held["n1"]
        it.put(served("t1", "n1", state=ASSIGNED))
        assert "task/t1" in it.held["n1"]
        assert "task/t1" not in it.held["n2"]
        it.put(with_status(it.task(), state=TaskState.COMPLETE))
        assert "task/t1" in it.held["n1"]
        it.delete("task", "t1")
        assert "task/t1" not in it.held["n1"]

    def test_a_nodes_own_report_is_not_sent_back(self) -> None:
        it = a_swarm(served("t1", "n1", state=TaskState.STARTING))
        it.put(with_status(it.task(), message="almost there"))
        assert it.deltas == {}

    def test_a_change_of_one_service_touches_its_items_only(self) -> None:
        it = a_swarm(served("t1", "n1"), served("t2", "n2", last=6))
        it.put(served("t3", "n1", last=7))
        assert [item.key for item in it.deltas["n3"].put] == ["endpoint/ingress/t3", "published/web"]

    def test_removing_service_and_deleted_network_leave(self) -> None:
        it = a_swarm(served("t1", "n1"))
        it.put(msgspec.structs.replace(WEB, removing=True))
        assert not {"published/web", "service/net/web"} & it.held["n1"].keys()
        it.delete("node", "n3")
        assert "peer/n3" not in it.held["n1"]


class TestBackends:
    @pytest.mark.parametrize(
        ("change", "is_in"),
        [
            pytest.param({}, True, id="running"),
            pytest.param({"state": TaskState.STARTING}, False, id="starting"),
            pytest.param({"is_accepting": False}, False, id="not-accepting"),
            pytest.param({"state": TaskState.FAILED}, False, id="failed"),
        ],
    )
    def test_only_what_takes_traffic(self, change: dict[str, object], is_in: bool) -> None:
        it = a_swarm(with_status(served("t1", "n1"), **change))
        assert it.backends("n2", "published/web") == (["t1"] if is_in else [])

    def test_a_silent_node_is_out_until_it_returns(self) -> None:
        it = a_swarm(served("t1", "n1"), served("t2", "n2", last=6))
        it.put(node("n1", balanced=False))
        assert it.backends("n2", "published/web") == ["t2"]
        assert "endpoint/net/t1" in it.held["n2"]
        it.put(node("n1", balanced=True))
        assert it.backends("n2", "published/web") == ["t1", "t2"]
        it.put(with_status(node("n1"), state=NodeState.DOWN))  # type: ignore[arg-type]  # nodes have a status too
        assert it.backends("n2", "published/web") == ["t2"]

    def test_names_leave_with_the_wish_and_the_address_with_the_end(self) -> None:
        it = a_swarm(with_status(served("t1", "n1"), container=ContainerStatus(container_id="c" * 64)))
        endpoint = it.held["n1"]["endpoint/net/t1"]
        assert isinstance(endpoint, NetworkEndpoint)
        assert endpoint.names == ["web.1.t1", "c" * 12]
        it.want("t1", SHUTDOWN)
        left = it.held["n1"]["endpoint/net/t1"]
        assert isinstance(left, NetworkEndpoint)
        assert (left.names, left.address) == ([], "10.0.1.5")
        it.put(with_status(it.task(), state=SHUTDOWN))
        assert "endpoint/ingress/t1" not in it.held["n2"]


class TestDrain:
    def test_waits_for_every_node_that_was_told(self) -> None:
        it = a_swarm(served("t1", "n1"), served("t2", "n2", last=6))
        it.want("t1", SHUTDOWN)
        assert it.backends("n3", "published/web") == ["t2"]
        for id in ("n1", "n2"):
            it.ack(id)
            assert not it.is_drained()
        it.ack("n3")
        assert it.is_drained()
        assert it.tick(10 * DRAIN_LIMIT) is None

    def test_an_older_acknowledgement_does_not_count(self) -> None:
        it = a_swarm(served("t1", "n1"))
        before = dict(it.version)
        it.want("t1", SHUTDOWN)
        for id in before:
            it.take(it.dispatcher.applied(id, before[id], it.now))
        assert not it.is_drained()

    def test_a_hung_node_holds_it_up_for_the_limit_only(self) -> None:
        it = a_swarm(served("t1", "n1"))
        it.want("t1", SHUTDOWN)
        it.ack("n1", "n2")
        assert it.tick(DRAIN_LIMIT - 1) == DRAIN_LIMIT
        assert not it.is_drained()
        assert it.tick(DRAIN_LIMIT) is None
        assert it.is_drained()

    def test_a_node_found_silent_is_skipped(self) -> None:
        it = a_swarm(served("t1", "n1"))
        it.want("t1", SHUTDOWN)
        it.ack("n1", "n2")
        it.put(node("n3", balanced=False))
        assert it.is_drained()

    def test_a_node_away_for_a_moment_is_waited_for(self) -> None:
        it = a_swarm(served("t1", "n1"))
        it.want("t1", SHUTDOWN)
        it.dispatcher.detach("n3")
        it.ack("n1", "n2", "n3")
        assert not it.is_drained()
        it.attach("n3")
        it.ack("n3")
        assert it.is_drained()

    @pytest.mark.parametrize("state", [ASSIGNED, TaskState.STARTING])
    def test_what_was_never_balanced_is_drained_at_once(self, state: TaskState) -> None:
        it = a_swarm(served("t1", "n1", state=state))
        it.want("t1", SHUTDOWN)
        assert it.is_drained()

    def test_what_left_balancing_a_moment_ago_is_not(self) -> None:
        it = a_swarm(served("t1", "n1"))
        it.put(with_status(it.task(), is_accepting=False))
        it.want("t1", SHUTDOWN)
        assert not it.is_drained()
        it.ack("n1", "n2", "n3")
        assert it.is_drained()

    def test_removal_of_the_whole_service_drains_too(self) -> None:
        it = a_swarm(served("t1", "n1"))
        it.put(msgspec.structs.replace(WEB, removing=True))
        it.want("t1", TaskState.REMOVE)
        assert not it.is_drained()
        it.ack("n1", "n2", "n3")
        assert it.is_drained()

    def test_a_new_dispatcher_waits_for_nodes_that_may_still_send(self) -> None:
        it = a_swarm(msgspec.structs.replace(served("t1", "n1"), desired_state=SHUTDOWN))
        assert not it.is_drained()
        it.ack("n1", "n2", "n3")
        assert it.is_drained()

    def test_deletion_ends_it(self) -> None:
        it = a_swarm(served("t1", "n1"))
        it.want("t1", SHUTDOWN)
        it.delete("task", "t1")
        assert it.tick(DRAIN_LIMIT) is None


class TestSessions:
    def test_same_version_gets_an_empty_delta(self) -> None:
        it = a_swarm(served("t1", "n1"))
        held, version = dict(it.held["n2"]), it.version["n2"]
        it.dispatcher.detach("n2")
        it.attach("n2")
        assert it.deltas["n2"] == Delta(base=version, version=version)
        assert it.held["n2"] == held

    def test_a_returning_node_gets_what_changed(self) -> None:
        it = a_swarm(served("t1", "n1"), served("t2", "n2", last=6))
        it.dispatcher.detach("n2")
        it.put(with_status(it.task("t1"), state=TaskState.FAILED))
        it.put(served("t3", "n3", last=7))
        it.attach("n2")
        assert it.deltas["n2"].base > 0
        assert "network/ingress" not in [item.key for item in it.deltas["n2"].put]
        assert it.held["n2"] == full_set(it, "n2")

    def test_a_lost_delta_is_made_up_for(self) -> None:
        it = a_swarm(served("t1", "n1"))
        held, version = dict(it.held["n2"]), it.version["n2"]
        it.put(served("t3", "n3", last=7))
        it.dispatcher.detach("n2")
        it.held["n2"], it.version["n2"] = held, version  # The last delta never arrived.
        it.attach("n2")
        assert it.deltas["n2"].base == version
        assert it.held["n2"] == full_set(it, "n2")

    def test_another_epoch_gets_everything_under_a_higher_version(self) -> None:
        it = a_swarm()
        it.dispatcher = dispatch.Dispatcher("next", it.state, it.now)
        it.version["n1"] = 70
        it.attach("n1", epoch="epoch")
        assert (it.deltas["n1"].base, it.deltas["n1"].version) == (0, 71)


def full_set(it: Swarm, node_id: str) -> dict[str, Item]:
    fresh = dispatch.Dispatcher("fresh", it.state, it.now)
    return {item.key: item for item in fresh.attach(node_id, "", 0).put}
