"""What the allocator gives to whom, and what it says when it cannot."""

from typing import TypeVar

from tests.factories import (
    a_cluster,
    a_network,
    a_node,
    a_port,
    a_service,
    a_state,
    a_task,
    all_dirty,
    commit,
    dirty_of,
    put,
    with_status,
)

from skep.core import allocate
from skep.core.allocate.pools import COOL_DOWN
from skep.core.plan import Dirty, Plan
from skep.lib.durations import SECOND
from skep.model.base import Object
from skep.model.lifecycle import TaskState
from skep.model.network import Network
from skep.model.node import Node
from skep.model.service import Protocol, PublishMode, ResolutionMode, Service
from skep.model.task import Task
from skep.store.changes import Batch, Delete
from skep.store.state import Draft

DNSRR = ResolutionMode.DNSRR
RUNNING, COMPLETE, SHUTDOWN = TaskState.RUNNING, TaskState.COMPLETE, TaskState.SHUTDOWN


T = TypeVar("T")


class Allocator:
    """A state with its ledger: change something, then see what the allocator made of it."""

    def __init__(self, *objects: Object) -> None:
        self.now = 1_000 * SECOND
        self.state = a_state(a_cluster(), *objects)
        self.ledger = allocate.Ledger.of(self.state)
        self.plan = Plan()
        self.run(all_dirty(self.state))

    def run(self, dirty: Dirty | None = None) -> Plan:
        self.plan = allocate.reconcile(self.state, dirty or Dirty(), self.ledger, self.now)
        batch = commit(self.state, self.plan)
        self.ledger.observe(batch)
        again = allocate.reconcile(self.state, dirty_of(batch), self.ledger, self.now)
        assert again.changes == (), "a plan run again on its result is empty"
        return self.plan

    def put(self, *objects: Object) -> Plan:
        return self.take(put(self.state, *objects))

    def delete(self, *objects: Object) -> Plan:
        changes = [Delete(type(value).__name__.lower(), value.id, value.version) for value in objects]
        return self.take(self.state.apply(changes, self.state.revision + 1))

    def take(self, batch: Batch) -> Plan:
        self.ledger.observe(batch)
        return self.run(dirty_of(batch))

    def restart(self) -> None:
        self.ledger = allocate.Ledger.of(self.state)

    def network(self, id: str = "net") -> Network:
        return found(self.state.networks.get(id))

    def node(self, id: str) -> Node:
        return found(self.state.nodes.get(id))

    def service(self, id: str = "web") -> Service:
        return found(self.state.services.get(id))

    def task(self, id: str = "task") -> Task:
        return found(self.state.tasks.get(id))

    def addresses(self, id: str = "task") -> list[str]:
        return [attachment.address for attachment in self.task(id).attachments]

    def ports(self, id: str = "web") -> list[int]:
        endpoint = self.service(id).endpoint
        return [port.published_port for port in (endpoint.ports or [])] if endpoint else []

    def vips(self, id: str = "web") -> dict[str, str]:
        endpoint = self.service(id).endpoint
        return {item.network_id: item.addr for item in (endpoint.virtual_ips or [])} if endpoint else {}


def found(value: T | None) -> T:
    assert value is not None
    return value


