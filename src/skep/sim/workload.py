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
from skep.model.network import NetworkSpec
from skep.model.node import Availability, Node, Role
from skep.model.service import Service
from skep.sim.manager import ManagerHost
from skep.sim.specs import ZONE, SpecMaker, is_sound
from skep.store.state import State

POLICIES: tuple[dict[str, str], ...] = ({}, {"skep.rebalance": "auto"})


class Surroundings(Protocol):
    """What the workload needs of the world."""

    @property
    def manager(self) -> ManagerHost: ...
    @property
    def stored(self) -> State: ...
    def has_stored(self, kind: str, id: str, version: int) -> bool: ...
    def failed(self, what: str) -> None: ...
    def told(self, what: str) -> None: ...


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


def _kind(value: Object) -> str:
    return type(value).__name__.lower()
