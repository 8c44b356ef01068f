"""Addresses of plain containers, and how full a network is."""

import pytest
from tests.core.allocate.test_reconcile import Allocator
from tests.factories import a_cluster, a_network, a_node, a_service, a_state, a_task

from skep.core import allocate
from skep.model.errors import Conflict
from skep.model.lifecycle import TaskState
from skep.model.network import IPAM, IPAMConfig, Network, NetworkAttachmentConfig, NetworkSpec
from skep.model.service import (
    EndpointSpec,
    NetworkAttachmentSpec,
    Replicated,
    ResolutionMode,
    ServiceMode,
    ServiceSpec,
    TaskSpec,
)
from skep.model.task import Task

SMALL = {"subnet": "10.0.9.0/29", "vni": 5000, "attachable": True}  # Room for .2 to .6.


def an_attachment(id: str, address: str = "", network: str = "net") -> Task:
    spec = TaskSpec(
        network_attachment_spec=NetworkAttachmentSpec(container_id="c" * 64, address=address),
        networks=[NetworkAttachmentConfig(target=network, aliases=["probe"])],
    )
    return Task(id=id, node_id="node", spec=spec)


def an_allocator() -> Allocator:
    return Allocator(a_node(), a_network(**SMALL))


def task_of(allocator: Allocator, id: str) -> Task:
    task = allocator.state.tasks.get(id)
    assert task is not None
    return task


def address_of(allocator: Allocator, id: str) -> str:
    return task_of(allocator, id).attachments[0].address


def test_an_attachment_is_at_once_its_nodes() -> None:
    allocator = an_allocator()
    allocator.put(an_attachment("a"))
    assert task_of(allocator, "a").status.state == TaskState.ASSIGNED
    assert address_of(allocator, "a") == "10.0.9.2/29"


def test_an_address_that_is_asked_for() -> None:
    allocator = an_allocator()
    allocator.put(an_attachment("a", "10.0.9.5"))
    assert address_of(allocator, "a") == "10.0.9.5/29"


@pytest.mark.parametrize(
    ("address", "words"),
    [
        pytest.param("10.0.9.5", "Address already in use: 10.0.9.5", id="anothers"),
        pytest.param("10.0.9.1", "Address already in use: 10.0.9.1", id="gateway"),
        pytest.param("10.0.8.5", "It does not belong to any of this network's subnets", id="outside"),
        pytest.param("10.0.9.7", "It does not belong to any of this network's subnets", id="broadcast"),
        pytest.param("fd00::1", "an IPv4 address is needed", id="ipv6"),
    ],
)
def test_an_address_that_cannot_be_had(address: str, words: str) -> None:
    allocator = an_allocator()
    allocator.put(an_attachment("first", "10.0.9.5"))
    allocator.put(an_attachment("a", address))
    assert words in task_of(allocator, "a").status.err
    assert task_of(allocator, "a").attachments == []


def test_an_address_asked_for_again_need_not_cool_down_and_one_that_is_chosen_must() -> None:
    allocator = an_allocator()
    allocator.put(an_attachment("a", "10.0.9.5"))
    allocator.delete(task_of(allocator, "a"))
    allocator.put(*(an_attachment(f"t{number}") for number in range(4)))
    chosen = {address_of(allocator, f"t{number}") for number in range(4)}
    assert chosen == {f"10.0.9.{last}/29" for last in (2, 3, 4, 6)}
    allocator.put(an_attachment("again", "10.0.9.5"))
    assert address_of(allocator, "again") == "10.0.9.5/29"


def test_who_waits_for_anothers_address_gets_it_when_that_goes() -> None:
    allocator = an_allocator()
    allocator.put(an_attachment("a", "10.0.9.5"))
    allocator.put(an_attachment("b", "10.0.9.5"))
    allocator.delete(task_of(allocator, "a"))
    assert address_of(allocator, "b") == "10.0.9.5/29"


def test_usage_counts_every_member_once() -> None:
    allocator = an_allocator()
    allocator.put(an_attachment("a"), a_service("web", networks=["net"]))
    [(subnet, usage)] = allocate.usage_of(allocator.state, allocator.network()).items()
    assert subnet == "10.0.9.0/29"
    assert (usage.in_use, usage.available, usage.size) == (5, 3, 5)
    stopping = a_task("t", state=TaskState.RUNNING, desired=TaskState.SHUTDOWN, addresses={"net": "10.0.9.6/29"})
    allocator.put(stopping)
    assert allocate.usage_of(allocator.state, allocator.network())[subnet].available == 2
    assert allocate.usage_of(allocator.state, allocator.network(), is_to_come=True)[subnet].available == 3


@pytest.mark.parametrize(
    ("replicas", "mode", "is_refused"),
    [
        pytest.param(4, ResolutionMode.VIP, False, id="fits"),
        pytest.param(5, ResolutionMode.VIP, True, id="one-too-many"),
        pytest.param(5, ResolutionMode.DNSRR, False, id="no-virtual-ip"),
        pytest.param(6, ResolutionMode.DNSRR, True, id="dnsrr-too-many"),
    ],
)
@pytest.mark.parametrize("is_waiting", [False, True], ids=["has-its-subnet", "asks-for-it"])
def test_a_service_must_fit_its_networks(
    replicas: int, mode: ResolutionMode, is_refused: bool, is_waiting: bool
) -> None:
    waiting = NetworkSpec(name="net", ipam=IPAM(config=[IPAMConfig(subnet="10.0.9.0/29")]))
    view = a_state(a_cluster(), Network(id="net", spec=waiting) if is_waiting else a_network(**SMALL))
    spec = ServiceSpec(
        name="web",
        mode=ServiceMode(replicated=Replicated(replicas=replicas)),
        task_template=TaskSpec(networks=[NetworkAttachmentConfig(target="net")]),
        endpoint_spec=EndpointSpec(mode=mode),
    )
    if not is_refused:
        allocate.check_room(view, spec)
        return
    with pytest.raises(Conflict, match="could not find an available IP"):
        allocate.check_room(view, spec)


def test_a_network_is_refused_when_the_pools_are_used_up() -> None:
    cluster = a_cluster(default_address_pools=["10.20.0.0/23"], subnet_size=24)
    taken = [a_network(f"n{third}", subnet=f"10.20.{third}.0/24", vni=5000 + third) for third in range(2)]
    allocate.check_network(a_state(cluster, taken[0]), NetworkSpec(name="new"))
    with pytest.raises(Conflict, match="no /24 is left"):
        allocate.check_network(a_state(cluster, taken[0], a_network("waiting")), NetworkSpec(name="new"))
    with pytest.raises(Conflict, match="could not find an available, non-overlapping IPv4 address pool"):
        allocate.check_network(a_state(cluster, *taken), NetworkSpec(name="new"))
