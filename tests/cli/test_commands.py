"""Commands against answers as a daemon gives them: what is printed where, and the exit status."""

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result

from skep.cli.main import main
from skep.edge.unix_http import EngineClient, EngineRefused

MANAGER: dict[str, Any] = {
    "ID": "m" * 25,
    "Spec": {"Role": "manager", "Availability": "active"},
    "Version": {"Index": 7},
    "Status": {"State": "ready"},
    "ManagerStatus": {"Leader": True},
    "Description": {
        "Hostname": "alpha",
        "Engine": {"EngineVersion": "0.1.0+podman.4.3.1"},
        "TLSInfo": {"TrustRoot": "x"},
    },
}
WORKER: dict[str, Any] = {
    **MANAGER,
    "ID": "w" * 25,
    "Spec": {"Role": "worker", "Availability": "drain"},
    "ManagerStatus": None,
    "Description": {**MANAGER["Description"], "Hostname": "beta"},
}
NETWORK = {"Id": "n" * 25, "Name": "back", "Driver": "overlay", "Scope": "swarm", "Created": "2026-01-02T03:04:05.6Z"}
TASK = {
    "ID": "t" * 25,
    "Slot": 1,
    "ServiceID": "s" * 25,
    "NodeID": "",
    "CreatedAt": "2026-01-02T03:04:05Z",
    "DesiredState": "running",
    "Spec": {"ContainerSpec": {"Image": "x:latest@sha256:00"}},
    "Status": {
        "State": "pending",
        "Timestamp": "2026-01-02T03:04:05Z",
        "Err": "no suitable node (scheduling constraints)",
    },
}
ANSWERS: dict[str, Any] = {
    "/nodes": [WORKER, MANAGER],
    f"/nodes/{MANAGER['ID']}": MANAGER,
    "/nodes/beta": WORKER,
    "/info": {"Swarm": {"NodeID": MANAGER["ID"]}},
    "/networks": [NETWORK],
    "/services/web": {"ID": "s" * 25, "Spec": {"Name": "web"}},
    f"/services/{'s' * 25}": {"ID": "s" * 25, "Spec": {"Name": "web"}},
    "/tasks": [TASK],
}


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, Any]]:
    """Serve `ANSWERS`; collects what was posted."""
    posted: list[tuple[str, str, Any]] = []

    def answer(self: object, method: str, path: str, body: object = None) -> Any:
        if method == "POST":
            posted.append((method, path, body))
            return None
        name = path.partition("?")[0]
        if name not in ANSWERS:
            raise EngineRefused(404, f"{name} not found")
        return ANSWERS[name]

    monkeypatch.setattr(EngineClient, "json", answer)
    return posted


def skep(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


def test_nodes_are_listed_as_docker_lists_them(sent: object) -> None:
    lines = skep("node", "ls").stdout.splitlines()
    assert (
        lines[0] == "ID                            HOSTNAME   STATUS    AVAILABILITY   MANAGER STATUS   ENGINE VERSION"
    )
    assert lines[1].startswith("m" * 25 + " *   alpha      Ready     Active         Leader ")
    assert lines[2].startswith("w" * 25 + "     beta       Ready     Drain ")
    first = json.loads(skep("node", "ls", "--format", "json").stdout.splitlines()[0])
    assert (first["ID"], first["Self"], first["TLSStatus"]) == ("m" * 25, True, "Ready")


def test_networks_have_dockers_fields(sent: object) -> None:
    fields = json.loads(skep("network", "ls", "--format", "json").stdout)
    assert fields["CreatedAt"] == "2026-01-02 03:04:05.6 +0000 UTC"
    assert set(fields) == {"CreatedAt", "Driver", "ID", "IPv4", "IPv6", "Internal", "Labels", "Name", "Scope"}


def test_a_tasks_reason_is_cut_where_docker_cuts_it(sent: object) -> None:
    assert '"no suitable node (scheduling …"' in skep("service", "ps", "web").stdout
    assert '"no suitable node (scheduling constraints)"' in skep("service", "ps", "--no-trunc", "web").stdout
    assert skep("service", "ps", "-q", "web").stdout.strip() == "t" * 25


def test_roles_are_changed_once(sent: list[tuple[str, str, Any]]) -> None:
    assert skep("node", "promote", "self", "beta").stdout.splitlines() == [
        "Node self is already a manager.",
        "Node beta promoted to a manager in the swarm.",
    ]
    assert sent == [("POST", f"/nodes/{'w' * 25}/update?version=7", {**WORKER["Spec"], "Role": "manager"})]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("node", "inspect", "nope"), "Error response from daemon: /nodes/nope not found"),
        (("network", "ls", "--format", "{{.Nmae}}"), "template parsing error: template: can't evaluate field Nmae"),
        (("network", "ls", "--format", "{{nope}}"), "template parsing error: template: "),
    ],
)
def test_a_refusal_is_one_line(sent: object, words: tuple[str, ...], line: str) -> None:
    done = skep(*words)
    assert done.exit_code == 1
    assert done.stdout == ""
    assert done.stderr.startswith(line)
    assert len(done.stderr.splitlines()) == 1
