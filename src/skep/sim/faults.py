"""What goes wrong: one fault after the other, some at once, each with an end.

Edge: asyncio on the simulated loop. Every fault undoes itself when it is over or cancelled, so that healing the world
is cancelling the faults.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Protocol

from skep.sim.disk import StoreDisk
from skep.sim.loop import SECOND, Process, SimLoop
from skep.sim.machine import Machine, Temper
from skep.sim.manager import ManagerHost
from skep.sim.network import Link, Network

MILLISECOND = 1_000_000


class Surroundings(Protocol):
    """What faults befall."""

    @property
    def loop(self) -> SimLoop: ...
    @property
    def network(self) -> Network: ...
    @property
    def disk(self) -> StoreDisk: ...
    @property
    def manager(self) -> ManagerHost: ...
    @property
    def machines(self) -> Sequence[Machine]: ...
    def told(self, what: str) -> None: ...
    def disturb(self, machine: Machine | None) -> contextlib.AbstractContextManager[None]: ...


class Faults:
    """Draws faults and lets them happen. Attributes: length: how long one lasts, at least and at most."""

    def __init__(self, world: Surroundings, dice: random.Random) -> None:
        self.length = (SECOND // 5, 15 * SECOND)
        self._world = world
        self._dice = dice
        self._down: set[str] = set()
        self._under_way: list[asyncio.Task[None]] = []

    async def run(self, mean: int) -> None:
        """Let things go wrong until cancelled."""
        while True:
            await self._world.loop.sleep(int(self._dice.expovariate(1.0) * mean))
            self._under_way = [task for task in self._under_way if not task.done()]
            self._under_way.append(self._world.loop.create_task(self._one(), name="fault"))

    async def heal(self) -> None:
        """End every fault."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        self._under_way.clear()

    async def _one(self) -> None:
        everywhere: list[Callable[[], AsyncIterator[str]]] = [self._manager_dies, self._store_away, self._store_slow]
        on_node: list[Callable[[Machine], AsyncIterator[str]]] = [
            self._cut,
            self._cut,
            self._lossy,
            self._shake,
            self._daemon_dies,
            self._daemon_dies,
            self._power_cut,
            self._freeze,
            self._engine_away,
            self._engine_restarts,
            self._answers_lost,
            self._slow,
            self._kernel_refuses,
            self._container_dies,
            self._unhealthy,
        ]
        if self._dice.random() < 0.2:
            await self._last(self._dice.choice(everywhere)(), None)
            return
        machine = self._dice.choice(self._world.machines)
        await self._last(self._dice.choice(on_node)(machine), machine)

    async def _last(self, fault: AsyncIterator[str], machine: Machine | None) -> None:
        """Let a fault begin, last and end."""
        length = self._dice.randint(*self.length)
        if self._dice.random() < 0.4:
            length //= 8
        with self._world.disturb(machine):
            async with contextlib.aclosing(fault) as steps:  # type: ignore[type-var]  # all are generators
                async for what in steps:
                    where = f" at {machine.hostname}" if machine is not None else ""
                    self._world.told(f"fault{where}: {what}, for {length / SECOND:.1f} s")
                    await self._world.loop.sleep(length)

    def _link(self, machine: Machine) -> Link:
        return self._world.network.link(machine.node_id)

    def _is_local(self, machine: Machine) -> bool:
        """The manager's own node reaches it without a network."""
        return machine is self._world.machines[0]

    # --- the network -------------------------------------------------------------------

    async def _cut(self, machine: Machine) -> AsyncIterator[str]:
        link = self._link(machine)
        if self._is_local(machine) or not link.is_whole:
            return
        lanes = self._dice.choice([(link.up, link.down), (link.up, link.down), (link.up,), (link.down,)])
        link.cut(*lanes)
        try:
            yield f"cut off ({len(lanes)} ways)"
        finally:
            link.heal()

    async def _lossy(self, machine: Machine) -> AsyncIterator[str]:
        lanes = (self._link(machine).up, self._link(machine).down)
        for lane in lanes:
            lane.loss = self._dice.choice([0.05, 0.3, 0.6])
        try:
            yield "packets are lost"
        finally:
            for lane in lanes:
                lane.loss = 0.0

    async def _shake(self, machine: Machine) -> AsyncIterator[str]:
        self._link(machine).shake()
        yield "connections broken"

    # --- lives ---------------------------------------------------------------------------

    @contextlib.contextmanager
    def _alone(self, machine: Machine) -> Iterator[bool]:
        """One fault at a time starts and stops a machine's daemon."""
        if machine.node_id in self._down or machine.has_left:
            yield False
            return
        self._down.add(machine.node_id)
        try:
            yield True
        finally:
            self._down.discard(machine.node_id)

    async def _daemon_dies(self, machine: Machine) -> AsyncIterator[str]:
        with self._alone(machine) as is_mine:
            if not is_mine:
                return
            machine.kill_daemon()
            try:
                yield "daemon killed"
            finally:
                machine.start()

    async def _power_cut(self, machine: Machine) -> AsyncIterator[str]:
        if self._is_local(machine):
            return
        with self._alone(machine) as is_mine:
            if not is_mine:
                return
            machine.power_cut()
            try:
                yield "no power"
            finally:
                machine.boot()

    async def _freeze(self, machine: Machine) -> AsyncIterator[str]:
        with self._alone(machine) as is_mine:
            process = machine.daemon
            if not is_mine or process is None:
                return
            process.freeze()
            try:
                yield "daemon frozen"
            finally:
                process.thaw()

    async def _manager_dies(self) -> AsyncIterator[str]:
        manager = self._world.manager
        if manager.daemon is None or self._dice.random() < 0.2:
            async for what in self._manager_frozen(manager.daemon.process if manager.daemon else None):
                yield what
            return
        manager.kill()
        try:
            yield "manager killed"
        finally:
            manager.start()

    async def _manager_frozen(self, process: Process | None) -> AsyncIterator[str]:
        if process is None or process in self._world.loop.frozen:
            return
        process.freeze()
        try:
            for link in self._world.network.links.values():
                link.watch_silence(lambda: process in self._world.loop.frozen)
            yield "manager frozen"
        finally:
            process.thaw()

    # --- store, engine, kernel -------------------------------------------------------------

    async def _store_away(self) -> AsyncIterator[str]:
        self._world.disk.refusal = "the disk is full"
        try:
            yield "store takes no writes"
        finally:
            self._world.disk.refusal = ""

    async def _store_slow(self) -> AsyncIterator[str]:
        disk = self._world.disk
        disk.write = (50 * MILLISECOND, 600 * MILLISECOND)
        try:
            yield "store is slow"
        finally:
            disk.write = (MILLISECOND, 4 * MILLISECOND)

    async def _engine_away(self, machine: Machine) -> AsyncIterator[str]:
        machine.engine.is_reachable = False
        machine.engine.break_streams()
        try:
            yield "engine away"
        finally:
            machine.engine.is_reachable = True

    async def _engine_restarts(self, machine: Machine) -> AsyncIterator[str]:
        """The machine's containers end with their engine's service."""
        machine.engine.is_reachable = False
        machine.engine.break_streams()
        for container in machine.engine.running():
            machine.power.spawn(machine.engine.kill(container), "kill")
        try:
            yield "engine restarts"
        finally:
            machine.engine.is_reachable = True

    async def _answers_lost(self, machine: Machine) -> AsyncIterator[str]:
        machine.temper.lost_answers = self._dice.choice([0.1, 0.5])
        try:
            yield "engine loses answers"
        finally:
            machine.temper.lost_answers = 0.0

    async def _slow(self, machine: Machine) -> AsyncIterator[str]:
        machine.temper.engine_delay = (50 * MILLISECOND, 2 * SECOND)
        machine.temper.plane_delay = (20 * MILLISECOND, self._dice.choice([SECOND, 4 * SECOND]))
        try:
            yield "slow"
        finally:
            machine.temper.engine_delay, machine.temper.plane_delay = Temper().engine_delay, Temper().plane_delay

    async def _kernel_refuses(self, machine: Machine) -> AsyncIterator[str]:
        machine.temper.plane_failure = "netlink: no buffer space available"
        try:
            yield "kernel refuses"
        finally:
            machine.temper.plane_failure = ""

    async def _container_dies(self, machine: Machine) -> AsyncIterator[str]:
        running = machine.engine.running()
        if running:
            container = self._dice.choice(running)
            machine.power.spawn(machine.engine.kill(container), "kill")
            yield f"{container.config.name} killed"

    async def _unhealthy(self, machine: Machine) -> AsyncIterator[str]:
        names = {each.config.name for each in machine.engine.running()}
        machine.engine.unhealthy |= names
        try:
            yield "containers unhealthy"
        finally:
            machine.engine.unhealthy -= names
