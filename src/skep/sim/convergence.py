"""Whether the swarm has come to rest: what is wanted is what is, on every node, and nothing else is left.

Pure over the world's state: everything is compared with what the decisions would say again from scratch.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from skep.core import allocate, schedule
from skep.core.allocate import Ledger
from skep.core.allocate.ledger import Space
from skep.core.dispatch.dispatcher import Dispatcher
from skep.core.mesh.intent import NodeIntent, fold
from skep.core.orchestrate import global_, modes
from skep.core.orchestrate import reconcile as orchestrate
from skep.core.orchestrate.modes import Mode
from skep.core.orchestrate.roster import Roster
from skep.core.plan import Dirty
from skep.core.schedule import Inventory
from skep.manager.decide import decide
from skep.model.assignment import AssignedTask, ItemKey
from skep.model.base import Nanoseconds
from skep.model.lifecycle import TaskState, is_active, is_terminal
from skep.model.node import NodeState
from skep.model.service import Service
from skep.model.task import Task, TaskStatus
from skep.ports.runtime import ContainerState
from skep.sim.engine import TASK_LABEL
from skep.sim.machine import Machine
from skep.store.changes import Put
from skep.store.state import State


def complaints(state: State, machines: Sequence[Machine], now: Nanoseconds) -> Iterator[str]:
    """Everything that keeps the swarm from being at rest."""
    by_id = {machine.node_id: machine for machine in machines}
    for node in state.nodes.values():
        if node.id not in by_id or node.status.state != NodeState.READY or not node.balanced:
            yield f"node {node.description.hostname} is {node.status.state}, balanced: {node.balanced}"
    for service in state.services.values():
        yield from _service(state, service, now)
    expected = Dispatcher("expected", state, now)
    for machine in machines:
        if machine.node_id not in state.nodes:
            yield f"{machine.hostname} was removed and has not left"
            continue
        yield from _engine(state, machine)
        yield from _mesh(machine, expected)


def _service(state: State, service: Service, now: Nanoseconds) -> Iterator[str]:
    name = service.spec.name
    if service.removing:
        yield f"service {name} is still being removed"
        return
    if service.update_status is not None and service.update_status.state in ("updating", "rollback_started"):
        yield f"service {name} is still {service.update_status.state}"
    roster = Roster.load(state, service, now, lambda: "")
    for key in roster.slots:
        for task in roster.tasks(key):
            if task.desired_state > TaskState.COMPLETE and is_active(task.status.state):
                yield f"task {task.name} is {task.status.state.label} and is to be {task.desired_state.label}"
    yield from _slots(roster)


def _slots(roster: Roster) -> Iterator[str]:
    name = roster.service.spec.name
    filled = [key for key in roster.slots if _is_filled(roster, key)]
    match roster.mode:
        case Mode.REPLICATED:
            wanted = modes.replicas(roster.service.spec)
        case Mode.REPLICATED_JOB:
            wanted = modes.job_size(roster.service.spec)[0]
        case Mode.GLOBAL | Mode.GLOBAL_JOB:
            eligible = {node.id for node in roster.view.nodes.values() if global_.is_eligible(roster, node)}
            filled = [key for key in filled if key in eligible]  # A job's tasks stay known where they completed.
            wanted = len(eligible)
    if len(filled) != wanted:
        yield f"service {name} has {len(filled)} of {wanted} slots filled"
    for key in roster.slots:
        live = [task for task in roster.live(key) if not is_terminal(task.status.state)]
        if len(live) > 1:
            yield f"slot {key} of service {name} has {len(live)} tasks"


def _is_filled(roster: Roster, key: int | str) -> bool:
    """Whether a slot does its work, or cannot and says why."""
    if roster.is_settled(key) or roster.is_done(key):
        return True
    live = roster.live(key)
    if len(live) != 1:
        return False
    (task,) = live
    is_waiting = task.status.state == TaskState.PENDING and bool(task.status.err)
    return (roster.is_ready(task) and not roster.is_dirty(task)) or is_waiting


def _engine(state: State, machine: Machine) -> Iterator[str]:
    """Containers and sandboxes are those of the tasks, one for one."""
    tasks = {task.id: task for task in state.tasks.where("node", machine.node_id)}
    active = {id for id, task in tasks.items() if is_active(task.status.state)}
    running = [each.config.labels[TASK_LABEL] for each in machine.engine.running()]
    expected = {id for id in active if tasks[id].status.state >= TaskState.RUNNING}
    if sorted(running) != sorted(expected):
        yield f"{machine.hostname} runs {_difference(running, expected, tasks)}"
    for container in machine.engine.containers.values():
        task = tasks.get(container.config.labels[TASK_LABEL])
        if task is None:
            yield f"{machine.hostname} has container {container.config.name} of no task"
        elif container.state is not ContainerState.RUNNING and task.id in expected:
            yield f"{machine.hostname} has {container.config.name} {container.state}"
    if set(machine.kernel.sandboxes) - active:
        yield f"{machine.hostname} has sandboxes {sorted(set(machine.kernel.sandboxes) - active)} of no active task"
    for task_id in set(machine.disk.records) - tasks.keys():
        yield f"{machine.hostname} remembers task {task_id}, which is gone"


def _difference(running: Sequence[str], expected: set[str], tasks: Mapping[str, Task]) -> str:
    extra = sorted(tasks[id].name if id in tasks else id for id in set(running) - expected)
    missing = sorted(tasks[id].name for id in expected - set(running))
    return f"{extra} too many and {missing} not"


def _mesh(machine: Machine, expected: Dispatcher) -> Iterator[str]:
    """The kernel's intent and the names are what a fresh dispatcher would say."""
    wanted = fold(NodeIntent(), expected.attach(machine.node_id, "", 0), machine.node_id)
    applied = machine.kernel.applied
    if applied is None or machine.agent is None:
        yield f"{machine.hostname} has nothing programmed"
        return
    tables = ("peers", "networks", "endpoints", "services", "published")
    for name in tables:
        if getattr(applied, name) != getattr(wanted, name):
            yield f"{machine.hostname} has other {name}: {_items_apart(getattr(applied, name), getattr(wanted, name))}"
    if _orders(applied) != _orders(wanted):
        yield f"{machine.hostname} has other tasks: {_items_apart(_orders(applied), _orders(wanted))}"
    zone = {**wanted.networks, **wanted.endpoints, **wanted.services}
    if machine.names.zone != zone:
        yield f"{machine.hostname} answers other names: {_items_apart(machine.names.zone, zone)}"


