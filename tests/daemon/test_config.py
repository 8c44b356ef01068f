"""Addresses on the command line and the membership file."""

from pathlib import Path

import pytest

from skep.daemon import advertise, membership
from skep.daemon.config import split_address
from skep.daemon.membership import Membership, MembershipDamaged
from skep.edge.addresses import InterfaceAddress
from skep.edge.instance import InstanceLock, InstanceRunning
from skep.model.errors import InvalidSpec
from skep.model.node import Role
from skep.model.session import ManagerAddress

MEMBER = Membership(
    cluster_id="c",
    node_id="n",
    role=Role.WORKER,
    underlay="192.0.2.1",
    managers=[ManagerAddress(node_id="m", addr="192.0.2.2:2377")],
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.1", ("192.0.2.1", 2377)),
        ("192.0.2.1:99", ("192.0.2.1", 99)),
        ("eth0", ("eth0", 2377)),
        ("eth0:7", ("eth0", 7)),
        ("[2001:db8::1]:5", ("2001:db8::1", 5)),
        ("2001:db8::1", ("2001:db8::1", 2377)),
        ("[::1]:", ("::1", 2377)),
    ],
)
def test_addresses_are_split_as_docker_splits_them(text: str, expected: tuple[str, int]) -> None:
    assert split_address(text, 2377) == expected


@pytest.mark.parametrize("text", ["host:0", "host:65536", "host:x", "[::1]:x"])
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(InvalidSpec, match="no valid port"):
        split_address(text, 2377)


def known(monkeypatch: pytest.MonkeyPatch, *found: tuple[str, str]) -> None:
    monkeypatch.setattr(advertise.addresses, "list_addresses", lambda: [InterfaceAddress(*pair) for pair in found])


def test_the_only_address_is_advertised(monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, ("eth0", "192.0.2.1"))
    assert advertise.reachable("", 2377) == ("192.0.2.1", 2377)


def test_an_interface_stands_for_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, ("eth0", "192.0.2.1"), ("eth1", "198.51.100.1"))
    assert advertise.reachable("eth1:9", 2377) == ("198.51.100.1", 9)


@pytest.mark.parametrize(
    ("found", "asked", "words"),
    [
        ((), "", "has no address"),
        ((("eth0", "192.0.2.1"), ("eth1", "192.0.2.9")), "", "multiple addresses"),
        ((("eth0", "192.0.2.1"),), "eth7", "neither an address nor an interface"),
        ((("eth0", "192.0.2.1"), ("eth0", "192.0.2.2")), "eth0", "eth0 has more than one IPv4 address"),
    ],
)
def test_no_choice_is_made_for_the_user(
    monkeypatch: pytest.MonkeyPatch, found: tuple[tuple[str, str], ...], asked: str, words: str
) -> None:
    known(monkeypatch, *found)
    with pytest.raises(InvalidSpec, match=words):
        advertise.reachable(asked, 2377)


@pytest.mark.parametrize(
    ("data_path_addr", "advertised", "expected"),
    [
        pytest.param("", "192.0.2.1", "192.0.2.1", id="what is advertised"),
        pytest.param("eth0", "203.0.113.9", "192.0.2.1", id="an interface, behind address translation"),
        pytest.param("", "127.0.0.1", "127.0.0.1", id="a swarm of one machine"),
    ],
)
def test_overlays_use_an_address_of_this_machine(
    monkeypatch: pytest.MonkeyPatch, data_path_addr: str, advertised: str, expected: str
) -> None:
    known(monkeypatch, ("eth0", "192.0.2.1"))
    assert advertise.underlay(data_path_addr, advertised) == expected


@pytest.mark.parametrize("data_path_addr", ["", "203.0.113.8"])
def test_overlays_cannot_use_an_address_of_another_machine(
    monkeypatch: pytest.MonkeyPatch, data_path_addr: str
) -> None:
    known(monkeypatch, ("eth0", "192.0.2.1"))
    with pytest.raises(InvalidSpec, match=r"is not an address of this machine \(192\.0\.2\.1\)"):
        advertise.underlay(data_path_addr, "203.0.113.9")


def test_a_membership_is_kept_and_moved_as_a_whole(tmp_path: Path) -> None:
    staging, place = tmp_path / "swarm.new", tmp_path / "swarm"
    staging.mkdir()
    assert membership.load(place) is None
    membership.save(staging, MEMBER)
    membership.move(staging, place)
    assert membership.load(place) == MEMBER
    assert not staging.exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"cluster_id": 1}', b"\xff\xfe", b"[" * 5000])
def test_a_damaged_membership_is_named_with_what_to_do(tmp_path: Path, content: bytes) -> None:
    membership.membership_file(tmp_path).write_bytes(content)
    with pytest.raises(MembershipDamaged, match="restore it from a backup"):
        membership.load(tmp_path)


def test_a_second_daemon_on_a_data_directory_is_refused(tmp_path: Path) -> None:
    with InstanceLock(tmp_path), pytest.raises(InstanceRunning, match="another --data-dir"), InstanceLock(tmp_path):
        pass
    with InstanceLock(tmp_path):
        pass
