"""What is refused before it is stored, and in which words."""

import pytest
from tests.factories import a_cluster, a_network, a_node, a_port, a_service, a_state

from skep.core import allocate
from skep.model.errors import Conflict, InvalidSpec, SkepError, Unsupported
from skep.model.network import IPAM, IPAMConfig, NetworkSpec
from skep.model.service import PortConfig, Protocol, PublishMode, ResolutionMode

HOST = PublishMode.HOST
TAKEN = "port '8080' is already in use by service 'web' (web) as "


@pytest.mark.parametrize(
    ("theirs", "ours", "refusal"),
    [
        pytest.param(a_port(8080), a_port(8080), TAKEN + "an ingress port", id="ingress-ingress"),
        pytest.param(a_port(8080), a_port(8080, mode=HOST), TAKEN + "an ingress port", id="ingress-host"),
        pytest.param(a_port(8080, mode=HOST), a_port(8080), TAKEN + "a host-published port", id="host-ingress"),
        pytest.param(a_port(8080, mode=HOST), a_port(8080, mode=HOST), "", id="host-host"),
        pytest.param(a_port(8080), a_port(8080, protocol=Protocol.UDP), "", id="other-protocol"),
        pytest.param(a_port(0), a_port(0), "", id="both-dynamic"),
    ],
)
def test_ports_of_two_services(theirs: PortConfig, ours: PortConfig, refusal: str) -> None:
    view = a_state(a_cluster(), a_service("web", ports=[theirs]))
    spec = a_service("new", ports=[ours]).spec
    if not refusal:
        allocate.check_ports(view, spec, "")
        return
    with pytest.raises(InvalidSpec) as caught:
        allocate.check_ports(view, spec, "")
    assert str(caught.value) == refusal
    allocate.check_ports(view, spec, "web")


@pytest.mark.parametrize(
    ("ports", "mode", "words"),
    [
        pytest.param([a_port(80), a_port(80, 81)], ResolutionMode.VIP, "duplicate published ports", id="twice"),
        pytest.param([a_port(80)], ResolutionMode.DNSRR, "can't be used with dnsrr mode", id="dnsrr"),
        pytest.param([a_port(2377)], ResolutionMode.VIP, "in use by the swarm itself", id="control"),
        pytest.param([a_port(4789, protocol=Protocol.UDP)], ResolutionMode.VIP, "the swarm itself", id="vxlan"),
        pytest.param([a_port(70000)], ResolutionMode.VIP, "not in 1-65535", id="too-large"),
        pytest.param([a_port(80, 0)], ResolutionMode.VIP, "not in 1-65535", id="no-target"),
    ],
)
def test_ports_of_one_service(ports: list[PortConfig], mode: ResolutionMode, words: str) -> None:
    with pytest.raises(InvalidSpec, match=words):
        allocate.check_ports(a_state(a_cluster()), a_service(ports=ports, mode=mode).spec, "")


def a_spec(subnet: str = "", gateway: str = "", ip_range: str = "", **spec: object) -> NetworkSpec:
    config = IPAMConfig(subnet=subnet, gateway=gateway, ip_range=ip_range)
    return NetworkSpec(name="new", ipam=IPAM(config=[config]), **spec)  # type: ignore[arg-type]  # fields as they come


@pytest.mark.parametrize(
    ("spec", "kind", "words"),
    [
        pytest.param(a_spec("10.1.0"), InvalidSpec, "invalid CIDR block notation", id="not-cidr"),
        pytest.param(a_spec("10.1.0.0"), InvalidSpec, "invalid CIDR block notation", id="no-prefix"),
        pytest.param(a_spec("10.1.0.9/24"), InvalidSpec, "it should be 10.1.0.0/24", id="host-bits"),
        pytest.param(a_spec("10.1.0.0/31"), InvalidSpec, "too small", id="too-small"),
        pytest.param(a_spec("127.0.0.0/16"), InvalidSpec, "cannot be given to tasks", id="loopback"),
        pytest.param(a_spec("fd00::/64"), Unsupported, "IPv4 only", id="ipv6"),
        pytest.param(a_spec("10.1.0.0/24", "10.2.0.1"), InvalidSpec, "doesn't contain this address", id="gateway"),
        pytest.param(a_spec("10.1.0.0/24", "10.1.0.255"), InvalidSpec, "first and last", id="gateway-broadcast"),
        pytest.param(a_spec("10.1.0.0/24", "x"), InvalidSpec, "invalid gateway x: invalid address", id="gateway-text"),
        pytest.param(a_spec("10.1.0.0/24", "", "10.1.0.0/16"), InvalidSpec, "bigger than its parent", id="range-big"),
        pytest.param(a_spec("10.1.0.0/24", "", "10.2.0.0/28"), InvalidSpec, "doesn't contain ip-range", id="range-out"),
        pytest.param(a_spec("", "10.1.0.1"), InvalidSpec, "need a subnet", id="gateway-alone"),
        pytest.param(a_spec("10.5.0.0/25"), Conflict, 'overlaps with network "old"', id="overlap"),
        pytest.param(a_spec("192.0.2.0/24"), Conflict, 'the address of node "n"', id="underlay"),
        pytest.param(a_spec(driver="bridge"), InvalidSpec, 'driver "bridge"', id="driver"),
        pytest.param(a_spec(ingress=True), Conflict, "already present", id="second-ingress"),
    ],
)
def test_networks(spec: NetworkSpec, kind: type[SkepError], words: str) -> None:
    view = a_state(
        a_network("old", subnet="10.5.0.0/16", vni=4097),
        a_network("ingress", subnet="10.0.0.0/24", vni=4096, ingress=True),
        a_node("n", addr="192.0.2.7"),
    )
    with pytest.raises(kind, match=words):
        allocate.check_network(view, spec)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        pytest.param("ingress", "cannot be explicitly attached to the ingress network", id="ingress"),
        pytest.param("nowhere", "network nowhere not found", id="missing"),
    ],
)
def test_attachments(target: str, words: str) -> None:
    view = a_state(a_network("ingress", ingress=True), a_network("net"))
    allocate.check_attachments(view, a_service(networks=["net"]).spec)
    with pytest.raises(InvalidSpec, match=words):
        allocate.check_attachments(view, a_service(networks=[target]).spec)


def test_a_network_without_wishes_passes() -> None:
    allocate.check_network(a_state(a_network("old", subnet="10.5.0.0/16", vni=4097)), a_spec())
