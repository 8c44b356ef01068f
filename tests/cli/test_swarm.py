"""Commands that change the swarm, its networks and volumes: what is asked of the daemon, and what is said."""

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.cli.conftest import Daemon

from skep.cli import ipam
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
