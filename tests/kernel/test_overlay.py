"""Overlay networks on the real kernel: reach, virtual IPs, isolation, the way out, names."""

import asyncio
import socket
from collections import Counter
from collections.abc import Awaitable

import pytest
from tests.kernel.rig import CLIENT_ADDRESS, Running, Swarm, asked, overlay
from tests.kernel.test_ingress import names, refused

pytestmark = [pytest.mark.kernel, pytest.mark.anyio]

VIRTUAL_IP = "10.0.1.200"


async def shop(swarm: Swarm) -> list[Running]:
    """A service with two tasks on node 1 and one on node 2, on network a, and its virtual IP."""
    swarm.put(overlay(1))
    first, second, _ = swarm.nodes
    places = [("s1", first, "10.0.1.11"), ("s2", first, "10.0.1.12"), ("s3", second, "10.0.1.13")]
    tasks = [await swarm.run(name, node, networks={"a": address}) for name, node, address in places]
    swarm.balance("shop", "a", VIRTUAL_IP, tasks)
    await swarm.program()
    return tasks


async def is_unreachable(asking: Awaitable[str]) -> bool:
    """Whether the question is refused or lost, as opposed to answered."""
    try:
        await asking
    except OSError:  # TimeoutError is one.
        return True
    return False


async def test_tasks_reach_each_other_by_address(swarm: Swarm) -> None:
    tasks = await shop(swarm)
    for one in tasks:
        for other in tasks:
            expected = [other.id, one.address("a")]
            assert (await one.place.ask(other.address("a"), 80)).split()[:2] == expected
            assert (await one.place.ask_udp(other.address("a"), 80)).split()[:2] == expected


async def test_the_virtual_ip_spreads_and_shows_the_client_task(swarm: Swarm) -> None:
    await shop(swarm)
    client = await swarm.run("c", swarm.nodes[2], networks={"a": "10.0.1.20"})
    answers = [await client.place.ask(VIRTUAL_IP, 80) for _ in range(30)]
    assert names(answers) == {"s1": 10, "s2": 10, "s3": 10}
    answers = [await client.place.ask_udp(VIRTUAL_IP, 80) for _ in range(6)]
    assert names(answers) == {"s1": 2, "s2": 2, "s3": 2}
    assert {answer.split()[1] for answer in answers} == {"10.0.1.20"}


async def test_the_virtual_ip_answers_ping(swarm: Swarm) -> None:
    [task, *_] = await shop(swarm)
    assert "1 received" in task.place.run("ping", "-c", "1", "-W", "2", VIRTUAL_IP)


async def test_a_task_reaches_itself_through_its_virtual_ip(swarm: Swarm) -> None:
    for task in await shop(swarm):
        answers = [await task.place.ask(VIRTUAL_IP, 80) for _ in range(3)]
        answers += [await task.place.ask_udp(VIRTUAL_IP, 80) for _ in range(3)]
        assert names(answers) == {"s1": 2, "s2": 2, "s3": 2}
        own = [answer.split()[1] for answer in answers if answer.startswith(task.id)]
        assert set(own) == {"10.0.1.1"}  # The router's: the task's own would never leave it.


async def test_without_backends_and_unknown_addresses_refuse_at_once(swarm: Swarm) -> None:
    [task, *_] = await shop(swarm)
    swarm.balance("shop", "a", VIRTUAL_IP, [])
    await swarm.program()
    for address in (VIRTUAL_IP, "10.0.1.99"):
        await refused(lambda address=address: task.place.ask(address, 80))
        await refused(lambda address=address: task.place.ask_udp(address, 80))


