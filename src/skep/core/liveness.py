"""Silence of nodes: first out of balancing, later down and their tasks replaced, and the brake when too many vanish.

Pure. `Heartbeats` is memory of this manager only: after a start or a change of leader every node has a grace. A late
heartbeat moves traffic and is undone by the next one; only the second threshold reschedules. Time in which this
manager's own loop did not run counts for nobody's silence, and the node this runs on is never declared anything.
Source: the thresholds are in the design; the damping follows "Lifeguard" (Dadgar and others, 2018).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from skep.core.observe import returned
from skep.core.orchestrate.enforce import orphaned
from skep.core.plan import Plan
from skep.lib.durations import HOUR, MILLISECOND, SECOND
from skep.model.base import Nanoseconds
from skep.model.cluster import Brake
from skep.model.lifecycle import is_active
from skep.model.node import Node, NodeState
from skep.store.changes import Change, Put
from skep.store.state import View

HEARTBEAT_PERIOD: Nanoseconds = 500 * MILLISECOND
HEARTBEATS_PER_SECOND = 2_000
"""What all managers together take; larger swarms beat more slowly."""
ORPHANED_AFTER: Nanoseconds = 24 * HOUR


@dataclass(frozen=True, slots=True)
class LivenessSettings:
    """How silence is judged.

    Attributes:
        unbalanced_after: First threshold, at least; unbalanced_periods: and at least so many heartbeats.
        down_after, down_periods: The same for the second.
        grace: Added to the silence of a node this manager has never heard.
        tick: How often the caller has to come by, so that its own delays are noticed.
        max_lag: A caller later than this declares nobody.
        brake_window, brake_minimum: More than half of the nodes, and at least so many, within this time.
    """

    unbalanced_after: Nanoseconds = 1500 * MILLISECOND
    unbalanced_periods: int = 3
    down_after: Nanoseconds = 6 * SECOND
    down_periods: int = 4
    grace: Nanoseconds = 5 * SECOND
    tick: Nanoseconds = 250 * MILLISECOND
    max_lag: Nanoseconds = 500 * MILLISECOND
    brake_window: Nanoseconds = 30 * SECOND
    brake_minimum: int = 3


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Silence after which a node leaves balancing, and after which it is down."""

    unbalanced: Nanoseconds
    down: Nanoseconds


@dataclass(slots=True)
class Heartbeats:
    """When each node was heard last, by this manager.

    Attributes:
        started_at: When this manager began to listen as leader.
        own_node_id: The node this manager runs on; it is not judged.
        excused: Time in which the caller's loop did not run, added up; beats are noted against it.
    """

    started_at: Nanoseconds
    own_node_id: str = ""
    settings: LivenessSettings = LivenessSettings()
    excused: Nanoseconds = 0
    _heard: dict[str, tuple[Nanoseconds, Nanoseconds]] = field(default_factory=dict)
    _due_at: Nanoseconds = 0
    _held_until: Nanoseconds = 0

    def beat(self, node_id: str, now: Nanoseconds) -> None:
        """A node was heard."""
        self._heard[node_id] = (now, self.excused)

    def forget(self, node_id: str) -> None:
        """A node was removed."""
        self._heard.pop(node_id, None)

    def knows(self, node_id: str) -> bool:
        """Whether the node was heard since this manager began to listen."""
        return node_id in self._heard

    def silence(self, node_id: str, now: Nanoseconds) -> Nanoseconds:
        """How long a node has been silent while this manager was listening; never negative."""
        moment, excused = self._heard.get(node_id, (self.started_at + self.settings.grace, 0))
        return max(now - moment - (self.excused - excused), 0)

    def arrive(self, now: Nanoseconds) -> bool:
        """The caller's loop came by.

        Returns:
            Whether nodes may be judged: it was on time, and had a tick since it last was not, to read what had come in.
        """
        lag = now - self._due_at if self._due_at else 0
        self._due_at = now + self.settings.tick
        if lag > self.settings.max_lag:
            self.excused += lag
            self._held_until = now + self.settings.tick
        return now >= self._held_until


