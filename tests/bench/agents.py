"""Many agents in one process, for the benchmark of managers: real sessions over TLS, each with its own certificate.

    python -m tests.bench.agents COUNT TOKEN ADDRESS...

Joins so many nodes at the addresses (host:port) and holds their sessions until standard input ends. Prints `joined`
once all were welcomed. For each line on standard input it prints `ready`, waits until every agent has lost its session
and has another, and prints one JSON list: when each was welcomed, by the machine's monotonic clock, in seconds.
"""

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog
from tests.sessions import FakeHandler

from skep.agent.identity import NodeIdentity, accept_issued, new_key_request
from skep.agent.session import AgentSession, SessionPorts
from skep.edge.clock import SystemClock, SystemDice
from skep.edge.control_client import HttpControlPort
from skep.model.assignment import Delta
from skep.model.errors import Unsupported
from skep.model.identity import JoinRequest, JoinToken
from skep.model.node import NodeDescription
from skep.model.session import Hello, ManagerAddress
from skep.ports.bytestream import ByteStream

WARNINGS = structlog.make_filtering_bound_logger("warning")
AT_ONCE = 8
"""So many join at once: a swarm of this size was not made in a second either."""


@dataclass
class Agent(FakeHandler):
    """A node that notes when it was welcomed. Attributes: number: from 1 on, makes its address."""

    number: int = 1
    n_sessions: int = 0
    welcomed_at: float = 0.0
    welcomed: asyncio.Event = field(default_factory=asyncio.Event)

    def connected(self) -> None:
        self.n_sessions += 1
        self.welcomed_at = time.monotonic()
        self.welcomed.set()

    async def hello(self) -> Hello:
        self.wants.renew()
        return Hello(
            description=NodeDescription(hostname=f"agent{self.number}"),
            underlay=f"198.51.100.{self.number}",
            epoch=self.epoch,
            assignment_version=self.version,
        )

    async def assign(self, epoch: str, delta: Delta) -> None:
        await super().assign(epoch, delta)
        self.deltas.clear()

    async def open_engine(self) -> ByteStream:
        raise Unsupported("a simulated agent has no engine")

    async def wait_welcomed(self, n_sessions: int) -> None:
        """Wait until it has had so many sessions."""
        while self.n_sessions < n_sessions:
            self.welcomed.clear()
            await self.welcomed.wait()


@dataclass(frozen=True, slots=True)
class Swarm:
    """What the agents join."""

    token: str
    addresses: Sequence[str]

    async def join(self, agent: Agent) -> AgentSession:
        ports = SessionPorts(HttpControlPort(), SystemClock(), SystemDice())
        address = self.addresses[agent.number % len(self.addresses)]
        root = await ports.control.root(address)
        JoinToken.parse(self.token).check_root(root)
        request = new_key_request()
        asked = JoinRequest(token=self.token, csr=request.csr)
        credentials = accept_issued(request, await ports.control.join(address, root, asked))
        identity = NodeIdentity(credentials, lambda _: None, ports.dice.fraction)
        managers = [ManagerAddress(node_id="", addr=each) for each in self.addresses]
        return AgentSession(identity, managers, agent, ports)


async def main() -> None:
    count, token, *addresses = sys.argv[1:]
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr), wrapper_class=WARNINGS)
    swarm = Swarm(token, addresses)
    agents = [Agent(number=number) for number in range(1, int(count) + 1)]
    turns = asyncio.Semaphore(AT_ONCE)
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with asyncio.TaskGroup() as group:

        async def live(agent: Agent) -> None:
            async with turns:
                session = await swarm.join(agent)
                running = group.create_task(session.run())
                await agent.wait_welcomed(1)
            lives.append(running)

        lives: list[asyncio.Task[None]] = []
        await asyncio.gather(*map(live, agents))
        print("joined", flush=True)
        while await lines.readline():
            wanted = [agent.n_sessions + 1 for agent in agents]
            print("ready", flush=True)
            await asyncio.gather(*(agent.wait_welcomed(n) for agent, n in zip(agents, wanted, strict=True)))
            print(json.dumps([agent.welcomed_at for agent in agents]), flush=True)
        for running in lives:
            running.cancel()


if __name__ == "__main__":
    asyncio.run(main())
