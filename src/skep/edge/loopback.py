"""Control ports and channels in memory, for simulations and for tests that need no sockets.

Edge of nothing: asyncio only. Implements `ports.transport`; credentials are believed after their issuer was checked.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from cryptography.exceptions import InvalidSignature

from skep.core import identity as certificates
from skep.model.council import Entry, EntryRequest, Progress
from skep.model.errors import Forbidden, InvalidSpec, Removed, SkepError, Unauthenticated
from skep.model.identity import Credentials, Identity, Issued, JoinRequest, RenewRequest
from skep.model.node import Role
from skep.ports.transport import Channel, ChannelClosed, ControlService, Declined, Unreachable, Untrusted

CAPACITY = 16


class _Pipe:
    """One direction. Attributes: is_closed: nothing more goes in; what is in still comes out."""

    def __init__(self) -> None:
        self.messages: deque[bytes] = deque()
        self.is_closed = False
        self._changed = asyncio.Condition()

    async def put(self, message: bytes) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self.is_closed or len(self.messages) < CAPACITY)
            if self.is_closed:
                raise ChannelClosed("the session is closed")
            self.messages.append(message)
            self._changed.notify_all()

    async def get(self) -> bytes:
        async with self._changed:
            await self._changed.wait_for(lambda: self.is_closed or bool(self.messages))
            if not self.messages:
                raise ChannelClosed("the other end closed the session")
            message = self.messages.popleft()
            self._changed.notify_all()
            return message

    async def close(self) -> None:
        async with self._changed:
            self.is_closed = True
            self._changed.notify_all()


class MemoryChannel:
    """One end of a channel. Implements `ports.transport.Channel`."""

    def __init__(self, outward: _Pipe, inward: _Pipe) -> None:
        self._outward = outward
        self._inward = inward
        self._is_closed = False

    async def send(self, message: bytes, /) -> None:
        await self._outward.put(message)

    async def receive(self) -> bytes:
        if self._is_closed:
            raise ChannelClosed("the session is closed")
        return await self._inward.get()

    async def close(self) -> None:
        self._is_closed = True
        await self._outward.close()
        await self._inward.close()

    async def cut(self) -> None:
        """Break it as a network does: what is under way in either direction is lost."""
        self._outward.messages.clear()
        self._inward.messages.clear()
        await self.close()


def memory_channels() -> tuple[MemoryChannel, MemoryChannel]:
    """The two ends of a channel."""
    forth, back = _Pipe(), _Pipe()
    return MemoryChannel(forth, back), MemoryChannel(back, forth)


class Switchboard:
    """Managers by address. Implements `ports.transport.ControlPort`, `RelayPort` and `CouncilPort`."""

    def __init__(self) -> None:
        self._services: dict[str, ControlService] = {}
        self._sessions: dict[asyncio.Task[None], tuple[str, MemoryChannel]] = {}

    def plug(self, addr: str, service: ControlService) -> None:
        """A manager answers at an address from now on."""
        self._services[addr] = service

    async def unplug(self, addr: str) -> None:
        """A manager is gone, and every session with it broken."""
        self._services.pop(addr, None)
        for task, (where, channel) in list(self._sessions.items()):
            if where == addr:
                await channel.cut()
                await asyncio.wait([task])

    async def root(self, addr: str) -> str:
        return self._service(addr).root()

    async def join(self, addr: str, root_pem: str, request: JoinRequest) -> Issued:
        service = self._service(addr)
        if service.root() != root_pem:
            raise Untrusted(f"{addr} is no manager of this swarm")
        try:
            return await service.join(request, address=addr)
        except SkepError as error:
            raise _declined(error) from error

    async def renew(self, addr: str, credentials: Credentials, request: RenewRequest) -> Issued:
        service, identity = self._identify(addr, credentials)
        try:
            return await (service.renew(identity, request) if request.proof is None else service.revive(request))
        except SkepError as error:
            raise _declined(error, is_removed=service.is_removed(identity.node_id)) from error

    async def dial(self, addr: str, credentials: Credentials) -> Channel:
        service, identity = self._identify(addr, credentials)
        return self._connect(addr, lambda channel: service.serve(identity, channel))

    async def relay(self, addr: str, credentials: Credentials) -> Channel:
        service, identity = self._identify_manager(addr, credentials)
        return self._connect(addr, lambda channel: service.relay(identity, channel))

    async def enter(self, addr: str, credentials: Credentials, request: EntryRequest) -> Entry:
        service, identity = self._identify_manager(addr, credentials)
        try:
            return await service.enter(identity, request)
        except SkepError as error:
            raise _declined(error) from error

    async def vote(self, addr: str, credentials: Credentials, request: EntryRequest) -> None:
        service, identity = self._identify_manager(addr, credentials)
        try:
            await service.vote(identity, request)
        except SkepError as error:
            raise _declined(error) from error

    async def progress(self, addr: str, credentials: Credentials) -> Progress:
        service, identity = self._identify_manager(addr, credentials)
        try:
            return await service.progress(identity)
        except SkepError as error:
            raise _declined(error) from error

    def _connect(self, addr: str, serve: Callable[[Channel], Coroutine[Any, Any, None]]) -> Channel:
        ours, theirs = memory_channels()
        task = asyncio.ensure_future(serve(theirs))
        self._sessions[task] = (addr, ours)
        task.add_done_callback(lambda done: self._sessions.pop(done, None))
        return ours

    def _service(self, addr: str) -> ControlService:
        if addr not in self._services:
            raise Unreachable(f"the manager at {addr} cannot be reached: nobody listens there")
        return self._services[addr]

    def _identify(self, addr: str, credentials: Credentials) -> tuple[ControlService, Identity]:
        service = self._service(addr)
        certificate = certificates.load_certificate(credentials.certificate)
        try:
            certificate.verify_directly_issued_by(certificates.load_certificate(service.root()))
        except (ValueError, TypeError, InvalidSignature) as error:
            raise Untrusted(f"{addr} is no manager of this swarm") from error
        return service, certificates.identity_of(certificate)

    def _identify_manager(self, addr: str, credentials: Credentials) -> tuple[ControlService, Identity]:
        service, identity = self._identify(addr, credentials)
        if service.is_removed(identity.node_id):
            raise Declined("this node was removed from the swarm", is_removed=True)
        if identity.role != Role.MANAGER or service.is_demoted(identity.node_id):
            raise Declined("only managers may ask this")
        return service, identity


def _declined(error: SkepError, *, is_removed: bool = False) -> Declined:
    is_final = isinstance(error, InvalidSpec | Unauthenticated | Forbidden)
    return Declined(str(error), is_removed=is_removed or isinstance(error, Removed), is_final=is_final)
