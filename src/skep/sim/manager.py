"""The manager's machine: the real manager on a simulated store, started, stopped and killed at will.

Edge: asyncio on the simulated loop. Puts the parts together as the daemon does, without certificates and sockets.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from skep.core.dispatch.dispatcher import Dispatcher
from skep.lib.ids import new_id
from skep.manager.control.control import Surroundings, SwarmControl
from skep.manager.leader import Leader
from skep.manager.logs import TaskLogs
from skep.manager.replica import Replica
from skep.manager.seal import DataKey, Seal
from skep.manager.sessions import Sessions
from skep.model.identity import Identity
from skep.model.node import Role, TLSInfo
from skep.sim.clock import SimClock, SimDice
from skep.sim.disk import SimStore, StoreDisk
from skep.sim.loop import Process, SimLoop
from skep.sim.network import Network, SimChannel

SEAL = Seal(DataKey.of(bytes(32)))


@dataclass(frozen=True, slots=True)
class Ground:
    """What a manager stands on, and what outlives it."""

    loop: SimLoop
    network: Network
    disk: StoreDisk
    clock: SimClock
    dice: SimDice
    cluster_id: str
    node_id: str
    on_failure: Callable[[str], None]


class _Daemon:
    """One life of the manager. Implements `network.Listener`."""

    def __init__(self, ground: Ground, process: Process) -> None:
        self.process = process
        self.started_at = ground.loop.now
        self.control: SwarmControl | None = None
        self.leader: Leader
        self.replica: Replica
        self.sessions: Sessions
        self._ground = ground

    async def run(self) -> NoReturn:
        """Open everything and work until killed."""
        ground = self._ground
        replica = Replica(SimStore(ground.disk, self.process), ground.clock)
        await replica.open()
        leader = Leader(replica, ground.clock, ground.dice, own_node_id=ground.node_id)
        epoch = new_id(ground.dice.bytes)
        dispatcher = Dispatcher(epoch, replica.view, ground.clock.now())
        sessions = Sessions(leader, dispatcher, lambda: replica.view, ground.clock, epoch=epoch)
        replica.observers.append(sessions.observe)
        self.leader, self.replica, self.sessions = leader, replica, sessions
        self.control = SwarmControl(
            replica,
            Surroundings(
                clock=ground.clock,
                dice=ground.dice,
                tls_info=TLSInfo,
                sealer=SEAL,
                logs=TaskLogs(sessions.open_stream, ground.clock),
            ),
        )
        ground.network.listener = self
        async with asyncio.TaskGroup() as group:
            group.create_task(leader.run(), name="decisions")
            group.create_task(sessions.run(), name="sessions")
            group.create_task(self._follow(replica), name="replica")
        raise AssertionError("a manager's loops do not end by themselves")

    async def _follow(self, replica: Replica) -> None:
        await replica.wait_ended()
        raise AssertionError("the replica ended by itself")

    async def serve(self, node_id: str, channel: SimChannel) -> None:
        identity = Identity(node_id=node_id, role=Role.WORKER, cluster_id=self._ground.cluster_id)
        await self.sessions.serve(identity, channel)


class ManagerHost:
    """The machine that the manager runs on. Attributes: daemon: None while none runs."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.daemon: _Daemon | None = None
        self.starts = 0

    def start(self) -> None:
        self.starts += 1
        process = Process(self.ground.loop, f"manager {self.starts}")
        self.daemon = _Daemon(self.ground, process)
        process.spawn(self.daemon.run(), "manager").add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[NoReturn]") -> None:
        if not task.cancelled():
            self.ground.on_failure(f"the manager failed: {_leaves(task.exception())}")

    def kill(self) -> None:
        """SIGKILL: its machine closes the connections."""
        if self.daemon is None:
            return
        self.daemon.process.kill()
        self.daemon = None
        self.ground.network.listener = None
        for link in self.ground.network.links.values():
            for channel in link.dialled():
                channel.peer.hang_up()

    @property
    def control(self) -> SwarmControl | None:
        """None while no manager is ready."""
        return self.daemon.control if self.daemon is not None else None


def _leaves(error: BaseException | None) -> str:
    """What really happened, out of groups of groups."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_leaves(each) for each in error.exceptions)
    return repr(error)
