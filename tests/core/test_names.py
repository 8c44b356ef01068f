"""What a task is answered when it asks for a name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skep.core.names import Addresses, Answer, Foreign, NoSuchName, Pointer, Zone, ZoneItem
from skep.model.assignment import Backend, BalancedService, NetworkEndpoint, OverlayNetwork
from skep.model.network import IPAMConfig


def a_service(
    name: str, *aliases: str, net: str = "n1", vip: str = "10.0.1.2", backends: tuple[str, ...] = ()
) -> BalancedService:
    return BalancedService(
        network_id=net,
        service_id=f"s-{name}",
        names=[name, *aliases],
        virtual_ip=vip,
        backends=[Backend(task_id=address, node_id="node", address=address) for address in backends],
    )


def an_endpoint(task: str, address: str, *names: str, net: str = "n1") -> NetworkEndpoint:
    return NetworkEndpoint(network_id=net, task_id=task, node_id="node", address=address, names=[task, *names])


def a_network(id: str, name: str, subnet: str) -> OverlayNetwork:
    return OverlayNetwork(network_id=id, name=name, vni=4096, subnets=[IPAMConfig(subnet=subnet)])


def a_zone(*items: ZoneItem) -> Zone:
    zone = Zone()
    zone.change({item.key: item for item in items}, ())
    return zone


ZONE = a_zone(
    a_network("n1", "front", "10.0.1.0/24"),
    a_network("n2", "back", "10.0.2.0/24"),
    a_service("web", "www", backends=("10.0.1.5", "10.0.1.6")),
    a_service("rr", vip="", backends=("10.0.1.5", "10.0.1.6")),
    a_service("idle", vip=""),
    a_service("db", net="n2", vip="10.0.2.2"),
    an_endpoint("web.1.abc", "10.0.1.5", "alpha", "0123456789ab", "same"),
    an_endpoint("web.2.def", "10.0.1.6", "same"),
    an_endpoint("x.1.x", "10.0.1.7", "web"),
)


@pytest.mark.parametrize(
    ("name", "networks", "answer"),
    [
        pytest.param("web", ["n1"], Addresses(("10.0.1.2",)), id="service to its VIP, not the task of that hostname"),
        pytest.param("WeB.", ["n1"], Addresses(("10.0.1.2",)), id="case and final dot do not matter"),
        pytest.param("www", ["n1"], Addresses(("10.0.1.2",)), id="alias"),
        pytest.param("web.front", ["n1"], Addresses(("10.0.1.2",)), id="with the network's name"),
        pytest.param("web.back", ["n1"], Foreign(), id="with another network's name"),
        pytest.param("tasks.web", ["n1"], Addresses(("10.0.1.5", "10.0.1.6")), id="tasks of a service"),
        pytest.param("tasks.www", ["n1"], Addresses(("10.0.1.5", "10.0.1.6")), id="tasks by alias"),
        pytest.param("rr", ["n1"], Addresses(("10.0.1.5", "10.0.1.6")), id="dnsrr"),
        pytest.param("idle", ["n1"], Addresses(()), id="dnsrr with no task is known and empty"),
        pytest.param("web.1.abc", ["n1"], Addresses(("10.0.1.5",)), id="task name"),
        pytest.param("alpha", ["n1"], Addresses(("10.0.1.5",)), id="hostname"),
        pytest.param("0123456789ab", ["n1"], Addresses(("10.0.1.5",)), id="container id"),
        pytest.param("same", ["n1"], Addresses(("10.0.1.5", "10.0.1.6")), id="hostname of several tasks"),
        pytest.param("db", ["n1"], NoSuchName(), id="another network's name is denied, not forwarded"),
        pytest.param("db", ["n1", "n2"], Addresses(("10.0.2.2",)), id="attached to both"),
        pytest.param("db", [], NoSuchName(), id="attached to nothing"),
        pytest.param("tasks.nothing", ["n1"], NoSuchName(), id="tasks.* is ours always"),
        pytest.param("example.org", ["n1"], Foreign(), id="foreign"),
        pytest.param("5.1.0.10.in-addr.arpa", ["n1"], Pointer("web.1.abc.front"), id="pointer to a task"),
        pytest.param("2.1.0.10.in-addr.arpa.", ["n1"], Pointer("web.front"), id="pointer to a VIP"),
        pytest.param("2.2.0.10.in-addr.arpa", ["n1"], NoSuchName(), id="pointer in another network"),
        pytest.param("99.1.0.10.in-addr.arpa", ["n1"], NoSuchName(), id="pointer to a free address of ours"),
        pytest.param("1.2.0.192.in-addr.arpa", ["n1"], Foreign(), id="pointer to the world"),
        pytest.param("1.in-addr.arpa", ["n1"], Foreign(), id="pointer to no address"),
        pytest.param("", ["n1"], Foreign(), id="the root"),
    ],
)
def test_answers(name: str, networks: list[str], answer: Answer) -> None:
    assert ZONE.answer(name, networks) == answer


def test_a_service_that_moves_is_answered_anew_and_one_that_goes_is_foreign() -> None:
    web = a_service("web", "www")
    zone = a_zone(web)
    before = zone.generation
    moved = a_service("web", vip="10.0.1.9")
    zone.change({moved.key: moved}, ())
    assert zone.generation > before
    assert zone.answer("web", ["n1"]) == Addresses(("10.0.1.9",))
    assert zone.answer("www", ["n1"]) == Foreign(), "its old alias is gone"
    zone.change({}, [moved.key])
    assert zone.answer("web", ["n1"]) == Foreign()
    assert zone.answer("2.1.0.10.in-addr.arpa", ["n1"]) == Foreign()


NAMES = st.sampled_from(["a", "b", "c"])
ITEMS = st.builds(
    lambda name, alias, net, vip: a_service(name, alias, net=net, vip=vip),
    NAMES,
    NAMES,
    st.sampled_from(["n1", "n2"]),
    st.sampled_from(["10.0.1.2", "10.0.1.3", ""]),
)


@given(st.lists(st.tuples(ITEMS, st.booleans())))
def test_a_zone_changed_step_by_step_answers_as_one_made_at_once(steps: list[tuple[BalancedService, bool]]) -> None:
    zone, held = Zone(), dict[str, ZoneItem]()
    for item, is_removal in steps:
        if is_removal:
            zone.change({}, [item.key])
            held.pop(item.key, None)
        else:
            zone.change({item.key: item}, ())
            held[item.key] = item
    fresh = a_zone(*held.values())
    for name in ("a", "b", "c", "tasks.a", "2.1.0.10.in-addr.arpa", "3.1.0.10.in-addr.arpa"):
        for networks in (["n1"], ["n2"], ["n1", "n2"], []):
            assert zone.answer(name, networks) == fresh.answer(name, networks)
