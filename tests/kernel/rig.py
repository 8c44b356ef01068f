"""Three nodes and a client as network namespaces on one segment, each node with a data plane of its own.

What a manager would assign is written by hand: `Swarm` holds the items and gives every node its set. Servers and
clients are sockets opened in the namespaces and served by the test's own event loop, so that nothing outlives a test.
"""

import asyncio
import contextlib
import os
import socket
import struct
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from socket import socket as Socket

from skep.core.mesh import intent as intents
from skep.core.mesh.intent import NodeIntent
from skep.edge.dataplane import LinuxDataPlane
from skep.edge.namespaces import NamespaceDirectory, entered
from skep.model.assignment import (
    AssignedTask,
    Backend,
    BalancedService,
    ClusterFacts,
    Delta,
    Item,
    NetworkEndpoint,
    OverlayNetwork,
    Peer,
    PublishedService,
)
from skep.model.network import IPAMConfig
from skep.model.service import Endpoint, PortConfig, Protocol, PublishMode, TaskSpec
from skep.model.task import Task
from skep.ports.dataplane import SandboxConfig, SandboxInterface

INGRESS = OverlayNetwork(
    network_id="ingress",
    name="ingress",
    vni=4096,
    subnets=[IPAMConfig(subnet="10.0.0.0/24", gateway="10.0.0.1")],
    ingress=True,
)
CLIENT_ADDRESS = "192.168.77.100"
TIMEOUT_S = 5.0


def overlay(number: int, *, internal: bool = False) -> OverlayNetwork:
    """Network `a` is number 1: 10.0.1.0/24, and so on."""
    return OverlayNetwork(
        network_id="abcdefgh"[number - 1],
        name="abcdefgh"[number - 1],
        vni=4096 + number,
        subnets=[IPAMConfig(subnet=f"10.0.{number}.0/24", gateway=f"10.0.{number}.1")],
        internal=internal,
    )


def port(published: int, target: int, protocol: Protocol = Protocol.TCP, *, host: bool = False) -> PortConfig:
    mode = PublishMode.HOST if host else PublishMode.INGRESS
    return PortConfig(published_port=published, target_port=target, protocol=protocol, publish_mode=mode)


class Place:
    """A namespace to run things in."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            with entered(descriptor):
                yield
        finally:
            os.close(descriptor)

    def run(self, *command: str, check: bool = True) -> str:
        """Run a program there and return its output."""
        done = subprocess.run(
            ["nsenter", f"--net={self.path}", *command], capture_output=True, text=True, timeout=20, check=False
        )
        assert not check or done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def socket(
        self, kind: int = socket.SOCK_STREAM, protocol: int = 0, *, source: tuple[str, int] | None = None
    ) -> Socket:
        with self.inside():
            made = socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if source is not None:
            made.bind(source)
        return made

    async def ask(
        self, address: str, number: int, *, source: tuple[str, int] | None = None, timeout: float = TIMEOUT_S
    ) -> str:
        """Connect by TCP and return what the server says of itself and of us.

        Raises:
            ConnectionRefusedError, TimeoutError, OSError
        """
        with await self.connect(address, number, source=source, timeout=timeout) as one:
            return await asked(one, timeout)

    async def connect(
        self, address: str, number: int, *, source: tuple[str, int] | None = None, timeout: float = TIMEOUT_S
    ) -> Socket:
        """An open TCP connection; the server answers once it is asked."""
        one = self.socket(source=source)
        try:
            async with asyncio.timeout(timeout):
                await asyncio.get_running_loop().sock_connect(one, (address, number))
        except BaseException:
            one.close()
            raise
        return one

    async def ask_udp(
        self, address: str, number: int, *, source: tuple[str, int] | None = None, timeout: float = TIMEOUT_S
    ) -> str:
        loop = asyncio.get_running_loop()
        with self.socket(socket.SOCK_DGRAM, source=source) as one:
            one.connect((address, number))
            async with asyncio.timeout(timeout):
                await loop.sock_sendall(one, b"?")
                return (await loop.sock_recv(one, 1000)).decode()

    async def udp_flow_moves(
        self, address: str, number: int, *, source: tuple[str, int], within: float, arrived: Callable[[str], bool]
    ) -> None:
        """Ask again and again from one port until an answer has arrived from elsewhere.

        A datagram under way while its flow is moved is lost, as UDP allows: nobody untranslates the old task's answer.

        Raises:
            AssertionError: not within that many seconds
        """
        deadline, answer = asyncio.get_running_loop().time() + within, ""
        while not arrived(answer):
            assert asyncio.get_running_loop().time() < deadline, answer or "no answer at all"
            with contextlib.suppress(TimeoutError):
                answer = (await self.ask_udp(address, number, source=source, timeout=0.2)).split()[0]
            await asyncio.sleep(0.01)


async def asked(connection: Socket, timeout: float = TIMEOUT_S) -> str:
    """What the server says on a connection that is open.

    Raises:
        ConnectionResetError, TimeoutError
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(timeout):
        await loop.sock_sendall(connection, b"?")
        return (await loop.sock_recv(connection, 1000)).decode()


