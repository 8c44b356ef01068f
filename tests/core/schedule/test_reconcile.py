"""Where tasks go, and what they say when they cannot go anywhere."""

from collections import Counter
from typing import TypeVar

import msgspec
import pytest
from tests.factories import (
    GIB,
    a_cluster,
    a_node,
    a_port,
    a_service,
    a_state,
    a_task,
    a_template,
    all_dirty,
    commit,
    dirty_of,
    put,
    with_status,
)

from skep.core import schedule
from skep.core.plan import Dirty, Plan
from skep.core.schedule.inventory import MAX_ARRANGEMENTS
from skep.core.schedule.site import FAILURE_WINDOW
from skep.lib.durations import SECOND
from skep.model.base import Object
from skep.model.lifecycle import TaskState
from skep.model.node import Availability, EngineDescription, Node, NodeState, NodeStatus, PluginDescription
from skep.model.service import (
    ContainerSpec,
    DiscreteGenericResource,
    DriverConfig,
    Endpoint,
    GenericResource,
    Mount,
    NamedGenericResource,
    Platform,
    PublishMode,
    Service,
    TaskSpec,
    VolumeOptions,
)
from skep.model.task import Task
from skep.store.changes import Delete, Put
from skep.store.state import Draft

PENDING, RUNNING, SHUTDOWN, FAILED = TaskState.PENDING, TaskState.RUNNING, TaskState.SHUTDOWN, TaskState.FAILED
T = TypeVar("T")


class Scheduler:
    """A state with its inventory: change something, then see where tasks went."""

    def __init__(self, *objects: Object) -> None:
        self.now = 1_000 * SECOND
        self.state = a_state(a_cluster(), *objects)
        self.inventory = schedule.Inventory.of(self.state)
        self.run(all_dirty(self.state))

    def run(self, dirty: Dirty) -> Plan:
        plan = schedule.reconcile(self.state, dirty, self.inventory, self.now)
        batch = commit(self.state, plan)
        self.inventory.observe(batch)
        again = schedule.reconcile(self.state, dirty_of(batch), self.inventory, self.now)
        assert again.changes == (), "a plan run again on its result is empty"
        return plan

    def put(self, *objects: Object) -> Plan:
        batch = put(self.state, *objects)
        self.inventory.observe(batch)
        return self.run(dirty_of(batch))

    def delete(self, kind: str, id: str) -> Plan:
        batch = self.state.apply([Delete(kind, id, 0)], self.state.revision + 1)
        self.inventory.observe(batch)
        return self.run(dirty_of(batch))

    def task(self, id: str) -> Task:
        found = self.state.tasks.get(id)
        assert found is not None
        return found

    def err(self, id: str = "t1") -> str:
        assert self.task(id).status.state == PENDING
        assert self.task(id).node_id == ""
        return self.task(id).status.err

    def places(self) -> dict[str, str]:
        return {task.id: task.node_id for task in self.state.tasks.values()}

    def load(self) -> Counter[str]:
        return Counter(task.node_id for task in self.state.tasks.values() if task.status.state <= RUNNING)


def pending(count: int, service: Service, prefix: str = "t") -> list[Task]:
    return [
        a_task(f"{prefix}{n}", service=service, slot=n, state=PENDING, endpoint=Endpoint(ports=_ports(service)))
        for n in range(1, count + 1)
    ]


def _ports(service: Service) -> list[object] | None:
    return service.spec.endpoint_spec.ports if service.spec.endpoint_spec else None  # type: ignore[return-value]


def test_an_assigned_task_says_so() -> None:
    it = Scheduler(a_node("n1"), *pending(1, a_service()))
    task = it.task("t1")
    assert (task.node_id, task.status.state) == ("n1", TaskState.ASSIGNED)
    assert (task.status.message, task.status.timestamp) == ("scheduler assigned task to node", it.now)


