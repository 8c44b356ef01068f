"""The network between nodes and the manager: ordered streams that stall, come late and break.

Edge: asyncio on the simulated loop; implements `ports.transport`. A node has one link to the manager's machine. A
link that is cut holds back what is under way, as TCP does, until it heals or an end gives up. Of the ends only the
dialling one pings, as with the real WebSocket; the other learns of a lost node by the session's own silence limit.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from skep.model.base import Nanoseconds
from skep.model.identity import Credentials, Issued, JoinRequest, RenewRequest
from skep.ports.transport import ChannelClosed, Declined, Unreachable
from skep.sim.loop import SECOND, Process, SimLoop

MILLISECOND = 1_000_000
DIAL_LIMIT = 5 * SECOND
PING: tuple[Nanoseconds, Nanoseconds] = (2250 * MILLISECOND, 3 * SECOND)
"""After so long without an answer the dialling end gives up."""
RETRANSMIT = 200 * MILLISECOND


class Listener(Protocol):
    """What answers at the manager's address."""

    @property
    def process(self) -> Process: ...

    def serve(self, node_id: str, channel: "SimChannel") -> Coroutine[Any, Any, None]: ...


def _nobody() -> None:
    return


class Lane:
    """One direction of a link."""

    def __init__(self, loop: SimLoop, dice: random.Random) -> None:
        self.is_cut = False
        self.delay: tuple[Nanoseconds, Nanoseconds] = (100_000, MILLISECOND)
        self.loss = 0.0
        self._loop = loop
        self._dice = dice
        self._last: Nanoseconds = 0
        self._held: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()

    def carry(self, deliver: Callable[..., None], *args: Any) -> None:
        """Have something arrive, after everything sent before."""
        if self.is_cut or self._held:
            self._held.append((deliver, args))
            return
        delay = self._dice.randint(*self.delay)
        while self.loss and self._dice.random() < self.loss:
            delay += RETRANSMIT
        self._last = max(self._last, self._loop.now + delay)
        self._loop.call_at_ns(self._last, deliver, *args)

    def mend(self) -> None:
        """Let through what was held back."""
        self.is_cut = False
        held, self._held = self._held, deque()
        for deliver, args in held:
            self.carry(deliver, *args)

    def lose(self) -> None:
        """Drop what was held back: both machines have forgotten the connections."""
        self._held.clear()


