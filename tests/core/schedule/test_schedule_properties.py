"""Whatever happens: reservations are never exceeded, limits hold, plans settle, and the inventory forgets nothing."""

from collections import Counter

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.factories import GIB, a_node, a_port, a_service, a_state, a_task, a_template, commit, dirty_of

from skep.core import schedule
from skep.core.plan import Dirty
from skep.core.schedule.inventory import Inventory
from skep.model.lifecycle import TaskState
from skep.model.node import Availability
from skep.model.service import DiscreteGenericResource, Endpoint, GenericResource, PublishMode
from skep.store.changes import Change, Delete, Put
from skep.store.state import Draft, State

GPU = [GenericResource(discrete_resource_spec=DiscreteGenericResource(kind="gpu", value=1))]
PORT = [a_port(80, mode=PublishMode.HOST)]
SERVICES = [
    a_service("cpu", template=a_template(cpus=1.5, spread=["node.labels.zone"])),
    a_service("mem", template=a_template(memory=3 * GIB, constraints=["node.labels.zone!=b"])),
    a_service("gpu", template=a_template(generic=GPU, max_replicas=2)),
    a_service("port", ports=PORT),
]
NODES = ("n1", "n2", "n3")

tasks = st.builds(
    lambda n, service: Put(
        a_task(
            f"t{n}",
            service=service,
            slot=n + 1,
            state=TaskState.PENDING,
            endpoint=Endpoint(ports=PORT if service.id == "port" else None),
        )
    ),
    st.integers(0, 11),
    st.sampled_from(SERVICES),
)
nodes = st.builds(
    lambda id, zone, cpus, availability: Put(
        a_node(id, labels={"zone": zone}, cpus=cpus, generic=GPU * 3, availability=availability)
    ),
    st.sampled_from(NODES),
    st.sampled_from(["a", "b"]),
    st.integers(0, 6),
    st.sampled_from(Availability),
)
ends = st.tuples(st.sampled_from(["stop", "fail", "delete"]), st.integers(0, 11))
Item = Put | tuple[str, int]
items = st.lists(st.one_of(tasks, tasks, ends, nodes), min_size=1, max_size=6)
steps = st.lists(st.tuples(st.lists(items, max_size=3), items), max_size=12)


@settings(max_examples=150, deadline=None)
@given(steps)
def test_invariants(steps: list[tuple[list[list[Item]], list[Item]]]) -> None:
    """Each step begins with plans that the store did not take: what they were about changed nothing."""
    state = a_state(*SERVICES)
    inventory = Inventory.of(state)
    for now, (abandoned, step) in enumerate(steps):
        for plan_of in abandoned:
            _abandon(state, inventory, plan_of, now)
        before = {task.id: task.node_id for task in state.tasks.values() if task.node_id}
        batch = state.apply([change for item in step for change in _changes(state, item)], state.revision + 1)
        inventory.observe(batch)
        plan = schedule.reconcile(state, dirty_of(batch), inventory, now)
        placed = commit(state, plan)
        inventory.observe(placed)
        assert schedule.reconcile(state, dirty_of(placed), inventory, now).changes == ()
        check_limits(state, {change.id for change in plan.changes} - before.keys())
        assert figures(inventory) == figures(Inventory.of(state))


def _abandon(state: State, inventory: Inventory, step: list[Item], now: int) -> None:
    draft, dirty = Draft(state), Dirty()
    changes = [change for item in step for change in _changes(state, item)]
    draft.lay(changes)
    dirty.note_changes(changes)
    schedule.reconcile(draft, dirty, inventory, now)


def _changes(state: State, item: Item) -> list[Change]:
    """Only what can happen: a task is made once, ends once, and is deleted at any time."""
    if isinstance(item, Put):
        return [] if item.kind == "task" and item.id in state.tasks else [item]
    what, number = item
    task = state.tasks.get(f"t{number}")
    if task is None:
        return []
    if what == "delete":
        return [Delete("task", task.id, task.version)]
    if what == "stop":
        return [Put(msgspec.structs.replace(task, desired_state=TaskState.SHUTDOWN))]
    status = msgspec.structs.replace(task.status, state=TaskState.FAILED, timestamp=1)
    return [Put(msgspec.structs.replace(task, status=status))]


def check_limits(state: State, new: set[str]) -> None:
    for node in state.nodes.values():
        held = [
            task
            for task in state.tasks.where("node", node.id)
            if TaskState.ASSIGNED <= task.status.state <= TaskState.RUNNING
        ]
        if not any(task.id in new for task in held):
            continue  # A node may have shrunk below what already runs there.
        kinds = {task.service_id for task in held if task.id in new}
        services = Counter(task.service_id for task in held)
        counted = Counter(task.service_id for task in held if task.desired_state <= TaskState.COMPLETE)
        if "cpu" in kinds:
            assert services["cpu"] * 1_500_000_000 <= node.description.resources.nano_cpus
        if "mem" in kinds:
            assert services["mem"] * 3 * GIB <= node.description.resources.memory_bytes
            assert node.spec.labels["zone"] != "b"
        assert services["gpu"] <= 3
        assert counted["gpu"] <= 2
        assert services["port"] <= 1
        assert node.spec.availability == Availability.ACTIVE


def figures(inventory: Inventory) -> object:
    return (
        {
            id: (site.cpu_used, site.memory_used, _positive(site.generic_used), site.ports, site.by_service, site.total)
            for id, site in inventory.sites.items()
        },
        {group: set(ids) for group, ids in inventory.waiting.items()},
        inventory.preplaced,
    )


def _positive(counts: dict[str, int]) -> dict[str, int]:
    return {kind: number for kind, number in counts.items() if number}
