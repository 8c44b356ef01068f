"""A node's kernel in memory under the contract of the real one, for the agent's tests and the simulator.

`FakeKernel` is the machine: what is programmed lives on in it when a daemon dies. `FakeDataPlane` is one daemon's hold
of it. It derives the same facts from an intent as the real one and keeps them instead of writing them, so that a test
can ask what a node's kernel would do: `backends` follows a published port or virtual IP as a packet would.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from skep.core.mesh import facts as f
from skep.core.mesh import naming, program
from skep.core.mesh.facts import Fact, Value
from skep.core.mesh.intent import NodeIntent
from skep.core.mesh.program import Sandbox, Station
from skep.ports.dataplane import DataPlaneFailure, Drift, SandboxConfig


@dataclass
class FakeKernel:
    """One node's kernel. Attributes: facts: in force now; sandboxes: by task id; failure: raised by every write."""

    node_id: str = "n1"
    underlay: str = "192.168.77.1"
    facts: dict[Fact, Value] = field(default_factory=dict)
    sandboxes: dict[str, Sandbox] = field(default_factory=dict)
    failure: DataPlaneFailure | None = None

    def backends(self, space: f.Space, collection: str, key: str) -> tuple[str, ...] | None:
        """Where a new connection may go; None if nothing translates it.

        Args:
            space: Empty for the node, `net-<id>` for an overlay's router.
            collection, key: `published` and `tcp . 9200`, or `vips` and an address.
        """
        verdict = self.facts.get(f.Element(space, collection, key))
        if not isinstance(verdict, str):
            return None
        balance = self.facts.get(f.Chain(space, verdict.removeprefix("goto ")))
        return balance.addresses if isinstance(balance, f.Balance) else None


class FakeDataPlane:
    """A daemon's hold of a `FakeKernel`."""

    def __init__(self, kernel: FakeKernel, run_dir: Path = Path("/run/fake")) -> None:
        self.kernel = kernel
        self._netns = run_dir / "netns"
        self._station = Station(kernel.node_id, kernel.underlay, 1450)
        self._intent: NodeIntent | None = None
        self._is_started = False

    async def start(self) -> None:
        self._is_started = True

    async def close(self) -> None:
        self._is_started = False

    async def program(self, intent: NodeIntent) -> None:
        self._check()
        self._intent = intent
        self.kernel.facts = self._wanted()

    async def prepare(self, config: SandboxConfig) -> Path:
        self._check()
        if self._intent is None:
            raise DataPlaneFailure(f"task {config.task_id} cannot have a network before the node has its assignments")
        for interface in config.interfaces:
            if interface.network_id and f"network/{interface.network_id}" not in self._intent.networks:
                raise DataPlaneFailure(f"network {interface.network_id} is not programmed on this node")
        old = self.kernel.sandboxes.get(config.task_id)
        gateway = config.ingress_address.partition("/")[0]
        if config.gateway and not gateway:
            gateway = old.gateway_address if old else self._free_address()
        self.kernel.sandboxes[config.task_id] = Sandbox(
            task_id=config.task_id,
            interfaces=tuple((interface.network_id, interface.address) for interface in config.interfaces),
            gateway_address=gateway,
            has_exit=config.gateway,
        )
        self.kernel.facts = self._wanted()
        return self._netns / config.task_id

    async def release(self, task_id: str) -> None:
        self._check()
        if self.kernel.sandboxes.pop(task_id, None) is not None and self._intent is not None:
            self.kernel.facts = self._wanted()

    async def sandboxes(self) -> Sequence[str]:
        self._check()
        return sorted(self.kernel.sandboxes)

    async def audit(self) -> Sequence[Drift]:
        self._check()
        if self._intent is None:
            return []
        edits = f.difference(self.kernel.facts, self._wanted())
        return [Drift(fact.space or "node", f"{fact} differs") for fact in (*edits.put, *edits.remove)]

    async def repair(self) -> Sequence[Drift]:
        drift = await self.audit()
        if self._intent is not None:
            self.kernel.facts = self._wanted()
        return drift

    async def clear(self) -> None:
        self._check()
        self.kernel.sandboxes.clear()
        self.kernel.facts = {}
        self._intent = None

    def _wanted(self) -> dict[Fact, Value]:
        intent = self._intent if self._intent is not None else NodeIntent()
        return program.facts_of(intent, self._station, self.kernel.sandboxes)

    def _free_address(self) -> str:
        taken = {sandbox.gateway_address for sandbox in self.kernel.sandboxes.values()}
        return next(str(address) for address in naming.LOCAL_POOL.hosts() if str(address) not in taken)

    def _check(self) -> None:
        if not self._is_started:
            raise DataPlaneFailure("the data plane is not started")
        if self.kernel.failure is not None:
            raise self.kernel.failure
