"""What must hold of the stored state after every single transaction.

Pure over the rows as they are committed: the checker keeps a state of its own, so that it sees each revision, whatever
the managers have read of it, and looks only at what a transaction touched.
"""

from collections.abc import Callable, Iterable

from skep.core.allocate.ledger import Claims, Space, claims_of
from skep.core.orchestrate import changed, modes
from skep.core.orchestrate.restart import LASTING_RUN, back_off
from skep.core.schedule.demand import demand_of
from skep.lib.durations import MILLISECOND, SECOND
from skep.model import codec
from skep.model.base import Nanoseconds, Object
from skep.model.lifecycle import TaskState, is_active, is_progress, is_terminal
from skep.model.node import Availability, Node, NodeState
from skep.model.service import Service
from skep.model.task import Task
from skep.ports.store import RowBatch, Write
from skep.store.changes import Batch, Change, Delete, Put
from skep.store.state import State

RACE: Nanoseconds = SECOND
"""A node may have changed, or gone, so shortly before a task was put on it that the decision had not seen it.

A plan is refused only where what it changes has changed. A task on a node that went is orphaned in the next round;
one of a slot that a service has lost at that moment is shut down in it.
"""


class StateChecker:
    """Follows the store. Attributes: state: as of the last commit; now: the manager's clock."""

    def __init__(self, fail: Callable[[str], None], now: Callable[[], Nanoseconds]) -> None:
        self.state = State()
        self._fail = fail
        self._now = now
        self._holders: dict[tuple[tuple[str, str], int], tuple[str, str]] = {}
        self._claims: dict[tuple[str, str], Claims] = {}
        self._freed_at: dict[tuple[Space, int], Nanoseconds] = {}
        self._node_changed_at: dict[str, Nanoseconds] = {}
        self._n_slots: dict[str, int] = {}
        self._scaled_down: dict[str, tuple[Nanoseconds, int]] = {}
        self._fresh: list[tuple[str, str]] = []
        self._desired_before: dict[str, TaskState] = {}
        self._placed_now: set[str] = set()
        self._made_first: dict[tuple[str, int, int], str] = {}

    def take(self, rows: RowBatch) -> Batch:
        """Check one transaction."""
        changes: list[Change] = []
        for row in rows.events:
            if row.value is None:
                changes.append(Delete(row.kind, row.id, 0))
            else:
                changes.append(Put(codec.decode(row.kind, row.value, rows.revision)))
        batch = self.state.apply(changes, rows.revision)
        self._desired_before = {each.id: each.old.desired_state for each in batch.events if isinstance(each.old, Task)}
        self._placed_now = {each.id for each in batch.events if _is_placed(each.old, each.new)}
        services: dict[str, None] = {}
        for event in batch.events:
            self._claim(event.kind, event.id, event.new)
            if event.kind == "task":
                self._check_task(event.old, event.new)
                task = event.new or event.old
                services[task.service_id if isinstance(task, Task) else ""] = None
            elif event.kind == "node":
                self._check_node(event.id, event.old, event.new)
            elif event.kind == "service":
                services[event.id] = None
                self._check_service(event.old, event.new)
        for event in batch.events:
            if event.kind == "task":
                self._check_placed(event.new)
        self._check_unique()
        for service_id in services:
            self._check_slots(service_id)
        return batch

    # --- numbers -----------------------------------------------------------------------

    def _claim(self, kind: str, id: str, value: Object | None) -> None:
        owner = (kind, id)
        before = self._claims.pop(owner, ())
        for claim in before:
            if self._holders.get(claim) == owner:
                del self._holders[claim]
                self._freed_at[claim] = self._now()
        after = claims_of(value) if value is not None else ()
        if after:
            self._claims[owner] = after
            self._fresh.append(owner)

    def refuse(self, writes: Iterable[Write]) -> None:
        """Note numbers that were given out in what was not stored: who did so may not know, and lets them rest."""
        for write in writes:
            if write.value is not None:
                for claim in claims_of(codec.decode(write.kind, write.value, 0)):
                    self._freed_at[claim] = self._now()

    def resting(self, limit: Nanoseconds) -> list[tuple[Space, int]]:
        """Numbers that nobody holds and somebody held, or was to hold, until less than `limit` ago."""
        oldest = self._now() - limit
        return [claim for claim, at in self._freed_at.items() if at >= oldest and claim not in self._holders]

    def _check_unique(self) -> None:
        """No address, virtual IP, network number or published port has two holders."""
        for owner in self._fresh:
            for claim in self._claims.get(owner, ()):
                holder = self._holders.setdefault(claim, owner)
                if holder != owner:
                    self._fail(f"{claim[0]} {claim[1]} is held by {holder} and by {owner}")
        self._fresh.clear()

    # --- tasks ---------------------------------------------------------------------------

    def _check_task(self, old: Object | None, new: Object | None) -> None:
        if not isinstance(new, Task):
            return
        if not isinstance(old, Task):
            if new.rollout:
                self._made_first.setdefault((new.service_id, new.slot, new.rollout), new.id)
            self._check_restart(new)
            return
        before, after = old.status.state, new.status.state
        if not is_progress(before, after):
            self._fail(f"task {new.name} went back from {before.label} to {after.label}")
        if is_terminal(before) and after != before:
            self._fail(f"task {new.name} had ended as {before.label} and is now {after.label}")
        if new.desired_state < old.desired_state:
            self._fail(f"task {new.name}'s desired state went back to {new.desired_state.label}")
        if old.node_id and new.node_id != old.node_id:
            self._fail(f"task {new.name} moved from node {old.node_id} to {new.node_id}")
        is_raised = old.desired_state == TaskState.READY and new.desired_state == TaskState.RUNNING
        if is_raised and new.not_before > self._now() + MILLISECOND:
            self._fail(f"task {new.name} was raised before its time")

    def _check_restart(self, task: Task) -> None:
        """A task that follows a failed one waits, and longer each time."""
        before = [each for each in self._slot(task) if each.ordinal < task.ordinal]
        failed = max(before, key=lambda each: each.ordinal, default=None)
        if failed is None or failed.status.state not in (TaskState.FAILED, TaskState.REJECTED):
            return
        node = self.state.nodes.get(failed.node_id)
        is_sound = node is not None and node.status.state == NodeState.READY
        if self._desired_before.get(failed.id, failed.desired_state) > TaskState.RUNNING:
            return  # It had been told to stop.
        if not is_sound or failed.spec_version != task.spec_version or task.rollout:
            return
        if node is not None and node.spec.availability != Availability.ACTIVE:
            return
        ran = failed.ended_at - failed.started_at if failed.started_at else 0
        streak = 0 if ran >= LASTING_RUN else failed.restart.streak + 1
        delay = back_off(modes.restart_delay(modes.restart_policy(failed.spec)), streak)
        waits = max(task.not_before, task.created_at) - failed.ended_at
        if waits < delay:
            self._fail(
                f"task {task.name} follows a failed one after {waits / SECOND:.1f} s instead of {delay / SECOND:.1f} s"
            )

    def _slot(self, task: Task) -> Iterable[Task]:
        return self.state.tasks.where("slot", (task.service_id, task.slot or task.node_id))

    def _check_placed(self, new: Object | None) -> None:
        """A task comes only to a node that may have it, and fits there."""
        if not isinstance(new, Task) or new.id not in self._placed_now:
            return
        node = self.state.nodes.get(new.node_id)
        if self._node_changed_at.get(new.node_id, -RACE) > self._now() - RACE:
            return
        if node is None:
            self._fail(f"task {new.name} was put on node {new.node_id}, which is not there")
            return
        if node.status.state != NodeState.READY or node.spec.availability != Availability.ACTIVE:
            state = f"{node.status.state} and {node.spec.availability}"
            self._fail(f"task {new.name} was put on node {node.description.hostname}, which is {state}")
        if new.home and new.home != new.node_id:
            self._fail(f"task {new.name} was put on node {new.node_id}, away from its volumes on {new.home}")
        if not changed.satisfies(new.spec.placement, node):
            self._fail(f"task {new.name} was put on node {node.description.hostname} against its constraints")
        self._check_load(node, new)

    def _check_load(self, node: Node, task: Task) -> None:
        has = node.description.resources
        tasks = [each for each in self.state.tasks.where("node", node.id) if is_active(each.status.state)]
        demands = [demand_of(each) for each in tasks]
        if sum(each.cpu_nano for each in demands) > has.nano_cpus:
            self._fail(f"node {node.description.hostname} reserves more CPUs than it has, with task {task.name}")
        if sum(each.memory_bytes for each in demands) > has.memory_bytes:
            self._fail(f"node {node.description.hostname} reserves more memory than it has, with task {task.name}")
        ports = [port for each in demands for port in each.host_ports]
        if len(set(ports)) < len(ports):
            self._fail(f"node {node.description.hostname} has a host-mode port twice, with task {task.name}")
        service = self.state.services.get(task.service_id)
        is_current = service is not None and task.spec_version == service.spec_version  # The next spec may lift it.
        limit = task.spec.placement.max_replicas if task.spec.placement and is_current else 0
        same = [
            each
            for each in tasks
            if each.service_id == task.service_id
            and each.desired_state <= TaskState.RUNNING
            and not each.yielding
            # One of an earlier spec that knew no limit may have been placed after this one, in the same round.
            and not (each.id in self._placed_now and each.spec_version != task.spec_version)
        ]
        if limit and len(same) > limit:
            self._fail(f"node {node.description.hostname} has more than {limit} tasks of {task.service_name}")

    # --- nodes and services ---------------------------------------------------------------

    def _check_node(self, id: str, old: Object | None, new: Object | None) -> None:
        is_other = not isinstance(old, Node) or not isinstance(new, Node) or _standing(old) != _standing(new)
        if is_other:
            self._node_changed_at[id] = self._now()

    def _check_service(self, old: Object | None, new: Object | None) -> None:
        if not isinstance(new, Service) or not isinstance(old, Service):
            return
        if new.spec_version < old.spec_version:
            self._fail(f"service {new.spec.name}'s spec version went back")
        status, was = new.update_status, old.update_status
        is_automatic = status is not None and status.message.startswith("update rolled back due to")
        if new.spec_version > old.spec_version and is_automatic and was is not None and was.state != "updating":
            self._fail(f"service {new.spec.name} was rolled back out of {was.state}")
        is_replicated = all(modes.mode_of(value.spec) is modes.Mode.REPLICATED for value in (old, new))
        if is_replicated and modes.replicas(new.spec) < modes.replicas(old.spec):
            self._scaled_down[new.id] = (self._now(), modes.replicas(old.spec))

    def _check_slots(self, service_id: str) -> None:
        """No more slots than replicas come into being, and no slot has more than a task and its heir."""
        service = self.state.services.get(service_id)
        if service is None or modes.mode_of(service.spec) is not modes.Mode.REPLICATED:
            return
        slots: dict[int, list[Task]] = {}
        for task in self.state.tasks.where("service", service_id):
            if task.desired_state <= TaskState.COMPLETE and not is_terminal(task.status.state):
                slots.setdefault(task.slot, []).append(task)
        before = self._n_slots.get(service_id, 0)
        self._n_slots[service_id] = len(slots)
        wanted = modes.replicas(service.spec)
        scaled_at, n_before = self._scaled_down.get(service_id, (-RACE, 0))
        if scaled_at > self._now() - RACE:
            wanted = max(wanted, n_before)
        if len(slots) > wanted and len(slots) > before:
            self._fail(f"service {service.spec.name} has {len(slots)} slots at work instead of {wanted}")
        for slot, working in slots.items():
            tasks = [task for task in working if not self._is_lost(task)]
            if len(tasks) > 2:
                self._fail(f"slot {slot} of service {service.spec.name} has {len(tasks)} tasks at work")
        self._check_parallelism(service, slots)

    def _is_lost(self, task: Task) -> bool:
        node = self.state.nodes.get(task.node_id)
        return bool(task.node_id) and (node is None or node.status.state == NodeState.DOWN)

    def _check_parallelism(self, service: Service, slots: dict[int, list[Task]]) -> None:
        """An update has no more slots in the making than it may.

        A slot's first task of an update is of its making; later ones are restarts and moves. Which was the first is
        remembered here: the swarm may keep no history.
        """
        rollout, status = service.rollout, service.update_status
        if rollout is None or status is None or rollout.version != service.spec_version:
            return
        config = service.spec.rollback_config if status.state == "rollback_started" else service.spec.update_config
        limit = config.parallelism if config is not None else 1
        if not limit or status.state not in ("updating", "rollback_started"):
            return
        fresh = [
            slot
            for slot, tasks in slots.items()
            if str(slot) not in rollout.failed
            and any(self._is_made_by(rollout.version, task) for task in tasks if task.status.state < TaskState.RUNNING)
        ]
        if len(fresh) > limit:
            self._fail(f"the update of service {service.spec.name} has slots {fresh} in the making, {limit} at most")

    def _is_made_by(self, version: int, task: Task) -> bool:
        key = (task.service_id, task.slot, version)
        return task.rollout == version and self._made_first.get(key) == task.id


def _standing(node: Node) -> tuple[object, ...]:
    """What decides which tasks a node may have."""
    return (
        node.status.state,
        node.spec.availability,
        tuple(sorted(node.spec.labels.items())),
        node.description.resources,
        node.description.hostname,
    )


def _is_placed(old: Object | None, new: Object | None) -> bool:
    """Whether a change gives a task its node."""
    is_new = not isinstance(old, Task) or old.status.state < TaskState.ASSIGNED
    return isinstance(new, Task) and new.status.state == TaskState.ASSIGNED and is_new
