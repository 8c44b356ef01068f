"""Receives nodes' sessions: this manager's own while it leads; otherwise the node is sent to the one that does.

Edge: asyncio; channels come in open. Each term has sessions and assignment versions of its own, which begin with its
state: a node that comes from another manager is told everything anew, and restarts nothing for it. Streams a user asks
for go over this manager's sessions, or are carried by the leader.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Final

import structlog

from skep.core.quorum import NO_LEADER
from skep.manager.relay import Relay, serve_relay
from skep.manager.replica import Replica
from skep.manager.sessions import Sessions, send_refusal
from skep.manager.standing import LOOK_AGAIN, PATIENCE, Standing
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
        reason = ELSEWHERE if elsewhere else NO_LEADER
        await send_refusal(channel, Refused(reason=reason, managers=elsewhere))
        await channel.close()

    async def carry(self, identity: Identity, channel: Channel) -> None:
        """Open a stream on this manager's sessions for another manager."""
        node = self._replica.view.nodes.get(identity.node_id)
        if node is None or node.spec.role != Role.MANAGER:
            log.warning("a node that is no manager asked for a stream of another's", node=identity.node_id)
            await channel.close()
            return
        sessions, _ = await self._find(may_go_elsewhere=False)
        await serve_relay(sessions, channel)

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

    async def _find(self, *, may_go_elsewhere: bool) -> tuple[Sessions | None, list[ManagerAddress]]:
        """This manager's sessions, or where to go instead; neither if nobody leads for a while."""
        until = self._clock.now() + PATIENCE
        while self.sessions is None:
            elsewhere = await self._standing.elsewhere()
            if (elsewhere and may_go_elsewhere) or self._clock.now() >= until:
                return None, elsewhere
            await self._wait_opened()
        return self.sessions, []

    async def _wait_opened(self) -> None:
        opened = asyncio.ensure_future(self._opened.wait())
        pause = asyncio.ensure_future(self._clock.sleep(LOOK_AGAIN))
        try:
            await asyncio.wait({opened, pause}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            opened.cancel()
            pause.cancel()
