"""Both ways to nft do the same, and refuse in nft's own words."""

import os
from collections.abc import Iterator

import pytest

from skep.core.mesh import nft as nft_text
from skep.core.mesh.facts import Balance, Chain, Element, Fact, Skeleton, Value
from skep.edge import nft
from skep.edge.comparison import index_of
from skep.edge.namespaces import entered, scratch_namespace

pytestmark = pytest.mark.kernel

FACTS: dict[Fact, Value] = {
    Skeleton(""): nft_text.node_skeleton(port=4789, mesh="10.0.0.2", ingress_subnets=("10.0.0.0/24",)),
    Chain("", "none"): Balance((), "tcp", 80),
    Chain("", "few"): Balance(("10.0.0.5", "10.0.0.6"), "udp", 53),
    Chain("", "many"): Balance(tuple(f"10.0.0.{number}" for number in range(2, 22)), "tcp", 80),
    Element("", "published", "tcp . 80"): "goto many",
    Element("", "peers", "192.168.77.2"): "",
    Element("", "zones", "02:00:00:00:00:02"): "2",
    Element("", "marks", "02:00:00:00:00:02"): "0x5e000002",
    Element("", "pins", '"skg1" . 02:42:0a:00:00:05 . 10.0.0.5'): "",
    Element("", "confined", '"skg1"'): "",
}


@pytest.fixture
def namespace() -> Iterator[int]:
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes network namespaces")
    descriptor = scratch_namespace()
    yield descriptor
    os.close(descriptor)


@pytest.fixture(params=["library", "program"])
def session(request: pytest.FixtureRequest, namespace: int) -> Iterator[nft.NftSession]:
    made = nft.open_session(namespace, use_library=request.param == "library")
    yield made
    made.close()


def test_every_kind_of_rule_and_element_is_accepted(session: nft.NftSession, namespace: int) -> None:
    assert session.read_table() == []
    session.apply(nft_text.reload("", FACTS))
    index = index_of(session.read_table())
    assert {("chain", "many"), ("map", "published"), ("set", "pins"), ("ct timeout", "after_reset")} <= index.keys()
    session.apply(nft_text.reload("", FACTS))
    other = nft.open_session(namespace, use_library=isinstance(session, nft.ProgramSession))
    assert index_of(other.read_table()) == index
    other.close()
    session.apply(nft_text.removal())
    assert session.read_table() == []


def test_a_refused_transaction_changes_nothing(session: nft.NftSession) -> None:
    session.apply(nft_text.reload("", FACTS))
    before = session.read_table()
    with pytest.raises(nft.NftRefused, match="No such file"):
        session.apply("add chain ip skep another\nadd element ip skep published { tcp . 81 : goto nowhere }\n")
    assert session.read_table() == before


def test_each_transaction_counts_once(session: nft.NftSession, namespace: int) -> None:
    with entered(namespace):
        generations, watch = nft.Generations(), nft.GenerationWatch()
    first = generations.current()
    session.apply(nft_text.reload("", FACTS))
    assert generations.current() == first + 1
    assert watch.innocent() == set()
    session.apply("add table inet theirs\n")
    session.apply(nft_text.removal())
    assert generations.current() == first + 3
    assert watch.innocent() == {first + 2}
    generations.close()
    watch.close()