class TestFilters:
    @pytest.mark.parametrize(
        ("nodes", "template", "ports", "reason"),
        [
            pytest.param([], a_template(), [], "no suitable node", id="no-nodes"),
            pytest.param(
                [a_node("n1", state=NodeState.DOWN), a_node("n2", availability=Availability.PAUSE)],
                a_template(),
                [],
                "no suitable node (2 nodes not available for new tasks)",
                id="ready",
            ),
            pytest.param(
                [a_node("n1", cpus=1), a_node("n2", cpus=1), a_node("n3", labels={"zone": "south"})],
                a_template(cpus=2, constraints=["node.labels.zone==north"]),
                [],
                "no suitable node (insufficient resources on 2 nodes; scheduling constraints not satisfied on 1 node)",
                id="resources-and-constraints",
            ),
            pytest.param(
                [a_node("n1", memory=GIB)],
                a_template(memory=2 * GIB),
                [],
                "no suitable node (insufficient resources on 1 node)",
                id="memory",
            ),
            pytest.param(
                [a_node("n1", platform=Platform(architecture="aarch64", os="linux"))],
                a_template(platforms=[Platform(architecture="amd64", os="linux")]),
                [],
                "no suitable node (unsupported platform on 1 node)",
                id="platform",
            ),
            pytest.param(
                [a_node("n1")],
                TaskSpec(
                    container_spec=ContainerSpec(
                        mounts=[Mount(volume_options=VolumeOptions(driver_config=DriverConfig(name="nfs")))]
                    )
                ),
                [],
                "no suitable node (missing plugin on 1 node)",
                id="plugin",
            ),
            pytest.param(
                [a_node("n1")],
                a_template(constraints=["node.colour==red"]),
                [],
                "no suitable node (scheduling constraints not satisfied on 1 node)",
                id="unknown-key",
            ),
        ],
    )
    def test_refusals_are_counted_in_swarms_words(
        self, nodes: list[Node], template: TaskSpec, ports: list[object], reason: str
    ) -> None:
        it = Scheduler(*nodes, *pending(1, a_service(template=template)))
        assert it.err() == reason

    @pytest.mark.parametrize(
        ("template", "node"),
        [
            pytest.param(a_template(platforms=[Platform(architecture="amd64", os="linux")]), {}, id="x86_64-is-amd64"),
            pytest.param(a_template(platforms=[Platform()]), {}, id="any-platform"),
            pytest.param(a_template(constraints=["node.labels.zone != north"]), {}, id="label-missing-differs"),
            pytest.param(a_template(constraints=["node.labels.Zone==NORTH"]), {"labels": {"Zone": "north"}}, id="case"),
            pytest.param(a_template(cpus=4, memory=8 * GIB), {}, id="exactly-full"),
        ],
    )
    def test_passing(self, template: TaskSpec, node: dict[str, object]) -> None:
        it = Scheduler(a_node("n1", **node), *pending(1, a_service(template=template)))  # type: ignore[arg-type]
        assert it.task("t1").node_id == "n1"

    def test_plugin_that_is_installed(self) -> None:
        spec = TaskSpec(
            container_spec=ContainerSpec(
                mounts=[Mount(volume_options=VolumeOptions(driver_config=DriverConfig(name="nfs")))]
            )
        )
        node = a_node("n1")
        engine = EngineDescription(plugins=[PluginDescription(type="Volume", name="nfs:latest")])
        description = msgspec.structs.replace(node.description, engine=engine)
        it = Scheduler(msgspec.structs.replace(node, description=description), *pending(1, a_service(template=spec)))
        assert it.task("t1").node_id == "n1"

    def test_host_ports_are_one_per_node(self) -> None:
        service = a_service(ports=[a_port(80, mode=PublishMode.HOST)])
        it = Scheduler(a_node("n1"), a_node("n2"), *pending(3, service))
        assert sorted(it.places().values()) == ["", "n1", "n2"]
        assert it.err("t3") == "no suitable node (host-mode port already in use on 2 nodes)"

    def test_max_replicas_per_node(self) -> None:
        it = Scheduler(a_node("n1"), a_node("n2"), *pending(5, a_service(template=a_template(max_replicas=2))))
        assert it.load() == {"n1": 2, "n2": 2, "": 1}
        assert it.err("t5") == "no suitable node (max replicas per node limit exceed)"

    def test_reservations_fill_up_and_are_given_back(self) -> None:
        service = a_service(template=a_template(cpus=1.5))
        it = Scheduler(a_node("n1", cpus=4), *pending(3, service))
        assert it.err("t3") == "no suitable node (insufficient resources on 1 node)"
        it.put(msgspec.structs.replace(it.task("t1"), desired_state=SHUTDOWN))
        assert it.err("t3"), "what is told to stop still holds what it holds"
        it.put(with_status(it.task("t1"), state=SHUTDOWN))
        assert it.task("t3").node_id == "n1"
        assert it.task("t3").status.err == ""


