"""Commands that change the swarm, its networks and volumes: what is asked of the daemon, and what is said."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.cli.conftest import Daemon

from skep.cli import ipam
from skep.cli.commands import swarm_ca
from skep.cli.main import main
from skep.cli.parse import BadNotation

SWARM: dict[str, Any] = {"Version": {"Index": 9}, "Spec": {"Raft": {"KeepOldSnapshots": 1}}, "JoinTokens": {}}


def skep(daemon: Daemon, *words: str, stdin: str = "") -> Result:
    return CliRunner().invoke(main, ["-H", daemon.host, *words], input=stdin)


def test_an_update_changes_only_what_is_named_and_shows_the_key_once(daemon: Daemon) -> None:
    daemon.answers = {
        ("GET", "/swarm"): SWARM,
        ("GET", "/swarm/unlockkey"): {"UnlockKey": "KEY-1"},
        ("POST", "/swarm/update"): {},
    }
    done = skep(daemon, "swarm", "update", "--autolock", "--cert-expiry", "1h")
    _, _, query, spec = next(asked for asked in daemon.asked if asked[0] == "POST")
    assert query == {"version": "9"}
    assert spec == {
        "Raft": {"KeepOldSnapshots": 1},
        "CAConfig": {"NodeCertExpiry": 3_600_000_000_000},
        "EncryptionConfig": {"AutoLockManagers": True},
    }
    assert "    KEY-1\n" in done.stdout
    daemon.answers["GET", "/swarm"] = {**SWARM, "Spec": {"EncryptionConfig": {"AutoLockManagers": True}}}
    assert skep(daemon, "swarm", "update", "--autolock=false").stdout == "Swarm updated.\n"
    assert daemon.asked[-1][3]["EncryptionConfig"] == {"AutoLockManagers": False}


def a_node(name: str, issuer: str, state: str = "ready") -> dict[str, Any]:
    trust = {"CertIssuerPublicKey": issuer, "CertIssuerSubject": "s", "TrustRoot": "r"}
    return {"Description": {"Hostname": name, "TLSInfo": trust}, "Status": {"State": state}}


def rotated(daemon: Daemon, *words: str) -> Result:
    trust = {"CertIssuerPublicKey": "new", "CertIssuerSubject": "s", "TrustRoot": "ROOT\n"}
    swarm = {"Version": {"Index": 9}, "Spec": {"CAConfig": {"ForceRotate": 4, "NodeCertExpiry": 5}}, "TLSInfo": trust}
    daemon.answers = {
        ("GET", "/swarm"): {**swarm, "RootRotationInProgress": False},
        ("GET", "/nodes"): [a_node("n1", "new"), a_node("n2", "new")],
        ("POST", "/swarm/update"): {},
    }
    return skep(daemon, "swarm", "ca", *words)


def asked_of_root(daemon: Daemon) -> dict[str, Any]:
    _, _, _, spec = next(asked for asked in daemon.asked if asked[0] == "POST")
    return dict(spec["CAConfig"])


def test_the_root_is_shown_and_rotated(daemon: Daemon) -> None:
    assert rotated(daemon).stdout == "ROOT\n"
    assert [asked[0] for asked in daemon.asked] == ["GET"]
    assert rotated(daemon, "--rotate", "--cert-expiry", "1h").stdout == "ROOT\n"
    assert asked_of_root(daemon) == {"ForceRotate": 5, "NodeCertExpiry": 3_600_000_000_000}


def test_a_root_that_is_brought_along_is_sent_with_its_key(daemon: Daemon, tmp_path: Path) -> None:
    for name in ("ca.pem", "key.pem"):
        (tmp_path / name).write_text(name)
    files = ("--ca-cert", str(tmp_path / "ca.pem"), "--ca-key", str(tmp_path / "key.pem"))
    assert rotated(daemon, "--rotate", "--quiet", *files).stdout == ""
    sent = {"ForceRotate": 4, "NodeCertExpiry": 5, "SigningCACert": "ca.pem", "SigningCAKey": "key.pem"}
    assert asked_of_root(daemon) == sent
    assert "give both" in rotated(daemon, "--rotate", *files[:2]).stderr
    assert "give --rotate" in rotated(daemon, *files).stderr


def test_who_is_waited_for_is_named() -> None:
    nodes = [a_node("n1", "new"), a_node("n2", "old", "down"), *(a_node(f"n{n}", "old") for n in range(3, 9))]
    behind = [node for node in nodes if node["Description"]["TLSInfo"]["CertIssuerPublicKey"] == "old"]
    assert swarm_ca.waits_for(behind[:1]) == "; waiting for n2 (down)"
    assert swarm_ca.waits_for(behind).endswith("n6 (ready) and others")
    assert swarm_ca.waits_for([]) == ""


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"EndsAt": None, "UsesLeft": None}, ""),
        ({"EndsAt": "2030-01-01T00:00:00Z", "UsesLeft": None}, "good until 2030-01-01T00:00:00Z;"),
        ({"EndsAt": "2030-01-01T00:00:00Z", "UsesLeft": 1}, "good until 2030-01-01T00:00:00Z and for 1 more node;"),
        ({"EndsAt": None, "UsesLeft": 0}, "good for no more nodes;"),
    ],
)
def test_a_tokens_limits_are_asked_for_and_said(daemon: Daemon, answer: dict[str, Any], words: str) -> None:
    token = {"Token": "T", **answer}
    daemon.answers = {
        ("GET", "/swarm"): {**SWARM, "JoinTokens": {"Worker": "T"}},
        ("GET", "/info"): {"Swarm": {"NodeID": "n1"}},
        ("GET", "/nodes/n1"): {"ManagerStatus": {"Addr": "192.0.2.1:2377"}},
        ("GET", "/skep/join-tokens"): {"Worker": token},
        ("POST", "/skep/join-tokens"): token,
    }
    shown = skep(daemon, "swarm", "join-token", "worker").stdout
    assert "skep swarm join --token T 192.0.2.1:2377" in shown
    assert (words in shown) if words else ("The token is good" not in shown)
    assert skep(daemon, "swarm", "join-token", "--quiet", "--expires", "1h", "--uses", "3", "worker").stdout == "T\n"
    assert daemon.asked[-1][3] == {"Role": "worker", "Expiry": 3_600_000_000_000, "Uses": 3}


def test_a_locked_manager_is_opened_with_a_key_from_standard_input(daemon: Daemon) -> None:
    daemon.answers = {("GET", "/info"): {"Swarm": {"LocalNodeState": "locked"}}, ("POST", "/swarm/unlock"): {}}
    assert skep(daemon, "swarm", "unlock", stdin="KEY-1\n").exit_code == 0
    assert daemon.asked[-1][3] == {"UnlockKey": "KEY-1"}
    daemon.answers["GET", "/info"] = {"Swarm": {"LocalNodeState": "active"}}
    refused = skep(daemon, "swarm", "unlock", stdin="KEY-1\n")
    assert (refused.exit_code, "not locked" in refused.stderr) == (1, True)


def test_an_unlock_key_that_is_not_set_says_how_to_have_one(daemon: Daemon) -> None:
    daemon.answers = {("GET", "/swarm/unlockkey"): {"UnlockKey": ""}}
    assert "swarm update --autolock" in skep(daemon, "swarm", "unlock-key").stderr


@pytest.mark.parametrize("kind", ["volume", "network"])
def test_nothing_is_pruned_without_a_yes(daemon: Daemon, kind: str) -> None:
    path = ("POST", f"/{kind}s/prune")
    daemon.answers = {path: {"VolumesDeleted": ["v1"], "NetworksDeleted": ["v1"], "SpaceReclaimed": 1500}}
    assert skep(daemon, kind, "prune", stdin="n\n").exit_code == 1
    assert daemon.asked == []
    assert "v1\n" in skep(daemon, kind, "prune", stdin="y\n").stdout
    assert "v1\n" in skep(daemon, kind, "prune", "-f", "--filter", "label=a").stdout
    assert json.loads(daemon.asked[-1][2]["filters"]) == {"label": ["a"]}


def test_removal_goes_on_after_a_refusal_and_names_each(daemon: Daemon) -> None:
    daemon.answers = {("DELETE", "/networks/b"): {}}
    done = skep(daemon, "network", "rm", "a", "b", "c")
    assert (done.exit_code, done.stdout) == (1, "b\n")
    assert done.stderr.count("Error response from daemon") == 2
    assert skep(daemon, "network", "rm", "--force", "a", "b").exit_code == 0


@pytest.mark.parametrize(
    ("subnets", "ranges", "gateways", "auxiliary", "expected"),
    [
        pytest.param((), (), (), (), [], id="none"),
        pytest.param(
            ("10.1.0.0/16", "fd00::/64"), (), ("fd00::1", "10.1.0.1"), (),
            [{"Subnet": "10.1.0.0/16", "IPRange": "", "Gateway": "10.1.0.1"},
             {"Subnet": "fd00::/64", "IPRange": "", "Gateway": "fd00::1"}],
            id="in any order",
        ),
        pytest.param(
            ("10.1.0.0/16",), ("10.1.4.0/24",), (), ("db=10.1.0.9",),
            [{"Subnet": "10.1.0.0/16", "IPRange": "10.1.4.0/24", "Gateway": "",
              "AuxiliaryAddresses": {"db": "10.1.0.9"}}],
            id="range and auxiliary address",
        ),
        pytest.param((), (), ("10.1.0.1",), (), [{"Subnet": "", "IPRange": "", "Gateway": "10.1.0.1"}], id="no subnet"),
    ],
)  # fmt: skip
def test_addresses_go_to_the_subnet_they_are_in(
    subnets: tuple[str, ...],
    ranges: tuple[str, ...],
    gateways: tuple[str, ...],
    auxiliary: tuple[str, ...],
    expected: list[dict[str, Any]],
) -> None:
    assert ipam.pools(subnets, ranges, gateways, auxiliary) == expected


@pytest.mark.parametrize(
    ("gateways", "auxiliary", "says"),
    [
        (("10.2.0.1",), (), "no matching subnet"),
        (("10.1.0.1", "10.1.0.2"), (), "has two"),
        (("x",), (), "write an address"),
        ((), ("10.1.0.9",), "name=address"),
    ],
)
def test_an_address_that_fits_nowhere_is_refused(
    gateways: tuple[str, ...], auxiliary: tuple[str, ...], says: str
) -> None:
    with pytest.raises(BadNotation, match=says):
        ipam.pools(("10.1.0.0/16",), (), gateways, auxiliary)
