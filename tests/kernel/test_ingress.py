"""Published ports on the real kernel: spread, the client's address, localhost, refusal, hairpin."""

import asyncio
import socket
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from tests.kernel.rig import CLIENT_ADDRESS, Place, Running, Swarm, asked, port

from skep.model.service import Protocol

pytestmark = [pytest.mark.kernel, pytest.mark.anyio]

PORTS = [port(9200, 80), port(9200, 80, Protocol.UDP)]


async def search(swarm: Swarm, *numbers: int) -> list[Running]:
    """A service with a task on each of these nodes, published on 9200 by TCP and UDP."""
    chosen = [node for node in swarm.nodes if node.number in (numbers or (1, 2, 3))]
    tasks = [await swarm.run(f"t{node.number}", node, ingress=f"10.0.0.{10 + node.number}") for node in chosen]
    swarm.publish("search", PORTS, tasks)
    await swarm.program()
    return tasks


def names(answers: list[str]) -> Counter[str]:
    return Counter(answer.split()[0] for answer in answers)


def addresses(answers: list[str]) -> set[str]:
    return {answer.split()[1] for answer in answers}


async def test_every_node_spreads_evenly_and_shows_the_client(swarm: Swarm) -> None:
    await search(swarm)
    for node in swarm.nodes:
        answers = [await swarm.client.ask(node.underlay, 9200) for _ in range(300)]
        assert names(answers) == {"t1": 100, "t2": 100, "t3": 100}
        assert addresses(answers) == {CLIENT_ADDRESS}


async def test_udp_shows_the_client(swarm: Swarm) -> None:
    await search(swarm)
    for node in swarm.nodes:
        answers = [await swarm.client.ask_udp(node.underlay, 9200) for _ in range(6)]
        assert names(answers) == {"t1": 2, "t2": 2, "t3": 2}
        assert addresses(answers) == {CLIENT_ADDRESS}


async def test_localhost_on_every_node(swarm: Swarm) -> None:
    await search(swarm)
    for node in swarm.nodes:
        answers = [await node.place.ask("127.0.0.1", 9200) for _ in range(6)]
        answers += [await node.place.ask_udp("127.0.0.1", 9200) for _ in range(3)]
        assert names(answers) == {"t1": 3, "t2": 3, "t3": 3}
        assert addresses(answers) == {node.mesh}
        own = [await node.place.ask(node.underlay, 9200) for _ in range(3)]
        assert names(own) == {"t1": 1, "t2": 1, "t3": 1}
        assert addresses(own) == {node.underlay}


async def test_a_node_as_client_of_another(swarm: Swarm) -> None:
    await search(swarm)
    for node in swarm.nodes:
        for other in swarm.nodes:
            if other is not node:
                answers = [await node.place.ask(other.underlay, 9200) for _ in range(3)]
                assert names(answers) == {"t1": 1, "t2": 1, "t3": 1}


async def test_a_task_as_client_even_of_itself(swarm: Swarm) -> None:
    for task in await search(swarm):
        for node in swarm.nodes:
            answers = [await task.place.ask(node.underlay, 9200) for _ in range(3)]
            answers += [await task.place.ask_udp(node.underlay, 9200) for _ in range(3)]
            assert names(answers) == {"t1": 2, "t2": 2, "t3": 2}


async def test_one_client_port_through_two_nodes_at_once(swarm: Swarm) -> None:
    """The same four-tuple reaches one task twice; the kernel must keep the two apart and still show the address."""
    [task] = await search(swarm, 3)
    first, second, _ = swarm.nodes
    source = (CLIENT_ADDRESS, 33333)
    with (
        await swarm.client.connect(first.underlay, 9200, source=source) as one,
        await swarm.client.connect(second.underlay, 9200, source=source) as two,
    ):
        for connection in (one, two, one):
            await asyncio.get_running_loop().sock_sendall(connection, b"?")
            answer = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(connection, 1000), 3)
            assert answer.decode().split()[:2] == ["t3", CLIENT_ADDRESS]
    ports = {number for address, number in task.server.seen if address == CLIENT_ADDRESS}
    assert len(ports) == 2
    assert 33333 in ports


