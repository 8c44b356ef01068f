"""What answers on this manager's control port: admission, sessions, relays and new managers together.

Pure delegation; implements `ports.transport.ControlService`.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from skep.manager.join import Admission
from skep.model.council import Entry, EntryRequest, Progress
from skep.model.errors import Unavailable
from skep.model.identity import Identity, Issued, JoinRequest, RenewRequest
from skep.ports.transport import Channel

Relay = Callable[[Identity, Channel], Awaitable[None]]


class CouncilService(Protocol):
    """Lets other managers in, and tells them how far this one is."""

    async def enter(self, identity: Identity, request: EntryRequest) -> Entry: ...
    async def vote(self, identity: Identity, request: EntryRequest) -> None: ...
    async def progress(self, identity: Identity) -> Progress: ...


class NoCouncil:
    """Of a manager that takes no other."""

    async def enter(self, identity: Identity, request: EntryRequest) -> Entry:
        raise Unavailable("this manager cannot take another; try one that keeps its state on disk")

    async def vote(self, identity: Identity, request: EntryRequest) -> None:
        raise Unavailable("this manager cannot take another; try one that keeps its state on disk")

    async def progress(self, identity: Identity) -> Progress:
        raise Unavailable("this manager keeps the state with no other; ask one that keeps it in etcd")


class SessionService(Protocol):
    """Holds nodes' sessions; see `manager.sessions`."""

    async def serve(self, identity: Identity, channel: Channel) -> None: ...


async def no_relay(_identity: Identity, channel: Channel) -> None:
    """Of a manager that is the only one."""
    await channel.close()


@dataclass(frozen=True, slots=True)
class Gate:
    admission: Admission
    sessions: SessionService
    carry: Relay = no_relay
    council: CouncilService = field(default_factory=NoCouncil)

    def root(self) -> str:
        return self.admission.root()

    def is_removed(self, node_id: str) -> bool:
        return self.admission.is_removed(node_id)

    def is_demoted(self, node_id: str) -> bool:
        return self.admission.is_demoted(node_id)

    async def join(self, request: JoinRequest, *, address: str) -> Issued:
        return await self.admission.join(request, address=address)

    async def renew(self, identity: Identity, request: RenewRequest, *, address: str = "") -> Issued:
        return await self.admission.renew(identity, request, address=address)

    async def revive(self, request: RenewRequest, *, address: str = "") -> Issued:
        return await self.admission.revive(request, address=address)

    async def serve(self, identity: Identity, channel: Channel) -> None:
        await self.sessions.serve(identity, channel)

    async def relay(self, identity: Identity, channel: Channel) -> None:
        await self.carry(identity, channel)

    async def enter(self, identity: Identity, request: EntryRequest) -> Entry:
        return await self.council.enter(identity, request)

    async def vote(self, identity: Identity, request: EntryRequest) -> None:
        await self.council.vote(identity, request)

    async def progress(self, identity: Identity) -> Progress:
        return await self.council.progress(identity)
