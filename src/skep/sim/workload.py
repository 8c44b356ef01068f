"""What users do: a random stream of operations on services, nodes and networks, through the real control operations.

Edge: asyncio on the simulated loop. Refusals are answers; a manager that dies meanwhile leaves it open what became of
an operation. What was answered must be in the store, which is checked at once.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec

from skep.manager.control.control import SwarmControl
from skep.model.base import Object
from skep.model.cluster import OrchestrationConfig
from skep.model.errors import SkepError
from skep.model.lifecycle import TaskState
from skep.model.network import NetworkAttachmentConfig, NetworkSpec
from skep.model.node import Availability, Node, Role
from skep.model.service import (
    ContainerSpec,
    EndpointSpec,
    FailureAction,
    Global,
    GlobalJob,
    Healthcheck,
    Mount,
    Placement,
    PlacementPreference,
    PortConfig,
    PublishMode,
    Replicated,
    ReplicatedJob,
    ResolutionMode,
    ResourceRequirements,
    Resources,
    RestartCondition,
    RestartPolicy,
    Service,
    ServiceMode,
    ServiceSpec,
    SpreadOver,
    TaskSpec,
    UpdateConfig,
    UpdateOrder,
)
from skep.model.service import Protocol as Transport
from skep.sim.loop import SECOND
from skep.sim.machine import LISTEN, LISTEN_AFTER
from skep.sim.manager import ManagerHost
from skep.store.state import State

IMAGES = ("web:1", "web:2", "web:3")
POLITE = "trap 'exit 0' TERM; while :; do sleep 1; done"
DEAF = "while :; do sleep 1; done"
FLAPPING = "sleep 2; exit 1"
JOB = "sleep 1; exit 0"
SOUND = (POLITE, DEAF, JOB)
PORTS = range(8000, 8012)
ZONE = "zone"
AT_MOST_ONE = {"skep.partition": "at-most-one"}
STICKY = {"skep.volume": "sticky"}
POLICIES = ({}, {"skep.rebalance": "auto"})


class Surroundings(Protocol):
    """What the workload needs of the world."""

    @property
    def manager(self) -> ManagerHost: ...
    @property
    def stored(self) -> State: ...
    def has_stored(self, kind: str, id: str, version: int) -> bool: ...
    def failed(self, what: str) -> None: ...
    def told(self, what: str) -> None: ...


class SpecMaker:
    """Draws service specs."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice

    def one_of(self, *choices: Any) -> Any:
        return self._dice.choice(choices)

    def often(self, share: float) -> bool:
        return self._dice.random() < share

    def service(self, name: str, networks: list[str]) -> ServiceSpec:
        """A new service."""
        mode = self._mode()
        is_job = mode.replicated_job is not None or mode.global_job is not None
        endpoint = None if is_job else self.endpoint()
        return ServiceSpec(
            name=name,
            labels={**(AT_MOST_ONE if self.often(0.15) else {}), **(STICKY if self.often(0.15) else {})},
            mode=mode,
            task_template=self._template(is_job=is_job, networks=networks, endpoint=endpoint),
            update_config=None if is_job or self.often(0.2) else self._update(),
            rollback_config=None if is_job or self.often(0.5) else self._rollback(),
            endpoint_spec=endpoint,
        )

    def _mode(self) -> ServiceMode:
        throw = self._dice.random()
        if throw < 0.7:
            return ServiceMode(replicated=Replicated(replicas=self._dice.randint(0, 6)))
        if throw < 0.85:
            return ServiceMode(global_=Global())
        if throw < 0.95:
            return ServiceMode(
                replicated_job=ReplicatedJob(
                    max_concurrent=self._dice.randint(1, 3), total_completions=self._dice.randint(1, 5)
                )
            )
        return ServiceMode(global_job=GlobalJob())

    def endpoint(self) -> EndpointSpec | None:
        """Ports and the way a name resolves."""
        if self.often(0.4):
            return None
        if self.often(0.15):
            return EndpointSpec(mode=ResolutionMode.DNSRR)
        ports = [
            PortConfig(
                protocol=Transport.TCP if self.often(0.8) else Transport.UDP,
                target_port=80 + n,
                published_port=0 if self.often(0.3) else self._dice.choice(PORTS),
                publish_mode=PublishMode.INGRESS if self.often(0.8) else PublishMode.HOST,
            )
            for n in range(self._dice.randint(1, 2))
        ]
        return EndpointSpec(ports=ports)

    def _template(self, *, is_job: bool, networks: list[str], endpoint: EndpointSpec | None) -> TaskSpec:
        joined = [each for each in networks if self.often(0.5)]
        return TaskSpec(
            container_spec=self.container(is_job=is_job, endpoint=endpoint),
            networks=[NetworkAttachmentConfig(target=each) for each in joined] or None,
            resources=self._resources(),
            placement=self._placement(),
            restart_policy=self._restart(is_job=is_job),
        )

    def container(self, *, is_job: bool, endpoint: EndpointSpec | None, is_sound: bool = False) -> ContainerSpec:
        """What runs: mostly something that works."""
        ports = [str(port.target_port) for port in (endpoint.ports or [] if endpoint else [])]
        throw = 1.0 if is_sound else self._dice.random()
        image = "missing" if throw < 0.03 else self._dice.choice(IMAGES)
        script = JOB if is_job else self.one_of(POLITE, POLITE, POLITE, DEAF)
        if 0.03 <= throw < 0.09:
            script = FLAPPING
        command = ["nosuch"] if 0.09 <= throw < 0.12 else ["sh", "-c"]
        has_check = not is_job and self.often(0.2)
        return ContainerSpec(
            image=image,
            command=command,
            args=[script],
            env=[
                f"{LISTEN}={','.join(ports)}",
                f"{LISTEN_AFTER}={self.one_of(0, 0, 0.2, 1)}",
                f"V={self.one_of(1, 2)}",
            ],
            stop_grace_period=self.one_of(SECOND // 2, SECOND, 3 * SECOND, None),
            healthcheck=Healthcheck(test=["CMD", "true"], interval=2 * SECOND, retries=2) if has_check else None,
            mounts=[Mount(type="volume", source="data", target="/data")] if self.often(0.5) else None,
        )

    def _resources(self) -> ResourceRequirements | None:
        if self.often(0.7):
            return None
        wanted = Resources(
            nano_cpus=self.one_of(0, 5 * 10**8, 15 * 10**8), memory_bytes=self.one_of(0, 1 << 30, 3 << 30)
        )
        return ResourceRequirements(reservations=wanted)

    def _placement(self) -> Placement | None:
        if self.often(0.7):
            return None
        constraints = self.one_of(["node.labels.zone==a"], ["node.labels.zone!=b"], ["node.role==worker"], None)
        spread = PlacementPreference(spread=SpreadOver(spread_descriptor="node.labels.zone"))
        return Placement(
            constraints=constraints,
            preferences=[spread] if constraints is None or self.often(0.3) else None,
            max_replicas=self.one_of(0, 0, 2),
        )

    def _restart(self, *, is_job: bool) -> RestartPolicy | None:
        if self.often(0.3):
            return None
        condition = RestartCondition.ON_FAILURE if is_job or self.often(0.2) else RestartCondition.ANY
        return RestartPolicy(
            condition=condition,
            delay=self.one_of(0, SECOND // 2, SECOND, 2 * SECOND),
            max_attempts=self.one_of(None, None, None, 3),
            window=self.one_of(None, 10 * SECOND),
        )

    def _update(self) -> UpdateConfig:
        return UpdateConfig(
            parallelism=self.one_of(0, 1, 1, 2, 3),
            delay=self.one_of(0, 0, SECOND),
            failure_action=self.one_of(FailureAction.PAUSE, FailureAction.CONTINUE, FailureAction.ROLLBACK),
            monitor=self.one_of(SECOND, 3 * SECOND),
            max_failure_ratio=self.one_of(0.0, 0.0, 0.5),
            order=self.one_of(UpdateOrder.STOP_FIRST, UpdateOrder.START_FIRST),
        )

    def _rollback(self) -> UpdateConfig:
        action = self.one_of(FailureAction.PAUSE, FailureAction.CONTINUE)
        return msgspec.structs.replace(self._update(), failure_action=action)

    def changed(self, spec: ServiceSpec, networks: list[str]) -> ServiceSpec:
        """A service's spec with something else in it."""
        replace = msgspec.structs.replace
        template = spec.task_template
        is_job = spec.mode.replicated_job is not None or spec.mode.global_job is not None
        match self._dice.randrange(7):
            case 0 | 1 if spec.mode.replicated is not None:
                wanted = Replicated(replicas=self._dice.randint(0, 6))
                return replace(spec, mode=ServiceMode(replicated=wanted))
            case 2:
                return replace(spec, task_template=replace(template, force_update=template.force_update + 1))
            case 3 if not is_job:
                endpoint = self.endpoint()
                container = self.container(is_job=False, endpoint=endpoint)
                return replace(spec, endpoint_spec=endpoint, task_template=replace(template, container_spec=container))
            case 4:
                joined = [NetworkAttachmentConfig(target=each) for each in networks if self.often(0.5)]
                return replace(spec, task_template=replace(template, networks=joined or None))
            case 5:
                return replace(spec, task_template=replace(template, placement=self._placement()))
            case _:
                container = self.container(is_job=is_job, endpoint=spec.endpoint_spec)
                return replace(spec, task_template=replace(template, container_spec=container))


class Workload:
    """Users at work. `run` until cancelled; `mend` and `clear` for the end."""

    def __init__(self, world: Surroundings, dice: random.Random, sleep: Callable[[int], Awaitable[None]]) -> None:
        self._world = world
        self._dice = dice
        self._sleep = sleep
        self._specs = SpecMaker(dice)
        self._names = 0
        self.max_services = 7

    async def run(self, mean: int) -> None:
        """One operation after the other, at random moments."""
        while True:
            await self._sleep(int(self._dice.expovariate(1.0) * mean))
            await self._one()

    async def _one(self) -> None:
        state = self._world.stored
        services = [service for service in state.services.values() if not service.removing]
        networks = [network for network in state.networks.values() if not network.spec.ingress]
        throw = self._dice.random()
        if not services or (throw < 0.25 and len(services) < self.max_services):
            await self._create([network.id for network in networks])
        elif throw < 0.6:
            await self._update(self._dice.choice(services), [network.id for network in networks])
        elif throw < 0.68:
            await self._roll_back(self._dice.choice(services))
        elif throw < 0.74:
            await self.remove(self._dice.choice(services))
        elif throw < 0.80 and len(networks) < 4:
            await self._create_network()
        elif throw < 0.84 and networks:
            await self._remove_network(self._dice.choice(networks).id)
        elif throw < 0.88:
            await self._rebalance(self._dice.choice(services))
        elif throw < 0.89:
            await self._set_policy()
        else:
            await self._set_node()

    async def ask(self, what: str, operation: Callable[[SwarmControl], Awaitable[Any]]) -> Any:
        """Do one operation; None where it was refused, nobody answered or it is not known what became of it."""
        daemon, control = self._world.manager.daemon, self._world.manager.control
        if daemon is None or control is None:
            return None

        async def run() -> Any:
            return await operation(control)

        task = daemon.process.spawn(run(), what)
        task.add_done_callback(lambda task: task.cancelled() or task.exception())  # Nobody may be left to ask.
        await asyncio.wait([task], timeout=30)
        if not task.done() or task.cancelled():
            task.cancel()
            return None
        error = task.exception()
        if isinstance(error, SkepError):
            self._world.told(f"{what}: refused: {error}")
            return None
        if error is not None:
            self._world.failed(f"{what} failed: {error!r}")
            return None
        self._world.told(f"{what}: done")
        result = task.result()
        if isinstance(result, Object) and not self._world.has_stored(_kind(result), result.id, result.version):
            self._world.failed(f"{what} was acknowledged and is not stored")
        return True if result is None else result

    async def _create(self, networks: list[str]) -> None:
        self._names += 1
        spec = self._specs.service(f"s{self._names}", networks)
        await self.ask(f"create {spec.name}", lambda control: control.create_service(spec))

    async def _update(self, service: Service, networks: list[str]) -> None:
        spec = self._specs.changed(service.spec, networks)
        await self.ask(f"update {spec.name}", lambda control: control.update_service(service.id, service.version, spec))

    async def _roll_back(self, service: Service) -> None:
        await self.ask(
            f"roll back {service.spec.name}",
            lambda control: control.update_service(service.id, service.version, service.spec, is_rollback=True),
        )

    async def remove(self, service: Service) -> None:
        """Remove a service; once that is answered, it is stored."""
        answer = await self.ask(f"remove {service.spec.name}", lambda control: control.remove_service(service.id))
        if answer:
            stored = self._world.stored.services.get(service.id)
            if stored is not None and not stored.removing:
                self._world.failed(f"the removal of {service.spec.name} was acknowledged and is not stored")

    async def _create_network(self) -> None:
        self._names += 1
        spec = NetworkSpec(name=f"n{self._names}", internal=self._specs.often(0.2))
        await self.ask(f"create network {spec.name}", lambda control: control.create_network(spec))

    async def _remove_network(self, id: str) -> None:
        answer = await self.ask(f"remove network {id}", lambda control: control.remove_network(id))
        if answer and id in self._world.stored.networks:
            self._world.failed(f"the removal of network {id} was acknowledged and is not stored")

    async def _rebalance(self, service: Service) -> None:
        is_dry = self._specs.often(0.2)
        await self.ask(
            f"rebalance {service.spec.name}", lambda control: control.rebalance_service(service.id, is_dry=is_dry)
        )

    async def _set_policy(self) -> None:
        """Whether the swarm rebalances by itself, and how much history it keeps."""
        cluster = self._world.stored.cluster
        if cluster is None:
            return
        kept = OrchestrationConfig(task_history_retention_limit=self._specs.one_of(0, 1, 5))
        spec = msgspec.structs.replace(cluster.spec, labels=self._specs.one_of(*POLICIES), orchestration=kept)
        await self.ask("update the cluster", lambda control: control.update_cluster(cluster.version, spec))

    async def _set_node(self) -> None:
        nodes = list(self._world.stored.nodes.values())
        if not nodes:
            return
        node = self._dice.choice(nodes)
        throw = self._dice.random()
        if throw < 0.12 and node.spec.role is not Role.MANAGER and len(nodes) > 3:
            await self.ask(f"remove node {node.id}", lambda control: control.remove_node(node.id, is_forced=True))
            return
        if throw < 0.3:
            labels = {ZONE: self._specs.one_of("a", "b")}
            await self._change_node(node, labels=labels)
            return
        choice = self._specs.one_of(Availability.ACTIVE, Availability.ACTIVE, Availability.DRAIN, Availability.PAUSE)
        await self._change_node(node, availability=choice)

    async def _change_node(self, node: Node, **fields: Any) -> None:
        spec = msgspec.structs.replace(node.spec, **fields)
        await self.ask(
            f"update node {node.description.hostname} {fields}",
            lambda control: control.update_node(node.id, node.version, spec),
        )

    # --- towards the end -------------------------------------------------------------

    async def mend(self, *, is_late: bool = False) -> bool:
        """Make everything such that it can come to rest; returns whether nothing was left to do.

        Args:
            is_late: Give up services of which a task has found no node, or no address.
        """
        is_done = True
        for node in list(self._world.stored.nodes.values()):
            if node.spec.availability is not Availability.ACTIVE:
                await self._change_node(node, availability=Availability.ACTIVE)
                is_done = False
        for service in list(self._world.stored.services.values()):
            if not service.removing and (not is_sound(service) or (is_late and self._is_waiting(service))):
                await self.remove(service)
                is_done = False
        return is_done

    def _is_waiting(self, service: Service) -> bool:
        tasks = self._world.stored.tasks.where("service", service.id)
        return any(task.status.state in (TaskState.NEW, TaskState.PENDING) and task.status.err for task in tasks)

    async def clear(self) -> bool:
        """Remove every service; returns whether none is left that was not being removed."""
        left = [service for service in self._world.stored.services.values() if not service.removing]
        for service in left:
            await self.remove(service)
        return not left


def is_sound(service: Service) -> bool:
    """Whether a service's tasks can run, and no update of it is stuck."""
    status = service.update_status
    if status is not None and status.state in ("paused", "rollback_paused"):
        return False
    container = service.spec.task_template.container_spec
    if container is None or container.image not in IMAGES or container.command != ["sh", "-c"]:
        return False
    return bool(container.args) and (container.args or [""])[0] in SOUND


def _kind(value: Object) -> str:
    return type(value).__name__.lower()
