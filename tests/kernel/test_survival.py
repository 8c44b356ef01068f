"""What others do to the kernel, and what happens when the daemon is away."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from tests.kernel.rig import CLIENT_ADDRESS, Node, Place, Running, Swarm, port
from tests.kernel.test_overlay import VIRTUAL_IP, shop

from skep.core.mesh import intent as intents
from skep.core.mesh.intent import NodeIntent
from skep.edge import nft
from skep.model.assignment import Delta
from skep.model.service import Protocol
from skep.ports.dataplane import DataPlaneFailure, SandboxConfig, SandboxInterface

pytestmark = [pytest.mark.kernel, pytest.mark.anyio]


async def mixed(swarm: Swarm) -> list[Running]:
    """Network a with a balanced service, of which two tasks are published as well."""
    tasks = await shop(swarm)
    front = [
        await swarm.run(
            f"f{node.number}", node, networks={"a": f"10.0.1.{30 + node.number}"}, ingress=f"10.0.0.{30 + node.number}"
        )
        for node in swarm.nodes
    ]
    swarm.publish("front", [port(9200, 80)], front)
    await swarm.program()
    return [*tasks, *front]


async def wait_mended(node: Node, *, within_s: float = 1.0) -> None:
    """Wait until the kernel is what it should be again, without asking for repair."""
    deadline = asyncio.get_running_loop().time() + within_s
    while drift := await node.plane.audit():
        assert asyncio.get_running_loop().time() < deadline, drift
        await asyncio.sleep(0.02)


def router(swarm: Swarm, node: Node) -> Place:
    return Place(node.place.path.parent.parent / node.id / "netns" / "net-a")


async def test_a_fresh_program_has_no_drift(swarm: Swarm) -> None:
    await mixed(swarm)
    for node in swarm.nodes:
        assert await node.plane.audit() == []
        assert await node.plane.repair() == []


async def test_flushed_tables_are_back_within_a_second_under_load(swarm: Swarm) -> None:
    await mixed(swarm)
    node, loop = swarm.nodes[0], asyncio.get_running_loop()
    failures: list[float] = []
    is_over = False

    async def load() -> None:
        while not is_over:
            started = loop.time()
            try:
                await swarm.client.ask(node.underlay, 9200, timeout=2)
            except OSError:
                failures.append(started)

    loads = [asyncio.ensure_future(load()) for _ in range(4)]
    await asyncio.sleep(0.2)
    flushed = loop.time()
    node.place.run("nft", "flush", "ruleset")
    router(swarm, node).run("nft", "flush", "ruleset")
    await wait_mended(node)
    await asyncio.sleep(1.2)
    is_over = True
    await asyncio.gather(*loads)
    assert [moment - flushed for moment in failures if moment > flushed + 1] == []
    assert {drift.what for drift in await node.plane.repair()} >= {"the nft table skep is gone"}


EDITS = {
    "chain flushed": ["nft", "flush", "chain", "ip", "skep", "guard"],
    "rule added": ["nft", "insert", "rule", "ip", "skep", "guard", "accept"],
    "service chain flushed": ["nft", "flush", "chain", "ip", "skep", "pub_tcp_9200"],
    "peer removed": ["nft", "delete", "element", "ip", "skep", "peers", "{ 192.168.77.2 }"],
    "peer added": ["nft", "add", "element", "ip", "skep", "peers", "{ 192.168.77.66 }"],
    "table deleted": ["nft", "delete", "table", "ip", "skep"],
    "route removed": ["ip", "route", "del", "10.0.0.3/32"],
    "route replaced": ["ip", "route", "replace", "10.0.0.3/32", "dev", "lo"],
    "return route flushed": ["ip", "route", "flush", "table", str(0x5E000003)],
    "rule removed": ["ip", "rule", "del", "fwmark", str(0x5E000003)],
    "neighbour removed": ["ip", "neigh", "del", "10.0.0.3", "dev", "vx-ingress"],
    "neighbour replaced": ["ip", "neigh", "replace", "10.0.0.3", "lladdr", "02:00:00:00:00:09", "dev", "vx-ingress"],
    "tunnel down": ["ip", "link", "set", "vx-ingress", "down"],
    "tunnel deleted": ["ip", "link", "del", "vx-ingress"],
    "address removed": ["ip", "address", "flush", "dev", "vx-ingress"],
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
async def test_edits_are_mended(swarm: Swarm, edit: list[str]) -> None:
    await mixed(swarm)
    node = swarm.nodes[0]
    node.place.run(*edit)
    seen = await node.plane.audit()
    await wait_mended(node)
    assert seen or await node.plane.repair()  # The watch may have mended it before the audit looked; it keeps a list.
    answers = [await swarm.client.ask(node.underlay, 9200) for _ in range(3)]
    assert {answer.split()[0] for answer in answers} == {"f1", "f2", "f3"}


async def test_a_routers_edits_are_mended(swarm: Swarm) -> None:
    tasks = await mixed(swarm)
    node = swarm.nodes[0]
    place = router(swarm, node)
    forwarding = place.run("bridge", "-json", "fdb", "show", "dev", "vx")
    mac = next(entry["mac"] for entry in json.loads(forwarding) if entry.get("dst") == swarm.nodes[1].underlay)
    for edit in (
        ["bridge", "fdb", "del", mac, "dev", "vx", "dst", swarm.nodes[1].underlay],
        ["ip", "neigh", "flush", "dev", "vx", "nud", "permanent"],
        ["ip", "link", "del", "vx"],
        ["nft", "flush", "map", "ip", "skep", "vips"],
    ):
        place.run(*edit)
        seen = await node.plane.audit()
        await wait_mended(node)
        assert seen or await node.plane.repair()
        answers = [await tasks[0].place.ask(VIRTUAL_IP, 80) for _ in range(3)]
        assert {answer.split()[0] for answer in answers} == {"s1", "s2", "s3"}


async def test_a_removed_cable_is_made_again(swarm: Swarm) -> None:
    tasks = await mixed(swarm)
    node, place = swarm.nodes[0], router(swarm, swarm.nodes[0])
    for where in (node.place, place):
        for link in json.loads(where.run("ip", "-json", "link")):
            if link["ifname"].startswith("sk"):
                where.run("ip", "link", "del", link["ifname"])
    await wait_mended(node)
    assert (await tasks[0].place.ask("10.0.1.13", 80)).startswith("s3 ")
    assert (await swarm.client.ask(node.underlay, 9200)).startswith("f")


async def test_others_tables_are_left_alone(swarm: Swarm) -> None:
    node = swarm.nodes[0]
    node.place.run("nft", "add", "table", "inet", "theirs")
    node.place.run("nft", "add", "chain", "inet", "theirs", "forward")
    node.place.run("ip", "rule", "add", "fwmark", "7", "lookup", "77")
    await mixed(swarm)
    await node.plane.clear()
    assert " ".join(node.place.run("nft", "list", "ruleset").split()) == "table inet theirs { chain forward { } }"
    assert "lookup 77" in node.place.run("ip", "rule")


async def test_traffic_goes_on_without_the_daemon_and_the_next_one_adopts(swarm: Swarm) -> None:
    tasks = await mixed(swarm)
    node, loop = swarm.nodes[0], asyncio.get_running_loop()
    held = [await swarm.client.connect(node.underlay, 9200) for _ in range(3)]
    inner = await tasks[0].place.connect(VIRTUAL_IP, 80)
    await node.plane.close()
    assert {(await swarm.client.ask(node.underlay, 9200)).split()[0] for _ in range(3)} == {"f1", "f2", "f3"}
    before = (node.place.run("nft", "-a", "list", "table", "ip", "skep"), node.place.run("ip", "-o", "link"))
    node.plane = swarm.plane(1)
    await node.plane.start()
    assert sorted(await node.plane.sandboxes()) == ["f1", "s1", "s2"]
    await node.plane.program(node.intent)
    assert (node.place.run("nft", "-a", "list", "table", "ip", "skep"), node.place.run("ip", "-o", "link")) == before
    assert await node.plane.audit() == []
    for connection in (*held, inner):
        with connection:
            await loop.sock_sendall(connection, b"?")
            assert await asyncio.wait_for(loop.sock_recv(connection, 100), 2)
    await swarm.end(next(task for task in tasks if task.id == "f1"))
    swarm.publish("front", [port(9200, 80)], [task for task in tasks if task.id in ("f2", "f3")])
    await swarm.program()
    assert await node.plane.audit() == []


async def test_what_changed_while_the_daemon_was_away_is_caught_up(swarm: Swarm) -> None:
    tasks = await mixed(swarm)
    node = swarm.nodes[0]
    await node.plane.close()
    node.place.run("nft", "flush", "ruleset")
    swarm.publish("front", [port(9200, 80)], [task for task in tasks if task.id in ("f2", "f3")])
    swarm.remove("service/a/shop")
    await swarm.program(*swarm.nodes[1:])
    node.plane = swarm.plane(1)
    await node.plane.start()
    node.intent = NodeIntent()
    await swarm.program(node)
    assert await node.plane.audit() == []
    assert {(await swarm.client.ask(node.underlay, 9200)).split()[0] for _ in range(4)} == {"f2", "f3"}


async def test_flows_to_backends_lost_while_the_daemon_was_away_move(swarm: Swarm) -> None:
    tasks = {task.id: task for task in await mixed(swarm)}
    ports = [port(9201, 80, Protocol.UDP)]
    swarm.publish("dns", ports, [tasks["f2"]])
    await swarm.program()
    node, source = swarm.nodes[0], (CLIENT_ADDRESS, 33336)
    assert (await swarm.client.ask_udp(node.underlay, 9201, source=source)).startswith("f2 ")
    await node.plane.close()
    swarm.publish("dns", ports, [tasks["f3"]])
    node.plane, node.intent = swarm.plane(1), NodeIntent()
    await node.plane.start()
    await swarm.program()
    await swarm.client.udp_flow_moves(
        node.underlay, 9201, source=source, within=1, arrived=lambda answer: answer == "f3"
    )


async def test_prepare_and_release_can_be_repeated(swarm: Swarm) -> None:
    [task, *_] = await mixed(swarm)
    path = await task.node.plane.prepare(task.config)
    assert path == task.place.path
    assert (await task.place.ask("10.0.1.13", 80)).startswith("s3 ")
    await task.server.close()
    await task.node.plane.release(task.id)
    await task.node.plane.release(task.id)
    await task.node.plane.release("never-there")
    assert task.id not in await task.node.plane.sandboxes()


async def test_a_sandbox_needs_its_network(swarm: Swarm) -> None:
    node = swarm.nodes[0]
    with pytest.raises(DataPlaneFailure, match="not programmed"):
        await node.plane.prepare(SandboxConfig("t", [SandboxInterface("unknown", "10.0.9.2/24")]))
    assert await node.plane.sandboxes() == []


async def test_clear_leaves_nothing(swarm: Swarm, tmp_path: Path) -> None:
    node = swarm.nodes[0]

    def state() -> list[str]:
        return [
            node.place.run("nft", "list", "ruleset"),
            node.place.run("ip", "rule"),
            node.place.run("ip", "route", "show", "table", "all", "proto", "83"),
            " ".join(link["ifname"] for link in json.loads(node.place.run("ip", "-json", "link"))),
        ]

    await node.plane.clear()
    empty = state()
    assert empty[0] == ""
    await swarm.program()
    await mixed(swarm)
    assert state() != empty
    await node.plane.clear()
    assert state() == empty
    assert await node.plane.sandboxes() == []
    assert list((tmp_path / "n1" / "netns").iterdir()) == []


async def test_a_delta_that_does_not_fit_is_refused() -> None:
    held = intents.fold(NodeIntent(), Delta(base=0, version=4), "n1")
    with pytest.raises(ValueError, match="full set"):
        intents.fold(held, Delta(base=3, version=5), "n1")


async def test_others_transactions_do_not_make_it_read_its_table(swarm: Swarm, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host whose firewall is edited all day must not cost a full comparison each time; an edit of ours still must."""
    tasks = await mixed(swarm)
    node = swarm.nodes[0]
    readings: list[str] = []
    read = nft.LibrarySession.read_table

    def count(session: nft.LibrarySession) -> list[dict[str, Any]]:
        readings.append("read")
        return read(session)

    monkeypatch.setattr(nft.LibrarySession, "read_table", count)
    for number in range(5):
        node.place.run("nft", "add", "table", "inet", f"theirs{number}")
        await asyncio.sleep(0.03)
        swarm.publish("front", [port(9200, 80)], [task for task in tasks if task.id == f"f{number % 3 + 1}"])
        await swarm.program()
    await asyncio.sleep(0.2)
    assert len(readings) <= 2  # Those made at the very moment of one of ours.
    node.place.run("nft", "flush", "chain", "ip", "skep", "guard")
    await wait_mended(node)
