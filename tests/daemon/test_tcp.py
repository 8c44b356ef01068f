"""The TCP API's address, and what it has to show before the node is in a swarm."""

from types import SimpleNamespace

import pytest
from tests.identities import CLUSTER_ID, Authorities

from skep.daemon import tcp
from skep.daemon.config import api_address
from skep.edge import tls
from skep.model.errors import InvalidSpec


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tcp://0.0.0.0:2376", ("0.0.0.0", 2376)),
        ("tcp://127.0.0.1", ("127.0.0.1", 2376)),
        ("tcp://[::1]:5000/", ("::1", 5000)),
    ],
)
def test_addresses(text: str, expected: tuple[str, int]) -> None:
    assert api_address(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0:2376",
        "http://0.0.0.0:2376",
        "unix:///x",
        "tcp://",
        "tcp://name:1",
        "tcp://0.0.0.0:0",
        "tcp://1.2.3.4:x",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(InvalidSpec):
        api_address(text)


def test_the_certificate_is_the_one_in_force() -> None:
    node = SimpleNamespace(
        credentials=None, cluster_id="", is_stranger=lambda _: True, is_demoted=lambda node_id: node_id == "n3"
    )
    context, trust = tcp.context(node), tcp.trust(node)  # type: ignore[arg-type]  # Four attributes of a node.
    with pytest.raises(tls.Refused, match="in no swarm"):
        context()
    node.credentials = Authorities().make("n1")
    node.cluster_id = CLUSTER_ID
    first = context()
    assert context() is first
    assert (trust().cluster_id, trust().admits_operators, trust().is_revoked("n2")) == (CLUSTER_ID, True, True)
    assert (trust().is_demoted("n2"), trust().is_demoted("n3")) == (False, True)
    node.credentials = Authorities().make("n1")
    assert context() is not first
