"""Receives nodes' sessions: this manager's own while it leads; otherwise the node is sent to the one that does.

Edge: asyncio; channels come in open. Each term has sessions and assignment versions of its own, which begin with its
state: a node that comes from another manager is told everything anew, and restarts nothing for it. A node that cannot
reach the leader has its session carried there. Streams a user asks for go over this manager's sessions, or are carried
by the leader.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from functools import partial
from typing import Any, Final

import structlog

from skep.core.quorum import NO_LEADER
from skep.core.roles import certified_role
from skep.manager.carrying import carry_session, first_message, wish_of
from skep.manager.race import first_of
from skep.manager.relay import Relay, serve_relay
from skep.manager.replica import Replica
from skep.manager.sessions import Sessions, send_refusal
from skep.manager.standing import LOOK_AGAIN, PATIENCE, PERIOD, Standing
from skep.model.base import Nanoseconds
from skep.model.identity import Identity
from skep.model.node import Role
from skep.model.session import LogRequest, ManagerAddress, Refused, StreamData
from skep.ports.bytestream import ByteStream
from skep.ports.clock import Clock
from skep.ports.transport import Channel

ELSEWHERE: Final = "another manager leads the swarm; turn to that one"
OVER: Final = "this manager leads no more; turn to another one"

log = structlog.get_logger(__name__)


class Reception:
    """Where nodes come in. Attributes: sessions: of this term; None while this manager does not lead."""

    def __init__(self, replica: Replica, standing: Standing, relay: Relay, clock: Clock) -> None:
        self.sessions: Sessions | None = None
        self._replica = replica
        self._standing = standing
        self._clock = clock
        self._relay = relay
        self._opened = asyncio.Event()

    async def preside(self, sessions: Sessions, decide: Coroutine[Any, Any, None]) -> None:
        """Hold sessions while deciding goes on; ends, as that does, when the term does.

        Args:
            sessions: Fresh ones, on the state as it is now.
        """
        self._replica.observers.append(sessions.observe)
        self.sessions = sessions
        self._opened.set()
        parts = [asyncio.ensure_future(part) for part in (decide, sessions.run())]
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.sessions = None
            self._opened.clear()
            self._replica.observers.remove(sessions.observe)
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
            sessions.close(OVER)
        for part in done:
            part.result()

    def close(self) -> None:
        """The daemon stops: nodes go elsewhere."""
        if self.sessions is not None:
            self.sessions.close()

    # --- the control port ----------------------------------------------------------------

    async def serve(self, identity: Identity, channel: Channel) -> None:
        """Hold a node's session until it ends, or send it to who leads."""
        sessions, elsewhere = await self._find(may_go_elsewhere=True)
        if sessions is not None:
            await sessions.serve(identity, channel)
            return
        refusal = Refused(reason=ELSEWHERE if elsewhere else NO_LEADER, managers=elsewhere)
        hello = await first_message(channel) if elsewhere else b""
        if elsewhere and wish_of(hello) == elsewhere[0].addr:
            refusal = Refused(reason=await self._carry_session(identity.node_id, hello, channel, elsewhere[0]))
        await send_refusal(channel, refusal)
        await channel.close()

    async def carry(self, identity: Identity, channel: Channel) -> None:
        """Open a stream on this manager's sessions for another manager, or hold a session that one carries here."""
        if not self._is_manager(identity):
            log.warning("a node that is no manager asked for what managers ask", node=identity.node_id)
            await channel.close()
            return
        await serve_relay(self._find_own, channel, partial(self._hold_carried, identity))

    async def _carry_session(self, node_id: str, hello: bytes, node: Channel, leader: ManagerAddress) -> str:
        """Carry a node's session to the leader while that one leads; returns why it is over."""
        log.info("carrying a session to the leader", node=node_id, leader=leader.addr)
        reason = await carry_session(
            node, hello, self._relay.open_session(node_id, leader.addr), self._wait_other_leader(leader.node_id)
        )
        log.info("a carried session ended", node=node_id, reason=reason)
        return reason

    async def _hold_carried(self, carrier: Identity, node_id: str, channel: Channel) -> None:
        """Hold a session that another manager carries here, as long as that one is a manager."""
        sessions, elsewhere = await self._find(may_go_elsewhere=True)
        if sessions is None:
            await send_refusal(channel, Refused(reason=OVER, managers=elsewhere))
            return
        node = self._replica.view.nodes.get(node_id)
        role = certified_role(node) if node is not None else Role.WORKER
        identity = Identity(node_id=node_id, role=role, cluster_id=carrier.cluster_id)
        await first_of(sessions.serve(identity, channel, is_carried=True), self._wait_no_manager(carrier))

    def _is_manager(self, identity: Identity) -> bool:
        node = self._replica.view.nodes.get(identity.node_id)
        return identity.role == Role.MANAGER and node is not None and node.spec.role == Role.MANAGER

    async def _wait_no_manager(self, identity: Identity) -> None:
        while self._is_manager(identity):
            await self._clock.sleep(PERIOD)

    # --- for the rest of the manager -------------------------------------------------------

    def open_stream(self, node_id: str, request: LogRequest) -> AsyncIterator[StreamData]:
        """As `Sessions.open_stream`, whoever holds the node's session."""
        if self.sessions is not None:
            return self.sessions.open_stream(node_id, request)
        return self._relay.open_stream(node_id, request)

    def open_engine(self, node_id: str) -> ByteStream:
        """As `Sessions.open_engine`, whoever holds the node's session."""
        if self.sessions is not None:
            return self.sessions.open_engine(node_id)
        return self._relay.open_engine(node_id)

    # --- who leads -----------------------------------------------------------------------------

    async def _find_own(self) -> Sessions | None:
        sessions, _ = await self._find(may_go_elsewhere=False)
        return sessions

    async def _find(self, *, may_go_elsewhere: bool) -> tuple[Sessions | None, list[ManagerAddress]]:
        """This manager's sessions, or where to go instead; neither if nobody leads for a while."""
        until = self._clock.now() + PATIENCE
        while self.sessions is None:
            elsewhere = await self._standing.elsewhere()
            if (elsewhere and may_go_elsewhere) or self._clock.now() >= until:
                return None, elsewhere
            await self._wait_opened(LOOK_AGAIN)
        return self.sessions, []

    async def _wait_other_leader(self, node_id: str) -> None:
        """Wait until this manager leads, or is known to have another leader than that node."""
        while not self._opened.is_set():
            known = self._standing.known
            if known is not None and known.node_id != node_id:
                return
            await self._wait_opened(PERIOD)

    async def _wait_opened(self, at_most: Nanoseconds) -> None:
        await first_of(self._opened.wait(), self._clock.sleep(at_most))
