"""What answers on this manager's control port: admission and sessions together.

Pure delegation; implements `ports.transport.ControlService`.
"""

from dataclasses import dataclass

from skep.manager.join import Admission
from skep.manager.sessions import Sessions
from skep.model.identity import Identity, Issued, JoinRequest, RenewRequest
from skep.ports.transport import Channel


@dataclass(frozen=True, slots=True)
class Gate:
    admission: Admission
    sessions: Sessions

    def root(self) -> str:
        return self.admission.root()

    def is_removed(self, node_id: str) -> bool:
        return self.admission.is_removed(node_id)

    async def join(self, request: JoinRequest, *, address: str) -> Issued:
        return await self.admission.join(request, address=address)

    async def renew(self, identity: Identity, request: RenewRequest, *, address: str = "") -> Issued:
        return await self.admission.renew(identity, request, address=address)

    async def serve(self, identity: Identity, channel: Channel) -> None:
        await self.sessions.serve(identity, channel)
