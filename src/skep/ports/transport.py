"""Between a node and a manager's control port: what is asked there, and the channel a session runs over.

Port. A channel carries whole messages, in order, each once, until it breaks. It notices within a few seconds that the
other end is gone. Every adapter passes tests/contract/test_transport.py.
"""

from typing import Final, Protocol

from skep.model.council import Entry, EntryRequest, Progress
from skep.model.identity import Credentials, Identity, Issued, JoinRequest, RenewRequest

MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
"""A full assignment set of a large swarm fits; an endless message does not."""


class TransportError(Exception):
    """Base: the text is one sentence fit to be shown."""


class Unreachable(TransportError):
    """Nobody answers at that address, or not in time: try another, or again.

    Attributes:
        is_silent: Nothing came back at all, as when the network is cut; nobody is there to be flooded by asking often.
    """

    def __init__(self, reason: str, *, is_silent: bool = False) -> None:
        super().__init__(reason)
        self.is_silent = is_silent


class Untrusted(TransportError):
    """Who answers is no manager of this swarm: nothing secret was sent."""


class Declined(TransportError):
    """A manager answered and said no.

    Attributes:
        is_removed: This node is no longer of the swarm.
        is_final: The same question will get the same answer; False where the manager cannot answer at present.
    """

    def __init__(self, reason: str, *, is_removed: bool = False, is_final: bool = True) -> None:
        super().__init__(reason)
        self.is_removed = is_removed
        self.is_final = is_final


class ListenFailed(TransportError):
    """The address to listen on is taken or not ours."""


class ChannelClosed(TransportError):
    """The channel is over, by either side or by the network."""


class Channel(Protocol):
    async def send(self, message: bytes, /) -> None:
        """Send a message; waits while the other end is slow, returns before it has arrived.

        Raises:
            ChannelClosed: It may or may not arrive.
        """
        ...

    async def receive(self) -> bytes:
        """Wait for the next message.

        Raises:
            ChannelClosed: No more will come; those sent before a proper close have been received.
        """
        ...

    async def close(self) -> None:
        """End it; idempotent, and returns soon even if the other end is gone."""
        ...


class ControlPort(Protocol):
    """What a node asks of a manager at `addr` (host:port). All raise `TransportError`, within a few seconds."""

    async def root(self, addr: str) -> str:
        """The root certificate it claims; compare it with the token's digest before anything else."""
        ...

    async def join(self, addr: str, root_pem: str, request: JoinRequest) -> Issued:
        """Ask for a first certificate; the secret goes only to a manager certified by `root_pem`."""
        ...

    async def renew(self, addr: str, credentials: Credentials, request: RenewRequest) -> Issued:
        """Ask for the next certificate; a request with a proof goes without the one that has ended."""
        ...

    async def dial(self, addr: str, credentials: Credentials) -> Channel:
        """Open the channel of a session."""
        ...


class RelayPort(Protocol):
    """What a manager asks of the one that leads, and so holds the nodes' sessions."""

    async def relay(self, addr: str, credentials: Credentials) -> Channel:
        """Open a channel for one stream of a node's; see `manager.relay`.

        Raises:
            TransportError: Within a few seconds.
        """
        ...


class CouncilPort(Protocol):
    """What a manager asks of another that holds the swarm's state. All raise `TransportError` and may be asked again;
    to enter and to get a vote may take half a minute. Declined for a node that is to be no manager."""

    async def enter(self, addr: str, credentials: Credentials, request: EntryRequest) -> Entry:
        """Be let in, without a vote yet."""
        ...

    async def vote(self, addr: str, credentials: Credentials, request: EntryRequest) -> None:
        """Get a vote; returns once it counts. Declined while this manager's member has not caught up."""
        ...

    async def progress(self, addr: str, credentials: Credentials) -> Progress:
        """Hear how far the other's own member has come. Declined by one that keeps the state alone."""
        ...


class ControlService(Protocol):
    """What answers on a manager's control port. Refusals are `skep.model.errors`."""

    def root(self) -> str: ...

    def is_removed(self, node_id: str) -> bool:
        """Whether the node's certificates are no longer accepted."""
        ...

    def is_demoted(self, node_id: str) -> bool:
        """Whether the node is no manager any more, whatever a certificate of it says."""
        ...

    async def join(self, request: JoinRequest, *, address: str) -> Issued:
        """Let a newcomer in; `address` is where it asks from."""
        ...

    async def renew(self, identity: Identity, request: RenewRequest, *, address: str = "") -> Issued:
        """Give a node its next certificate; `address` is where it asks from."""
        ...

    async def revive(self, request: RenewRequest, *, address: str = "") -> Issued:
        """Give a node whose certificate has ended another one, if its proof is good enough."""
        ...

    async def serve(self, identity: Identity, channel: Channel) -> None:
        """Hold a node's session until it ends; `identity` is what its certificate says."""
        ...

    async def relay(self, identity: Identity, channel: Channel) -> None:
        """Carry one stream of a node's for another manager until it ends."""
        ...

    async def enter(self, identity: Identity, request: EntryRequest) -> Entry:
        """Let another manager in; see `CouncilPort`."""
        ...

    async def vote(self, identity: Identity, request: EntryRequest) -> None: ...

    async def progress(self, identity: Identity) -> Progress:
        """Tell another manager how far this one's member has come."""
        ...
