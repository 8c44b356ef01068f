"""`skep cluster`: what is shown of the managers, and that nothing is recovered without a yes."""

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from tests.cli.conftest import Daemon

from skep.cli.main import main

STATUS: dict[str, Any] = {
    "Managers": [
        {"ID": "m1", "Hostname": "node1", "Addr": "192.0.2.1:2377", "Role": "leader", "Reachable": True, "Self": True,
         "Lag": 0},
        {"ID": "m2", "Hostname": "", "Addr": "", "Role": "learner", "Reachable": False, "Self": False, "Lag": None},
    ],
    "Quorum": "one manager: …",
    "HasQuorum": True,
    "Risks": ["m2 cannot be reached: start it"],
    "Store": {"Kind": "etcd", "Version": "3.4.23", "Revision": 41, "Size": 2 << 20, "Limit": 4 << 30, "Free": 0,
              "Alarms": [], "Failure": ""},
    "Certificates": {"Manager": "2026-05-01T10:00:00Z", "RenewBy": "2026-04-01T10:00:00Z",
                     "Root": "2046-01-01T00:00:00Z"},
    "LastBackup": None,
}  # fmt: skip
PLAN: dict[str, Any] = {
    "Steps": ["write", "decide alone"],
    "Nodes": [{"ID": "m1", "Hostname": "node1", "Was": "leader", "Becomes": "the only manager"}],
    "Unchanged": 1,
    "Losses": ["the votes"],
    "Danger": "two swarms",
    "Failure": "",
}


def skep(daemon: Daemon, *words: str, stdin: str = "") -> Result:
    return CliRunner().invoke(main, ["-H", daemon.host, "cluster", *words], input=stdin)


def test_the_status_is_a_table_and_what_would_break_it(daemon: Daemon) -> None:
    daemon.answers = {("GET", "/skep/cluster"): STATUS}
    lines = skep(daemon, "status").stdout.splitlines()
    assert lines[:3] == [
        "MANAGER   ADDRESS          ROLE      REACHABLE   BEHIND",
        "node1 *   192.0.2.1:2377   leader    yes         0",
        "m2        -                learner   no          -",
    ]
    assert "Store:         etcd 3.4.23, 2MiB of 4GiB, revision 41" in lines
    assert "Certificates:  this manager's until 2026-05-01, the swarm's root until 2046-01-01" in lines
    assert "Last backup:   none is known" in lines
    assert lines[-2:] == ["What would break it:", "  - m2 cannot be reached: start it"]
    assert json.loads(skep(daemon, "status", "--format", "json").stdout) == STATUS
    daemon.answers["GET", "/skep/cluster"] = {**STATUS, "LastBackup": "2020-01-01T00:00:00Z"}
    assert " years ago" in skep(daemon, "status").stdout


def test_recovering_shows_its_plan_and_asks(daemon: Daemon) -> None:
    daemon.answers = {("GET", "/skep/cluster/recovery"): PLAN, ("POST", "/swarm/init"): "m1"}
    refused = skep(daemon, "recover", stdin="n\n")
    assert refused.exit_code == 1
    assert "1. write" in refused.stdout
    assert "the only manager" in refused.stdout
    assert "WARNING! Two swarms." in refused.stdout
    assert skep(daemon, "recover", "--plan").exit_code == 0
    assert all(method == "GET" for method, *_ in daemon.asked)
    done = skep(daemon, "recover", "--yes")
    assert "This node (m1) is the only manager now" in done.stdout
    assert daemon.asked[-1][3]["ForceNewCluster"] is True


def test_a_state_that_cannot_be_read_is_said(daemon: Daemon) -> None:
    daemon.answers = {("GET", "/skep/cluster/recovery"): {**PLAN, "Nodes": [], "Failure": "etcd has no quorum"}}
    assert "The state cannot be read before: etcd has no quorum" in skep(daemon, "recover", "--plan").stdout


def test_without_a_member_here_there_is_no_store_to_move(daemon: Daemon, tmp_path: Path) -> None:
    refused = skep(daemon, "store", "sqlite", "--data-dir", str(tmp_path))
    assert (refused.exit_code, "no member of a swarm" in refused.stderr) == (1, True)
