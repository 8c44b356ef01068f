"""What an agent and a manager say to each other on one channel, from hello to its end.

Edge: asyncio. Seven parts run beside each other: reading, heartbeats, reports, telling what is applied and which
certificate is held, asking for files, and noticing that the hello is out of date; the first to end is the end of all.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol, assert_never

import msgspec

from skep.agent.handler import Handler
from skep.agent.streams import AgentStreams
from skep.model import session as protocol
from skep.model.base import Nanoseconds
from skep.model.codec import MALFORMED
from skep.model.credit import Overdrawn
from skep.model.node import Role, TLSInfo
from skep.model.session import (
    Applied,
    Assignments,
    AttachmentAnswered,
    CertificateHeld,
    FileSent,
    FromAgent,
    FromManager,
    Heartbeat,
    ManagerAddress,
    Managers,
    Refused,
    Report,
    ReportStored,
    StreamCredit,
    StreamData,
    StreamEnd,
    StreamEof,
    StreamOpen,
    TaskReport,
    TrustWanted,
    Welcome,
)
from skep.ports.clock import Clock, Dice
from skep.ports.transport import Channel

WELCOME_S: Final = 6.0
BEAT_JITTER: Final = 0.2
SHORTEST_PERIOD: Final = 50_000_000
LARGEST_REPORT: Final = 1000

Learn = Callable[[Sequence[ManagerAddress]], Awaitable[None]]


class SessionOver(Exception):
    """The session ends and is to be opened again; the text says why.

    Attributes:
        managers: Where the manager says to go instead, the first first.
    """

    def __init__(self, reason: str, managers: Sequence[ManagerAddress] = ()) -> None:
        super().__init__(reason)
        self.managers = managers


class Removed(Exception):
    """The node is no longer of the swarm; the text is what the manager said."""


class Papers(Protocol):
    """This node's certificate and roots, which it tells so that users can follow a rotation."""

    @property
    def held(self) -> CertificateHeld: ...

    async def wait_other(self, told: CertificateHeld) -> CertificateHeld:
        """Wait until something other than `told` is held."""
        ...

    def follow(self, wanted: TLSInfo, role: Role | None) -> None:
        """The swarm wants these roots trusted and a certificate of that issuer and role; it is asked for soon."""
        ...


