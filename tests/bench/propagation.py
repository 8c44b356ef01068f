"""How long one change takes from its request to the kernel of every node, and whether other services matter.

Edge: a lab of process nodes. Everything is the real path: API, commit, dispatcher, session, agent, nft. The services
have no replicas, so that a thousand of them need no machine; each publishes a port and a change moves it. A change
is in a kernel when nftables tells a listener in that node's namespace that the transaction with the new port's
chain is in force. Counted from the moment the client asks, so the request and writing it to disk are included.
"""

import itertools
import os
import selectors
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

from tests.bench.figure import Bound, Figure, percentile
from tests.bench.labs import a_lab
from tests.e2e.conftest import Lab, wait_until

from skep.edge.namespaces import entered
from skep.edge.netlink import NETLINK_NETFILTER, NetlinkWatch, Reply, attributes
from skep.edge.nft import NFNLGRP_NFTABLES
from skep.lab import nodes

FEW, MANY = 100, 1000
FIRST_PORT, FIRST_UNUSED_PORT = 10000, 20000
INGRESS = "10.77.0.0/16"
WAIT_S = 30.0
NEW_CHAIN = 10 << 8 | 3
"""NFNL_SUBSYS_NFTABLES and NFT_MSG_NEWCHAIN. Source: linux/netfilter/nf_tables.h."""
CHAIN_NAME = 3


def measure(*, quick: bool) -> Sequence[Figure]:
    """The same changes among few and among many services."""
    n_runs, n_changes = (2, 40) if quick else (3, 100)
    with a_lab(engine="process") as lab, closing(Listener(lab)) as listener:
        _widen_ingress(lab)
        ports = itertools.count(FIRST_UNUSED_PORT)
        services = [_create(lab, number) for number in range(FEW)]
        few = [_run(lab, listener, services, ports, n_changes) for _ in range(n_runs)]
        services += [_create(lab, number) for number in range(FEW, MANY)]
        many = [_run(lab, listener, services[-FEW:], ports, n_changes) for _ in range(n_runs)]
        _check_rules(lab, services)
    ratios = [statistics.median(b) / statistics.median(a) for a, b in zip(few, many, strict=True)]
    middle = f"median {statistics.median(map(statistics.median, many)):.1f} ms, of {n_changes} changes a run"
    p99 = [percentile(run, 0.99) for run in many]
    return [
        Figure(f"request to every kernel, 1 of {MANY} services, p99", "ms", p99, Bound.AT_MOST, 50, middle),
        Figure(f"the same among {MANY} over among {FEW}, median", "x", ratios, Bound.AT_MOST, 1.2),
    ]


def _widen_ingress(lab: Lab) -> None:
    """Replace the ingress network, as Docker's manual tells: the default one has room for 250 services and tasks."""
    lab.api("DELETE", "/networks/ingress")
    wait_until(lambda: not _has_ingress(lab), "the ingress network did not go")
    ipam = {"Config": [{"Subnet": INGRESS}]}
    lab.api("POST", "/networks/create", {"Name": "ingress", "Driver": "overlay", "Ingress": True, "IPAM": ipam})


def _has_ingress(lab: Lab) -> bool:
    return any(network["Ingress"] for network in lab.api("GET", "/networks"))


def _create(lab: Lab, number: int) -> str:
    spec = _spec(f"s{number}", FIRST_PORT + number)
    return str(lab.api("POST", "/services/create", spec)["ID"])


def _spec(name: str, published: int) -> dict[str, Any]:
    return {
        "Name": name,
        "TaskTemplate": {"ContainerSpec": {"Image": "none", "Command": ["true"]}},
        "Mode": {"Replicated": {"Replicas": 0}},
        "EndpointSpec": {"Ports": [{"TargetPort": 80, "PublishedPort": published, "PublishMode": "ingress"}]},
    }


def _run(
    lab: Lab, listener: "Listener", services: Sequence[str], unused_ports: Iterator[int], n_changes: int
) -> list[float]:
    """Move one service's port after the other to one never used; milliseconds until the last node had it."""
    taken: list[float] = []
    for turn in range(n_changes):
        service = services[turn % len(services)]
        seen = lab.api("GET", f"/services/{service}")
        published = next(unused_ports)
        spec = _spec(seen["Spec"]["Name"], published)
        asked_ns = time.time_ns()
        lab.api("POST", f"/services/{service}/update?version={seen['Version']['Index']}", spec)
        taken.append((listener.wait_everywhere(f"pub_tcp_{published}") - asked_ns) / 1e6)
    return taken


def _check_rules(lab: Lab, services: Sequence[str]) -> None:
    """What was told is so: every node's table has a port of every service."""
    for node in lab.nodes:
        wait_until(
            lambda name=node.name: (
                lab.run(name, "nft", "list", "map", "ip", "skep", "published").count("goto pub_tcp_") == len(services)
            ),
            f"{node.name} does not have a port of every service",
        )


class Listener:
    """Notes when chains come to the nodes' tables, on a thread of its own."""

    def __init__(self, lab: Lab) -> None:
        self._arrivals: dict[tuple[str, str], int] = {}
        self._news = threading.Condition()
        self._selector = selectors.DefaultSelector()
        self._is_closing = False
        self._names = [node.name for node in lab.nodes]
        for node in lab.nodes:
            watch = _watch_in(nodes.require_running(node))
            self._selector.register(watch.socket, selectors.EVENT_READ, (node.name, watch))
        self._thread = threading.Thread(target=self._listen, name="bench-listener")
        self._thread.start()

    def wait_everywhere(self, chain: str) -> int:
        """When the last node had a chain, in nanoseconds since the epoch; each chain can be asked for once."""
        keys = [(name, chain) for name in self._names]
        with self._news:
            assert self._news.wait_for(lambda: all(key in self._arrivals for key in keys), WAIT_S), f"{chain} is late"
            return max(self._arrivals.pop(key) for key in keys)

    def close(self) -> None:
        self._is_closing = True
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.data[1].close()
        self._selector.close()

    def _listen(self) -> None:
        while not self._is_closing:
            for key, _ in self._selector.select(timeout=0.2):
                now_ns = time.time_ns()
                name, watch = key.data
                chains = [_chain_name(reply) for reply in watch.drain() or ()]
                with self._news:
                    self._arrivals |= {(name, chain): now_ns for chain in chains if chain}
                    self._news.notify()


def _watch_in(pid: int) -> NetlinkWatch:
    """A watch over nftables in a process's namespace."""
    descriptor = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    try:
        with entered(descriptor):
            return NetlinkWatch(NETLINK_NETFILTER, [NFNLGRP_NFTABLES])
    finally:
        os.close(descriptor)


def _chain_name(reply: Reply) -> str:
    if reply.kind != NEW_CHAIN:
        return ""
    return attributes(reply.body[4:])[CHAIN_NAME].rstrip(b"\0").decode()