class TestGenericResources:
    def test_named_ones_are_claimed_by_name(self) -> None:
        gpus = [
            GenericResource(named_resource_spec=NamedGenericResource(kind="gpu", value=name)) for name in ("a", "b")
        ]
        it = Scheduler(a_node("n1", generic=gpus), *pending(3, a_service(template=a_template(generic=[_discrete(1)]))))
        claimed = [it.task(id).generic_resources for id in ("t1", "t2")]
        assert claimed == [[gpus[0]], [gpus[1]]]
        assert it.err("t3") == "no suitable node (insufficient resources on 1 node)"
        it.delete("task", "t1")
        assert it.task("t3").generic_resources == [gpus[0]]

    def test_counted_ones_by_number(self) -> None:
        template = a_template(generic=[_discrete(2)])
        it = Scheduler(a_node("n1", generic=[_discrete(5)]), *pending(3, a_service(template=template)))
        assert it.task("t1").generic_resources == [_discrete(2)]
        assert it.load() == {"n1": 2, "": 1}


def _discrete(value: int) -> GenericResource:
    return GenericResource(discrete_resource_spec=DiscreteGenericResource(kind="gpu", value=value))


class TestRanking:
    def test_fewest_of_the_service_before_fewest_of_all(self) -> None:
        other, web = a_service("other"), a_service("web")
        busy = [a_task(f"o{n}", service=other, state=RUNNING, node_id="n1") for n in range(3)]
        it = Scheduler(a_node("n1"), a_node("n2"), *busy, a_task("w0", service=web, state=RUNNING, node_id="n2"))
        it.put(*pending(1, web))
        assert it.task("t1").node_id == "n1"
        it.put(*pending(1, a_service("third"), "x"))
        assert it.task("x1").node_id == "n2"

    def test_new_tasks_even_out(self) -> None:
        it = Scheduler(*(a_node(f"n{n}") for n in range(4)), *pending(10, a_service()))
        assert sorted(it.load().values()) == [2, 2, 3, 3]

    def test_spread_over_a_label_however_many_nodes_have_it(self) -> None:
        nodes = [a_node(f"a{n}", labels={"zone": "a"}) for n in range(4)] + [a_node("b0", labels={"zone": "b"})]
        it = Scheduler(*nodes, *pending(8, a_service(template=a_template(spread=["node.labels.zone"]))))
        assert it.load() == {"a0": 1, "a1": 1, "a2": 1, "a3": 1, "b0": 4}

    def test_spread_over_two_labels(self) -> None:
        nodes = [a_node(f"{z}{r}", labels={"zone": z, "rack": r}) for z, r in ("ax", "ay", "bx")]
        template = a_template(spread=["node.labels.zone", "node.labels.rack"])
        it = Scheduler(*nodes, *pending(8, a_service(template=template)))
        assert it.load() == {"ax": 2, "ay": 2, "bx": 4}

    def test_a_full_branch_leaves_the_rest_to_others(self) -> None:
        nodes = [a_node("a", labels={"zone": "a"}, cpus=1), a_node("b", labels={"zone": "b"}, cpus=10)]
        it = Scheduler(*nodes, *pending(8, a_service(template=a_template(cpus=1, spread=["node.labels.zone"]))))
        assert it.load() == {"a": 1, "b": 7}

    def test_where_the_service_keeps_failing_comes_last(self) -> None:
        web = a_service()
        it = Scheduler(a_node("n1"), a_node("n2"))
        for n in range(5):
            it.put(a_task(f"f{n}", service=web, state=RUNNING, node_id="n1"))
            it.put(with_status(it.task(f"f{n}"), state=FAILED, timestamp=it.now))
        it.put(*(a_task(f"b{n}", service=web, state=RUNNING, node_id="n2") for n in range(3)))
        it.put(*pending(1, web))
        assert it.task("t1").node_id == "n2"
        it.put(*pending(1, msgspec.structs.replace(web, spec_version=1), "v"))
        assert it.task("v1").node_id == "n1", "another version of the service starts anew"
        it.inventory = schedule.Inventory.of(it.state)
        it.put(*pending(1, web, "u"))
        assert it.task("u1").node_id == "n2", "a new leader still knows"
        it.now += FAILURE_WINDOW
        it.put(*pending(1, web, "w"))
        assert it.task("w1").node_id == "n1", "failures are forgiven after a while"