def heartbeat_period(view: View) -> Nanoseconds:
    """How often agents are to beat: as configured, and slower in large swarms."""
    cluster = view.cluster
    wanted = (cluster.spec.dispatcher.heartbeat_period if cluster else 0) or HEARTBEAT_PERIOD
    return max(wanted, len(view.nodes) * SECOND // HEARTBEATS_PER_SECOND)


def thresholds(view: View, settings: LivenessSettings) -> Thresholds:
    """The two thresholds for the swarm as it is."""
    period = heartbeat_period(view)
    return Thresholds(
        unbalanced=max(settings.unbalanced_after, settings.unbalanced_periods * period),
        down=max(settings.down_after, settings.down_periods * period),
    )


def reconcile(view: View, heartbeats: Heartbeats, now: Nanoseconds) -> Plan:
    """Judge every node by its silence.

    Args:
        heartbeats: Is told that its caller came by.
    Returns:
        Puts of nodes, of the cluster for the brake, and of tasks that became ORPHANED. `wake_at` is always set: a
        caller that comes later than that declares nobody.
    """
    excused = heartbeats.excused
    may_judge = heartbeats.arrive(now)
    judgement = _Judgement(view, heartbeats, now, thresholds(view, heartbeats.settings))
    changes = list(judgement.changes() if may_judge else judgement.returns())
    if heartbeats.excused > excused:
        judgement.notes.append("this manager's own loop was late: no node is declared silent for it")
    return Plan(tuple(changes), now + heartbeats.settings.tick, tuple(judgement.notes))


@dataclass(slots=True)
class _Judgement:
    view: View
    heartbeats: Heartbeats
    now: Nanoseconds
    limits: Thresholds
    notes: list[str] = field(default_factory=list)
    _silences: dict[str, Nanoseconds] = field(default_factory=dict)

    @property
    def is_all_well(self) -> bool:
        """Whether every node is up, balanced and heard, so that there is nothing to judge."""
        cluster = self.view.cluster
        return (cluster is None or cluster.brake is None) and all(
            node.balanced and node.status.state == NodeState.READY and self._silence(node) <= self.limits.unbalanced
            for node in self.view.nodes.values()
        )

    def changes(self) -> Iterator[Change]:
        """Everything silence says."""
        if self.is_all_well:
            return
        cluster, brake = self.view.cluster, self._brake()
        if cluster is not None and brake != cluster.brake:
            self._note_brake(cluster.brake, brake)
            yield Put(msgspec.structs.replace(cluster, brake=brake, updated_at=self.now))
        held = set(brake.nodes) if brake is not None and not brake.is_released else set[str]()
        yield from self.returns()
        for node in self.view.nodes.values():
            silence = self._silence(node)
            if _is_down(node):
                yield from self._orphans(node)
            elif silence > self.limits.down and node.id not in held:
                self.notes.append(f"node {node.id} is down: silent for {silence / SECOND:.1f} s")
                yield self._put(node, is_down=True)
            elif silence > self.limits.unbalanced and node.balanced:
                self.notes.append(f"node {node.id} leaves balancing: silent for {silence / SECOND:.1f} s")
                yield self._put(node, is_down=False)

    def returns(self) -> Iterator[Change]:
        """Nodes that are heard again."""
        for node in self.view.nodes.values():
            is_heard = self.heartbeats.knows(node.id) and self._silence(node) <= self.limits.unbalanced
            if is_heard and (node.status.state != NodeState.READY or not node.balanced):
                self.notes.append(f"node {node.id} is heard again")
                yield Put(msgspec.structs.replace(returned(node, self.now), updated_at=self.now))

    def _silence(self, node: Node) -> Nanoseconds:
        silence = self._silences.get(node.id)
        if silence is None:
            is_own = node.id == self.heartbeats.own_node_id
            age = max(self.now - node.created_at, 0)  # One that has only just joined was silent for no longer.
            silence = 0 if is_own else min(self.heartbeats.silence(node.id, self.now), age)
            self._silences[node.id] = silence
        return silence

    def _put(self, node: Node, *, is_down: bool) -> Change:
        status = node.status
        if is_down:
            status = msgspec.structs.replace(status, state=NodeState.DOWN, message="heartbeat failure", since=self.now)
        return Put(msgspec.structs.replace(node, status=status, balanced=False, updated_at=self.now))

    # --- the brake ----------------------------------------------------------------

    def _brake(self) -> Brake | None:
        """The brake as it has to be now: engaged, extended, lifted, or as it was."""
        brake = self.view.cluster.brake if self.view.cluster else None
        nodes = list(self.view.nodes.values())
        if brake is None:
            vanished = [node for node in nodes if self._is_vanished(node)]
            is_due = any(self._is_due(node) for node in vanished)
            return self._held(vanished) if is_due and self._is_too_many(vanished) else None
        known = [node for node in nodes if node.id in brake.nodes]
        if brake.is_released:
            waiting = [node for node in known if self._is_silent(node) and not _is_down(node)]
            return None if all(self._is_due(node) for node in waiting) else brake
        missing = [node for node in nodes if self._is_due(node) or (node in known and self._is_silent(node))]
        if not self._is_too_many(missing):
            return None
        return msgspec.structs.replace(brake, nodes=sorted(node.id for node in missing))

    def _held(self, vanished: list[Node]) -> Brake:
        return Brake(since=self.now, nodes=sorted(node.id for node in vanished))

    def _is_too_many(self, missing: list[Node]) -> bool:
        """Whether so many are missing that the fault is more likely in between than in them."""
        ids = {node.id for node in missing}
        population = sum(1 for node in self.view.nodes.values() if node.id in ids or not _is_down(node))
        return len(ids) >= self.heartbeats.settings.brake_minimum and 2 * len(ids) > population

    def _is_vanished(self, node: Node) -> bool:
        """Whether a node fell silent, or was declared down, within the brake's window."""
        window = self.heartbeats.settings.brake_window
        if _is_down(node):
            return self._is_silent(node) and self.now - node.status.since < window
        return self._is_silent(node) and self._silence(node) < window + self.limits.down

    def _is_silent(self, node: Node) -> bool:
        return self._silence(node) > self.limits.unbalanced

    def _is_due(self, node: Node) -> bool:
        """Whether a node would be declared down now."""
        return not _is_down(node) and self._silence(node) > self.limits.down

    def _note_brake(self, old: Brake | None, new: Brake | None) -> None:
        if new is None:
            self.notes.append("the brake is lifted: silent nodes are replaced again")
        elif old is None:
            self.notes.append(
                f"{len(new.nodes)} nodes vanished at once ({', '.join(new.nodes)}): nothing is rescheduled until "
                "they return or an operator releases the brake"
            )

    def _orphans(self, node: Node) -> Iterator[Change]:
        """Tasks of a node that was down for a day: nobody waits for them any longer."""
        if self.now - node.status.since < ORPHANED_AFTER:
            return
        for task in self.view.tasks.where("node", node.id):
            if is_active(task.status.state):
                status = orphaned(task, self.now)
                yield Put(msgspec.structs.replace(task, status=status, ended_at=self.now, updated_at=self.now))


def _is_down(node: Node) -> bool:
    return node.status.state == NodeState.DOWN
