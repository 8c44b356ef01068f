"""What is forgotten of a backend that has left or gone, and what is not."""

import asyncio
import os
import socket
import threading
from collections.abc import Iterator

import pytest
from tests.kernel.rig import Running, Swarm, asked, port

from skep.edge.conntrack import ASKED_SINGLY, Lost, Target, forget

pytestmark = [pytest.mark.kernel, pytest.mark.anyio]

PORTS = [port(9200, 80)]
DROP_ANSWERS = "add table inet held; add chain inet held out { type filter hook output priority 0; policy drop; }"


@pytest.fixture
async def tasks(swarm: Swarm) -> list[Running]:
    """Two tasks of a service, reached by turns through the first node, which has neither."""
    tasks = [await swarm.run(f"t{number}", swarm.nodes[number - 1], ingress=f"10.0.0.{number}0") for number in (2, 3)]
    swarm.publish("search", PORTS, tasks)
    await swarm.program()
    return tasks


@pytest.fixture
def first_node(swarm: Swarm) -> Iterator[int]:
    descriptor = os.open(swarm.nodes[0].place.path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize("n_gone", [1, ASKED_SINGLY + 1])
async def test_what_is_open_to_an_address_that_is_gone_is_forgotten_and_nothing_else(
    swarm: Swarm, tasks: list[Running], first_node: int, n_gone: int
) -> None:
    address = swarm.nodes[0].underlay
    for _ in range(4):  # These are over: their ports may be another connection's before they are forgotten.
        await swarm.client.ask(address, 9200)
    for _ in range(300):
        await asyncio.sleep(0.01)
        if not any(task.server.open for task in tasks):
            break
    await asyncio.sleep(0.05)  # For the last packets.
    held = [await swarm.client.connect(address, 9200) for _ in range(4)]
    swarm.publish("search", PORTS, tasks[1:])
    await swarm.program()
    others = {f"10.0.0.{number}" for number in range(100, 100 + n_gone - 1)}
    lost = Lost(gone=frozenset({tasks[0].ingress, *others}))
    assert await asyncio.to_thread(forget, first_node, [lost]) == 2
    assert await asyncio.to_thread(forget, first_node, [lost]) == 0
    answers = set()
    for connection in held:
        with connection:
            try:
                answers.add((await asked(connection)).split()[0])
            except ConnectionResetError:
                answers.add("reset")
    assert answers == {"reset", "t3"}


async def unanswered(swarm: Swarm, task: Running) -> "asyncio.Future[socket.socket]":
    """A client's attempt that has reached the task, whose answers are held back."""
    swarm.publish("search", PORTS, [task])
    await swarm.program()
    task.place.run("nft", DROP_ANSWERS)
    attempt = asyncio.ensure_future(swarm.client.connect(swarm.nodes[0].underlay, 9200))
    await asyncio.sleep(0.2)
    return attempt


async def test_an_attempt_that_is_just_being_answered_keeps_its_answer(
    swarm: Swarm, tasks: list[Running], first_node: int
) -> None:
    slow = tasks[0]
    attempt = await unanswered(swarm, slow)
    is_made = threading.Event()
    attempt.add_done_callback(lambda _: is_made.set())

    def answer(_: float) -> None:
        slow.place.run("nft", "delete table inet held")
        assert is_made.wait(5)

    lost = Lost(targets=frozenset({Target(slow.ingress, "tcp", 80)}))
    assert await asyncio.to_thread(forget, first_node, [lost], answer) == 0
    with await attempt as connection:
        assert (await asked(connection)).startswith("t2 ")


async def test_an_attempt_that_nobody_answers_is_forgotten(swarm: Swarm, tasks: list[Running], first_node: int) -> None:
    silent = tasks[0]
    attempt = await unanswered(swarm, silent)
    waits: list[float] = []
    lost = Lost(targets=frozenset({Target(silent.ingress, "tcp", 80)}))
    assert await asyncio.to_thread(forget, first_node, [lost], waits.append) == 1
    assert waits
    attempt.cancel()
    await asyncio.gather(attempt, return_exceptions=True)