class SimChannel:
    """One end of a stream. Implements `ports.transport.Channel`."""

    def __init__(self, loop: SimLoop, process: Process, lane: Lane) -> None:
        self.peer: SimChannel
        self.is_over = False
        self._loop = loop
        self._process = process
        self._lane = lane
        self.on_heard: Callable[[], None] = _nobody
        self._inbox: deque[bytes] = deque()
        self._is_ended = False
        self._waiter: asyncio.Future[None] | None = None

    async def send(self, message: bytes, /) -> None:
        self._process.check()
        if self.is_over:
            raise ChannelClosed("the session broke while sending")
        self._lane.carry(self.peer.deliver, message)

    async def receive(self) -> bytes:
        while not self._inbox:
            if self._is_ended or self.is_over:
                raise ChannelClosed("the other end closed the session")
            self._waiter = self._loop.create_future()
            await self._waiter
        self.on_heard()
        return self._inbox.popleft()

    async def close(self) -> None:
        self.hang_up()

    def hang_up(self) -> None:
        """Close this end; the other one hears of it when the network lets it."""
        if not self.is_over:
            self.is_over = True
            self._wake()
            self._lane.carry(self.peer.deliver, None)

    def break_off(self) -> None:
        """This end finds the connection broken; what had not been read is lost."""
        self.is_over = True
        self._inbox.clear()
        self._wake()

    def deliver(self, message: bytes | None) -> None:
        """Something arrives; None is the end."""
        if self.is_over:
            if message is not None:
                self._lane.carry(self.peer.reset)
            return
        if message is None:
            self._is_ended = True
        else:
            self._inbox.append(message)
        self._wake()

    def reset(self) -> None:
        """The other machine knows nothing of this connection."""
        if not self.is_over:
            self.break_off()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Link:
    """Between one node and the manager's machine.

    Attributes:
        up, down: From and to the node.
        heard_at: When the manager last read what the node sent; gap: the last long silence, from and to.
    """

    def __init__(self, loop: SimLoop, dice: random.Random) -> None:
        self.up = Lane(loop, dice)
        self.down = Lane(loop, dice)
        self._loop = loop
        self._dice = dice
        self._dialled: list[SimChannel] = []
        self.heard_at: Nanoseconds = 0
        self.gap: tuple[Nanoseconds, Nanoseconds] = (0, 0)
        self._cuts = 0

    @property
    def is_whole(self) -> bool:
        return not (self.up.is_cut or self.down.is_cut)

    def join(self, ours: Process, theirs: Process) -> tuple[SimChannel, SimChannel]:
        """A new connection: the dialling end and the listening one."""
        near, far = SimChannel(self._loop, ours, self.up), SimChannel(self._loop, theirs, self.down)
        near.peer, far.peer = far, near
        self._dialled = [each for each in self._dialled if not each.is_over]
        self._dialled.append(near)
        far.on_heard = self._note_heard
        return near, far

    def dialled(self) -> list[SimChannel]:
        """The node's ends of its open connections."""
        return [each for each in self._dialled if not each.is_over]

    def _note_heard(self) -> None:
        if self._loop.now - self.heard_at > SECOND:
            self.gap = (self.heard_at, self._loop.now)
        self.heard_at = self._loop.now

    def cut(self, *lanes: Lane) -> None:
        """Let nothing through on these lanes until `heal`."""
        for lane in lanes:
            lane.is_cut = True
        self._cuts += 1
        self.watch_silence(lambda cut=self._cuts: cut == self._cuts and not self.is_whole)  # type: ignore[misc]  # the default binds now

    def watch_silence(self, is_still: Callable[[], bool]) -> None:
        """Have the dialling ends give up unless the silence ends in time."""

        def give_up() -> None:
            if is_still():
                for channel in self._dialled:
                    channel.break_off()

        self._loop.call_at_ns(self._loop.now + self._dice.randint(*PING), give_up)

    def heal(self) -> None:
        self._cuts += 1
        self.up.mend()
        self.down.mend()

    def shake(self) -> None:
        """Break every connection, at both ends, as a firewall that lost its table."""
        for channel in self._dialled:
            channel.break_off()
            channel.peer.break_off()
        self._dialled.clear()

    def drop_node(self) -> None:
        """The node lost its power: it says no farewell and knows no connection when it is back."""
        self.up.lose()
        for channel in self._dialled:
            channel.is_over = True


class Network:
    """All links, and who listens. Attributes: listener: None while no manager runs."""

    def __init__(self, loop: SimLoop, dice: random.Random) -> None:
        self.listener: Listener | None = None
        self.links: dict[str, Link] = {}
        self._loop = loop
        self._dice = dice

    def link(self, node_id: str) -> Link:
        """A node's link, made when first asked for."""
        if node_id not in self.links:
            self.links[node_id] = Link(self._loop, self._dice)
        return self.links[node_id]


class SimControlPort:
    """How one node's daemon reaches the manager. Implements `ports.transport.ControlPort`."""

    def __init__(self, loop: SimLoop, network: Network, process: Process, node_id: str) -> None:
        self._loop = loop
        self._network = network
        self._process = process
        self._node_id = node_id

    async def root(self, addr: str) -> str:
        raise Unreachable("the simulation's nodes are in the swarm already")

    async def join(self, addr: str, root_pem: str, request: JoinRequest) -> Issued:
        raise Declined("the simulation's nodes are let in by its world")

    async def renew(self, addr: str, credentials: Credentials, request: RenewRequest) -> Issued:
        raise Unreachable("the simulation ends before any certificate does")

    async def dial(self, addr: str, credentials: Credentials) -> SimChannel:
        link = self._network.link(self._node_id)
        deadline = self._loop.now + DIAL_LIMIT
        await self._loop.sleep(4 * MILLISECOND)
        while not link.is_whole or self._is_frozen():
            if self._loop.now >= deadline:
                raise Unreachable(f"the manager at {addr} did not answer in time")
            await self._loop.sleep(RETRANSMIT)
        listener = self._network.listener
        if listener is None or not listener.process.is_alive:
            raise Unreachable(f"the manager at {addr} cannot be reached: Connection refused")
        self._process.check()
        near, far = link.join(self._process, listener.process)
        listener.process.spawn(listener.serve(self._node_id, far), f"session of {self._node_id}")
        return near

    def _is_frozen(self) -> bool:
        listener = self._network.listener
        return listener is not None and listener.process in self._loop.frozen