class TestNetworks:
    def test_first_takes_4096_and_the_first_pool_subnet(self) -> None:
        it = Allocator(a_network("ingress", ingress=True), a_network("b"))
        assert (it.network("ingress").vni, it.network("b").vni) == (4096, 4097)
        config = it.network("ingress").subnets[0]
        assert (config.subnet, config.gateway) == ("10.0.0.0/24", "10.0.0.1")
        assert it.network("b").subnets[0].subnet == "10.0.1.0/24"

    def test_user_subnet_gateway_and_range_are_respected(self) -> None:
        it = Allocator(
            a_network("net", subnet="192.168.7.0/24", gateway="192.168.7.254", ip_range="192.168.7.64/29"),
            service := a_service(networks=["net"]),
            *(a_task(f"t{n}", service=service) for n in range(7)),
        )
        assert it.network().subnets[0].gateway == "192.168.7.254"
        assert it.vips() == {"net": "192.168.7.64/24"}
        given = [it.addresses(f"t{n}")[0] for n in range(7)]
        assert sorted(given) == [f"192.168.7.{64 + n}/24" for n in range(1, 8)]

    def test_overlap_is_refused_with_a_reason_until_the_other_goes(self) -> None:
        it = Allocator(a_network("a", subnet="10.5.0.0/16"))
        it.put(a_network("b", subnet="10.5.3.0/24"))
        assert it.network("b").vni == 0
        assert 'overlaps with network "a" (10.5.0.0/16)' in it.network("b").reason
        it.delete(it.network("a"))
        assert it.network("b").reason == ""
        assert it.network("b").subnets[0].subnet == "10.5.3.0/24"

    def test_pool_subnets_avoid_user_subnets_and_nodes(self) -> None:
        it = Allocator(a_network("a", subnet="10.0.1.0/24"), a_node("n", addr="10.0.0.7"))
        it.put(a_network("b"))
        assert it.network("b").subnets[0].subnet == "10.0.2.0/24"

    def test_used_up_pools_are_the_networks_reason(self) -> None:
        it = Allocator(a_cluster(default_address_pools=("10.20.0.0/23",), subnet_size=24))
        it.put(a_network("a"), a_network("b"), a_network("c"))
        assert [it.network(id).vni > 0 for id in "abc"] == [True, True, False]
        assert it.network("c").reason.startswith("no /24 subnet is left in the address pools (10.20.0.0/23)")
        it.delete(it.network("a"))
        assert it.network("c").subnets[0].subnet == "10.20.0.0/24"

    def test_bad_cidr_is_the_reason(self) -> None:
        it = Allocator(a_network("a", subnet="10.5.3.7/24"))
        assert it.network("a").reason == "invalid subnet 10.5.3.7/24: it should be 10.5.3.0/24"


class TestNodes:
    def test_each_gets_a_mesh_address_also_when_ingress_comes_later(self) -> None:
        it = Allocator(a_node("n1"))
        assert it.node("n1").ingress is None
        it.put(a_network("ingress", ingress=True))
        it.put(a_node("n2"))
        given = [it.node(id).ingress for id in ("n1", "n2")]
        assert [item.address for item in given if item] == ["10.0.0.2/24", "10.0.0.3/24"]

    def test_a_new_ingress_network_gives_new_addresses(self) -> None:
        it = Allocator(a_network("old", ingress=True), a_node("n1"))
        it.delete(it.network("old"))
        it.put(a_network("new", ingress=True, subnet="172.30.0.0/24"))
        ingress = it.node("n1").ingress
        assert ingress is not None
        assert (ingress.network_id, ingress.address) == ("new", "172.30.0.2/24")