class Conversation:
    """One session's messages."""

    def __init__(self, channel: Channel, handler: Handler, clock: Clock, dice: Dice, *, papers: Papers) -> None:
        self._papers = papers
        self._told = papers.held
        self._channel = channel
        self._handler = handler
        self._clock = clock
        self._dice = dice
        self._streams = AgentStreams(handler, self._send)
        self._epoch = ""
        self._is_assigned = asyncio.Event()
        self._stored = 0
        self._is_stored = asyncio.Event()

    @property
    def serves_engine(self) -> bool:
        """Whether a connection to this node's engine, such as a terminal, is open over the session."""
        return self._streams.serves_engine

    async def greet(self, carry_to: str = "") -> Welcome:
        """Say hello.

        Args:
            carry_to: See `Hello`.
        Raises:
            SessionOver: No welcome came. Removed: the node is not wanted. ChannelClosed.
        """
        hello = await self._handler.hello()
        self._told = self._papers.held
        description = msgspec.structs.replace(hello.description, tls_info=self._told.trust)
        serial = self._told.serial
        told = msgspec.structs.replace(hello, description=description, certificate_serial=serial, carry_to=carry_to)
        await self._send(told)
        try:
            async with asyncio.timeout(WELCOME_S):
                answer = await self._receive()
        except TimeoutError as error:
            raise SessionOver("the manager did not answer in time") from error
        if isinstance(answer, Refused):
            _part(answer)
        if not isinstance(answer, Welcome):
            raise SessionOver("the manager did not begin with a welcome")
        self._epoch = answer.epoch
        return answer

    async def hold(self, period: Nanoseconds, learn: Learn) -> None:
        """Carry messages until the session ends.

        Args:
            period: Of the heartbeat.
            learn: Told where managers are whenever that changes.
        Raises:
            SessionOver, Removed, ChannelClosed: why it ended.
        """
        talks = (self._read(learn), self._beat(period), self._report(), self._announce(), self._ask())
        parts = [asyncio.ensure_future(part) for part in (*talks, self._tell_held(), self._renew_hello())]
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
            await self._streams.close()
        for ended in done:
            ended.result()

    async def _send(self, message: FromAgent) -> None:
        await self._channel.send(protocol.encoder.encode(message))

    async def _receive(self) -> FromManager:
        raw = await self._channel.receive()
        try:
            message: FromManager = protocol.from_manager.decode(raw)
        except MALFORMED as error:
            raise SessionOver(f"the manager sent what is no message: {error}") from error
        return message

    async def _read(self, learn: Learn) -> None:
        while True:
            message = await self._receive()
            match message:
                case Assignments():
                    await self._assign(message)
                case ReportStored():
                    self._stored = max(self._stored, message.number)
                    self._is_stored.set()
                case FileSent() | AttachmentAnswered():
                    self._handler.answered(message)
                case TrustWanted():
                    self._papers.follow(message.trust, message.role)
                case Managers():
                    await learn(message.managers)
                case StreamOpen() | StreamData() | StreamCredit() | StreamEof() | StreamEnd():
                    await self._take(message)
                case Refused():
                    _part(message)
                case Welcome():
                    raise SessionOver("the manager welcomed this node twice")
                case _:
                    assert_never(message)

    async def _take(self, message: StreamOpen | StreamData | StreamCredit | StreamEof | StreamEnd) -> None:
        try:
            await self._streams.take(message)
        except Overdrawn as error:
            raise SessionOver(f"the manager sent more than it may: {error}") from error

    async def _assign(self, message: Assignments) -> None:
        try:
            await self._handler.assign(self._epoch, message.delta)
        except ValueError as error:
            raise SessionOver(f"the assignments do not follow on those held: {error}") from error
        self._is_assigned.set()

    @property
    def _applied(self) -> int:
        """What is in force, as this session numbers it: nothing before its first assignments were taken."""
        return self._handler.applied_version if self._is_assigned.is_set() else 0

    async def _beat(self, period: Nanoseconds) -> None:
        while True:
            jitter = 1 - BEAT_JITTER * self._dice.fraction()
            await self._clock.sleep(int(max(period, SHORTEST_PERIOD) * jitter))
            await self._send(Heartbeat(applied=self._applied))

    async def _announce(self) -> None:
        """Say what is in force as soon as it is: stops and drains wait for it."""
        await self._is_assigned.wait()
        told = 0
        while True:
            told = await self._handler.wait_applied(told)
            await self._send(Applied(version=told))

    async def _tell_held(self) -> None:
        while True:
            self._told = await self._papers.wait_other(self._told)
            await self._send(self._told)

    async def _renew_hello(self) -> None:
        """End the session when the node has something new to say of itself: the next one begins with it."""
        await self._handler.wait_outdated()
        raise SessionOver("the node describes itself anew")

    async def _ask(self) -> None:
        """Ask for secrets and configs of tasks that are being prepared, and for containers' places on networks."""
        while True:
            for wanted in await self._handler.next_wanted():
                await self._send(wanted)

    async def _report(self) -> None:
        """Send what was observed; one report is under way at a time, later observations gather behind it."""
        number = 0
        while True:
            observed = await self._handler.next_reports()
            for start in range(0, len(observed), LARGEST_REPORT):
                number += 1
                await self._deliver(number, observed[start : start + LARGEST_REPORT])

    async def _deliver(self, number: int, reports: Sequence[TaskReport]) -> None:
        await self._send(Report(number=number, tasks=list(reports)))
        while self._stored < number:
            self._is_stored.clear()
            await self._is_stored.wait()
        await self._handler.reported(reports)


def _part(refusal: Refused) -> None:
    """Raises: Removed or SessionOver, as the manager said."""
    raise Removed(refusal.reason) if refusal.removed else SessionOver(refusal.reason, refusal.managers)
