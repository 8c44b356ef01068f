"""The one session a node holds with a manager: finds the one that leads, says hello, carries messages, comes back.

Edge: asyncio; connections come from the control port. Nothing that happens here touches a task: while there is no
session the node goes on as it was told last. Reports are sent until they are stored; assignments resume by version;
certificates are renewed beside the session, which stays up. Where the leader cannot be reached, the manager that named
it is asked to carry the session there, until the leader can be.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from skep.agent.certificate import CertificateKeeper
from skep.agent.conversation import Conversation, Removed, SessionOver
from skep.agent.handler import Handler
from skep.agent.identity import NodeIdentity
from skep.agent.managers import AddressBook
from skep.agent.waiting import BackOff
from skep.model.session import ManagerAddress
from skep.ports.clock import Clock, Dice
from skep.ports.transport import Channel, ChannelClosed, ControlPort, TransportError, Unreachable

log = structlog.get_logger(__name__)

SECOND: Final = 1_000_000_000
FIRST_PAUSE: Final = SECOND // 10
LONGEST_PAUSE: Final = SECOND
"""Once managers that were restarted answer, every node is back within so long and the time of its handshake."""
SILENT_PAUSE: Final = SECOND // 5
"""The longest while no manager says anything at all: after a cut the node is back in balancing within 2 s."""
MOST_HOPS: Final = 4
STEADY: Final = 5 * SECOND
"""A session that lasted so long was a good one: the pauses begin small again."""
FIRST_LOOK: Final = 5 * SECOND
"""So long a session is carried at least, before it is seen whether the leader can be reached after all."""
LONGEST_LOOK: Final = 30 * SECOND


@dataclass(frozen=True, slots=True)
class SessionPorts:
    """What a session works through."""

    control: ControlPort
    clock: Clock
    dice: Dice


class AgentSession:
    """Keeps a node connected to its swarm.

    Attributes:
        manager_addr: Whom it is in session with; empty for nobody.
        is_carried: Whether that one does not lead and carries the session to the leader.
    """

    def __init__(
        self, identity: NodeIdentity, managers: Sequence[ManagerAddress], handler: Handler, ports: SessionPorts
    ) -> None:
        """Prepare; `run` does the work.

        Args:
            managers: Where to find one at first; not empty.
        """
        self._identity = identity
        self._handler = handler
        self._ports = ports
        self._book = AddressBook([manager.addr for manager in managers])
        self._pauses = BackOff(FIRST_PAUSE, LONGEST_PAUSE)
        self._looks = BackOff(FIRST_LOOK, LONGEST_LOOK)
        self._connected = asyncio.Event()
        self._is_answered = False
        self._elsewhere = ""
        self._unreached: tuple[str, bool] = ("", False)  # Whom the last visit did not reach; whether it was silent.
        self._cut_off = ""  # The leader that this node cannot reach itself, as far as it knows.
        self._is_silent = False
        self._direct: tuple[str, Channel] | None = None
        self._keeper = CertificateKeeper(identity, self._to_ask, ports.control, ports.clock, ports.dice)
        self.manager_addr = ""
        self.is_carried = False

    @property
    def is_connected(self) -> bool:
        return self._connected.is_set()

    @property
    def trouble(self) -> str:
        """Why this node cannot come back by itself; empty if nothing is in the way."""
        return "" if self.is_connected else self._keeper.trouble

    async def wait_connected(self) -> None:
        """Wait until a manager has welcomed this node."""
        await self._connected.wait()

    async def run(self) -> None:
        """Stay connected until cancelled; returns only once the node was removed and the handler has cleaned up."""
        async with asyncio.TaskGroup() as group:
            renewal = group.create_task(self._keeper.run())
            try:
                await self._stay_connected()
            except Removed as removal:
                log.warning("this node was removed from the swarm", reason=str(removal))
                await self._handler.removed(str(removal))
            renewal.cancel()

    def _to_ask(self) -> Sequence[str]:
        return [self.manager_addr] if self.manager_addr else self._book.order(self._ports.dice, self._cut_off)

    # --- finding a manager -----------------------------------------------------------

    async def _stay_connected(self) -> None:
        while True:
            self._is_answered = False
            if not self._is_silent:  # Who refuses may be a daemon that restarts, and costs no time to ask again.
                self._cut_off = ""
            for address in self._book.order(self._ports.dice, self._cut_off):
                if await self._follow(address):
                    break  # It was good: begin with it again.
            if self._keeper.dismissal:
                raise Removed(self._keeper.dismissal)
            await self._pause()

    async def _follow(self, address: str) -> bool:
        """Visit a manager and at once whom it names instead, and so on; returns whether there was a session.

        Where the one it names cannot be reached it is asked again, this time to carry the session there.
        Not for ever: two that name each other are visited no faster than any that refuse.
        """
        was_good, guide = False, ""
        for _ in range(MOST_HOPS):
            self._elsewhere, self._unreached = "", ("", False)
            was_good |= await self._visit(address)
            if guide and address == self._unreached[0] != self._cut_off:
                self._cut_off, self._is_silent = self._unreached
                address, guide = guide, ""
            elif self._elsewhere in ("", address):
                break
            else:
                address, guide = self._elsewhere, address
        return was_good

    async def _visit(self, address: str) -> bool:
        """Hold a session with one manager until it ends; returns whether there was one.

        Raises:
            Removed: It says that this node is no longer of the swarm.
        """
        try:
            channel = await self._ports.control.dial(address, self._identity.credentials)
        except TransportError as error:
            log.info("no session with a manager", manager=address, reason=str(error))
            self._book.doubt(address)
            self._is_answered |= not (isinstance(error, Unreachable) and error.is_silent)
            if isinstance(error, Unreachable):
                self._unreached = address, error.is_silent
            return False
        try:
            was_good = await self._attend(address, channel)
            while self._direct is not None:
                (address, channel), self._direct = self._direct, None
                was_good |= await self._attend(address, channel)
        finally:
            if self._direct is not None:
                (_, channel), self._direct = self._direct, None
                await channel.close()
        return was_good

    async def _attend(self, address: str, channel: Channel) -> bool:
        """As `_visit`, over a channel that is open."""
        self._is_answered = True
        began = self._ports.clock.now()
        try:
            await self._converse(address, channel)
        except ChannelClosed as over:
            log.info("the session ended", manager=address, reason=str(over))
            self._book.doubt(address)
        except SessionOver as over:
            log.info("the session ended", manager=address, reason=str(over))
            await self._learn(over.managers)
            self._elsewhere = over.managers[0].addr if over.managers else ""
        finally:
            was_welcome, was_carried = self.is_connected, self.is_carried
            self._connected.clear()
            self._handler.disconnected()
            self.manager_addr, self.is_carried = "", False
            await channel.close()
        lasted = self._ports.clock.now() - began
        if was_welcome and lasted >= STEADY:
            self._pauses.reset()
        if was_welcome and not was_carried and lasted >= LONGEST_LOOK:
            self._looks.reset()
        return was_welcome

    async def _pause(self) -> None:
        share = 0.5 + 0.5 * self._ports.dice.fraction()
        length = self._pauses.next()
        if not self._is_answered:
            self._pauses.reset()
            length = SILENT_PAUSE
        await self._ports.clock.sleep(int(length * share))

    # --- one session -------------------------------------------------------------------

    async def _converse(self, address: str, channel: Channel) -> None:
        """Raises: SessionOver, ChannelClosed, Removed: why it ended."""
        talk = Conversation(channel, self._handler, self._ports.clock, self._ports.dice, papers=self._keeper)
        welcome = await talk.greet(self._cut_off)
        self._book.praise(address)
        self.manager_addr, self.is_carried = address, welcome.is_carried
        if not welcome.is_carried:
            self._cut_off = ""
        self._connected.set()
        self._handler.connected()
        log.info("a session began", manager=address, carried_to=self._cut_off)
        await self._learn(welcome.managers)
        holding = talk.hold(welcome.heartbeat_period, self._learn)
        await (self._hold_carried(talk, holding) if welcome.is_carried else holding)

    async def _hold_carried(self, talk: Conversation, holding: Coroutine[Any, Any, None]) -> None:
        """Hold a session until it ends, or the leader is reached: then the next one begins over that channel."""
        held = asyncio.ensure_future(holding)
        looking = asyncio.ensure_future(self._look_for_direct(talk))
        try:
            done, _ = await asyncio.wait({held, looking}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            held.cancel()
            looking.cancel()
            _, found = await asyncio.gather(held, looking, return_exceptions=True)
            if not isinstance(found, BaseException):
                self._direct = self._cut_off, found
        for ended in done:
            ended.result()

    async def _look_for_direct(self, talk: Conversation) -> Channel:
        """Dial the leader now and then until it answers; not while a terminal is open, which the change would end."""
        while True:
            share = 0.75 + 0.5 * self._ports.dice.fraction()
            await self._ports.clock.sleep(int(self._looks.next() * share))
            if talk.serves_engine:
                continue
            try:
                channel = await self._ports.control.dial(self._cut_off, self._identity.credentials)
            except TransportError as error:
                log.info("the leader cannot be reached directly yet", manager=self._cut_off, reason=str(error))
            else:
                log.info("the leader can be reached directly again", manager=self._cut_off)
                return channel

    async def _learn(self, managers: Sequence[ManagerAddress]) -> None:
        self._book.learn([manager.addr for manager in managers])
        if managers:
            await self._handler.managers_changed(managers)