class TestServices:
    def test_vip_per_network_ingress_first(self) -> None:
        it = Allocator(a_network("ingress", ingress=True), a_network("net"))
        it.put(a_service(networks=["net"], ports=[a_port(8080)]))
        assert it.vips() == {"ingress": "10.0.0.2/24", "net": "10.0.1.2/24"}
        assert it.ports() == [8080]

    def test_dnsrr_has_no_vip(self) -> None:
        it = Allocator(a_network("net"), a_service(networks=["net"], mode=ResolutionMode.DNSRR))
        assert it.service().endpoint is not None
        assert it.vips() == {}

    def test_dynamic_ports_are_per_protocol_and_kept_over_updates(self) -> None:
        it = Allocator(a_network("ingress", ingress=True))
        it.put(a_service("web", ports=[a_port(0, 80), a_port(0, 53, protocol=Protocol.UDP)]))
        it.put(a_service("other", ports=[a_port(0, 80)]))
        assert (it.ports("web"), it.ports("other")) == ([30000, 30000], [30001])
        before, vip = it.service("web"), it.vips("web")
        it.put(a_service("web", ports=[a_port(9000, 81), a_port(0, 80)], endpoint=before.endpoint))
        assert it.ports("web") == [9000, 30000]
        assert it.vips("web") == vip

    def test_host_mode_is_left_alone(self) -> None:
        it = Allocator(a_service("a", ports=[a_port(0, mode=PublishMode.HOST), a_port(80, mode=PublishMode.HOST)]))
        it.put(a_service("b", ports=[a_port(80, mode=PublishMode.HOST)]))
        assert (it.ports("a"), it.ports("b")) == ([0, 80], [80])
        assert it.vips("a") == {}

    def test_a_port_has_one_service_and_passes_on(self) -> None:
        it = Allocator(a_network("ingress", ingress=True), a_service("a", ports=[a_port(80)]))
        it.put(b := a_service("b", ports=[a_port(80)]), a_task("t", service=b))
        assert it.service("b").reasons == ["port '80' is already in use by service 'a' (a) as an ingress port"]
        assert it.task("t").status.state == TaskState.NEW
        assert "port '80' is already in use" in it.task("t").status.err
        it.delete(it.service("a"))
        assert (it.ports("b"), it.service("b").reasons) == ([80], [])
        assert it.task("t").status.state == TaskState.PENDING
        assert it.task("t").status.err == ""

    def test_both_at_once_exactly_one_wins(self) -> None:
        it = Allocator(a_network("ingress", ingress=True))
        it.put(a_service("a", ports=[a_port(80)]), a_service("b", ports=[a_port(80)]))
        assert sorted([it.ports("a"), it.ports("b")]) == [[], [80]]

    def test_ingress_port_without_ingress_network(self) -> None:
        it = Allocator(a_service("a", ports=[a_port(80)]))
        assert "there is no ingress network" in it.service("a").reasons[0]
        it.put(a_network("ingress", ingress=True))
        assert it.ports("a") == [80]

    def test_failed_allocation_holds_nothing(self) -> None:
        it = Allocator(a_network("ingress", ingress=True), a_network("net", subnet="10.9.0.0/30"))
        it.put(a_service("a", networks=["net"]))
        it.put(a_service("b", networks=["net"], ports=[a_port(0), a_port(0)]))
        assert "no address is left" in it.service("b").reasons[0]
        it.put(a_service("c", ports=[a_port(0)]))
        assert it.ports("c") == [30000]


