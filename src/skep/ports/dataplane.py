"""The kernel of a node, as its agent sees it: sandboxes and what packets do.

Port. Everything is idempotent and adoptable: after a restart `start` finds what exists and leaves it alone; what is
programmed stays in force when the daemon is gone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from skep.core.mesh.intent import NodeIntent


class DataPlaneFailure(Exception):
    """The kernel did not do it; the text is one sentence with what, why and what to do."""


@dataclass(frozen=True, slots=True)
class SandboxInterface:
    """One interface of a sandbox on an overlay network.

    Attributes:
        network_id: Its router must be in the intent that was programmed.
        address: With prefix length.
    """

    network_id: str
    address: str


@dataclass(frozen=True, slots=True)
class SandboxConfig:
    """What a sandbox is to have.

    Attributes:
        interfaces: eth0 first; one without network leaves its number free.
        ingress_address: In the ingress network, empty without.
        gateway: Whether it gets the way out (false when all its networks are internal).
        namespace: A namespace that is there already and becomes the sandbox; None makes one.
    """

    task_id: str
    interfaces: Sequence[SandboxInterface]
    ingress_address: str = ""
    gateway: bool = True
    namespace: Path | None = None


@dataclass(frozen=True, slots=True)
class Drift:
    """Where the kernel differs from the intent. Attributes: place: namespace; what: one sentence."""

    place: str
    what: str


class DataPlane(Protocol):
    async def start(self) -> None:
        """Check the kernel's features and take over what an earlier daemon left.

        Raises:
            DataPlaneFailure: naming the missing feature.
        """
        ...

    async def close(self) -> None:
        """Let go; nothing in the kernel changes."""
        ...

    async def program(self, intent: NodeIntent) -> None:
        """Bring the kernel to the intent, writing the difference only; returns when it is in force, read back."""
        ...

    async def prepare(self, config: SandboxConfig) -> Path:
        """Make a task's network namespace with its interfaces, routes and DNS redirection.

        Returns:
            The path a container engine can join.
        """
        ...

    async def release(self, task_id: str) -> None:
        """Remove the sandbox and everything of it; no error if it is gone."""
        ...

    async def sandboxes(self) -> Sequence[str]:
        """Task ids of the sandboxes that exist."""
        ...

    async def audit(self) -> Sequence[Drift]:
        """Compare kernel and intent."""
        ...

    async def repair(self) -> Sequence[Drift]:
        """Bring the kernel back to the last intent; returns what was mended."""
        ...

    async def clear(self) -> None:
        """Remove everything this node programmed, as when it leaves the swarm."""
        ...
