"""The leader: everything the swarm decides, in the order in which it builds on one another.

Edge: asyncio through the loop. What it keeps in memory (numbers in use, capacity, heartbeats) is built from the state
when it begins and kept current by the replica; another leader builds the same. Sessions hand in here what agents say.
"""

from collections.abc import Callable, Sequence

from skep.core import allocate, liveness, managers, observe, schedule, trust
from skep.core.allocate import Ledger
from skep.core.liveness import Heartbeats
from skep.core.orchestrate import reconcile as orchestrate
from skep.core.orchestrate.rebalance import Rebalancer
from skep.core.plan import NOTHING, Dirty, Plan
from skep.core.schedule import Inventory
from skep.lib.ids import new_id
from skep.manager.loop import DecisionLoop
from skep.manager.replica import Replica
from skep.model.base import Nanoseconds
from skep.model.node import NodeState
from skep.model.session import CertificateHeld, Hello, TaskReport
from skep.ports.clock import Clock, Dice
from skep.store.changes import Batch
from skep.store.state import View


class Leader:
    """Decides while `run` runs. Implements `manager.sessions.Desk`."""

    def __init__(self, replica: Replica, clock: Clock, dice: Dice, *, own_node_id: str = "") -> None:
        """Take up an opened replica.

        Args:
            own_node_id: The node this manager runs on: it cannot be silent to itself.
        """
        self._replica = replica
        self._clock = clock
        self._dice = dice
        self._own_node_id = own_node_id
        self._ledger = Ledger()
        self._inventory = Inventory.of(replica.view)
        self._heartbeats = self._new_heartbeats()
        self._rebalancer = Rebalancer()
        self._agenda = orchestrate.Agenda()
        decisions = (
            self._judge,
            self._show_managers,
            self._allocate,
            self._orchestrate,
            self._allocate,
            self._schedule,
            self._rebalance,
            self._rotate_root,
        )
        self._loop = DecisionLoop(replica, clock, decisions)

    async def run(self, lease: str = "") -> None:
        """Decide until cancelled.

        Args:
            lease: See `Store.commit`.
        Raises:
            LeaseLost: Another manager leads now.
        """
        view = self._replica.view
        self._ledger = Ledger.of(view)
        self._inventory = Inventory.of(view)
        self._rebalancer = Rebalancer()
        self._agenda = orchestrate.Agenda()
        self._heartbeats = self._new_heartbeats()
        observers: Sequence[Callable[[Batch], None]] = (self._ledger.observe, self._inventory.observe, self._forget)
        self._replica.observers.extend(observers)
        try:
            await self._loop.run(lease)
        finally:
            for observer in observers:
                self._replica.observers.remove(observer)

    def renew(self, lease: str) -> None:
        """Go on deciding under another lease: the state has moved to another store."""
        self._loop.lease = lease

    # --- what agents say ---------------------------------------------------------

    @property
    def heartbeat_period(self) -> Nanoseconds:
        """How often agents are to beat now."""
        return liveness.heartbeat_period(self._replica.view)

    async def register(self, node_id: str, hello: Hello) -> None:
        """Take in what a node is; returns once it is stored."""
        self._heartbeats.beat(node_id, self._clock.now())

        def fold(view: View, dirty: Dirty, now: Nanoseconds) -> Plan:
            serial = hello.certificate_serial
            return observe.register(
                view, node_id, hello.description, hello.underlay, hello.capabilities, now, serial=serial
            )

        await self._loop.observe(fold)

    def beat(self, node_id: str) -> None:
        """Note that a node lives; nothing is stored unless it was given up."""
        self._heartbeats.beat(node_id, self._clock.now())
        node = self._replica.view.nodes.get(node_id)
        if node is not None and (node.status.state != NodeState.READY or not node.balanced):
            self._loop.mark(Dirty(nodes={node_id}))

    async def report(self, node_id: str, reports: Sequence[TaskReport]) -> None:
        """Take in what a node observed of its tasks; returns once it is stored."""
        self._heartbeats.beat(node_id, self._clock.now())

        def fold(view: View, dirty: Dirty, now: Nanoseconds) -> Plan:
            return observe.fold(view, node_id, reports, now)

        await self._loop.observe(fold)

    async def hold(self, node_id: str, held: CertificateHeld) -> None:
        """Take in which certificate a node has come to use; returns once it is stored."""

        def fold(view: View, dirty: Dirty, now: Nanoseconds) -> Plan:
            return observe.holds(view, node_id, held, now)

        await self._loop.observe(fold)

    # --- decisions -----------------------------------------------------------------

    def _judge(self, view: View, dirty: Dirty, now: Nanoseconds, /) -> Plan:
        return liveness.reconcile(view, self._heartbeats, now)

    def _show_managers(self, view: View, dirty: Dirty, now: Nanoseconds, /) -> Plan:
        return managers.reconcile(view, dirty, self._own_node_id, now) if self._own_node_id else NOTHING

    def _allocate(self, view: View, dirty: Dirty, now: Nanoseconds, /) -> Plan:
        """Runs before the orchestrator for what tasks copy from services, and after it for the new tasks."""
        return allocate.reconcile(view, dirty, self._ledger, now)

    def _orchestrate(self, view: View, dirty: Dirty, now: Nanoseconds, /) -> Plan:
        return orchestrate.reconcile(view, dirty, now, self._new_id, self._agenda)

    def _schedule(self, view: View, dirty: Dirty, now: Nanoseconds, /) -> Plan:
        return schedule.reconcile(view, dirty, self._inventory, now)

    def _rebalance(self, view: View, dirty: Dirty, now: Nanoseconds, /) -> Plan:
        return self._rebalancer.reconcile(view, dirty, self._inventory, now)

    def _rotate_root(self, view: View, dirty: Dirty, now: Nanoseconds, /) -> Plan:
        return trust.reconcile(view, self._dice.bytes)

    def _new_id(self) -> str:
        return new_id(self._dice.bytes)

    # --- in memory -------------------------------------------------------------------

    def _new_heartbeats(self) -> Heartbeats:
        return Heartbeats(started_at=self._clock.now(), own_node_id=self._own_node_id)

    def _forget(self, batch: Batch) -> None:
        for event in batch.events:
            if event.kind == "node" and event.new is None:
                self._heartbeats.forget(event.id)
