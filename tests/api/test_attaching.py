"""Docker's words for a plain container's networks, and what podman is asked instead."""

from pathlib import Path
from typing import Any

import pytest

from skep.agent.attached import AttachedContainer
from skep.api import attaching, wire
from skep.model.errors import Forbidden, InvalidSpec

NAMESPACE, FILES = Path("/run/netns/plain-x"), Path("/data/tasks/plain-x")


@pytest.mark.parametrize(
    ("body", "found"),
    [
        pytest.param({}, [], id="nothing"),
        pytest.param({"HostConfig": {"NetworkMode": "default"}}, [], id="default"),
        pytest.param({"HostConfig": {"NetworkMode": "container:abc"}}, [], id="shared"),
        pytest.param({"HostConfig": {"NetworkMode": "backbone"}}, ["backbone"], id="mode"),
        pytest.param(
            {"HostConfig": {"NetworkMode": "a"}, "NetworkingConfig": {"EndpointsConfig": {"a": None, "b": {}}}},
            ["a", "b"],
            id="both",
        ),
        pytest.param({"HostConfig": 3, "NetworkingConfig": []}, [], id="malformed"),
        pytest.param([], [], id="no-object"),
    ],
)
def test_networks_that_are_asked_for(body: Any, found: list[str]) -> None:
    assert list(attaching.asked_networks(body)) == found


def test_an_endpoint_keeps_what_it_asks_for() -> None:
    settings = {"Aliases": ["spy"], "IPAMConfig": {"IPv4Address": "10.60.0.7"}, "DriverOpts": None, "Links": None}
    found = attaching.endpoint_of("id1", "backbone", settings, 2)
    assert (found.network, found.network_id, found.aliases) == ("backbone", "id1", ["spy"])
    assert (found.address, found.number) == ("10.60.0.7", 2)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        pytest.param({"IPAMConfig": {"IPv6Address": "fd00::7"}}, "IPv4 only", id="ipv6"),
        pytest.param({"Aliases": "spy"}, "invalid request body", id="aliases"),
        pytest.param({"IPAMConfig": 7}, "invalid request body", id="addresses"),
    ],
)
def test_an_endpoint_that_cannot_be(settings: Any, words: str) -> None:
    with pytest.raises(InvalidSpec, match=words):
        attaching.endpoint_of("id1", "backbone", settings, 0)


def test_podman_is_asked_for_the_prepared_namespace_and_files() -> None:
    host = {"NetworkMode": "backbone", "Binds": ["/a:/b"], "Dns": ["10.0.0.53"], "ExtraHosts": ["x:10.1.1.1"]}
    body = {"Image": "web", "HostConfig": host, "NetworkingConfig": {"EndpointsConfig": {"backbone": {}}}}
    asked: Any = attaching.for_engine(body, NAMESPACE, FILES)
    assert asked["HostConfig"] == {
        "NetworkMode": f"ns:{NAMESPACE}",
        "Binds": ["/a:/b", f"{FILES}/hosts:/etc/hosts", f"{FILES}/resolv.conf:/etc/resolv.conf"],
    }
    assert asked["NetworkingConfig"] == {}
    kept = attaching.new_container("plain-x", "/probe", body)
    assert (kept.name, kept.hosts, kept.nameservers) == ("probe", ["10.1.1.1 x"], ["10.0.0.53"])


def test_files_that_a_user_mounts_are_left_alone() -> None:
    host = {"Binds": ["/mine:/etc/hosts:ro"], "Mounts": [{"Target": "/etc/resolv.conf", "Source": "/r"}]}
    asked: Any = attaching.for_engine({"HostConfig": host}, NAMESPACE, FILES)
    assert asked["HostConfig"]["Binds"] == ["/mine:/etc/hosts:ro"]


@pytest.mark.parametrize(
    "host",
    [{"PortBindings": {"80/tcp": [{"HostPort": "8080"}]}}, {"PublishAllPorts": True}, {"Dns": 7}, {"ExtraHosts": [1]}],
    ids=["published", "published-all", "dns", "hosts"],
)
def test_containers_that_cannot_be(host: Any) -> None:
    with pytest.raises(InvalidSpec):
        attaching.new_container("plain-x", "probe", {"HostConfig": host})


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("host", "host network"),
        ("none", r"private \(none\) mode"),
        ("container:abc", "sharing network namespace"),
        ("ns:/run/netns/x", "sharing network namespace"),
    ],
)
def test_namespaces_that_take_no_more_networks(mode: str, words: str) -> None:
    with pytest.raises(Forbidden, match=words):
        attaching.borrowing("plain-x", {"HostConfig": {"NetworkMode": mode}})


def test_a_container_of_an_engines_network_keeps_its_interfaces_and_name_servers(tmp_path: Path) -> None:
    resolv = tmp_path / "resolv.conf"
    resolv.write_text("search example.org\nnameserver 10.88.0.1\nnameserver 127.0.0.11\n")
    document = {
        "Id": "c" * 64,
        "Name": "/joiner",
        "HostConfig": {"NetworkMode": "bridge"},
        "Config": {"Hostname": "c" * 12},
        "NetworkSettings": {"Networks": {"bridge": {}, "yard": {}}},
        "ResolvConfPath": str(resolv),
    }
    found = attaching.borrowing("plain-x", document)
    assert found.is_borrowed
    assert (found.name, found.hostname, found.first_number) == ("joiner", "", 2)
    assert (found.nameservers, found.search) == (["10.88.0.1"], ["example.org"])


@pytest.mark.parametrize("raw", [b"[]", b'{"Container": 7}', b'{"EndpointConfig": {"IPAMConfig": []}}'])
def test_a_connect_that_cannot_be_read(raw: bytes) -> None:
    with pytest.raises(InvalidSpec):
        wire.decode(raw, attaching.ConnectBody)


def test_names_on_a_network_are_dockers() -> None:
    endpoint = attaching.endpoint_of("id1", "backbone", {"Aliases": ["spy", "probe"]}, 0)
    container = AttachedContainer(sandbox_id="plain-x", container_id="c" * 64, name="probe", hostname="box")
    assert container.names(endpoint) == ("probe", "spy", "c" * 12, "box")
