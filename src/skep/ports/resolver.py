"""Name service for tasks, as the agent sees it.

Port. The agent keeps the zone in step with its assignments and says which sandboxes ask; answers come from memory.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from skep.core.names import ZoneItem
from skep.model.assignment import ItemKey


class NameServiceFailure(Exception):
    """No name server could be opened in a sandbox; the text is one sentence."""


@dataclass(frozen=True, slots=True)
class Asker:
    """A sandbox whose tasks ask for names.

    Attributes:
        networks: Ids of the overlay networks it is attached to, eth0's first; never the ingress network.
        is_forwarding: False for sandboxes on internal networks only: unknown names go nowhere.
        resolvers: Addresses to forward to instead of the node's own resolvers; may be empty.
    """

    task_id: str
    networks: tuple[str, ...]
    is_forwarding: bool = True
    resolvers: tuple[str, ...] = ()


class NameServer(Protocol):
    def change(self, put: Mapping[ItemKey, ZoneItem], remove: Collection[ItemKey]) -> None:
        """Change the zone; the next answer reflects it."""
        ...

    async def open(self, asker: Asker) -> None:
        """Answer at 127.0.0.11 in this sandbox; again after a restart of the daemon; idempotent.

        Raises:
            NameServiceFailure: e.g. the sandbox is gone.
        """
        ...

    async def close(self, task_id: str) -> None:
        """Stop answering there; no error if it was not open."""
        ...
