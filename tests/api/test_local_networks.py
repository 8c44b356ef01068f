"""What podman does not keep of networks and endpoints, kept beside it."""

from pathlib import Path
from typing import Any

import pytest

from skep.api import local_networks
from skep.api.local_networks import LABEL, EndpointFile
from skep.model.errors import InvalidSpec

POOL = {"Subnet": "172.28.0.0/16", "IPRange": "172.28.5.0/24", "AuxiliaryAddresses": {"a": "172.28.1.5"}}


@pytest.mark.parametrize(
    ("body", "is_kept"),
    [
        pytest.param({"Name": "plain"}, False, id="plain"),
        pytest.param({"Name": "plain", "IPAM": {"Config": [{"Subnet": "10.1.0.0/24"}]}}, False, id="subnet"),
        pytest.param({"Name": "with space"}, True, id="space"),
        pytest.param({"Name": "ranged", "IPAM": {"Config": [POOL]}}, True, id="range"),
        pytest.param({"Name": "nulls", "IPAM": None, "Labels": None}, False, id="nulls"),
    ],
)
def test_only_what_podman_would_lose_is_put_into_a_label(body: dict[str, Any], is_kept: bool) -> None:
    sent = local_networks.for_engine(body)
    assert (LABEL in (sent.get("Labels") or {})) is is_kept
    assert local_networks.PODMAN_NAME.fullmatch(sent["Name"])
    assert is_kept or sent == body


def test_a_network_is_shown_as_it_was_asked_for() -> None:
    body = {"Name": "my net", "Labels": {"team": "red"}, "IPAM": {"Driver": "default", "Config": [POOL]}}
    sent = local_networks.for_engine(body)
    from_podman = {
        "Name": sent["Name"],
        "Labels": sent["Labels"],
        "IPAM": {"Driver": "default", "Options": {"driver": "host-local"}, "Config": [{"Subnet": "172.28.0.0/16"}]},
    }
    shown = local_networks.shown(from_podman)
    assert (shown["Name"], shown["Labels"]) == ("my net", {"team": "red"})
    assert shown["IPAM"] == {"Driver": "default", "Options": None, "Config": [POOL]}


def test_a_label_of_somebody_else_is_left_out_of_account() -> None:
    assert local_networks.shown({"Name": "n", "Labels": {LABEL: "not ours"}})["Name"] == "n"


@pytest.mark.parametrize("name", ["", " ", "a/b"])
def test_impossible_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidSpec, match="is not a valid network name"):
        local_networks.for_engine({"Name": name})


def test_endpoints_are_kept_while_their_container_is_there(tmp_path: Path) -> None:
    file = EndpointFile(tmp_path / "endpoints.json")
    assert file.load() == {}
    file.note("c1", {"net": {"Links": ["up:bar"], "Aliases": ["x"]}, "bare": {"Aliases": ["y"]}}, ["c1"])
    assert file.load() == {"c1": {"net": {"Links": ["up:bar"]}}}
    assert local_networks.link_names(file.load(), "net", "up") == ["bar"]
    assert local_networks.link_names(file.load(), "other", "up") == []
    file.note("c2", {"net": {"DriverOpts": {"a": "b"}}}, ["c1", "c2"])
    file.note("c2", {"net": None}, ["c2"])
    assert file.load() == {}, "c1 is gone, and c2 was disconnected"
    (tmp_path / "endpoints.json").write_bytes(b"\xff")
    assert file.load() == {}


def test_a_container_shows_what_its_endpoints_were_asked_to_be() -> None:
    container = {
        "Id": "c1",
        "NetworkSettings": {"Networks": {"skep-1": {"IPAddress": "10.0.0.2", "MacAddress": "02:1"}}},
    }
    kept = {"my net": {"IPAMConfig": {"IPv4Address": "10.0.0.2"}, "MacAddress": "02:2"}}
    shown: Any = local_networks.merged(container, kept, {"skep-1": "my net"})
    assert shown["NetworkSettings"]["Networks"] == {
        "my net": {"IPAddress": "10.0.0.2", "MacAddress": "02:1", "IPAMConfig": {"IPv4Address": "10.0.0.2"}}
    }
