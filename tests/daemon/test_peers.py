"""Under which address a manager's etcd member is known, and whose members are let in."""

import msgspec
import pytest
from tests.factories import a_node, a_state
from tests.identities import CLUSTER_ID, Authorities

from skep.daemon.manager import peer_url_of
from skep.daemon.membership import EtcdPlace, Membership
from skep.daemon.peers import manager_hosts
from skep.model.node import ManagerStatus, Node, NodeSpec, Role


def a_member(control_addr: str, etcd: EtcdPlace | None = None) -> Membership:
    return Membership(
        cluster_id=CLUSTER_ID,
        node_id="m0",
        role=Role.MANAGER,
        underlay="192.0.2.1",
        control_addr=control_addr,
        etcd=etcd,
    )


@pytest.mark.parametrize(
    ("control_addr", "certified", "url"),
    [
        pytest.param("192.0.2.1:2377", "192.0.2.1", "https://192.0.2.1:2380", id="the same"),
        pytest.param("192.0.2.1:2377", "198.51.100.7", "https://198.51.100.7:2380", id="seen under another"),
        pytest.param("192.0.2.1:2377", "", "https://192.0.2.1:2380", id="of no address"),
        pytest.param("[2001:db8::1]:2377", "2001:db8::1", "https://[2001:db8::1]:2380", id="IPv6"),
    ],
)
def test_a_member_is_known_by_the_address_in_its_certificate(control_addr: str, certified: str, url: str) -> None:
    held = Authorities().make("m0", Role.MANAGER, address=certified)
    assert peer_url_of(a_member(control_addr), held) == url


def test_a_member_that_has_begun_stays_where_it_is() -> None:
    held = Authorities().make("m0", Role.MANAGER, address="198.51.100.7")
    place = EtcdPlace(peer_url="https://192.0.2.9:2380", initial={})
    assert peer_url_of(a_member("192.0.2.1:2377", place), held) == place.peer_url


def manager(id: str, *, role: Role = Role.MANAGER, control: str = "", underlay: str = "") -> Node:
    status = ManagerStatus(addr=control) if control else None
    return msgspec.structs.replace(a_node(id, addr=underlay), spec=NodeSpec(role=role), manager_status=status)


def test_whoever_is_a_manager_or_is_to_be_one_is_let_in() -> None:
    view = a_state(
        manager("m0", control="192.0.2.1:2377", underlay="198.51.100.1"),
        manager("joining", underlay="192.0.2.2"),
        manager("demoted", role=Role.WORKER, control="192.0.2.3:2377"),
        manager("worker", role=Role.WORKER, underlay="192.0.2.4"),
        manager("named", control="manager.example:2377"),
    )
    assert manager_hosts(view) == {"192.0.2.1", "198.51.100.1", "192.0.2.2", "192.0.2.3"}
