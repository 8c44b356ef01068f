"""Rules and transactions as text; the kernel's own opinion of them is asked in tests/kernel."""

import pytest

from skep.core.mesh import nft
from skep.core.mesh.facts import Balance, Chain, Edits, Element, Fact, Skeleton, Value

RULES = {
    "one": (Balance(("10.0.0.5",), "tcp", 80), ("meta l4proto tcp dnat to 10.0.0.5:80",)),
    "three in turn": (
        Balance(("10.0.0.5", "10.0.0.6", "10.0.0.7"), "udp", 53),
        (
            "meta l4proto udp numgen inc mod 3 0 dnat to 10.0.0.5:53",
            "meta l4proto udp numgen inc mod 2 0 dnat to 10.0.0.6:53",
            "meta l4proto udp dnat to 10.0.0.7:53",
        ),
    ),
    "address only": (
        Balance(("10.0.1.5", "10.0.1.6")),
        ("numgen inc mod 2 0 dnat to 10.0.1.5", "dnat to 10.0.1.6"),
    ),
    "unknown policy": (Balance(("10.0.1.5",), policy="least-loaded"), ("dnat to 10.0.1.5",)),
    "none": (
        Balance((), "tcp", 80),
        (
            'oifname "lo" meta l4proto != tcp return',
            "meta l4proto tcp reject with tcp reset",
            "reject with icmp port-unreachable",
        ),
    ),
}


@pytest.mark.parametrize(("balance", "rules"), RULES.values(), ids=RULES.keys())
def test_rules_of_a_chain(balance: Balance, rules: tuple[str, ...]) -> None:
    assert nft.chain_rules(balance) == rules


def test_many_backends_take_one_rule() -> None:
    addresses = tuple(f"10.0.0.{number}" for number in range(2, 32))
    [rule] = nft.chain_rules(Balance(addresses, "tcp", 80))
    assert rule.startswith("meta l4proto tcp dnat to numgen inc mod 30 map { 0 : 10.0.0.2, 1 : 10.0.0.3,")
    assert rule.endswith("29 : 10.0.0.31 }:80")


KNOWN: dict[Fact, Value] = {
    Skeleton(""): "  set peers { type ipv4_addr; }\n",
    Skeleton("net-a"): "  map vips { type ipv4_addr : verdict; }\n",
    Chain("", "pub_tcp_80"): Balance(("10.0.0.5",), "tcp", 80),
    Element("", "published", "tcp . 80"): "goto pub_tcp_80",
    Element("", "peers", "192.168.77.2"): "",
}


def test_a_reload_replaces_one_spaces_table() -> None:
    text = nft.reload("", KNOWN)
    assert text.startswith("table ip skep\ndelete table ip skep\ntable ip skep {\n  chain pub_tcp_80 {\n")
    assert text.endswith(
        "add element ip skep published { tcp . 80 : goto pub_tcp_80 }\nadd element ip skep peers { 192.168.77.2 }\n"
    )
    assert "vips" not in text


def test_a_changed_element_leaves_before_it_comes() -> None:
    element = Element("", "zones", "02:00:00:00:00:02")
    edits = Edits({element: "7"}, {})
    assert nft.amend("", edits, {element: "3"}) == (
        "delete element ip skep zones { 02:00:00:00:00:02 : 3 }\nadd element ip skep zones { 02:00:00:00:00:02 : 7 }\n"
    )


def test_a_service_goes_element_first() -> None:
    gone: dict[Fact, Value] = {fact: KNOWN[fact] for fact in KNOWN if isinstance(fact, Chain) or "tcp" in str(fact)}
    assert nft.amend("", Edits({}, gone), KNOWN) == (
        "delete element ip skep published { tcp . 80 : goto pub_tcp_80 }\n"
        "flush chain ip skep pub_tcp_80\ndelete chain ip skep pub_tcp_80\n"
    )


def test_other_spaces_edits_are_not_this_ones() -> None:
    assert nft.amend("net-a", Edits(dict(KNOWN), {}), {}) == ""
