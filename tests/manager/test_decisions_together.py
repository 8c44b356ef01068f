"""All decisions of a round together, through lives of users, operators, faults and time: they come to rest."""

from dataclasses import dataclass, field

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule
from tests import factories
from tests.core.orchestrate.test_properties import NODES, Life, policies, updates
from tests.core.orchestrate.world import World, a_spec

from skep.core import allocate, schedule
from skep.core.orchestrate.rebalance import Rebalancer
from skep.core.orchestrate.reconcile import Agenda, reconcile
from skep.core.plan import Dirty, Plan
from skep.core.schedule import Inventory
from skep.manager.decide import Decision, decide
from skep.model.cluster import SwarmSpec
from skep.model.lifecycle import TaskState
from skep.model.node import Availability
from skep.model.service import Placement, PlacementPreference, ServiceSpec, SpreadOver
from skep.model.task import Task
from skep.store.changes import Delete, Put
from skep.store.state import View

ZONES = ("x", "y", "z")


@dataclass
class WholeWorld(World):
    """A world with the real scheduler; image `picky` fails on the last node."""

    rebalancer: Rebalancer = field(default_factory=Rebalancer)

    def decide(self) -> Plan:
        plan = decide(self.state, self.dirty, self._decisions(self.agenda, self.rebalancer), self.now)
        for change in plan.changes:
            self._check_needed(change)
        self.wake_at = plan.wake_at
        self.notes.extend(plan.notes)
        batch = factories.commit(self.state, plan)
        if not plan.changes:  # Otherwise the next round goes on: tasks that are to move are marked at the end of one.
            again = decide(self.state, factories.all_dirty(self.state), self._decisions(Agenda())[:-1], self.now)
            assert again.changes == (), f"a new leader would go on: {again.changes}\n{self.table()}"
        self.dirty = factories.dirty_of(batch)
        return plan

    def _decisions(self, agenda: Agenda, rebalancer: Rebalancer | None = None) -> list[Decision]:
        """Those of a leader that begins now, but for what it remembers."""
        ledger, inventory = allocate.Ledger.of(self.state), Inventory.of(self.state)
        even_out = rebalancer or Rebalancer()

        def allocates(view: View, dirty: Dirty, now: int, /) -> Plan:
            return allocate.reconcile(view, dirty, ledger, now)

        return [
            allocates,
            lambda view, dirty, now: reconcile(view, dirty, now, self.new_id, agenda),
            allocates,
            lambda view, dirty, now: schedule.reconcile(view, dirty, inventory, now),
            lambda view, dirty, now: even_out.reconcile(view, dirty, inventory, now),
        ]

    def _check_needed(self, change: Put | Delete) -> None:
        """What is written differs from what there is."""
        if isinstance(change, Put) and isinstance(change.value, Task):
            old = self.state.tasks.get(change.value.id)
            assert old is None or msgspec.structs.replace(change.value, updated_at=old.updated_at) != old

    def place(self) -> None:
        """Every decision has placed what can be."""

    def _next(self, task: Task) -> TaskState:
        following = super()._next(task)
        image = task.spec.container_spec.image if task.spec.container_spec else ""
        is_failing = image == "picky" and task.node_id == NODES[-1] and following == TaskState.RUNNING
        return TaskState.FAILED if is_failing else following


placements = st.builds(
    Placement,
    preferences=st.sampled_from([None, [PlacementPreference(spread=SpreadOver(spread_descriptor="node.labels.zone"))]]),
    max_replicas=st.sampled_from([0, 0, 4]),
)


@st.composite
def service_specs(draw: st.DrawFn) -> ServiceSpec:
    image = draw(st.sampled_from(["good", "next", "picky"]))
    spec = a_spec(image=image, replicas=draw(st.integers(0, 9)), restart=draw(policies), update_config=draw(updates))
    template = msgspec.structs.replace(spec.task_template, placement=draw(placements))
    return msgspec.structs.replace(spec, task_template=template)


class WholeLife(Life):
    """Replicated services of a swarm that evens them out by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.world = WholeWorld()
        self.world.put(
            msgspec.structs.replace(self.world.state.cluster, spec=SwarmSpec(labels={"skep.rebalance": "auto"}))
        )
        for n, id in enumerate(NODES):
            self.world.add_nodes(id, labels={"zone": ZONES[n]})

    @initialize(spec=service_specs())
    def create(self, spec: ServiceSpec) -> None:
        self.world.create(spec)

    @rule(spec=service_specs())
    def update(self, spec: ServiceSpec) -> None:
        if self.world.state.services.get("web") is not None:
            self.world.update(spec)

    @rule(id=st.sampled_from(NODES), zone=st.sampled_from(ZONES))
    def label(self, id: str, zone: str) -> None:
        if self.world.state.nodes.get(id) is not None:
            self.world.set_node(id, labels={"zone": zone})

    @rule(slot=st.integers(1, 9), times=st.integers(3, 6))
    def fail_again_and_again(self, slot: int, times: int) -> None:
        for _ in range(times):
            for task in self.world.running():
                if task.slot == slot:
                    self.world.fail(task)
            self.world.advance(8, tick=1)

    @rule(ids=st.sets(st.sampled_from(NODES), min_size=1, max_size=2))
    def lose_for_a_while(self, ids: set[str]) -> None:
        """Long enough for its tasks to be elsewhere; it settles again, and gets some back."""
        there = [id for id in sorted(ids) if self.world.state.nodes.get(id) is not None]
        for id in there:
            self.world.kill(id)
        self.world.advance(6, tick=2)
        for id in there:
            self.world.revive(id)
            self.world.set_node(id, availability=Availability.ACTIVE)
        self.world.advance(40, tick=2)

    @rule(seconds=st.sampled_from([0, 1, 5, 40]))
    def live(self, seconds: int) -> None:
        self.world.advance(seconds)

    def teardown(self) -> None:
        """An image that fails on a node goes on failing there, less and less often: it is mended first."""
        service = self.world.state.services.get("web")
        if service is not None and not service.removing and service.spec.task_template.container_spec.image == "picky":
            container = msgspec.structs.replace(service.spec.task_template.container_spec, image="good")
            template = msgspec.structs.replace(service.spec.task_template, container_spec=container)
            self.world.update(msgspec.structs.replace(service.spec, task_template=template))
        super().teardown()


TestWholeLife = WholeLife.TestCase
TestWholeLife.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
