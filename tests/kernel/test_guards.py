"""What must not get through: forged tunnels, direct ways to tasks, false senders, loopback from outside."""

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable

import pytest
from tests.kernel.rig import Place, Running, Server, Swarm, overlay, port

from skep.core.mesh import naming

pytestmark = [pytest.mark.kernel, pytest.mark.anyio]

EVIL = "192.168.77.66"


def checksum(raw: bytes) -> int:
    total = sum(struct.unpack(f"!{len(raw) // 2}H", raw))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def datagram(source: str, destination: str, number: int, payload: bytes = b"?") -> bytes:
    """An IPv4 UDP packet with these addresses, whoever sends it."""
    udp = struct.pack("!HHHH", 40000, number, 8 + len(payload), 0) + payload
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0) + addresses
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + udp


def frame(destination: str, source: str, packet: bytes) -> bytes:
    return bytes.fromhex((destination + source).replace(":", "")) + b"\x08\x00" + packet


def send_frame(place: Place, device: str, raw: bytes) -> None:
    with place.inside(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind((device, 0))
        wire.send(raw)


def mac_of(place: Place, device: str) -> str:
    [link] = json.loads(place.run("ip", "-json", "link", "show", device))
    mac: str = link["address"]
    return mac


async def has_arrived(server: Server, before: int) -> bool:
    """Whether a server hears something new within a moment in which everything sent here would arrive."""
    deadline = asyncio.get_running_loop().time() + 0.3
    while asyncio.get_running_loop().time() < deadline:
        if len(server.seen) > before:
            return True
        await asyncio.sleep(0.01)
    return False


async def arrives(server: Server, send: Callable[[], object]) -> bool:
    before = len(server.seen)
    send()
    return await has_arrived(server, before)


async def two(swarm: Swarm) -> tuple[Running, Running]:
    """A task of network a on node 1 and one on node 2, both with ingress addresses."""
    swarm.put(overlay(1))
    first, second, _ = swarm.nodes
    here = await swarm.run("here", first, networks={"a": "10.0.1.11"}, ingress="10.0.0.21")
    there = await swarm.run("there", second, networks={"a": "10.0.1.12"}, ingress="10.0.0.22")
    return here, there


@pytest.mark.parametrize(
    ("vni", "source", "destination"),
    [(4097, "10.0.1.12", "10.0.1.11"), (4096, "10.0.0.22", "10.0.0.21")],
    ids=["overlay", "ingress"],
)
async def test_vxlan_is_heard_from_peers_only(swarm: Swarm, vni: int, source: str, destination: str) -> None:
    here, _ = await two(swarm)
    inner = frame(naming.node_mac("n1"), naming.node_mac("n2"), datagram(source, destination, 80))
    forged = struct.pack("!II", 0x08000000, vni << 8) + inner

    def send(place: Place) -> None:
        with place.socket(socket.SOCK_DGRAM) as one:
            one.sendto(forged, (swarm.nodes[0].underlay, 4789))

    evil = swarm.host("evil", EVIL)
    assert not await arrives(here.server, lambda: send(evil))
    assert await arrives(here.server, lambda: send(swarm.nodes[1].place))  # The same packet is good from a peer.


async def test_a_peer_that_leaves_is_no_longer_heard(swarm: Swarm) -> None:
    here, _ = await two(swarm)
    inner = frame(naming.node_mac("n1"), naming.node_mac("n3"), datagram("10.0.1.99", "10.0.1.11", 80))
    forged = struct.pack("!II", 0x08000000, 4097 << 8) + inner

    def send() -> None:
        with swarm.nodes[2].place.socket(socket.SOCK_DGRAM) as one:
            one.sendto(forged, (swarm.nodes[0].underlay, 4789))

    assert await arrives(here.server, send)
    swarm.remove("peer/n3")
    await swarm.program(*swarm.nodes[:2])
    assert not await arrives(here.server, send)
    assert await swarm.nodes[0].plane.audit() == []


async def unreachable(asking: Awaitable[str]) -> bool:
    try:
        await asking
    except OSError:
        return True
    return False


async def test_a_tasks_ingress_address_is_not_reached_directly(swarm: Swarm) -> None:
    here, there = await two(swarm)
    neighbour = await swarm.run("neighbour", swarm.nodes[0], ingress="10.0.0.23")
    swarm.client.run("ip", "route", "add", "10.0.0.0/24", "via", swarm.nodes[0].underlay)
    for place in (swarm.client, neighbour.place):
        for target in (here, there):
            assert await unreachable(place.ask(target.ingress, 80, timeout=0.5))
            assert await unreachable(place.ask_udp(target.ingress, 80, timeout=0.5))
    assert here.server.seen == there.server.seen == []


async def test_a_users_accept_does_not_open_the_guards(swarm: Swarm) -> None:
    here, _ = await two(swarm)
    node = swarm.nodes[0]
    node.place.run("nft", "add", "table", "inet", "user")
    for hook in ("prerouting", "input", "forward", "output", "postrouting"):
        rule = f"{{ type filter hook {hook} priority 0; policy accept; }}"
        node.place.run("nft", "add", "chain", "inet", "user", hook, rule)
        node.place.run("nft", "add", "rule", "inet", "user", hook, "accept")
    swarm.client.run("ip", "route", "add", "10.0.0.0/24", "via", node.underlay)
    evil = swarm.host("evil", EVIL)
    inner = frame(naming.node_mac("n1"), naming.node_mac("n2"), datagram("10.0.1.12", "10.0.1.11", 80))
    forged = struct.pack("!II", 0x08000000, 4097 << 8) + inner
    with evil.socket(socket.SOCK_DGRAM) as one:
        assert not await arrives(here.server, lambda: one.sendto(forged, (node.underlay, 4789)))
    assert await unreachable(swarm.client.ask(here.ingress, 80, timeout=0.5))


async def test_a_task_cannot_send_under_another_address(swarm: Swarm) -> None:
    here, there = await two(swarm)
    own_mac, router = mac_of(here.place, "eth0"), naming.ROUTER_MAC

    def send(source: str, mac: str) -> None:
        send_frame(here.place, "eth0", frame(router, mac, datagram(source, "10.0.1.12", 80)))

    assert await arrives(there.server, lambda: send("10.0.1.11", own_mac))
    assert not await arrives(there.server, lambda: send("10.0.1.77", own_mac))
    assert not await arrives(there.server, lambda: send("10.0.1.11", "02:42:0a:00:01:4d"))
    world = swarm.serve(swarm.client, "world", [80])
    gateway_mac = mac_of(here.place, "gw")

    def send_out(source: str, mac: str) -> None:
        send_frame(here.place, "gw", frame(router, mac, datagram(source, "192.168.77.100", 80)))

    assert await arrives(world, lambda: send_out("10.0.0.21", gateway_mac))
    assert not await arrives(world, lambda: send_out("10.0.0.22", gateway_mac))
    assert not await arrives(world, lambda: send_out("10.0.0.21", own_mac))


async def test_a_task_cannot_take_anothers_address_by_arp(swarm: Swarm) -> None:
    here, _ = await two(swarm)
    other = await swarm.run("other", swarm.nodes[0], networks={"a": "10.0.1.13"})
    mac = mac_of(here.place, "eth0")
    claim = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2)
    claim += bytes.fromhex(mac.replace(":", "")) + socket.inet_aton("10.0.1.13")
    claim += bytes.fromhex(naming.ROUTER_MAC.replace(":", "")) + socket.inet_aton("10.0.1.1")
    ethernet = bytes.fromhex((naming.ROUTER_MAC + mac).replace(":", "")) + b"\x08\x06"
    for _ in range(5):
        send_frame(here.place, "eth0", ethernet + claim)
    third = await swarm.run("third", swarm.nodes[1], networks={"a": "10.0.1.14"})
    assert (await third.place.ask(other.address("a"), 80)).startswith("other ")