class TestRetry:
    def test_when_a_node_comes_or_changes(self) -> None:
        it = Scheduler(*pending(1, a_service(template=a_template(constraints=["node.labels.disk==ssd"]))))
        assert it.err() == "no suitable node"
        it.put(a_node("n1"))
        assert it.err() == "no suitable node (scheduling constraints not satisfied on 1 node)"
        it.put(a_node("n1", labels={"disk": "ssd"}))
        assert it.task("t1").node_id == "n1"

    def test_the_reason_follows_the_nodes(self) -> None:
        it = Scheduler(a_node("n1", cpus=1), a_node("n2", cpus=1), *pending(1, a_service(template=a_template(cpus=2))))
        it.put(a_node("n1", cpus=1, state=NodeState.DOWN))
        reason = "no suitable node (1 node not available for new tasks; insufficient resources on 1 node)"
        assert it.err() == reason

    def test_services_that_ask_the_same_see_nodes_change(self) -> None:
        template = a_template(constraints=["node.labels.disk==ssd"], spread=["node.labels.zone"])
        ssd, hdd = {"disk": "ssd", "zone": "a"}, {"disk": "hdd", "zone": "b"}
        it = Scheduler(a_node("n1", labels=ssd), a_node("n2", labels=hdd))
        where: list[str] = []
        for name, change in (
            ("a", []),
            ("b", [a_node("n1", labels=hdd), a_node("n2", labels=ssd)]),
            ("c", [a_node("n2", labels=ssd, availability=Availability.DRAIN), a_node("n3", labels=ssd)]),
        ):
            it.put(*change, *pending(1, a_service(name, template=template), name))
            where.append(it.task(f"{name}1").node_id)
        it.delete("node", "n3")
        it.put(*pending(1, a_service("d", template=template), "d"))
        assert where == ["n1", "n2", "n3"]
        nobody = "scheduling constraints not satisfied on 1 node"
        assert it.err("d1") == f"no suitable node (1 node not available for new tasks; {nobody})"

    def test_services_that_ask_the_same_keep_limits_of_their_own(self) -> None:
        it = Scheduler(a_node("n1", cpus=4))
        for name, template in (("a", a_template(cpus=3)), ("b", a_template(cpus=2)), ("c", a_template(cpus=1))):
            it.put(*pending(1, a_service(name, template=template), name))
        it.put(*pending(2, a_service("d", template=a_template(max_replicas=1)), "d"))
        it.put(*pending(2, a_service("e"), "e"))
        assert it.places() == {"a1": "n1", "b1": "", "c1": "n1", "d1": "n1", "d2": "", "e1": "n1", "e2": "n1"}

    def test_more_kinds_of_demands_than_are_kept(self) -> None:
        nodes = [a_node(f"n{n}", labels={"kind": str(n)}) for n in range(MAX_ARRANGEMENTS + 2)]
        it = Scheduler(*nodes)
        for turn in ("x", "y"):
            for n in range(len(nodes)):
                service = a_service(f"{turn}{n}", template=a_template(constraints=[f"node.labels.kind=={n}"]))
                it.put(*pending(1, service, service.id))
                assert it.task(f"{service.id}1").node_id == f"n{n}"

    def test_a_deleted_or_unwanted_task_is_forgotten(self) -> None:
        it = Scheduler(*pending(2, a_service()))
        it.delete("task", "t1")
        it.put(msgspec.structs.replace(it.task("t2"), desired_state=SHUTDOWN))
        it.put(a_node("n1"))
        assert it.task("t2").node_id == ""