def _orders(intent: NodeIntent) -> dict[ItemKey, AssignedTask]:
    """Tasks without what the node itself reported of them."""
    replace = msgspec.structs.replace
    return {
        key: replace(item, task=replace(item.task, status=TaskStatus(), version=0, updated_at=0))
        for key, item in intent.tasks.items()
    }


def _items_apart(have: Mapping[ItemKey, object], want: Mapping[ItemKey, object]) -> list[str]:
    return sorted(key for key in have.keys() | want.keys() if have.get(key) != want.get(key))


def overlooked(state: State, now: Nanoseconds) -> Iterator[str]:
    """Tasks that wait for a node although there is one for them."""
    plan = schedule.reconcile(state, Dirty.everything(state), Inventory.of(state), now)
    for change in plan.changes:
        task = change.value if isinstance(change, Put) else None
        if isinstance(task, Task) and task.status.state == TaskState.ASSIGNED:
            yield f"task {task.name} waits and could be placed"


def _ledger(state: State, resting: Iterable[tuple[Space, int]]) -> Ledger:
    """The numbers in use, and those that a leader holds back because they were in use a moment ago."""
    ledger = Ledger.of(state)
    for space, number in resting:
        if space in ledger.pools:
            ledger.take(space, ("", "resting"), number)
    return ledger


def unnumbered(state: State, now: Nanoseconds, resting: Iterable[tuple[Space, int]]) -> Iterator[str]:
    """Tasks that wait for numbers although there are some that do not rest from their last use."""
    if not any(task.status.state == TaskState.NEW and task.status.err for task in state.tasks.values()):
        return
    for change in allocate.reconcile(state, Dirty.everything(state), _ledger(state, resting), now).changes:
        task = change.value if isinstance(change, Put) else None
        if isinstance(task, Task) and task.status.state == TaskState.PENDING:
            yield f"task {task.name} waits for a number and there is one"


def unrest(state: State, now: Nanoseconds, resting: Iterable[tuple[Space, int]]) -> Iterator[str]:
    """What a new leader would still change, if it knew which numbers are to rest a while."""
    ledger, inventory = _ledger(state, resting), Inventory.of(state)

    def numbers(view, dirty, at, /):  # type: ignore[no-untyped-def]  # a Decision
        return allocate.reconcile(view, dirty, ledger, at)

    def tasks(view, dirty, at, /):  # type: ignore[no-untyped-def]  # a Decision
        return orchestrate.reconcile(view, dirty, at, lambda: "new")

    def places(view, dirty, at, /):  # type: ignore[no-untyped-def]  # a Decision
        return schedule.reconcile(view, dirty, inventory, at)

    plan = decide(state, Dirty.everything(state), (numbers, tasks, numbers, places), now)
    for change in plan.changes:
        yield f"a new leader would change {change.kind} {change.id}"


def leftovers(state: State, machines: Sequence[Machine]) -> Iterator[str]:
    """What is still there after everything was removed."""
    for task in state.tasks.values():
        yield f"task {task.name} is left, {task.status.state.label}"
    for machine in machines:
        for container in machine.engine.containers.values():
            yield f"{machine.hostname} is left with container {container.config.name}"
        for task_id in machine.kernel.sandboxes:
            yield f"{machine.hostname} is left with the sandbox of {task_id}"
        for task_id in machine.disk.records:
            yield f"{machine.hostname} still remembers task {task_id}"


def ledger_complaints(running: Ledger, state: State) -> Iterator[str]:
    """The leader's numbers are those of the stored objects, no more and no fewer."""
    fresh = Ledger.of(state)
    for space in sorted(running.pools.keys() | fresh.pools.keys()):
        have = running.pools[space].holders if space in running.pools else {}
        want = fresh.pools[space].holders if space in fresh.pools else {}
        if have != want:
            yield f"the ledger of {space} holds {have} instead of {want}"