async def test_one_client_port_through_two_nodes_at_once_by_udp(swarm: Swarm) -> None:
    [task] = await search(swarm, 3)
    source = (CLIENT_ADDRESS, 33334)
    for _ in range(2):
        for node in swarm.nodes[:2]:
            answer = await swarm.client.ask_udp(node.underlay, 9200, source=source)
            assert answer.split()[:2] == ["t3", CLIENT_ADDRESS]
    assert len({number for _, number in task.server.seen}) == 2


async def refused(asking: Callable[[], Awaitable[str]]) -> None:
    started = asyncio.get_running_loop().time()
    with pytest.raises(ConnectionRefusedError):
        await asking()
    assert asyncio.get_running_loop().time() - started < 1


async def test_without_backends_it_refuses_at_once(swarm: Swarm) -> None:
    await search(swarm)
    swarm.publish("search", PORTS, [])
    await swarm.program()
    node = swarm.nodes[0]
    places: list[tuple[Place, str]] = [(swarm.client, node.underlay), (node.place, "127.0.0.1")]
    places.append((swarm.tasks["t2"].place, node.underlay))
    for place, address in places:
        await refused(lambda place=place, address=address: place.ask(address, 9200))
        await refused(lambda place=place, address=address: place.ask_udp(address, 9200))


async def test_errors_of_a_remote_task_come_back(swarm: Swarm) -> None:
    """An ICMP error belongs to the connection of the node that was asked, not to the peer's zone."""
    task = await swarm.run("t3", swarm.nodes[2], ingress="10.0.0.13")
    swarm.publish("search", [port(9200, 81), port(9200, 81, Protocol.UDP)], [task])  # Nothing listens at 81.
    await swarm.program()
    await refused(lambda: swarm.client.ask(swarm.nodes[0].underlay, 9200))
    await refused(lambda: swarm.client.ask_udp(swarm.nodes[0].underlay, 9200))


async def test_a_withdrawn_port_is_no_longer_translated(swarm: Swarm) -> None:
    await search(swarm)
    swarm.remove("published/search")
    await swarm.program()
    await refused(lambda: swarm.client.ask(swarm.nodes[0].underlay, 9200))


async def test_host_mode_ports_are_the_tasks_nodes_only(swarm: Swarm) -> None:
    first, second, _ = swarm.nodes
    await swarm.run("host", first, published=[port(8080, 80, host=True)])
    assert (await swarm.client.ask(first.underlay, 8080)).split()[:2] == ["host", CLIENT_ADDRESS]
    assert (await first.place.ask("127.0.0.1", 8080)).startswith("host ")
    await refused(lambda: swarm.client.ask(second.underlay, 8080))
    await swarm.end(swarm.tasks["host"])
    await refused(lambda: swarm.client.ask(first.underlay, 8080))


async def test_connections_keep_their_backend_while_others_come_and_go(swarm: Swarm) -> None:
    tasks = await search(swarm)
    node, loop = swarm.nodes[0], asyncio.get_running_loop()
    held = [await swarm.client.connect(node.underlay, 9200) for _ in range(6)]
    try:
        for backends in (tasks[:1], tasks[1:], [], tasks):
            swarm.publish("search", PORTS, backends)
            await swarm.program()
            for number, connection in enumerate(held):
                await loop.sock_sendall(connection, b"?")
                answer = await asyncio.wait_for(loop.sock_recv(connection, 1000), 3)
                assert answer.decode().split()[0] == f"t{number % 3 + 1}"
    finally:
        for connection in held:
            connection.close()


async def test_a_udp_flow_to_a_lost_backend_moves(swarm: Swarm) -> None:
    tasks = await search(swarm)
    node, source = swarm.nodes[0], (CLIENT_ADDRESS, 33335)
    first = (await swarm.client.ask_udp(node.underlay, 9200, source=source)).split()[0]
    assert (await swarm.client.ask_udp(node.underlay, 9200, source=source)).split()[0] == first
    rest = {task.id: task for task in tasks if task.id != first}
    swarm.publish("search", PORTS, list(rest.values()))
    await swarm.program()
    await swarm.client.udp_flow_moves(node.underlay, 9200, source=source, within=1, arrived=rest.__contains__)


