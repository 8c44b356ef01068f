"""How long a connection's first packet takes through the mesh among few and among many programmed services.

Edge: namespaces and the real data plane. Two nodes of the rig, one programmed with few services and one with many,
both in front of the same task; they are asked alternately, so that whatever else the machine does meets both alike.
"""

import asyncio
import socket
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.figure import Bound, Figure, interleaved
from tests.kernel.rig import Node, Place, Running, Swarm, a_swarm, overlay, port

FEW, MANY = 10, 5000
N_BATCH = 100


@dataclass(frozen=True, slots=True)
class Way:
    """One way to ask. Attributes: places: who asks, by how many services there are; addresses: whom."""

    name: str
    places: dict[int, Place]
    addresses: dict[int, tuple[str, int]]


def measure(*, quick: bool) -> Sequence[Figure]:
    """Connection latency by published port and by virtual IP."""
    return asyncio.run(_measure(n_rounds=4 if quick else 20))


async def _measure(n_rounds: int) -> Sequence[Figure]:
    with tempfile.TemporaryDirectory(prefix="skep-bench-") as directory:
        async with a_swarm(Path(directory), n_nodes=3) as swarm:
            few, many, third = swarm.nodes
            swarm.put(overlay(1))
            server = await swarm.run("server", third, ingress="10.0.0.13", networks={"a": "10.0.1.13"}, ports=())
            askers = {
                count: await swarm.run(f"ask{count}", node, networks={"a": f"10.0.1.{20 + node.number}"}, ports=())
                for count, node in ((FEW, few), (MANY, many))
            }
            await _program(swarm, few, server, FEW)
            await _program(swarm, many, server, MANY)
            for asker in askers.values():  # The rig's networks have room for 250 addresses only.
                asker.place.run("ip", "route", "add", "10.9.0.0/16", "via", "10.0.1.1", "dev", "eth0")
            for node in swarm.nodes:
                await node.plane.close()
            ways = [
                Way(
                    "published port",
                    dict.fromkeys((FEW, MANY), swarm.client),
                    {FEW: (few.underlay, _port(FEW - 1)), MANY: (many.underlay, _port(MANY - 1))},
                ),
                Way(
                    "virtual IP",
                    {count: asker.place for count, asker in askers.items()},
                    {count: (_virtual_ip(count - 1), 80) for count in (FEW, MANY)},
                ),
            ]
            with server.place.socket(source=("0.0.0.0", 80)) as listener:
                listener.listen(N_BATCH * 2)
                return [_compare(way, listener, n_rounds) for way in ways]


async def _program(swarm: Swarm, node: Node, server: Running, n_services: int) -> None:
    for number in range(n_services):
        swarm.publish(f"s{number}", [port(_port(number), 80)], [server])
        swarm.balance(f"s{number}", "a", _virtual_ip(number), [server])
    await swarm.program(node)
    programmed = node.place.run("nft", "list", "map", "ip", "skep", "published").count("goto pub_tcp_")
    assert programmed == n_services, f"{programmed} of {n_services} services are programmed"


def _port(number: int) -> int:
    return 10000 + number


def _virtual_ip(number: int) -> str:
    return f"10.9.{number // 250}.{number % 250 + 1}"


def _compare(way: Way, listener: socket.socket, n_rounds: int) -> Figure:
    for count in (FEW, MANY):
        _connect_us(way, count, listener)
    ratios: list[float] = []
    medians: dict[str, list[float]] = {str(FEW): [], str(MANY): []}
    for order in interleaved(n_rounds, (str(FEW), str(MANY))):
        for count in order:
            medians[count].append(_connect_us(way, int(count), listener))
        ratios.append(medians[str(MANY)][-1] / medians[str(FEW)][-1])
    few, many = (statistics.median(medians[str(count)]) for count in (FEW, MANY))
    note = f"{few:.0f} us among {FEW}, {many:.0f} us among {MANY}, to connect by TCP"
    name = f"first packet, {way.name}: {MANY} services over {FEW}"
    return Figure(name, "x", ratios, Bound.AT_MOST, 1.2, note, {str(FEW): few, str(MANY): many})


def _connect_us(way: Way, count: int, listener: socket.socket) -> float:
    """Median time of connecting, in microseconds."""
    taken: list[int] = []
    for _ in range(N_BATCH):
        with way.places[count].inside(), socket.socket() as one:
            started_ns = time.perf_counter_ns()
            one.connect(way.addresses[count])
            taken.append(time.perf_counter_ns() - started_ns)
        listener.accept()[0].close()
    return statistics.median(taken) / 1000
