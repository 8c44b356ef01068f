"""The one session a node holds with a manager: finds the one that leads, says hello, carries messages, comes back.

Edge: asyncio; connections come from the control port. Nothing that happens here touches a task: while there is no
session the node goes on as it was told last. Reports are sent until they are stored; assignments resume by version;
certificates are renewed beside the session, which stays up.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

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
LONGEST_PAUSE: Final = 4 * SECOND
"""Longer would let a manager that was restarted declare nodes down before they are back."""
SILENT_PAUSE: Final = SECOND // 5
"""The longest while no manager says anything at all: after a cut the node is back in balancing within 2 s."""
MOST_HOPS: Final = 4
STEADY: Final = 5 * SECOND
"""A session that lasted so long was a good one: the pauses begin small again."""


@dataclass(frozen=True, slots=True)
class SessionPorts:
    """What a session works through."""

    control: ControlPort
    clock: Clock
    dice: Dice


class AgentSession:
    """Keeps a node connected to its swarm."""

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
        self._connected = asyncio.Event()
        self._is_answered = False
        self._elsewhere = ""
        self._keeper = CertificateKeeper(identity, self._to_ask, ports.control, ports.clock, ports.dice)
        self.manager_addr = ""

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
        return [self.manager_addr] if self.manager_addr else self._book.order(self._ports.dice)

    # --- finding a manager -----------------------------------------------------------

    async def _stay_connected(self) -> None:
        while True:
            self._is_answered = False
            for address in self._book.order(self._ports.dice):
                if await self._follow(address):
                    break  # It was good: begin with it again.
            if self._keeper.dismissal:
                raise Removed(self._keeper.dismissal)
            await self._pause()

    async def _follow(self, address: str) -> bool:
        """Visit a manager and at once whom it names instead, and so on; returns whether there was a session.

        Not for ever: two that name each other are visited no faster than any that refuse.
        """
        was_good = False
        for _ in range(MOST_HOPS):
            self._elsewhere = ""
            was_good |= await self._visit(address)
            if self._elsewhere in ("", address):
                break
            address = self._elsewhere
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
            return False
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
            was_welcome = self.is_connected
            self._connected.clear()
            self._handler.disconnected()
            self.manager_addr = ""
            await channel.close()
        if was_welcome and self._ports.clock.now() - began >= STEADY:
            self._pauses.reset()
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
        welcome = await talk.greet()
        self._book.praise(address)
        self.manager_addr = address
        self._connected.set()
        self._handler.connected()
        log.info("a session began", manager=address)
        await self._learn(welcome.managers)
        await talk.hold(welcome.heartbeat_period, self._learn)

    async def _learn(self, managers: Sequence[ManagerAddress]) -> None:
        self._book.learn([manager.addr for manager in managers])
        if managers:
            await self._handler.managers_changed(managers)