@dataclass
class Server:
    """Answers everyone with its name and the address and port it sees."""

    name: str
    sockets: list[Socket] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    seen: list[tuple[str, int]] = field(default_factory=list)
    open: set[Socket] = field(default_factory=set)

    def reset(self) -> None:
        """Stop as a program does that dies with requests unread: its connections are reset without a farewell."""
        for connection in self.open:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        for task in self.tasks:
            task.cancel()
        for one in self.sockets:
            one.close()

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for one in self.sockets:
            one.close()

    async def serve_tcp(self, listener: Socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, peer = await loop.sock_accept(listener)
            self.seen.append(peer)
            self.tasks.append(asyncio.ensure_future(self._answer(connection, peer)))

    async def _answer(self, connection: Socket, peer: tuple[str, int]) -> None:
        loop = asyncio.get_running_loop()
        self.open.add(connection)
        try:
            with connection, contextlib.suppress(OSError):
                connection.setblocking(False)
                while await loop.sock_recv(connection, 1 << 16):
                    await loop.sock_sendall(connection, f"{self.name} {peer[0]} {peer[1]}".encode())
        finally:
            self.open.discard(connection)

    async def serve_udp(self, one: Socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            _, peer = await loop.sock_recvfrom(one, 2000)
            self.seen.append(peer)
            await loop.sock_sendto(one, f"{self.name} {peer[0]} {peer[1]}".encode(), peer)


@dataclass
class Node:
    """One node of the rig."""

    number: int
    place: Place
    plane: LinuxDataPlane
    intent: NodeIntent = field(default_factory=NodeIntent)

    @property
    def id(self) -> str:
        return f"n{self.number}"

    @property
    def underlay(self) -> str:
        return f"192.168.77.{self.number}"

    @property
    def mesh(self) -> str:
        return f"10.0.0.{self.number + 1}"


@dataclass(frozen=True)
class Running:
    """A task in its sandbox with a server on its ports."""

    id: str
    node: Node
    place: Place
    server: Server
    config: SandboxConfig

    @property
    def ingress(self) -> str:
        return self.config.ingress_address

    def address(self, network: str) -> str:
        return next(each.address.partition("/")[0] for each in self.config.interfaces if each.network_id == network)

    def backend(self, network: str = "") -> Backend:
        address = self.address(network) if network else self.ingress
        return Backend(task_id=self.id, node_id=self.node.id, address=address)


class Swarm:
    """The rig, and what a manager would assign to its nodes."""

    def __init__(self, directory: Path) -> None:
        self._namespaces = NamespaceDirectory(directory / "hosts")
        self._directory = directory
        self.nodes: list[Node] = []
        self.tasks: dict[str, Running] = {}
        self.items: dict[str, Item] = {}
        self._version = 0
        self._servers: list[Server] = []
        self.client = self._host("client", CLIENT_ADDRESS)

    # --- making and unmaking -----------------------------------------------------

    def _host(self, name: str, address: str) -> Place:
        if not self._namespaces.exists("fabric"):
            self._namespaces.make("fabric")
            fabric = Place(self._namespaces.path("fabric"))
            fabric.run("ip", "link", "add", "br0", "type", "bridge")
            fabric.run("ip", "link", "set", "br0", "up")
        self._namespaces.make(name)
        fabric, place = Place(self._namespaces.path("fabric")), Place(self._namespaces.path(name))
        peer = ["type", "veth", "peer", "name", "eth0", "netns", str(place.path)]
        fabric.run("ip", "link", "add", f"e-{name}", *peer)
        fabric.run("ip", "link", "set", f"e-{name}", "master", "br0", "up")
        place.run("ip", "link", "set", "lo", "up")
        place.run("ip", "address", "add", f"{address}/24", "dev", "eth0")
        place.run("ip", "link", "set", "eth0", "up")
        return place

    def host(self, name: str, address: str) -> Place:
        """Another machine on the segment."""
        return self._host(name, address)

    def plane(self, number: int) -> LinuxDataPlane:
        """A data plane for a node, as its daemon would make it."""
        return LinuxDataPlane(
            self_node_id=f"n{number}",
            run_dir=self._directory / f"n{number}",
            underlay_address=f"192.168.77.{number}",
            namespace=self._namespaces.path(f"n{number}"),
        )

    async def start(self, n_nodes: int) -> None:
        for number in range(1, n_nodes + 1):
            place = self._host(f"n{number}", f"192.168.77.{number}")
            node = Node(number, place, self.plane(number))
            await node.plane.start()
            self.nodes.append(node)
        self.put(
            ClusterFacts(cluster_id="c", ingress_network_id="ingress"),
            INGRESS,
            *(Peer(node_id=node.id, underlay=node.underlay, mesh_address=f"{node.mesh}/24") for node in self.nodes),
        )
        await self.program()

    async def stop(self) -> None:
        for server in self._servers:
            await server.close()
        for node in self.nodes:
            with contextlib.suppress(Exception):
                await node.plane.start()
            with contextlib.suppress(Exception):
                await node.plane.clear()
            await node.plane.close()
        for number in range(1, 10):  # What a failed clear may have left.
            left = NamespaceDirectory(self._directory / f"n{number}" / "netns")
            for name in left.names():
                left.remove(name)
        for name in self._namespaces.names():
            self._namespaces.remove(name)

    # --- what a manager assigns ----------------------------------------------------

    def put(self, *items: Item) -> None:
        self.items |= {item.key: item for item in items}

    def remove(self, *keys: str) -> None:
        for key in keys:
            self.items.pop(key, None)

    async def program(self, *nodes: Node) -> None:
        """Bring every node (or those given) to the items as they are, by a delta from what it had."""
        self._version += 1
        for node in nodes or self.nodes:
            node.intent = intents.fold(node.intent, self._delta(node), node.id)
            await node.plane.program(node.intent)

    def _delta(self, node: Node) -> Delta:
        held: dict[str, Item] = {}
        if node.intent.cluster is not None:
            held["cluster"] = node.intent.cluster
        for table in ("peers", "networks", "endpoints", "services", "published", "tasks"):
            held |= getattr(node.intent, table)
        return Delta(
            base=node.intent.version,
            version=self._version,
            put=[item for key, item in self.items.items() if held.get(key) != item],
            remove=[key for key in held if key not in self.items],
        )

    # --- tasks -----------------------------------------------------------------------

    async def run(
        self,
        id: str,
        node: Node,
        *,
        ingress: str = "",
        networks: dict[str, str] | None = None,
        ports: Sequence[int] = (80,),
        gateway: bool = True,
        published: Sequence[PortConfig] = (),
    ) -> Running:
        """Prepare a sandbox with a server in it and let every node know of it."""
        interfaces = [SandboxInterface(network, f"{address}/24") for network, address in (networks or {}).items()]
        config = SandboxConfig(id, interfaces, ingress_address=ingress, gateway=gateway)
        task = Task(id=id, spec=TaskSpec(), node_id=node.id, endpoint=Endpoint(ports=list(published)))
        self.put(AssignedTask(task=task))
        addresses = {**(networks or {}), **({"ingress": ingress} if ingress else {})}
        self.put(
            *(
                NetworkEndpoint(network_id=network, task_id=id, node_id=node.id, address=address)
                for network, address in addresses.items()
            )
        )
        await self.program()
        place = Place(await node.plane.prepare(config))
        running = Running(id, node, place, self.serve(place, id, ports), config)
        self.tasks[id] = running
        return running

    async def end(self, running: Running) -> None:
        """The task's container is gone, its node releases the sandbox; what was assigned stays until programmed."""
        await running.server.close()
        await running.node.plane.release(running.id)
        self.remove(*(key for key in self.items if key.startswith("endpoint/") and key.endswith(f"/{running.id}")))
        self.remove(f"task/{running.id}")

    def serve(self, place: Place, name: str, ports: Sequence[int]) -> Server:
        """Answer on TCP and UDP ports in a namespace."""
        server = Server(name)
        for number in ports:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                one = place.socket(kind, source=("0.0.0.0", number))
                server.sockets.append(one)
                if kind == socket.SOCK_STREAM:
                    one.listen(512)
                    server.tasks.append(asyncio.ensure_future(server.serve_tcp(one)))
                else:
                    server.tasks.append(asyncio.ensure_future(server.serve_udp(one)))
        self._servers.append(server)
        return server

    def publish(self, service: str, ports: Sequence[PortConfig], backends: Sequence[Running]) -> None:
        chosen = sorted((each.backend() for each in backends), key=lambda backend: backend.task_id)
        self.put(PublishedService(service_id=service, ports=list(ports), backends=chosen))

    def balance(self, service: str, network: str, virtual_ip: str, backends: Sequence[Running]) -> None:
        chosen = sorted((each.backend(network) for each in backends), key=lambda backend: backend.task_id)
        self.put(
            BalancedService(
                network_id=network, service_id=service, names=[service], virtual_ip=virtual_ip, backends=chosen
            )
        )


@contextlib.asynccontextmanager
async def a_swarm(directory: Path, n_nodes: int = 3) -> AsyncIterator[Swarm]:
    swarm = Swarm(directory)
    try:
        await swarm.start(n_nodes)
        yield swarm
    finally:
        await swarm.stop()
