"""The whole swarm: manager, machines, network, users, faults and checkers, from one seed.

Edge: asyncio on the simulated loop. A run has four parts: users and faults at work; healing, after which everything
must come to rest within a limit; a look at whether it is the right rest; and removing everything, after which nothing
may be left. The first violation ends the run; what led to it is in the trace. Long, because these four parts share the
whole swarm and nothing else needs them.
"""

import asyncio
import contextlib
import gc
import hashlib
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import structlog

from skep.core.allocate.pools import COOL_DOWN
from skep.core.orchestrate import modes
from skep.lib.ids import new_id
from skep.manager.control.cluster import Founding, first_objects
from skep.manager.replica import Replica
from skep.model.assignment import BalancedService, PublishedService
from skep.model.base import Nanoseconds
from skep.model.cluster import Authority, JoinTokens
from skep.model.identity import Identity, Newcomer
from skep.model.lifecycle import is_terminal
from skep.model.node import Node, NodeState, Role
from skep.model.sealed import Sealed
from skep.model.session import TaskReport
from skep.ports.dataplane import SandboxConfig
from skep.ports.store import RowBatch
from skep.sim import convergence
from skep.sim.checkers import StateChecker
from skep.sim.clock import SimClock, SimDice, dice_of
from skep.sim.disk import SimStore, StoreDisk
from skep.sim.engine import FakeContainer
from skep.sim.faults import Faults
from skep.sim.loop import SECOND, Process, SimLoop, Stuck
from skep.sim.machine import ROOT_PEM, Machine, Site
from skep.sim.manager import Ground, ManagerHost
from skep.sim.network import Network
from skep.sim.specs import IMAGES
from skep.sim.workload import Workload
from skep.store.state import State

REST_LIMIT = 400 * SECOND
PENDING_LIMIT = 60 * SECOND
"""How long tasks without a fitting node, or without an address, are looked on, once all is well."""
NUMBER_LIMIT = COOL_DOWN + 5 * SECOND
"""How long a number that somebody waits for may be nobody's."""
CLEAR_LIMIT = 90 * SECOND
SLOWEST_COMMIT = 2 * SECOND
SHORTEST_SILENCE = 58 * SECOND // 10
FENCE = 15 * SECOND
"""How long a node's daemon must have been at work to have stopped what it has lost the lease of."""
CALM = 4 * SECOND
"""How long after its last fault a node must keep up with everything again."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is simulated.

    Attributes:
        nodes: How many machines, the manager's own among them.
        seconds: How long users and faults are at work.
        operation_mean_s, fault_mean_s: Between two operations, and two faults, on average; 0 for none.
    """

    seed: int
    nodes: int = 5
    seconds: int = 60
    operation_mean_s: float = 3.0
    fault_mean_s: float = 4.0

    @property
    def command(self) -> str:
        """What replays exactly this."""
        return (
            f"python -m skep.sim --seed {self.seed} --nodes {self.nodes} --seconds {self.seconds} "
            f"--operations {self.operation_mean_s:g} --faults {self.fault_mean_s:g}"
        )


@dataclass(slots=True)
class Outcome:
    """How a run went. Attributes: violations: empty if all is well; digest: of everything that happened."""

    scenario: Scenario
    violations: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    digest: str = ""
    virtual_s: float = 0.0
    cpu_s: float = 0.0
    revisions: int = 0
    rest_s: float = 0.0