class TestPreplaced:
    def test_confirmed_where_it_fits(self) -> None:
        it = Scheduler(a_node("n1"), a_task("g", service=a_service(), slot=0, state=PENDING, node_id="n1"))
        task = it.task("g")
        assert task.status.state == TaskState.ASSIGNED
        assert task.status.message == "scheduler confirmed task can run on preassigned node"

    def test_waits_with_the_reason_until_there_is_room(self) -> None:
        service = a_service(template=a_template(cpus=3))
        held = a_task("h", service=service, state=RUNNING, node_id="n1")
        it = Scheduler(a_node("n1"), held, a_task("g", service=service, slot=0, state=PENDING, node_id="n1"))
        assert it.task("g").status.err == "insufficient resources on 1 node"
        it.put(with_status(it.task("h"), state=TaskState.COMPLETE))
        assert it.task("g").status.state == TaskState.ASSIGNED


class TestInventory:
    def test_an_abandoned_plan_holds_nothing(self) -> None:
        service = a_service(template=a_template(cpus=4))
        it = Scheduler(a_node("n1", cpus=4))
        batch = put(it.state, *pending(1, service))
        it.inventory.observe(batch)
        first = schedule.reconcile(it.state, dirty_of(batch), it.inventory, it.now)  # Never committed.
        second = schedule.reconcile(it.state, Dirty(), it.inventory, it.now)
        assert [change.value for change in first.changes] == [change.value for change in second.changes]

    @pytest.mark.parametrize("n_abandoned", [1, 2, 3])
    def test_what_abandoned_plans_said_of_others_is_undone_however_often_they_said_it(self, n_abandoned: int) -> None:
        """Seed 60103: told twice in a row that a task was gone and a node down, it took both for committed."""
        service = a_service(template=a_template(cpus=4))
        it = Scheduler(a_node("n1", cpus=4), a_task("held", service=service, state=RUNNING, node_id="n1"))
        node = next(iter(it.state.nodes.values()))
        down = msgspec.structs.replace(node, status=NodeStatus(state=NodeState.DOWN))
        for _ in range(n_abandoned):
            draft = Draft(it.state)
            draft.lay([Delete("task", "held", 0), Put(down)])
            schedule.reconcile(draft, Dirty(tasks={"held"}, nodes={"n1"}), it.inventory, it.now)
        it.put(*pending(1, service))
        assert it.err() == "no suitable node (insufficient resources on 1 node)"

    def test_an_abandoned_reason_is_given_again(self) -> None:
        it = Scheduler()
        batch = put(it.state, *pending(1, a_service()))
        it.inventory.observe(batch)
        schedule.reconcile(it.state, dirty_of(batch), it.inventory, it.now)  # Never committed.
        it.run(Dirty())
        assert it.err() == "no suitable node"

    def test_tasks_of_a_draft_are_placed_before_they_are_committed(self) -> None:
        it = Scheduler(a_node("n1", cpus=4))
        unseen = put(it.state, *pending(2, a_service(template=a_template(cpus=3))))
        it.run(dirty_of(unseen))
        assert sorted(it.places().values()) == ["", "n1"]
