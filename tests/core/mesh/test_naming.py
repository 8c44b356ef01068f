"""Names and numbers in the kernel: what they must fit into and never do."""

import re

from hypothesis import given
from hypothesis import strategies as st

from skep.core.mesh import naming

IDS = st.text(alphabet="0123456789abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=25)


@given(IDS)
def test_devices_fit_the_kernels_names_and_are_known_again(task_id: str) -> None:
    for space, device in (("", naming.gateway_device(task_id)), ("net-a", naming.port_device(task_id))):
        assert len(device) <= 15
        assert naming.is_ours(space, device)


@given(IDS)
def test_a_nodes_hardware_address_is_local_unicast(node_id: str) -> None:
    mac = naming.node_mac(node_id)
    assert re.fullmatch(r"02(:[0-9a-f]{2}){5}", mac)
    assert mac == naming.node_mac(node_id)


def test_hardware_addresses_of_tasks_are_dockers() -> None:
    assert naming.address_mac("10.0.1.5") == "02:42:0a:00:01:05"


def test_peers_are_numbered_by_their_place_in_the_subnet() -> None:
    assert naming.peer_number("10.0.0.3/24") == 3
    assert naming.peer_number("10.1.2.3/16") == 0x0203
    assert naming.peer_mark(3) == 0x5E000003
    assert naming.peer_mark(0xFFFF) & naming.MARK_MASK == naming.MARK_TAG


def test_others_devices_are_not_ours() -> None:
    assert not [name for name in ("eth0", "docker0", "vx", "skt0", "vxlan1", "lo", "sk0") if naming.is_ours("", name)]


def test_the_local_pool_does_not_hold_the_metadata_service() -> None:
    assert not naming.is_local("169.254.169.254")
    assert not naming.is_local(naming.GATEWAY_NEXT_HOP)
    assert not naming.is_local("")
    assert naming.is_local("169.254.64.1")
