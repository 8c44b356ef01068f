"""Whatever happens in whatever order, a node that keeps up holds exactly what a fresh dispatcher would tell it."""

from collections.abc import Sequence

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.factories import a_cluster, a_network, a_node, a_port, a_service, a_state, a_task

from skep.core import dispatch
from skep.model.assignment import AssignedTask, Delta, Item
from skep.model.lifecycle import TaskState
from skep.model.service import Endpoint, EndpointSpec, VirtualIP
from skep.model.task import Task
from skep.store.changes import Change, Delete, Put
from skep.store.state import State

NODES, TASKS = ("n1", "n2", "n3"), tuple(f"t{n}" for n in range(5))
STATES = (TaskState.PENDING, TaskState.ASSIGNED, TaskState.RUNNING, TaskState.FAILED)

tasks = st.builds(
    lambda id, node, state, desired, accepting, network: a_task(
        id,
        service=SERVICES[network],
        state=state,
        desired=desired,
        node_id=node,
        accepting=accepting,
        addresses={"ingress": f"10.0.0.{id[1:]}/24", network: f"10.0.1.{id[1:]}/24"},
    ),
    st.sampled_from(TASKS),
    st.sampled_from(NODES),
    st.sampled_from(STATES),
    st.sampled_from([TaskState.RUNNING, TaskState.SHUTDOWN]),
    st.booleans(),
    st.sampled_from(["red", "blue"]),
)
nodes = st.builds(
    lambda id, balanced: a_node(id, addr=f"192.0.2.{id[1:]}", balanced=balanced),
    st.sampled_from(NODES),
    st.booleans(),
)
SERVICES = {
    color: a_service(
        f"web-{color}",
        networks=[color],
        endpoint=Endpoint(
            spec=EndpointSpec(ports=[a_port(80)]),
            ports=[a_port(80)],
            virtual_ips=[VirtualIP(network_id=color, addr="10.0.1.250/24")],
        ),
    )
    for color in ("red", "blue")
}
services = st.builds(
    lambda color, removing: msgspec.structs.replace(SERVICES[color], removing=removing),
    st.sampled_from(["red", "blue"]),
    st.booleans(),
)
puts = st.one_of(tasks, tasks, nodes, services).map(Put)
deletes = st.one_of(
    st.sampled_from(TASKS).map(lambda id: Delete("task", id, 0)),
    st.sampled_from(sorted(SERVICES)).map(lambda color: Delete("service", f"web-{color}", 0)),
)
sessions = st.tuples(st.sampled_from(["attach", "detach", "ack", "lose"]), st.sampled_from(NODES))
changes = st.lists(st.one_of(puts, puts, deletes), min_size=1, max_size=4)
steps = st.lists(st.one_of(changes, sessions), max_size=25)


class Swarm:
    """Three nodes, some of them attached, that apply what they are sent."""

    def __init__(self) -> None:
        networks = [a_network("ingress", ingress=True, vni=4096, subnet="10.0.0.0/24")]
        networks += [a_network(color, vni=4097, subnet="10.0.1.0/24") for color in SERVICES]
        everyone = [a_node(id, addr=f"192.0.2.{id[1:]}") for id in NODES]
        self.state: State = a_state(a_cluster(), *networks, *everyone, *SERVICES.values())
        self.dispatcher = dispatch.Dispatcher("one", self.state, 0)
        self.attached: set[str] = set()
        self.held: dict[str, tuple[int, dict[str, Item]]] = {}
        self.now = 0

    def change(self, changes: Sequence[Change]) -> None:
        known = [change for change in changes if isinstance(change, Put) or change.id in self.state.table(change.kind)]
        batch = self.state.apply(known, self.state.revision + 1)
        self.take(self.dispatcher.observe(batch, self.state, self.now))

    def session(self, what: str, id: str) -> None:
        self.now += 100_000_000
        version = self.held[id][0] if id in self.held else 0
        if what == "attach" and id not in self.attached:
            self.attached.add(id)
            self.take({id: self.dispatcher.attach(id, "one", version)})
        elif what == "detach" and id in self.attached:
            self.attached.discard(id)
            self.dispatcher.detach(id)
        elif what == "ack" and id in self.attached:
            self.take(self.dispatcher.applied(id, version, self.now))
        elif what == "lose":  # A delta is on its way when the session breaks.
            before = self.held.get(id)
            self.change([Put(a_task("t0", service=SERVICES["red"], state=TaskState.ASSIGNED, node_id=id))])
            self.session("detach", id)
            if before is not None:
                self.held[id] = before

    def take(self, deltas: dict[str, Delta]) -> None:
        for id, delta in deltas.items():
            assert id in self.attached
            version, items = self.held.get(id, (0, {}))
            assert delta.base in (0, version)
            items = dict(items) if delta.base else {}
            for key in delta.remove:
                items.pop(key, None)
            self.held[id] = delta.version, items | {item.key: item for item in delta.put}

    def check(self) -> None:
        for id in self.attached:
            fresh = dispatch.Dispatcher("fresh", self.state, 0).attach(id, "", 0)
            expected = {item.key: orders(item) for item in fresh.put}
            assert {key: orders(item) for key, item in self.held[id][1].items()} == expected

    def check_drains(self) -> None:
        """Nobody attached and serving holds a drained task as a backend."""
        for id in self.attached:
            for item in self.held[id][1].values():
                for backend in getattr(item, "backends", ()):
                    task = self.state.tasks.get(backend.task_id)
                    assert task is not None
                    assert task.desired_state <= TaskState.COMPLETE


def orders(item: Item) -> Item | Task:
    """Without what may lag (a node's own reports) or depends on what happened before (drained)."""
    if isinstance(item, AssignedTask):
        return msgspec.structs.replace(item.task, status=a_task().status, version=0, updated_at=0)
    return item


@settings(max_examples=150, deadline=None)
@given(steps)
def test_holding_what_a_fresh_dispatcher_would_tell(steps: list[list[Change] | tuple[str, str]]) -> None:
    swarm = Swarm()
    for step in steps:
        if isinstance(step, tuple):
            swarm.session(*step)
        else:
            swarm.change(step)
        swarm.check_drains()
    for id in NODES:
        swarm.session("attach", id)
    swarm.check()
