"""Placing tasks, and one service's change in clusters of different size.

Pure decisions on states in memory; nothing is stored or sent. Timed by this process's own processor time: what is
promised is what one core does, and that hardly depends on what the other programs of the machine do.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.bench.figure import Bound, Figure
from tests.factories import (
    a_cluster,
    a_network,
    a_node,
    a_port,
    a_service,
    a_state,
    a_task,
    a_template,
    commit,
    dirty_of,
    put,
    with_status,
)

from skep.core import allocate, dispatch, schedule
from skep.core.plan import Dirty, Plan
from skep.model.lifecycle import TaskState
from skep.store.changes import Batch, Put

N_CHANGES = 20
N_NODES = 20
FEW, MANY = 20, 2000


@dataclass(frozen=True, slots=True)
class Load:
    """What is placed. Attributes: target: tasks a second at least."""

    n_tasks: int
    n_nodes: int
    n_services: int
    target: float
    n_runs: int = 3

    @property
    def name(self) -> str:
        return f"place {self.n_tasks} tasks of {self.n_services} services on {self.n_nodes} nodes"


LOADS = (Load(10_000, 1000, 1, 20_000), Load(10_000, 1000, 100, 20_000), Load(100_000, 5000, 10, 10_000, 2))


def measure(*, quick: bool) -> Sequence[Figure]:
    """Rates of placing with constraints and a spread preference, then whether a change's cost is flat."""
    figures = [
        Figure(load.name, "/s", [_place(load) for _ in range(1 if quick else load.n_runs)], Bound.AT_LEAST, load.target)
        for load in (LOADS[:2] if quick else LOADS)
    ]
    return [*figures, _flatness(1 if quick else 3)]


def _place(load: Load) -> float:
    """Tasks a second from their batch to the plan in memory, the inventory brought up to date at both ends."""
    zones = [{"zone": f"z{number % 5}", "disk": "ssd" if number % 3 else "hdd"} for number in range(load.n_nodes)]
    nodes = [a_node(f"node{number:05d}", labels=labels, cpus=64) for number, labels in enumerate(zones)]
    constraints = ["node.labels.disk==ssd", "node.role==worker"]
    template = a_template(constraints=constraints, spread=["node.labels.zone"], cpus=0.01)
    services = [a_service(f"s{number}", template=template) for number in range(load.n_services)]
    state = a_state(a_cluster(), *nodes, *services)
    inventory = schedule.Inventory.of(state)
    schedule.reconcile(state, Dirty(), inventory, 0)
    tasks = [
        a_task(f"t{number:06d}", service=services[number % load.n_services], state=TaskState.PENDING, slot=number)
        for number in range(load.n_tasks)
    ]
    batch = state.apply([Put(task) for task in tasks], 2)
    started = time.process_time()
    inventory.observe(batch)
    plan = schedule.reconcile(state, dirty_of(batch), inventory, 5)
    placed = state.apply(plan.changes, 3)
    inventory.observe(placed)
    took_s = time.process_time() - started
    assert len(plan.changes) == load.n_tasks
    assert not schedule.reconcile(state, dirty_of(placed), inventory, 5).changes
    return load.n_tasks / took_s


def _flatness(n_runs: int) -> Figure:
    clusters = {count: ClusterOf(count) for count in (FEW, MANY)}
    costs: dict[int, list[float]] = {count: [] for count in clusters}
    for run in range(n_runs):
        for count, cluster in clusters.items():
            costs[count].append(statistics.median(cluster.change_s(run * N_CHANGES + k) for k in range(N_CHANGES)))
    ratios = [many / few for few, many in zip(costs[FEW], costs[MANY], strict=True)]
    few, many = (statistics.median(costs[count]) * 1000 for count in (FEW, MANY))
    note = f"{few:.2f} ms among {FEW}, {many:.2f} ms among {MANY}: allocated, placed, dispatched to {N_NODES} nodes"
    return Figure(f"one service's change: {MANY} services over {FEW}", "x", ratios, Bound.AT_MOST, 1.5, note)


@dataclass
class ClusterOf:
    """A cluster of so many services with three running tasks each, and everything a leader keeps in memory of it."""

    n_services: int
    at: int = field(default=2, init=False)

    def __post_init__(self) -> None:
        overlay = a_network("net", subnet="10.64.0.0/12")
        ingress = a_network("ingress", ingress=True, subnet="10.32.0.0/12")
        nodes = [a_node(f"n{number}", addr=f"192.0.2.{number + 1}", cpus=64) for number in range(N_NODES)]
        self.state = a_state(a_cluster(), overlay, ingress, *nodes)
        self.ledger = allocate.Ledger.of(self.state)
        self.inventory = schedule.Inventory.of(self.state)
        services = [
            a_service(f"s{number}", networks=["net"], ports=[a_port(10000 + number)])
            for number in range(self.n_services)
        ]
        tasks = [
            a_task(f"t{service.id}-{slot}", service=service, slot=slot) for service in services for slot in (1, 2, 3)
        ]
        self._decide(put(self.state, *services, *tasks))
        running = [with_status(task, state=TaskState.RUNNING, is_accepting=True) for task in self.state.tasks.values()]
        self._observe(put(self.state, *running))
        self.dispatcher = dispatch.Dispatcher("epoch", self.state, 0)
        for number in range(N_NODES):
            self.dispatcher.attach(f"n{number}", "", 0)

    def change_s(self, number: int) -> float:
        """Seconds that one more task of one service takes, from its batch until every node's delta is made."""
        service = self.state.services.get(f"s{number % FEW}")
        batch = put(self.state, a_task(f"x{number}", service=service, slot=10 + number))
        started = time.process_time()
        for each in self._decide(batch):
            self.dispatcher.observe(each, self.state, self.at)
        task = self.state.tasks.get(f"x{number}")
        assert task is not None
        assert task.status.state == TaskState.ASSIGNED
        running = put(self.state, with_status(task, state=TaskState.RUNNING, is_accepting=True))
        self._observe(running)
        deltas = self.dispatcher.observe(running, self.state, self.at)
        took_s = time.process_time() - started
        assert len(deltas) == N_NODES
        return took_s

    def _decide(self, batch: Batch) -> Sequence[Batch]:
        """Allocate and place what a batch asks for; returns it and what came of it."""
        self._observe(batch)
        allocated = self._commit(allocate.reconcile(self.state, dirty_of(batch), self.ledger, self.at))
        placed = self._commit(schedule.reconcile(self.state, dirty_of(allocated), self.inventory, self.at))
        return batch, allocated, placed

    def _commit(self, plan: Plan) -> Batch:
        batch = commit(self.state, plan)
        self._observe(batch)
        return batch

    def _observe(self, batch: Batch) -> None:
        self.ledger.observe(batch)
        self.inventory.observe(batch)
