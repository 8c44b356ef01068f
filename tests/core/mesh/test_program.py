"""From intents to facts: the small step always arrives where the whole derivation does."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skep.core.mesh import naming
from skep.core.mesh.facts import Balance, Chain, Element, Fact, Forwarding, Hop, Neighbour, Route, Tunnel, Value
from skep.core.mesh.intent import NodeIntent, fold
from skep.core.mesh.program import Sandbox, Station, facts_of, revise, sandbox_edits
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
from skep.model.service import Endpoint, PortConfig, PublishMode, TaskSpec
from skep.model.task import Task

STATION = Station("n1", "192.168.77.1", 1450)
INGRESS = OverlayNetwork(
    network_id="in", name="ingress", vni=4096, subnets=[IPAMConfig(subnet="10.0.0.0/24")], ingress=True
)
A = OverlayNetwork(network_id="a", name="a", vni=4097, subnets=[IPAMConfig(subnet="10.0.1.0/24", gateway="10.0.1.1")])
B = OverlayNetwork(network_id="b", name="b", vni=4098, subnets=[IPAMConfig(subnet="10.0.2.0/24", gateway="10.0.2.1")])
OWN = Peer(node_id="n1", underlay="192.168.77.1", mesh_address="10.0.0.2/24")
PEER = Peer(node_id="n2", underlay="192.168.77.2", mesh_address="10.0.0.3/24")
CLUSTER = ClusterFacts(cluster_id="c", ingress_network_id="in")
SANDBOX = Sandbox("t1", (("a", "10.0.1.5/24"),), "10.0.0.9")


def backends(*addresses: str) -> list[Backend]:
    return [Backend(task_id=f"t-{address}", node_id="n2", address=address) for address in addresses]


def published(*addresses: str, number: int = 9200, id: str = "web") -> PublishedService:
    ports = [PortConfig(published_port=number, target_port=80)]
    return PublishedService(service_id=id, ports=ports, backends=backends(*addresses))


def balanced(*addresses: str, network: str = "a", virtual_ip: str = "10.0.1.200") -> BalancedService:
    return BalancedService(
        network_id=network, service_id="web", names=["web"], virtual_ip=virtual_ip, backends=backends(*addresses)
    )


def intent(*items: Item) -> NodeIntent:
    return fold(NodeIntent(), Delta(base=0, version=1, put=list(items)), "n1")


def facts(*items: Item, sandboxes: dict[str, Sandbox] | None = None) -> dict[Fact, Value]:
    return facts_of(intent(CLUSTER, OWN, PEER, INGRESS, A, *items), STATION, sandboxes or {})


def test_a_published_port_leads_to_its_backends() -> None:
    known = facts(published("10.0.0.5", "10.0.0.6"))
    assert known[Element("", "published", "tcp . 9200")] == "goto pub_tcp_9200"
    assert known[Chain("", "pub_tcp_9200")] == Balance(("10.0.0.5", "10.0.0.6"), "tcp", 80)


def test_a_published_port_without_backends_is_still_translated_to_refuse() -> None:
    assert facts(published())[Chain("", "pub_tcp_9200")] == Balance((), "tcp", 80)


def test_a_virtual_ip_without_backends_is_an_unknown_address() -> None:
    assert Element("net-a", "vips", "10.0.1.200") in facts(balanced("10.0.1.5"))
    assert Element("net-a", "vips", "10.0.1.200") not in facts(balanced())
    assert Element("net-a", "vips", "10.0.1.200") not in facts(balanced("10.0.1.5", virtual_ip=""))


def test_a_remote_endpoint_is_reached_through_its_node() -> None:
    mac = naming.node_mac("n2")
    known = facts(
        NetworkEndpoint(network_id="a", task_id="t", node_id="n2", address="10.0.1.7"),
        NetworkEndpoint(network_id="in", task_id="t", node_id="n2", address="10.0.0.7"),
        NetworkEndpoint(network_id="a", task_id="own", node_id="n1", address="10.0.1.8"),
        NetworkEndpoint(network_id="b", task_id="t", node_id="n2", address="10.0.2.7"),
        NetworkEndpoint(network_id="a", task_id="lost", node_id="unknown", address="10.0.1.9"),
    )
    assert known[Neighbour("net-a", "vx", "10.0.1.7")] == mac
    assert known[Forwarding("net-a", "vx", mac)] == PEER.underlay
    assert known[Element("net-a", "remotes", "10.0.1.7")] == ""
    assert known[Route("", 254, "10.0.0.7/32")] == Hop("vx-ingress")
    assert known[Neighbour("", "vx-ingress", "10.0.0.7")] == mac
    text = str(known)
    assert all(address not in text for address in ("10.0.1.8", "10.0.2.7", "10.0.1.9"))


def test_without_an_ingress_address_there_is_no_ingress_tunnel() -> None:
    known = facts_of(intent(CLUSTER, replaced(OWN, mesh_address=""), PEER, INGRESS), STATION, {})
    assert not [fact for fact in known if isinstance(fact, Tunnel)]
    assert Element("", "peers", PEER.underlay) in known


def replaced(peer: Peer, **fields: str) -> Peer:
    return Peer(node_id=peer.node_id, underlay=peer.underlay, mesh_address=fields["mesh_address"])


def test_a_sandbox_is_pinned_and_its_host_ports_follow_it() -> None:
    port = PortConfig(published_port=8080, target_port=80, publish_mode=PublishMode.HOST)
    assigned = AssignedTask(task=Task(id="t1", spec=TaskSpec(), endpoint=Endpoint(ports=[port])))
    assert Chain("", "host_tcp_8080") not in facts(assigned)
    known = facts(assigned, sandboxes={"t1": SANDBOX})
    assert known[Chain("", "host_tcp_8080")] == Balance(("10.0.0.9",), "tcp", 80)
    device = naming.port_device("t1")
    assert Element("net-a", "pins", f'"{device}" . 02:42:0a:00:01:05 . 10.0.1.5') in known
    confined = Element("", "confined", f'"{naming.gateway_device("t1")}"')
    assert confined not in known
    assert confined in facts(sandboxes={"t1": replace(SANDBOX, has_exit=False)})
    edits = sandbox_edits(known, intent(CLUSTER, OWN, PEER, INGRESS, A, assigned), STATION, SANDBOX, None)
    assert {fact for fact in known if fact not in edits.remove} == set(facts(assigned))


@pytest.mark.parametrize("n_services", [10, 1000])
def test_a_change_of_one_service_edits_one_chain(n_services: int) -> None:
    many = [published("10.0.0.5", "10.0.0.6", number=10_000 + at, id=f"s{at}") for at in range(n_services)]
    before = intent(CLUSTER, OWN, PEER, INGRESS, A, *many)
    known = facts_of(before, STATION, {})
    delta = Delta(base=1, version=2, put=[published("10.0.0.5", number=10_007, id="s7")])
    edits = revise(known, before, fold(before, delta, "n1"), STATION, {})
    assert edits.put == {Chain("", "pub_tcp_10007"): Balance(("10.0.0.5",), "tcp", 80)}
    assert edits.remove == {}


ADDRESSES = st.sampled_from(["5", "6", "7", "8"])
CHOICES: st.SearchStrategy[Item] = st.one_of(
    st.just(PEER),
    st.builds(
        lambda on: Peer(node_id="n2", underlay="192.168.77.2", mesh_address="10.0.0.3/24", balanced=on), st.booleans()
    ),
    st.just(Peer(node_id="n3", underlay="192.168.77.3", mesh_address="10.0.0.4/24")),
    st.sampled_from([A, B, INGRESS, OWN]),
    st.builds(
        lambda network, end, node: NetworkEndpoint(
            network_id=network,
            task_id=f"t{end}",
            node_id=node,
            address={"a": "10.0.1.", "b": "10.0.2.", "in": "10.0.0."}[network] + end,
        ),
        st.sampled_from(["a", "b", "in"]),
        ADDRESSES,
        st.sampled_from(["n1", "n2", "n3"]),
    ),
    st.builds(lambda ends: published(*(f"10.0.0.{end}" for end in sorted(ends))), st.sets(ADDRESSES)),
    st.builds(lambda ends: balanced(*(f"10.0.1.{end}" for end in sorted(ends))), st.sets(ADDRESSES)),
)
KEYS = st.sampled_from(
    [
        "peer/n2",
        "peer/n3",
        "network/b",
        "network/in",
        "endpoint/a/t5",
        "endpoint/in/t6",
        "published/web",
        "service/a/web",
    ]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.lists(CHOICES, max_size=4), st.lists(KEYS, max_size=2)), max_size=6))
def test_steps_arrive_where_the_whole_derivation_does(steps: list[tuple[list[Item], list[str]]]) -> None:
    sandboxes = {"t1": SANDBOX}
    held = intent(CLUSTER, OWN, INGRESS, A)
    known = facts_of(held, STATION, sandboxes)
    for put, remove in steps:
        after = fold(held, Delta(base=held.version, version=held.version + 1, put=put, remove=remove), "n1")
        edits = revise(known, held, after, STATION, sandboxes)
        for fact in edits.remove:
            del known[fact]
        known |= edits.put
        held = after
        assert known == facts_of(held, STATION, sandboxes)
        assert not revise(known, held, held, STATION, sandboxes)