async def test_backends_come_and_go(swarm: Swarm) -> None:
    first, second, third = await shop(swarm)
    for backends in ([second, third], [first], [first, second, third]):
        swarm.balance("shop", "a", VIRTUAL_IP, backends)
        await swarm.program()
        answers = [await third.place.ask(VIRTUAL_IP, 80) for _ in range(6)]
        assert names(answers) == Counter({task.id: 6 // len(backends) for task in backends})


@pytest.mark.parametrize("client_node", [0, 2])
async def test_a_client_port_whose_connection_was_reset_reaches_a_living_task(swarm: Swarm, client_node: int) -> None:
    left, living, _ = await shop(swarm)
    client = await swarm.run("c", swarm.nodes[client_node], networks={"a": "10.0.1.20"})
    source = ("10.0.1.20", 33336)
    swarm.balance("shop", "a", VIRTUAL_IP, [left])
    await swarm.program()
    with await client.place.connect(VIRTUAL_IP, 80, source=source) as held:
        assert (await asked(held)).startswith("s1 ")
        swarm.balance("shop", "a", VIRTUAL_IP, [living])
        await swarm.program()
        left.server.reset()
        with pytest.raises(ConnectionResetError):
            await asked(held)
    assert (await client.place.ask(VIRTUAL_IP, 80, source=source)).startswith("s2 ")


@pytest.mark.parametrize("client_node", [0, 2])
async def test_what_is_open_to_a_task_that_has_gone_is_reset(swarm: Swarm, client_node: int) -> None:
    lost, living, _ = await shop(swarm)
    client = await swarm.run("c", swarm.nodes[client_node], networks={"a": "10.0.1.20"})
    swarm.balance("shop", "a", VIRTUAL_IP, [lost])
    await swarm.program()
    with await client.place.connect(VIRTUAL_IP, 80) as held:
        assert (await asked(held)).startswith("s1 ")
        lost.place.run("ip", "link", "set", "eth0", "down")
        swarm.balance("shop", "a", VIRTUAL_IP, [living])
        await swarm.end(lost)
        await swarm.program()
        with pytest.raises(ConnectionResetError):
            await asked(held)


async def test_networks_cannot_meet_by_any_address(swarm: Swarm) -> None:
    swarm.put(overlay(1), overlay(2))
    first, second, _ = swarm.nodes
    a = await swarm.run("a1", first, networks={"a": "10.0.1.11"}, ingress="10.0.0.21")
    b_here = await swarm.run("b1", first, networks={"b": "10.0.2.11"}, ingress="10.0.0.22")
    b_there = await swarm.run("b2", second, networks={"b": "10.0.2.12"}, ingress="10.0.0.23")
    b_local = await swarm.run("b3", first, networks={"b": "10.0.2.13"})
    swarm.balance("b", "b", "10.0.2.200", [b_here, b_there])
    await swarm.program()
    local_gateway = b_local.place.run("ip", "-4", "-o", "address", "show", "gw").split()[3].partition("/")[0]
    targets = ["10.0.2.11", "10.0.2.12", "10.0.2.200", "10.0.0.22", "10.0.0.23", local_gateway, "10.0.2.1"]
    for routed in (False, True):
        if routed:  # A task that may change its own routes gets no further.
            a.place.run("ip", "route", "add", "10.0.2.0/24", "via", "10.0.1.1", "dev", "eth0")
        outcomes = await asyncio.gather(
            *(a.place.ask(address, 80, timeout=1) for address in targets),
            *(a.place.ask_udp(address, 80, timeout=1) for address in targets),
            return_exceptions=True,
        )
        assert [outcome for outcome in outcomes if not isinstance(outcome, OSError)] == []
    assert (await b_local.place.ask("10.0.2.12", 80)).startswith("b2 ")
    seen = {address for task in (b_here, b_there, b_local) for address, _ in task.server.seen}
    assert seen == {"10.0.2.13"}


async def test_two_networks_of_one_task(swarm: Swarm) -> None:
    swarm.put(overlay(1), overlay(2))
    first, second, _ = swarm.nodes
    both = await swarm.run("both", first, networks={"a": "10.0.1.11", "b": "10.0.2.11"})
    a = await swarm.run("a", second, networks={"a": "10.0.1.12"})
    b = await swarm.run("b", second, networks={"b": "10.0.2.12"})
    assert (await both.place.ask(a.address("a"), 80)).split()[:2] == ["a", "10.0.1.11"]
    assert (await both.place.ask(b.address("b"), 80)).split()[:2] == ["b", "10.0.2.11"]
    assert await is_unreachable(a.place.ask(b.address("b"), 80, timeout=1))


async def test_the_way_out_is_translated(swarm: Swarm) -> None:
    swarm.put(overlay(1))
    node = swarm.nodes[0]
    swarm.serve(swarm.client, "world", [80])
    for task in (
        await swarm.run("plain", node, networks={"a": "10.0.1.11"}),
        await swarm.run("published", node, networks={"a": "10.0.1.12"}, ingress="10.0.0.21"),
    ):
        assert (await task.place.ask(CLIENT_ADDRESS, 80)).split()[:2] == ["world", node.underlay]
        assert (await task.place.ask_udp(CLIENT_ADDRESS, 80)).split()[:2] == ["world", node.underlay]


async def test_internal_networks_have_no_way_out(swarm: Swarm) -> None:
    swarm.put(overlay(1, internal=True))
    node, other, _ = swarm.nodes
    swarm.serve(swarm.client, "world", [80])
    task = await swarm.run("in", node, networks={"a": "10.0.1.11"}, gateway=False)
    peer = await swarm.run("peer", other, networks={"a": "10.0.1.12"}, gateway=False, ingress="10.0.0.21")
    assert (await task.place.ask(peer.address("a"), 80)).split()[:2] == ["peer", "10.0.1.11"]
    assert "gw" not in task.place.run("ip", "link")
    for one in (task, peer):
        assert await is_unreachable(one.place.ask(CLIENT_ADDRESS, 80, timeout=1))
    assert (await peer.place.ask(task.address("a"), 80)).startswith("in ")


async def test_names_are_asked_at_the_agents_sockets_while_the_task_has_port_53(swarm: Swarm) -> None:
    swarm.put(overlay(1))
    node, loop = swarm.nodes[0], asyncio.get_running_loop()
    task = await swarm.run("t", node, networks={"a": "10.0.1.11"}, ports=(53,))
    udp, tcp = await node.plane.open_dns_sockets("t")
    with udp, tcp, task.place.socket(socket.SOCK_DGRAM) as asking:
        asking.connect(("127.0.0.11", 53))
        await loop.sock_sendall(asking, b"query")
        query, asker = await asyncio.wait_for(loop.sock_recvfrom(udp, 100), 2)
        assert query == b"query"
        await loop.sock_sendto(udp, b"answer", asker)
        assert await asyncio.wait_for(loop.sock_recv(asking, 100), 2) == b"answer"
        with await task.place.connect("127.0.0.11", 53):
            accepted, _ = await asyncio.wait_for(loop.sock_accept(tcp), 2)
            accepted.close()
    assert (await task.place.ask_udp("10.0.1.11", 53)).startswith("t ")


async def test_mtu_leaves_room_for_vxlan(swarm: Swarm) -> None:
    one, _, other = await shop(swarm)
    assert "mtu 1450" in one.place.run("ip", "link", "show", "eth0")
    full = ["ping", "-c", "1", "-W", "2", "-M", "do", "-s", "1422", other.address("a")]
    assert "1 received" in one.place.run(*full)


async def test_a_network_leaves_with_its_last_task(swarm: Swarm) -> None:
    tasks = await shop(swarm)
    for task in tasks:
        await swarm.end(task)
    swarm.remove("network/a", "service/a/shop")
    await swarm.program()
    for node in swarm.nodes:
        assert await node.plane.sandboxes() == []
        assert await node.plane.audit() == []
    with pytest.raises(AssertionError):
        tasks[0].place.run("true")