class World:
    """One run. Implements what its parts need of it."""

    def __init__(self, scenario: Scenario) -> None:
        seed = scenario.seed
        self.scenario = scenario
        self.loop = SimLoop()
        self.trace: deque[str] = deque(maxlen=4000)
        self.violations: list[str] = []
        self.machines: list[Machine] = []
        self.network = Network(self.loop, dice_of(seed, "network"))
        self.disk = StoreDisk(self.loop, dice_of(seed, "store"))
        self.disk.on_commit = self._committed
        self._digest = hashlib.blake2b(digest_size=16)
        self._dice = dice_of(seed, "world")
        self._cluster_id = "cluster"
        clock = SimClock(self.loop)
        self.checker = StateChecker(self.failed, clock.now)
        self.disk.on_refusal = self.checker.refuse
        self.manager = ManagerHost(
            Ground(
                loop=self.loop,
                network=self.network,
                disk=self.disk,
                clock=clock,
                dice=SimDice(dice_of(seed, "manager")),
                cluster_id=self._cluster_id,
                node_id="node0".ljust(25, "0"),
                on_failure=self.failed,
            )
        )
        self.workload = Workload(self, dice_of(seed, "workload"), self.loop.sleep)
        self.faults = Faults(self, dice_of(seed, "faults"))
        self.rest_ns = 0
        self._machine_dice = dice_of(seed, "machines")
        self._disturbed: dict[str, tuple[int, int]] = {}
        self._launched: dict[str, str] = {}
        self._deleted: set[tuple[str, str]] = set()
        self._n_machines = 0
        self._outside = Process(self.loop, "world")
        self._is_failed = asyncio.Event()

    # --- what happens ------------------------------------------------------------------

    @property
    def stored(self) -> State:
        return self.checker.state

    def told(self, what: str) -> None:
        line = f"{self.loop.now / SECOND:10.4f} {what}"
        self.trace.append(line)
        self._digest.update(line.encode())

    def failed(self, what: str) -> None:
        self.told(f"VIOLATION {what}")
        self.violations.append(what)
        self._is_failed.set()

    def has_stored(self, kind: str, id: str, version: int) -> bool:
        stored = self.stored.find(kind, id)
        return (kind, id) in self._deleted if stored is None else stored.version >= version

    def _committed(self, rows: RowBatch) -> None:
        self._digest.update(rows.revision.to_bytes(8, "big"))
        for row in rows.events:
            self._digest.update(row.value or b"-")
        batch = self.checker.take(rows)
        for event in batch.events:
            if event.new is None:
                self._deleted.add((event.kind, event.id))
                self._check_gone(event.id)
            if event.kind == "node":
                self._check_silence(event.old, event.new)
            self.trace.append(
                f"{self.loop.now / SECOND:10.4f} r{rows.revision} {_told(event.kind, event.old, event.new)}"
            )

    def _check_silence(self, old: object, new: object) -> None:
        """A node is given up after a long silence only, which no restart of the manager makes longer."""
        if not isinstance(new, Node) or not isinstance(old, Node) or old.status.state is not NodeState.READY:
            return
        daemon = self.manager.daemon
        if new.status.state is not NodeState.DOWN or daemon is None:
            return
        link = self.network.link(new.id)
        silence = self.loop.now - max(link.heard_at, daemon.started_at)
        if self.loop.now - link.gap[1] < SLOWEST_COMMIT:  # It came back while that was being written.
            silence = max(silence, link.gap[1] - max(link.gap[0], daemon.started_at))
        if silence < SHORTEST_SILENCE:
            self.failed(f"node {new.description.hostname} was given up after {silence / SECOND:.1f} s of silence")

    def _check_gone(self, task_id: str) -> None:
        """A task that is forgotten runs nowhere, but on a node that is down or removed."""
        for machine in self.machines:
            for container in machine.engine.running():
                node = self.stored.nodes.get(machine.node_id)
                is_lost = node is None or node.status.state is NodeState.DOWN
                if machine.task_of(container) == task_id and not is_lost:
                    self.failed(f"task {container.config.name} was deleted while it runs")

    def launched(self, machine: Machine, container: FakeContainer) -> None:
        """A task runs once, not before its time; of an at-most-one service at most one of a slot."""
        task_id = machine.task_of(container)
        self.told(f"{machine.hostname} runs {container.config.name}")
        if task_id in self._launched:
            self.failed(f"task {container.config.name} runs again, after {self._launched[task_id]}")
        self._launched[task_id] = machine.hostname
        task = self.stored.tasks.get(task_id)
        if task is None:
            return
        if task.not_before > self.manager.ground.clock.now() + SECOND // 1000:
            self.failed(f"task {task.name} was started before its time")
        service = self.stored.services.get(task.service_id)
        if service is not None and modes.is_at_most_one(service):
            for other in self.machines:
                if not other.is_fit(FENCE):
                    continue  # A daemon that does not run stops nothing, nor does one without its engine.
                for each in other.engine.running():
                    twin = self.stored.tasks.get(other.task_of(each))
                    if twin is None or twin.id == task_id or twin.service_id != task.service_id:
                        continue
                    if twin.slot == task.slot and (task.slot or twin.node_id == task.node_id):
                        self.failed(f"{task.name} of an at-most-one service runs beside {twin.name}")

    def stopping(self, machine: Machine, container: FakeContainer) -> None:
        """Nobody who can be reached still sends to a task that is told to stop."""
        task_id = machine.task_of(container)
        self.told(f"{machine.hostname} stops {container.config.name}")
        executor = machine.agent._executors.get(task_id) if machine.agent else None
        if executor is None or not executor._wanted.may_stop:
            return
        if executor._wanted.is_removed or executor._wanted.is_fenced:
            return  # It is no longer the managers' to say when.
        for other in self.machines:
            applied = other.kernel.applied
            if applied is None or not self._keeps_up(other):
                continue
            inhabited = _inhabited(other)  # In a network where nothing of the node's runs, nobody sends.
            of_networks = [item for item in applied.services.values() if item.network_id in inhabited]
            items: list[BalancedService | PublishedService] = [*of_networks, *applied.published.values()]
            for item in items:
                if _points_at(item, task_id):
                    self.failed(f"{other.hostname} still sends to {container.config.name}, which is told to stop")

    def prepared(self, machine: Machine, config: SandboxConfig) -> None:
        """No two sandboxes have one address, unless their node is given up."""
        for other in self.machines:
            if other.node_id not in self.stored.nodes:
                continue
            for task_id, sandbox in other.kernel.sandboxes.items():
                task = self.stored.tasks.get(task_id)
                if task_id == config.task_id or task is None or is_terminal(task.status.state):
                    continue
                if shared := _addresses(sandbox) & _addresses(config):
                    self.failed(f"{config.task_id} on {machine.hostname} and {task.name} share {sorted(shared)}")

    def acknowledged(self, machine: Machine, reports: Sequence[TaskReport]) -> None:
        for report in reports:
            task = self.stored.tasks.get(report.task_id)
            if task is None or task.node_id != machine.node_id or is_terminal(task.status.state):
                continue
            if task.status.state < report.status.state:
                self.failed(f"the report that {task.name} is {report.status.state.label} was acknowledged, not stored")

    def left(self, machine: Machine) -> None:
        """A removed node keeps nothing; its machine comes again as a new one."""
        self.told(f"{machine.hostname} has left")
        if machine.engine.containers or machine.kernel.sandboxes or machine.disk.records or machine.disk.entries:
            self.failed(f"{machine.hostname} left the swarm and kept something")
        if machine in self.machines:
            self.machines.remove(machine)
        self._outside.spawn(self._come_again(), "newcomer")

    async def _come_again(self) -> None:
        await self.loop.sleep(self._dice.randint(SECOND // 10, 5 * SECOND))
        await self._add_machine()

    # --- who is well ---------------------------------------------------------------------

    @contextlib.contextmanager
    def disturb(self, machine: Machine | None) -> Iterator[None]:
        """A fault befalls a machine, or, with None, everyone."""
        key = machine.node_id if machine is not None else ""
        depth, _ = self._disturbed.get(key, (0, 0))
        self._disturbed[key] = (depth + 1, 0)
        try:
            yield
        finally:
            depth, _ = self._disturbed[key]
            self._disturbed[key] = (depth - 1, self.loop.now + CALM)

    def _keeps_up(self, machine: Machine) -> bool:
        """Whether a node is to be up to date: no fault befell it or the manager for a while."""
        for key in ("", machine.node_id):
            depth, until = self._disturbed.get(key, (0, 0))
            if depth or until > self.loop.now:
                return False
        return machine.session is not None and machine.session.is_connected

    # --- the course of a run -----------------------------------------------------------------

    async def run(self) -> None:
        """Live through the scenario."""
        await self._found()
        self.manager.start()
        while self.manager.control is None:
            await self.loop.sleep(SECOND // 100)
        self._introduce(self.manager.ground.node_id)
        for _ in range(self.scenario.nodes - 1):
            await self._add_machine()
        course = self.loop.create_task(self._course(), name="course")
        failed = self.loop.create_task(self._is_failed.wait(), name="failed")
        await asyncio.wait({course, failed}, return_when=asyncio.FIRST_COMPLETED)
        if course.done():
            course.result()
        course.cancel()
        failed.cancel()

    async def _course(self) -> None:
        busy = []
        if self.scenario.operation_mean_s:
            busy.append(self.loop.create_task(self.workload.run(int(self.scenario.operation_mean_s * SECOND))))
        if self.scenario.fault_mean_s:
            await self.loop.sleep(3 * SECOND)
            busy.append(self.loop.create_task(self.faults.run(int(self.scenario.fault_mean_s * SECOND))))
        await self.loop.sleep(self.scenario.seconds * SECOND)
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)
        await self.faults.heal()
        self.told("healed")
        await self._come_to_rest()
        self.told("at rest")
        await self._clear()

    async def _found(self) -> None:
        founding = Founding(
            cluster_id=self._cluster_id,
            authority=Authority(certificate_pem=ROOT_PEM, sealed_key=Sealed(key_id="", nonce=b"", box=b"")),
            node_id=self.manager.ground.node_id,
            hostname="m0",
            underlay="192.0.2.1",
            control_addr="manager:2377",
            subnet_size=self._dice.choice([25, 26, 27]),  # Small ones, so that addresses come round again.
        )
        process = Process(self.loop, "founder")
        replica = Replica(SimStore(self.disk, process), self.manager.ground.clock)
        await replica.open()
        await replica.commit(first_objects(founding, JoinTokens(), "ingress".ljust(25, "0")))
        await replica.close()

    def _introduce(self, node_id: str) -> Machine:
        number = self._n_machines
        self._n_machines += 1
        role = Role.MANAGER if node_id == self.manager.ground.node_id else Role.WORKER
        site = Site(self.loop, self.network, self, self._machine_dice, self._cluster_id, IMAGES, role)
        machine = Machine(site, node_id, f"m{number}", f"192.0.2.{1 + number % 250}")
        self.machines.append(machine)
        machine.start()
        return machine

    async def _add_machine(self) -> None:
        """A machine joins; sometimes it asks twice, because the first answer was lost."""
        node_id = new_id(self._dice.randbytes)
        newcomer = Newcomer(identity=Identity(node_id=node_id, role=Role.WORKER, cluster_id=self._cluster_id))
        for _ in range(self._dice.choice([1, 1, 2])):
            while not await self.workload.ask(f"join {node_id}", lambda control: control.registry.admit(newcomer)):
                await self.loop.sleep(SECOND // 4)
        self._introduce(node_id)

    async def _come_to_rest(self) -> None:
        """Wait until nothing is left to complain about; then it must stay so."""
        healed_at = self.loop.now
        while not await self.workload.mend():
            await self.loop.sleep(SECOND // 2)
        while found := await self._complaints():
            length = self.loop.now - healed_at
            if length > REST_LIMIT:
                for complaint in found[:5]:
                    self.failed(f"not at rest after {REST_LIMIT // SECOND} s: {complaint}")
                return
            self._check_waiting(length)
            await self.workload.mend(is_late=length > PENDING_LIMIT)
            await self.loop.sleep(SECOND)
        self.rest_ns = self.loop.now - healed_at
        now, resting = self.manager.ground.clock.now(), self.checker.resting(NUMBER_LIMIT)
        for complaint in convergence.unrest(self.stored, now, resting):
            self.failed(complaint)
        daemon = self.manager.daemon
        if daemon is not None and daemon.control is not None:  # It may have been started this very moment.
            for complaint in convergence.ledger_complaints(daemon.leader._ledger, self.stored):
                self.failed(complaint)

    def _check_waiting(self, length: Nanoseconds) -> None:
        """A task that waits for a number or a node waits only while there is none.

        Args:
            length: How long all has been well: what the faults held up may be caught up with first.
        """
        now = self.manager.ground.clock.now()
        if length > NUMBER_LIMIT:
            for complaint in convergence.unnumbered(self.stored, now, self.checker.resting(NUMBER_LIMIT)):
                self.failed(complaint)
        if length > PENDING_LIMIT:
            for complaint in convergence.overlooked(self.stored, now):
                self.failed(complaint)

    async def _complaints(self) -> list[str]:
        is_new = self._n_machines - len(self.machines)
        found = [] if is_new >= 0 else ["machines are missing"]
        if len(self.machines) < self.scenario.nodes:
            found.append("a machine has not come again")
        return [*found, *convergence.complaints(self.stored, self.machines, self.manager.ground.clock.now())]

    async def _clear(self) -> None:
        """Remove every service; nothing may be left of them."""
        began = self.loop.now
        while True:
            is_clear = await self.workload.clear()
            left = list(convergence.leftovers(self.stored, self.machines))
            if is_clear and not left and not len(self.stored.services):
                return
            if self.loop.now - began > CLEAR_LIMIT:
                for complaint in left[:5] or ["services are left"]:
                    self.failed(f"after everything was removed: {complaint}")
                return
            await self.loop.sleep(SECOND)

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()


def _points_at(item: BalancedService | PublishedService, task_id: str) -> bool:
    return any(backend.task_id == task_id for backend in item.backends)


def _inhabited(machine: Machine) -> set[str]:
    """The networks that a running container of a node has an interface in."""
    sandboxes = machine.kernel.sandboxes
    configs = [sandboxes.get(machine.task_of(container)) for container in machine.engine.running()]
    return {interface.network_id for config in configs if config is not None for interface in config.interfaces}


def _addresses(config: SandboxConfig) -> set[str]:
    found = {f"{interface.network_id} {interface.address.partition('/')[0]}" for interface in config.interfaces}
    return found | ({f"ingress {config.ingress_address}"} if config.ingress_address else set())


def _told(kind: str, old: object, new: object) -> str:
    """One line of the trace about an object."""
    name = getattr(new or old, "name", "") or getattr(getattr(new or old, "spec", None), "name", "")
    if new is None:
        return f"{kind} {name} deleted"
    status = getattr(new, "status", None)
    state = getattr(status, "state", "")
    wanted = getattr(getattr(new, "desired_state", None), "label", "")
    told = [kind, name or getattr(new, "id", ""), getattr(state, "label", state), f"wanted {wanted}" if wanted else ""]
    told.append(getattr(status, "err", "") or "")
    if kind == "task":
        told.append(f"on {getattr(new, 'node_id', '')[:6]}")
    if kind == "node":
        told.append(
            f"balanced {getattr(new, 'balanced', '')} {getattr(getattr(new, 'spec', None), 'availability', '')}"
        )
    if kind == "service":
        told.append(str(getattr(getattr(new, "update_status", None), "state", "")))
    return " ".join(str(each) for each in told if each)


def simulate(scenario: Scenario) -> Outcome:
    """Run one scenario in this thread."""
    began = time.process_time()
    gc.collect()
    gc.disable()  # Generators would end whenever the collector comes by.
    before = structlog.get_config()
    try:
        world = World(scenario)
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40), processors=[_escape(world)])
        try:
            world.loop.run(world.run())
        except Stuck as stuck:
            world.failed(str(stuck))
        for fault in world.loop.faults:
            world.failed(f"an error escaped: {fault}")
        return Outcome(
            scenario=scenario,
            violations=world.violations,
            trace=list(world.trace),
            digest=world.digest,
            virtual_s=world.loop.now / SECOND,
            cpu_s=time.process_time() - began,
            revisions=world.stored.revision,
            rest_s=world.rest_ns / SECOND,
        )
    finally:
        structlog.configure(**before)
        gc.enable()


def _escape(world: World):  # type: ignore[no-untyped-def]  # a structlog processor
    """Errors that a supervisor caught are violations: nothing unforeseen may happen."""

    def processor(logger: object, method: str, event: dict[str, object]) -> dict[str, object]:
        world.failed(f"{event.get('event')}: {event}")
        raise structlog.DropEvent

    return processor