class TestTasks:
    def test_attached_to_its_networks_and_ingress(self) -> None:
        it = Allocator(a_network("ingress", ingress=True), a_network("net"))
        it.put(service := a_service(networks=["net"], ports=[a_port(80)]), a_task(service=service))
        task = it.task()
        assert (task.status.state, task.status.message) == (TaskState.PENDING, "pending task scheduling")
        assert [(item.network_id, item.address) for item in task.attachments] == [
            ("ingress", "10.0.0.3/24"),
            ("net", "10.0.1.3/24"),
        ]
        assert task.endpoint == it.service().endpoint

    def test_waits_for_a_network_that_comes_later(self) -> None:
        it = Allocator(service := a_service(networks=["net"]), a_task(service=service))
        assert it.task().status.err == "service web is not allocated: network net not found"
        it.put(a_network("net"))
        assert it.task().status.state == TaskState.PENDING

    def test_dead_before_allocation_is_left_alone(self) -> None:
        it = Allocator(service := a_service(), a_task(service=service, desired=SHUTDOWN))
        assert it.task().status.state == TaskState.NEW

    def test_exhaustion_then_reuse_after_the_cool_down(self) -> None:
        it = Allocator(a_network("net", subnet="10.9.0.0/29"), service := a_service(networks=["net"]))
        it.put(*(a_task(f"t{n}", service=service) for n in range(100)))
        placed = [task for task in it.state.tasks.values() if task.status.state == TaskState.PENDING]
        assert len(placed) == 4  # Six hosts, less the gateway and the virtual IP.
        waiting = next(task for task in it.state.tasks.values() if task.status.state == TaskState.NEW)
        assert waiting.status.err.startswith('no address is left in network "net" (10.9.0.0/29): 5 can be given out')
        it.put(with_status(placed[0], state=COMPLETE))
        assert it.plan.wake_at == it.now + COOL_DOWN
        it.now += COOL_DOWN - 1
        assert it.run().changes == ()
        it.now += 1
        [(change)] = it.run().changes
        assert isinstance(change.value, Task)
        assert change.value.attachments[0].address == placed[0].attachments[0].address

    def test_a_number_cools_down_though_nobody_waits_for_one_yet(self) -> None:
        """Seed 30077 of the simulator: it only began to when the next one asked, who waited twice as long for it."""
        it = Allocator(a_network("net", subnet="10.9.0.0/29"), service := a_service(networks=["net"]))
        it.put(*(a_task(f"t{n}", service=service) for n in range(4)))
        it.put(with_status(it.task("t0"), state=COMPLETE))
        it.now += COOL_DOWN
        it.put(a_task("next", service=service))
        assert it.task("next").status.state == TaskState.PENDING

    def test_who_waits_is_told_the_same_whatever_cools_down(self) -> None:
        """Seed 204257 of the simulator: it said that some would be free in a few seconds, and others had got those."""
        it = Allocator(a_network("net", subnet="10.9.0.0/29"), service := a_service(networks=["net"]))
        it.put(*(a_task(f"t{n}", service=service) for n in range(5)))
        said = it.task("t4").status.err
        assert said.startswith('no address is left in network "net" (10.9.0.0/29): 5 can be given out, each again 10 s')
        it.put(with_status(it.task("t0"), state=COMPLETE))
        it.put(a_task("t5", service=service))
        assert it.task("t5").status.err == it.task("t4").status.err == said

    def test_least_recently_used_comes_last(self) -> None:
        it = Allocator(a_network("net", subnet="10.9.0.0/24"), service := a_service(networks=["net"]))
        it.put(a_task("a", service=service))
        it.put(with_status(it.task("a"), state=COMPLETE))
        it.now += 2 * COOL_DOWN
        it.put(a_task("b", service=service))
        assert it.addresses("b") == ["10.9.0.4/24"]

    def test_an_address_is_kept_until_the_task_was_seen_to_stop(self) -> None:
        it = Allocator(a_network("net", subnet="10.9.0.0/30"), service := a_service(networks=["net"], mode=DNSRR))
        it.put(a_task("a", service=service))
        it.put(with_status(it.task("a"), state=RUNNING))
        it.now += 2 * COOL_DOWN
        it.put(a_task("b", service=service))
        assert it.task("b").status.state == TaskState.NEW
        it.delete(it.task("a"))
        it.now += COOL_DOWN
        it.run()
        assert it.addresses("b") == ["10.9.0.2/30"]


