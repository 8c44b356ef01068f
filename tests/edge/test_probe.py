"""The probe against this process's own sockets."""

import os
import socket
from pathlib import Path

import pytest

from skep.edge.probe import ProcProbe


@pytest.mark.parametrize(
    ("family", "address", "is_seen"),
    [
        pytest.param(socket.AF_INET, "0.0.0.0", True, id="any"),
        pytest.param(socket.AF_INET6, "::", True, id="any, IPv6"),
        pytest.param(socket.AF_INET, "127.0.0.1", False, id="loopback does not accept from the network"),
        pytest.param(socket.AF_INET, "127.0.0.11", False, id="the name server's address"),
        pytest.param(socket.AF_INET6, "::1", False, id="loopback, IPv6"),
        pytest.param(socket.AF_INET6, "::ffff:127.0.0.1", False, id="loopback, mapped"),
    ],
)
def test_a_listening_port_is_seen(family: socket.AddressFamily, address: str, is_seen: bool) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as server:
        if family == socket.AF_INET6 and "." in address:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        server.bind((address, 0))
        port = server.getsockname()[1]
        assert port not in ProcProbe().listening(os.getpid()), "bound is not listening"
        server.listen()
        assert (port in ProcProbe().listening(os.getpid())) is is_seen
        assert (port in ProcProbe().taken()) is is_seen
    assert port not in ProcProbe().listening(os.getpid())


def test_a_gone_process_listens_on_nothing(tmp_path: Path) -> None:
    assert ProcProbe(tmp_path).listening(4242) == frozenset()
    assert ProcProbe().listening(0) == frozenset()