async def test_loopback_is_not_reached_from_outside(swarm: Swarm) -> None:
    """CVE-2020-8558: route_localnet is on for our own devices, so a rule must forbid what it would let in."""
    here, _ = await two(swarm)
    node = swarm.nodes[0]
    with node.place.inside():
        one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    one.bind(("127.0.0.1", 7777))
    server = Server("local", sockets=[one], tasks=[])
    server.tasks.append(asyncio.ensure_future(server.serve_udp(one)))
    mac = mac_of(here.place, "gw")

    def send() -> None:
        packet = datagram("10.0.0.21", "127.0.0.1", 7777)
        send_frame(here.place, "gw", frame(naming.ROUTER_MAC, mac, packet))

    try:
        assert not await arrives(server, send)
        await node.plane.close()
        node.place.run("nft", "delete", "table", "ip", "skep")
        assert await arrives(server, send)  # It is the rule that forbids it.
    finally:
        await server.close()


async def test_ipv6_is_off_on_what_skep_makes(swarm: Swarm) -> None:
    here, _ = await two(swarm)
    assert "inet6" not in here.place.run("ip", "address", "show", "eth0")
    assert "inet6" not in here.place.run("ip", "address", "show", "gw")
    links = json.loads(here.node.place.run("ip", "-json", "address"))
    ours = [link for link in links if naming.is_ours("", link["ifname"])]
    assert len(ours) == 2
    assert all(address["family"] == "inet" for link in ours for address in link["addr_info"])


async def test_the_underlays_own_settings_are_left_alone(swarm: Swarm) -> None:
    node = swarm.nodes[0]
    for name in ("net.ipv4.conf.eth0.route_localnet", "net.ipv4.conf.all.route_localnet"):
        assert node.place.run("sysctl", "-n", name).strip() == "0"


async def test_strict_filtering_for_all_devices_does_not_break_the_mesh(swarm: Swarm) -> None:
    for node in swarm.nodes:
        await node.plane.clear()
        node.place.run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1")
    await swarm.program()
    here, there = await two(swarm)
    swarm.publish("web", [port(9200, 80)], [here, there])
    await swarm.program()
    for node in swarm.nodes:
        answers = [await swarm.client.ask(node.underlay, 9200) for _ in range(2)]
        assert sorted(answer.split()[0] for answer in answers) == ["here", "there"]
