"""Published ports on the real kernel: spread, the client's address, localhost, refusal."""

from collections import Counter

import pytest
from tests.kernel.rig import CLIENT_ADDRESS, Running, Swarm, port

from skep.model.service import Protocol

pytestmark = [pytest.mark.kernel, pytest.mark.anyio]


async def search(swarm: Swarm) -> list[Running]:
    """A service with one task per node, published on 9200, TCP and UDP."""
    tasks = [await swarm.run(f"t{node.number}", node, ingress=f"10.0.0.{10 + node.number}") for node in swarm.nodes]
    swarm.publish("search", [port(9200, 80), port(9200, 80, Protocol.UDP)], tasks)
    await swarm.program()
    return tasks


async def test_spread_and_client_address(swarm: Swarm) -> None:
    await search(swarm)
    for node in swarm.nodes:
        answers = [(await swarm.client.ask(node.underlay, 9200)).split() for _ in range(300)]
        assert Counter(name for name, _, _ in answers) == {"t1": 100, "t2": 100, "t3": 100}
        assert {address for _, address, _ in answers} == {CLIENT_ADDRESS}