class TestLedger:
    def test_an_abandoned_plan_gives_the_same_again(self) -> None:
        """However often it is tried while the store takes no writes: else they would all be resting when it does."""
        it = Allocator(a_network("net", subnet="10.9.0.0/29"), service := a_service(networks=["net"]))
        batch = put(it.state, a_task("a", service=service), a_task("b", service=service))
        it.ledger.observe(batch)
        first, *more = [
            allocate.reconcile(Draft(it.state), dirty_of(batch), it.ledger, it.now)
            for _ in range(6)  # Not committed.
        ]
        assert all(plan.changes == first.changes for plan in more)
        it.ledger.observe(commit(it.state, more[-1]))
        assert (it.addresses("a"), it.addresses("b")) == (["10.9.0.3/29"], ["10.9.0.4/29"])

    def test_an_address_that_is_given_again_early_and_taken_back_rests_again(self) -> None:
        it = Allocator(a_network("net", subnet="10.9.0.0/30"), service := a_service(networks=["net"], mode=DNSRR))
        it.put(a_task("a", service=service))
        given = it.task("a")
        it.delete(given)
        it.now += COOL_DOWN - SECOND
        draft = Draft(it.state)
        draft.put(a_task("a", service=service))
        draft.lay(allocate.reconcile(draft, Dirty(tasks={"a": None}), it.ledger, it.now).changes)
        again = found(draft.tasks.get("a"))
        assert again.attachments == given.attachments
        draft.delete(again)
        assert allocate.reconcile(draft, Dirty(tasks={"a": None}), it.ledger, it.now).changes == ()
        it.put(a_task("b", service=service))
        assert (it.addresses("b"), it.plan.wake_at) == ([], it.now + COOL_DOWN)

    def test_what_a_draft_gives_and_takes_away_again_need_not_cool_down(self) -> None:
        """Seed 200813 of the simulator: a task got its address the moment it was given up, and so did the next one."""
        it = Allocator(a_network("net", subnet="10.9.0.0/30"), service := a_service(networks=["net"], mode=DNSRR))
        it.put(a_task("a", service=service), a_task("b", service=service))
        it.delete(it.task("a"))
        it.now += COOL_DOWN
        draft = Draft(it.state)
        draft.lay(allocate.reconcile(draft, Dirty(), it.ledger, it.now).changes)
        given = found(draft.tasks.get("b"))
        assert given.attachments[0].address == "10.9.0.2/30"
        draft.delete(given)
        draft.put(a_task("c", service=service))
        (change,) = allocate.reconcile(draft, Dirty(tasks={"b": None, "c": None}), it.ledger, it.now).changes
        assert change.value.attachments[0].address == "10.9.0.2/30"

    def test_what_another_draft_gave_cools_down(self) -> None:
        """It may have been stored, and be known to somebody, before this was learnt."""
        it = Allocator(a_network("net", subnet="10.9.0.0/30"), service := a_service(networks=["net"], mode=DNSRR))
        it.ledger.observe(batch := put(it.state, a_task("a", service=service)))
        assert allocate.reconcile(Draft(it.state), dirty_of(batch), it.ledger, it.now).changes
        it.delete(it.task("a"))
        assert it.put(a_task("b", service=service)).wake_at == it.now + COOL_DOWN
        assert it.addresses("b") == []

    def test_an_abandoned_network_is_no_network(self) -> None:
        it = Allocator()
        batch = put(it.state, a_network("net"), service := a_service(networks=["net"]), a_task(service=service))
        it.ledger.observe(batch)
        allocate.reconcile(it.state, dirty_of(batch), it.ledger, it.now)  # Never committed.
        it.delete(it.state.networks.get("net"))
        assert it.task().status.err == "service web is not allocated: network net not found"

    def test_those_an_abandoned_plan_woke_are_woken_again(self) -> None:
        it = Allocator(a_network("net", subnet="10.9.0.0/30"), a_service("first", networks=["net"]))
        it.put(a_service("second", networks=["net"]))
        it.delete(it.service("first"))
        it.now += COOL_DOWN
        allocate.reconcile(it.state, Dirty(), it.ledger, it.now)  # Never committed.
        it.run()
        it.now += COOL_DOWN
        it.run()
        assert it.vips("second") == {"net": "10.9.0.2/30"}

    def test_restart_gives_nothing_out_twice(self) -> None:
        it = Allocator(a_network("ingress", ingress=True), a_node("n"), service := a_service(ports=[a_port(0)]))
        it.put(a_task("a", service=service))
        it.restart()
        it.put(a_task("b", service=service), a_service("other", ports=[a_port(0)]))
        assert it.ports("other") == [30001]
        assert len({*it.addresses("a"), *it.addresses("b"), *it.vips().values(), *it.vips("other").values()}) == 4

    def test_restart_looks_at_what_was_waiting(self) -> None:
        it = Allocator()
        put(it.state, a_network("net"), service := a_service(networks=["net"]), a_task(service=service))
        it.restart()
        it.run()
        assert it.task().status.state == TaskState.PENDING


def test_a_dynamic_port_is_never_one_the_same_service_names() -> None:
    swarm = Allocator(a_network("ingress", ingress=True))
    swarm.put(a_service("web", ports=[a_port(0, 80), a_port(30000, 81)]))
    first, named = swarm.ports()
    assert named == 30000
    assert first != named