async def test_a_connection_attempt_to_a_lost_backend_reaches_a_living_one(swarm: Swarm) -> None:
    """The task is gone without a word while a client waits for it; the client's own retransmission saves it."""
    lost, living = await search(swarm, 2, 3)
    node = swarm.nodes[0]
    lost.place.run("ip", "link", "set", "gw", "down")
    swarm.publish("search", PORTS, [lost])
    await swarm.program()
    attempt = asyncio.ensure_future(swarm.client.connect(node.underlay, 9200))
    await asyncio.sleep(0.2)
    assert not attempt.done()
    swarm.publish("search", PORTS, [living])
    await swarm.program()
    with await attempt as connection:
        await asyncio.get_running_loop().sock_sendall(connection, b"?")
        assert (await asyncio.get_running_loop().sock_recv(connection, 100)).startswith(b"t3 ")


@pytest.mark.parametrize(("number", "is_own"), [(1, False), (2, False), (2, True)])
async def test_a_client_port_whose_connection_was_reset_reaches_a_living_task(
    swarm: Swarm, number: int, is_own: bool
) -> None:
    """The kernel lets a new connection follow the lost one of the same client port, to a task that listens no more."""
    left, living = await search(swarm, number, 3)
    node = swarm.nodes[0]
    client, source = (node.place, (node.underlay, 33336)) if is_own else (swarm.client, (CLIENT_ADDRESS, 33336))
    swarm.publish("search", PORTS, [left])
    await swarm.program()
    with await client.connect(node.underlay, 9200, source=source) as held:
        assert (await asked(held)).startswith(left.id)
        swarm.publish("search", PORTS, [living])
        await swarm.program()
        left.server.reset()
        with pytest.raises(ConnectionResetError):
            await asked(held)
    assert (await client.ask(node.underlay, 9200, source=source)).startswith("t3 ")


async def test_what_is_open_to_a_task_that_has_gone_is_reset(swarm: Swarm) -> None:
    """Its machine went without a farewell: the client learns of it with its next packet, and its port is free."""
    lost, living = await search(swarm, 2, 3)
    node, source = swarm.nodes[0], (CLIENT_ADDRESS, 33337)
    swarm.publish("search", PORTS, [lost])
    await swarm.program()
    with await swarm.client.connect(node.underlay, 9200, source=source) as held:
        assert (await asked(held)).startswith("t2 ")
        lost.place.run("ip", "link", "set", "gw", "down")
        swarm.publish("search", PORTS, [living])
        await swarm.end(lost)
        await swarm.program()
        with pytest.raises(ConnectionResetError):
            await asked(held)
    assert (await swarm.client.ask(node.underlay, 9200, source=source)).startswith("t3 ")


async def test_what_a_task_sent_last_arrives_after_its_address_went(swarm: Swarm) -> None:
    """Its node heard of its end before its last packets came by; the same address for another task ends nothing."""
    [task] = await search(swarm, 2)
    node, loop = swarm.nodes[0], asyncio.get_running_loop()
    endpoint = swarm.items[f"endpoint/ingress/{task.id}"]
    with await swarm.client.connect(node.underlay, 9200) as held:
        assert (await asked(held)).startswith("t2 ")
        swarm.remove(endpoint.key)
        swarm.publish("search", PORTS, [])
        await swarm.program(node)
        [connection] = task.server.open
        await loop.sock_sendall(connection, b"farewell")
        assert await asyncio.wait_for(loop.sock_recv(held, 100), 0.9) == b"farewell"
        swarm.put(endpoint)
        await swarm.program(node)
        await asyncio.sleep(1.5)
        assert (await asked(held)).startswith("t2 ")


async def test_large_datagrams_and_segments_fit(swarm: Swarm) -> None:
    [task] = await search(swarm, 3)
    node, loop = swarm.nodes[0], asyncio.get_running_loop()
    with await swarm.client.connect(node.underlay, 9200) as connection:
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) <= 1410
        for _ in range(50):
            await loop.sock_sendall(connection, b"x" * 60000)
            assert await asyncio.wait_for(loop.sock_recv(connection, 100), 3)
    with swarm.client.socket(socket.SOCK_DGRAM) as one:
        one.connect((node.underlay, 9200))
        await loop.sock_sendall(one, b"y" * 1900)
        assert await asyncio.wait_for(loop.sock_recv(one, 100), 3)
    assert "mtu 1450" in task.place.run("ip", "link", "show", "gw")
    assert "mtu 1450" in task.node.place.run("ip", "link", "show", "vx-ingress")
