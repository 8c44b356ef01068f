"""Whatever happens, also restarts and plans that are thrown away: no number has two holders, and plans settle."""

from itertools import pairwise

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.factories import a_cluster, a_network, a_node, a_port, a_service, a_state, a_task, commit, dirty_of

from skep.core import allocate
from skep.core.allocate.ledger import claims_of
from skep.core.allocate.pools import COOL_DOWN
from skep.core.plan import Dirty
from skep.model.lifecycle import TaskState
from skep.model.service import EndpointSpec, Protocol, ResolutionMode
from skep.store.changes import Change, Delete, Put
from skep.store.state import Draft, State, View

NETWORKS = {
    "ingress": a_network("ingress", ingress=True, subnet="10.0.0.0/28"),
    "small": a_network("small", subnet="10.0.1.0/29"),
    "auto": a_network("auto"),
    "clash": a_network("clash", subnet="10.0.0.0/23"),
}
ids = st.integers(0, 5)
ports = st.lists(
    st.builds(a_port, st.sampled_from([0, 80, 30000]), st.integers(80, 82), protocol=st.sampled_from(Protocol)),
    max_size=2,
    unique_by=lambda port: (port.protocol, port.published_port or -port.target_port),
)
networks = st.sampled_from(sorted(NETWORKS))
operations = st.one_of(
    st.tuples(st.just("network"), networks),
    st.tuples(st.just("drop-network"), networks),
    st.tuples(st.just("node"), ids),
    st.tuples(st.just("drop-node"), ids),
    st.tuples(st.just("service"), ids, ports, st.lists(networks, max_size=2, unique=True), st.booleans()),
    st.tuples(st.just("drop-service"), ids),
    st.tuples(st.just("task"), st.integers(0, 20), ids),
    st.tuples(st.just("task"), st.integers(0, 20), ids),
    st.tuples(st.just("end-task"), st.integers(0, 20)),
    st.tuples(st.just("drop-task"), st.integers(0, 20)),
)
interruptions = st.sampled_from(["wait", "restart", "abandon", ""])
Operations = list[tuple[object, ...]]
drafts = st.lists(st.lists(operations, max_size=5), max_size=3)
steps = st.lists(st.tuples(drafts, st.lists(operations, max_size=5), interruptions), max_size=15)


TAKEN_WHILE_FREED = [
    ([], [("network", "ingress"), ("service", 1, [a_port(80, 80)], [], False)], ""),
    ([], [("service", 0, [a_port(80, 80)], [], False), ("service", 1, [], [], False)], ""),
]
"""One service asks for the port that another gives up in the same round."""


@settings(max_examples=150, deadline=None)
@given(steps)
@example(TAKEN_WHILE_FREED)
def test_no_number_has_two_holders(steps: list[tuple[list[Operations], Operations, str]]) -> None:
    state = a_state(a_cluster(default_address_pools=("10.0.0.0/22",)))
    ledger, now = allocate.Ledger.of(state), 0
    for drafted, step, interruption in steps:
        _abandon(state, ledger, drafted, now)
        dirty = Dirty()
        for operation in step:
            batch = state.apply(_changes(state, *operation), state.revision + 1)
            ledger.observe(batch)
            dirty.note(batch)
        if interruption == "restart":
            ledger = allocate.Ledger.of(state)
        elif interruption == "abandon":
            allocate.reconcile(state, dirty, ledger, now)
        elif interruption == "wait":
            now += COOL_DOWN
        held = claims(state)
        placed = commit(state, allocate.reconcile(state, dirty, ledger, now))
        ledger.observe(placed)
        if held - claims(state):  # Who waits for what this round gave up gets it in the next, which it brings about.
            placed = commit(state, allocate.reconcile(state, dirty_of(placed), ledger, now))
            ledger.observe(placed)
        assert allocate.reconcile(state, dirty_of(placed), ledger, now).changes == ()
        check(state)
        assert ledger._claims == allocate.Ledger.of(state)._claims


def _abandon(state: State, ledger: allocate.Ledger, decisions: list[Operations], now: int) -> None:
    """A round of decisions, each on what the ones before it would change, that is not stored."""
    draft, dirty = Draft(state), Dirty()
    for operations in decisions:
        for operation in operations:
            changes = _changes(draft, *operation)
            draft.lay(changes)
            dirty.note_changes(changes)
        plan = allocate.reconcile(draft, dirty, ledger, now)
        draft.lay(plan.changes)
        dirty.note_changes(plan.changes)


def _changes(state: View, what: object, key: object, *rest: object) -> list[Change]:
    name, id = str(what), f"{str(what).rpartition('-')[2]}{key}"
    match name:
        case "network":
            return [] if str(key) in state.networks else [Put(NETWORKS[str(key)])]
        case "drop-network":
            used = state.tasks.where("network", str(key)) or state.services.where("network", str(key))
            return [] if used or key == "ingress" else _drop(state, "network", str(key))
        case "node":
            return [] if id in state.nodes else [Put(a_node(id, addr=f"192.0.2.{key}"))]
        case "service":
            wanted, on, is_vip = rest
            mode = ResolutionMode.VIP if is_vip or wanted else ResolutionMode.DNSRR
            made = a_service(id, ports=wanted, networks=on, mode=mode)  # type: ignore[arg-type]  # drawn above
            old = state.services.get(id)
            return [Put(msgspec.structs.replace(old, spec=made.spec) if old else made)]
        case "task":
            service = state.services.get(f"service{rest[0]}")
            return [] if service is None or id in state.tasks else [Put(a_task(id, service=service))]
        case "end-task":
            task = state.tasks.get(id)
            if task is None:
                return []
            status = msgspec.structs.replace(task.status, state=TaskState.COMPLETE)
            return [Put(msgspec.structs.replace(task, status=status))]
        case _:
            return _drop(state, name.rpartition("-")[2], id)


def _drop(state: View, kind: str, id: str) -> list[Change]:
    return [Delete(kind, id, 0)] if id in state.table(kind) else []


def claims(state: State) -> set[object]:
    """Every number that somebody has."""
    everything = [*state.networks.values(), *state.nodes.values(), *state.services.values(), *state.tasks.values()]
    return {claim for value in everything for claim in claims_of(value)}


def check(state: State) -> None:
    everything = [*state.networks.values(), *state.nodes.values(), *state.services.values(), *state.tasks.values()]
    claims = [claim for value in everything for claim in claims_of(value)]
    assert len(claims) == len(set(claims)), "a number has two holders"
    taken = allocate.Ledger.of(state).networks
    blocks = sorted((subnet.first, subnet.last) for network in taken.values() for subnet in network.subnets)
    assert all(left[1] < right[0] for left, right in pairwise(blocks)), "subnets overlap"
    for network in state.networks.values():
        gateway = {config.gateway for config in network.subnets}
        assert not gateway & {
            item.address.partition("/")[0] for task in state.tasks.values() for item in task.attachments
        }
    for service in state.services.values():
        asked = (service.spec.endpoint_spec or EndpointSpec()).ports or []
        if service.endpoint is not None and service.endpoint.spec == service.spec.endpoint_spec:
            assert all(port.published_port for port in service.endpoint.ports or [])
            assert len(service.endpoint.ports or []) == len(asked)
        else:
            assert service.reasons, "what is not allocated says why"
    for task in state.tasks.values():
        assert task.status.state != TaskState.NEW or task.status.err, "a task that waits says why"
