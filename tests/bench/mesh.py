"""Load through the mesh against the same load routed to the same task's address over the same path, untranslated.

Edge: three nodes as namespaces, programmed by the real data plane; no daemon runs, so that nothing but the packets
takes time. The two variants alternate within a round, each from a client address of its own: connections of one
would meet those of the other in TIME_WAIT at the server. Connection tracking is never flushed: the server would refuse
four-tuples it remembers. The guard that keeps clients from task addresses is lifted by one rule after those that
translated packets leave the chain by, so it costs the mesh nothing.
"""

import asyncio
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.figure import Bound, Figure, interleaved
from tests.bench.load import Rate, Ticks, nginx, wrk
from tests.kernel.rig import Place, Running, Swarm, a_swarm, overlay, port

MESH, DIRECT = "mesh", "direct"
ADDRESSES = {MESH: "192.168.77.101", DIRECT: "192.168.77.102"}
PUBLISHED = 9201
BEFORE_THE_LAST_RULE = "3"


@dataclass(frozen=True, slots=True)
class Where:
    """Where the answering task is. Attributes: new_target, kept_target: the least ratio of each kind of load."""

    number: int
    name: str
    new_target: float
    kept_target: float


WHERE = (Where(0, "task on the asked node", 0.90, 0.97), Where(1, "task on another node", 0.85, 0.95))


@dataclass(frozen=True, slots=True)
class Course:
    """One pair of ways to the same server. Attributes: clients, urls: by variant."""

    name: str
    clients: dict[str, Place]
    urls: dict[str, str]
    where: Where


def measure(*, quick: bool) -> Sequence[Figure]:
    """New connections and keep-alive requests for each course."""
    return asyncio.run(_measure(n_rounds=2 if quick else 6))


async def _measure(n_rounds: int) -> Sequence[Figure]:
    with tempfile.TemporaryDirectory(prefix="skep-bench-") as directory:
        async with a_swarm(Path(directory)) as swarm:
            tasks = await _run_servers(swarm)
            courses = [await _virtual(swarm, task, where) for task, where in zip(tasks, WHERE, strict=True)]
            await swarm.program()
            for node in swarm.nodes:
                await node.plane.close()  # What is programmed stays; nobody mends the guard that is lifted now.
            courses[:0] = _published(swarm, tasks)
            figures: list[Figure] = []
            for course in courses:
                with nginx(tasks[course.where.number].place) as server:
                    _warm(course, server)
                    figures += [_compare(course, server, n_rounds, is_new_each) for is_new_each in (True, False)]
            return figures


def _compare(course: Course, server: int, n_rounds: int, is_new_each: bool) -> Figure:
    rates: dict[str, list[Rate]] = {MESH: [], DIRECT: []}
    before = Ticks.now()
    for order in interleaved(n_rounds, (MESH, DIRECT)):
        for variant in order:
            client, url = course.clients[variant], course.urls[variant]
            rates[variant].append(wrk(client, url, server=server, is_new_each=is_new_each))
    busy = Ticks.now().shares_since(before)
    ratios = [mesh.per_s / direct.per_s for mesh, direct in zip(rates[MESH], rates[DIRECT], strict=True)]
    cost = statistics.median(
        direct.cost_us / mesh.cost_us for mesh, direct in zip(rates[MESH], rates[DIRECT], strict=True)
    )
    medians = {variant: statistics.median(rate.per_s for rate in rates[variant]) for variant in rates}
    failed = {variant: sum(rate.failed for rate in rates[variant]) for variant in rates}
    note = (
        f"{medians[MESH]:,.0f}/s and {medians[DIRECT]:,.0f}/s; by processor time per request {cost:.2f}; "
        f"processors busy {' '.join(f'{share:.0%}' for share in busy)}"
        + "".join(f"; {count} requests failed, {variant}" for variant, count in failed.items() if count)
    )
    kind = "new connections" if is_new_each else "keep-alive"
    target = course.where.new_target if is_new_each else course.where.kept_target
    beside = {**medians, "by processor time": cost}
    return Figure(f"{course.name}: {kind}", "", ratios, Bound.AT_LEAST, target, note, beside)


def _warm(course: Course, server: int) -> None:
    """The first packets fill neighbour tables and caches."""
    for variant, client in course.clients.items():
        wrk(client, course.urls[variant], server=server, is_new_each=True)


# --- the rig ----------------------------------------------------------------------------


async def _run_servers(swarm: Swarm) -> list[Running]:
    """One task on the first node and one on the second, each a service with a published port and a virtual IP."""
    swarm.put(overlay(1))
    tasks: list[Running] = []
    for number, node in enumerate(swarm.nodes[:2]):
        addresses = {"ingress": f"10.0.0.{11 + number}", "networks": {"a": f"10.0.1.{11 + number}"}}
        tasks.append(await swarm.run(f"server{number}", node, ports=(), **addresses))
        swarm.publish(f"s{number}", [port(PUBLISHED + number, 80)], tasks[-1:])
        swarm.balance(f"s{number}", "a", _virtual_ip(number), tasks[-1:])
    return tasks


def _virtual_ip(number: int) -> str:
    return f"10.0.1.{200 + number}"


def _published(swarm: Swarm, tasks: Sequence[Running]) -> list[Course]:
    """The first node is asked for both tasks, by its published ports or as the router of their addresses."""
    asked = swarm.nodes[0]
    clients = {variant: swarm.host(variant, address) for variant, address in ADDRESSES.items()}
    rule = ["ip", "skep", "from_outside", "index", BEFORE_THE_LAST_RULE, "ip", "saddr", ADDRESSES[DIRECT], "return"]
    asked.place.run("nft", "insert", "rule", *rule)
    courses: list[Course] = []
    for number, (task, where) in enumerate(zip(tasks, WHERE, strict=True)):
        clients[DIRECT].run("ip", "route", "add", task.ingress, "via", asked.underlay)
        urls = {MESH: f"http://{asked.underlay}:{PUBLISHED + number}/", DIRECT: f"http://{task.ingress}/"}
        courses.append(Course(f"published port, {where.name}", clients, urls, where))
    return courses


async def _virtual(swarm: Swarm, task: Running, where: Where) -> Course:
    """Two more tasks on the first node ask; each variant has its own."""
    clients: dict[str, Place] = {}
    for place, variant in enumerate(ADDRESSES):
        address = f"10.0.1.{20 + 10 * where.number + place}"
        asker = await swarm.run(f"{variant}{where.number}", swarm.nodes[0], networks={"a": address}, ports=())
        clients[variant] = asker.place
    urls = {MESH: f"http://{_virtual_ip(where.number)}/", DIRECT: f"http://{task.address('a')}/"}
    return Course(f"virtual IP, {where.name}", clients, urls, where)
