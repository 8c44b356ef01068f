"""What every data plane promises, tried on the fake and on the real kernel."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import pytest
from tests.fakes.dataplane import FakeDataPlane, FakeKernel
from tests.kernel.rig import INGRESS, Place, Swarm, overlay, port

from skep.core.mesh.intent import NodeIntent, fold
from skep.model.assignment import Backend, BalancedService, ClusterFacts, Delta, Item, Peer, PublishedService
from skep.ports.dataplane import DataPlane, DataPlaneFailure, SandboxConfig, SandboxInterface

pytestmark = pytest.mark.anyio

BACKENDS = [Backend(task_id="t9", node_id="n2", address="10.0.0.19")]
ITEMS: list[Item] = [
    ClusterFacts(cluster_id="c", ingress_network_id="ingress"),
    INGRESS,
    overlay(1),
    Peer(node_id="n1", underlay="192.168.77.1", mesh_address="10.0.0.2/24"),
    Peer(node_id="n2", underlay="192.168.77.2", mesh_address="10.0.0.3/24"),
    PublishedService(service_id="web", ports=[port(9200, 80)], backends=BACKENDS),
    BalancedService(network_id="a", service_id="web", names=["web"], virtual_ip="10.0.1.200", backends=BACKENDS),
]
SANDBOX = SandboxConfig("t1", [SandboxInterface("a", "10.0.1.11/24")], ingress_address="10.0.0.21")


class Ground(Protocol):
    """A node. `open` gives a data plane as a freshly started daemon makes one; `damage` breaks what is programmed."""

    def open(self) -> DataPlane: ...
    def damage(self) -> None: ...


class FakeGround:
    def __init__(self) -> None:
        self._kernel = FakeKernel()

    def open(self) -> DataPlane:
        return FakeDataPlane(self._kernel)

    def damage(self) -> None:
        self._kernel.facts.clear()


class LinuxGround:
    def __init__(self, swarm: Swarm, place: Place) -> None:
        self._swarm = swarm
        self._place = place

    def open(self) -> DataPlane:
        return self._swarm.plane(1)

    def damage(self) -> None:
        self._place.run("nft", "flush", "ruleset")


@pytest.fixture(params=["fake", pytest.param("linux", marks=pytest.mark.kernel)])
async def ground(request: pytest.FixtureRequest, tmp_path: Path, anyio_backend: str) -> AsyncIterator[Ground]:
    if request.param == "fake":
        yield FakeGround()
        return
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes network namespaces")
    swarm = Swarm(tmp_path)
    try:
        yield LinuxGround(swarm, swarm.host("n1", "192.168.77.1"))
    finally:
        plane = swarm.plane(1)
        await plane.start()
        await plane.clear()
        await plane.close()
        await swarm.stop()


@pytest.fixture
async def plane(ground: Ground) -> AsyncIterator[DataPlane]:
    made = ground.open()
    await made.start()
    yield made
    await made.close()


def intent(*extra: Item) -> NodeIntent:
    return fold(NodeIntent(), Delta(base=0, version=1, put=[*ITEMS, *extra]), "n1")


async def test_what_is_programmed_has_no_drift(plane: DataPlane) -> None:
    await plane.start()  # Once more does no harm.
    await plane.program(intent())
    assert await plane.audit() == []
    await plane.program(intent())
    assert await plane.audit() == []


async def test_a_sandbox_comes_and_goes(plane: DataPlane) -> None:
    await plane.program(intent())
    path = await plane.prepare(SANDBOX)
    assert path.is_absolute()
    assert await plane.prepare(SANDBOX) == path
    assert await plane.prepare(SandboxConfig("t2", [])) != path
    assert list(await plane.sandboxes()) == ["t1", "t2"]
    assert await plane.audit() == []
    for task_id in ("t1", "t1", "never"):
        await plane.release(task_id)
    assert list(await plane.sandboxes()) == ["t2"]
    assert await plane.audit() == []


async def test_a_sandbox_needs_a_programmed_network(plane: DataPlane) -> None:
    with pytest.raises(DataPlaneFailure, match="assignments"):
        await plane.prepare(SANDBOX)
    await plane.program(intent())
    with pytest.raises(DataPlaneFailure, match="not programmed"):
        await plane.prepare(SandboxConfig("t1", [SandboxInterface("unknown", "10.0.9.2/24")]))
    assert list(await plane.sandboxes()) == []


async def test_the_next_daemon_adopts(ground: Ground, plane: DataPlane) -> None:
    await plane.program(intent())
    path = await plane.prepare(SANDBOX)
    await plane.close()
    successor = ground.open()
    await successor.start()
    assert list(await successor.sandboxes()) == ["t1"]
    await successor.program(intent())
    assert await successor.audit() == []
    assert await successor.prepare(SANDBOX) == path
    await successor.close()


async def test_a_sandbox_can_be_released_before_anything_is_programmed(ground: Ground, plane: DataPlane) -> None:
    await plane.program(intent())
    await plane.prepare(SANDBOX)
    await plane.close()
    successor = ground.open()
    await successor.start()
    await successor.release("t1")
    assert list(await successor.sandboxes()) == []
    await successor.program(intent())
    assert await successor.audit() == []
    await successor.close()


async def test_damage_is_seen_and_mended(ground: Ground, plane: DataPlane) -> None:
    await plane.program(intent())
    ground.damage()
    assert await plane.repair() != []
    assert await plane.audit() == []
    assert await plane.repair() == []


async def test_clear_and_start_over(plane: DataPlane) -> None:
    await plane.program(intent())
    await plane.prepare(SANDBOX)
    await plane.clear()
    await plane.clear()
    assert list(await plane.sandboxes()) == []
    assert await plane.audit() == []
    await plane.program(intent())
    await plane.prepare(SANDBOX)
    assert await plane.audit() == []


async def test_a_closed_data_plane_refuses(plane: DataPlane) -> None:
    await plane.close()
    with pytest.raises(DataPlaneFailure, match="not started"):
        await plane.program(intent())
    await plane.close()
