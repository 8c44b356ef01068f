"""Sessions of the unmodified docker CLI: what Swarm's commands say and take, filter by filter, on two nodes.

Together with the other sessions they cover every command: `docs/reference/docker-cli.md` names the test of each. What
differs between releases of the CLI (20.10 to 28) is left open here: the case of "No such", and flags that came later.
"""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e import service_options
from tests.e2e.conftest import Lab, make_lab, wait_until
from tests.roots import a_root

from skep.model.identity import JoinToken

pytestmark = [pytest.mark.e2e, pytest.mark.kernel]

ID = "[0-9a-z]{25}"
CREATE = ("service", "create", "--detach", "--no-resolve-image", "--stop-grace-period", "0s", "--restart-delay", "0s",
          "--update-monitor", "100ms", "--rollback-monitor", "100ms")  # fmt: skip
SLEEP = ("busybox", "sleep", "600")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A manager and a worker, with two services that run."""
    for lab in make_lab(tmp_path_factory.mktemp("commands") / "l", node_count=2):
        lab.docker(*CREATE, "--name", "app", "--replicas", "2", "--label", "tier=web", *SLEEP)
        lab.docker(*CREATE, "--name", "agent", "--mode", "global", "--limit-memory", "64m", *SLEEP)
        wait_replicas(lab, "2/2", "2/2")
        yield lab


def wait_replicas(lab: Lab, *wanted: str) -> None:
    wait_until(lambda: lines(lab, "service", "ls", "--format", "{{.Replicas}}") == list(wanted), "they do not run")


def lines(lab: Lab, *words: str) -> list[str]:
    return lab.docker(*words).splitlines()


def refused(lab: Lab, *words: str, stdin: bytes | None = None) -> str:
    """What the CLI said of a command that failed."""
    done = lab.docker_process(*words, stdin=stdin)
    assert done.returncode == 1, f"docker {' '.join(words)} gave {done.returncode}: {done.stdout}{done.stderr}"
    return done.stderr.removeprefix("Error response from daemon: ").strip()


def says_unknown(text: str, kind: str, name: str) -> bool:
    """Older releases of the CLI say it in their own words, newer ones pass the daemon's on."""
    return re.search(rf"no such {kind}: {name}|{kind} {name} not found", text.lower()) is not None


def knows(lab: Lab, option: str, *command: str) -> bool:
    """Whether this release of the CLI has an option, or a command."""
    return re.search(rf"^\s+(-\w, )?{option}\b", lab.docker(*command, "--help"), re.MULTILINE) is not None


# --- the swarm -------------------------------------------------------------------------------


def test_settings_of_the_swarm_are_updated_and_shown(lab: Lab) -> None:
    said = lab.docker(
        "swarm", "update", "--task-history-limit", "3", "--cert-expiry", "720h", "--dispatcher-heartbeat", "1s",
        "--snapshot-interval", "20000", "--max-snapshots", "1",
    )  # fmt: skip
    assert said == "Swarm updated.\n"
    shown = lab.docker("info")
    for line in (
        "Task History Retention Limit: 3",
        "Snapshot Interval: 20000",
        "Number of Old Snapshots to Retain: 1",
        "Heartbeat Period: 1 second",
        "Expiry Duration: 4 weeks",
        "Autolock Managers: false",
    ):
        assert re.search(rf"^\s+{line}$", shown, re.MULTILINE), line
    too_short = refused(lab, "swarm", "update", "--cert-expiry", "1m")
    assert "minimum certificate expiry time is: 1h0m0s" in too_short
    foreign = refused(lab, "swarm", "update", "--external-ca", "protocol=cfssl,url=https://ca.invalid")
    assert foreign == "external certificate authorities are not possible; the swarm uses its own"
    assert lab.docker("swarm", "update", "--cert-expiry", "2160h", "--task-history-limit", "5") == "Swarm updated.\n"


def test_join_tokens_are_shown_and_rotated_one_by_one(lab: Lab) -> None:
    def token(*words: str) -> str:
        return lab.docker("swarm", "join-token", "-q", *words).strip()

    worker, manager = token("worker"), token("manager")
    said = lab.docker("swarm", "join-token", "--rotate", "worker")
    assert said.startswith(
        "Successfully rotated worker join token.\n\nTo add a worker to this swarm, run the following"
    )
    assert f"    docker swarm join --token {token('worker')} 192.168.77.1:2377\n" in said
    assert token("worker") != worker
    assert token("manager") == manager
    assert token("--rotate", "manager") != manager
    assert refused(lab, "swarm", "join-token", "owner").startswith("unknown role owner")


def test_managers_are_locked_and_the_key_is_rotated(lab: Lab) -> None:
    assert refused(lab, "swarm", "unlock-key") == "no unlock key is set"
    key = re.search(r"SWMKEY-1-\S+", lab.docker("swarm", "update", "--autolock=true"))
    assert key
    assert lab.docker("swarm", "unlock-key", "-q").strip() == key[0]
    rotated = lab.docker("swarm", "unlock-key", "--rotate")
    assert rotated.startswith("Successfully rotated manager unlock key.\n")
    assert key[0] not in rotated
    assert refused(lab, "swarm", "unlock").removeprefix("Error: ") == "swarm is not locked"
    lab.docker("swarm", "update", "--autolock=false")
    assert refused(lab, "swarm", "unlock-key") == "no unlock key is set"


def test_the_authority_is_shown_and_rotated(lab: Lab, tmp_path: Path) -> None:
    root = lab.docker("swarm", "ca")
    assert root.startswith("-----BEGIN CERTIFICATE-----\n")
    check_trust(lab, root)
    token = lab.docker("swarm", "join-token", "-q", "worker").strip()
    said = lab.docker("swarm", "ca", "--rotate")
    second = lab.docker("swarm", "ca")
    assert second != root
    assert said.endswith(second)
    check_trust(lab, second)
    renewed = lab.docker("swarm", "join-token", "-q", "worker").strip()
    JoinToken.parse(renewed).check_root(lab.api("GET", "/swarm")["TLSInfo"]["TrustRoot"])
    assert renewed != token

    certificate, key = a_root()
    for name, text in (("ca.pem", certificate), ("key.pem", key), ("other.pem", a_root()[1])):
        (tmp_path / name).write_text(text)
    own = ("swarm", "ca", "--rotate", "--quiet", "--ca-cert", str(tmp_path / "ca.pem"))
    assert "do not belong together" in refused(lab, *own, "--ca-key", str(tmp_path / "other.pem"))
    lab.docker(*own, "--ca-key", str(tmp_path / "key.pem"), "--cert-expiry", "48h")
    check_trust(lab, certificate)
    assert lab.api("GET", "/swarm")["Spec"]["CAConfig"]["NodeCertExpiry"] == 48 * 3600 * 10**9
    external = f"protocol=cfssl,url=https://127.0.0.1:8888,cacert={tmp_path / 'ca.pem'}"
    assert "external certificate authorities are not possible" in refused(lab, *own, "--external-ca", external)

    lab.docker("swarm", "ca", "--rotate", "--detach")
    wait_until(lambda: not lab.api("GET", "/swarm")["RootRotationInProgress"], "the rotation does not end")
    assert lab.docker("swarm", "ca") not in (root, second, certificate)
    wait_until(lambda: lab.docker("node", "ls").count(" Ready ") == 2, "the nodes did not follow")


def check_trust(lab: Lab, root: str) -> None:
    """The swarm and each of its nodes trust a root, and the certificates are of it."""
    swarm = lab.api("GET", "/swarm")
    assert swarm["TLSInfo"]["TrustRoot"].strip() == root.strip()
    assert swarm["RootRotationInProgress"] is False
    assert lab.api("GET", "/info")["Swarm"]["Cluster"]["TLSInfo"] == swarm["TLSInfo"]
    assert [node["Description"]["TLSInfo"] for node in lab.api("GET", "/nodes")] == [swarm["TLSInfo"]] * 2


def test_what_a_node_says_of_itself(lab: Lab) -> None:
    text = lab.docker("info")
    for line in (
        "Swarm: active",
        "Is Manager: true",
        "Managers: 1",
        "Nodes: 2",
        "Default Address Pool: 10.0.0.0/8",
        "Data Path Port: 4789",
        "Node Address: 192.168.77.1",
        "Logging Driver: json-file",
        "Name: node1",
    ):
        assert re.search(rf"^\s+{line}\s*$", text, re.MULTILINE), line
    worker = json.loads(lab.docker("info", "--format", "{{json .Swarm}}", node="node2"))
    assert (worker["LocalNodeState"], worker["ControlAvailable"]) == ("active", False)
    assert worker["RemoteManagers"][0]["Addr"] == "192.168.77.1:2377"
    server = json.loads(lab.docker("version", "--format", "{{json .Server}}", node="node2"))
    assert (server["Platform"]["Name"], server["ApiVersion"], server["MinAPIVersion"]) == ("Skep", "1.51", "1.24")
    assert "process" in lab.docker("version")


# --- nodes -----------------------------------------------------------------------------------


def test_nodes_are_labelled_and_filtered(lab: Lab) -> None:
    def found(*filters: str) -> list[str]:
        words = [word for text in filters for word in ("--filter", text)]
        return lines(lab, "node", "ls", "--format", "{{.Hostname}}", *words)

    lab.docker("node", "update", "--label-add", "zone=b", "--label-add", "spare", "node2")
    id = lab.docker("node", "inspect", "--format", "{{.ID}}", "node2").strip()
    assert found("role=worker") == found("node.label=zone=b", "node.label=spare") == found(f"id={id[:8]}") == ["node2"]
    assert found("name=node") == found("membership=accepted") == ["node1", "node2"]
    assert found("name=node1", "role=manager") == ["node1"]
    assert found("node.label=zone=a") == found("label=zone=b") == []
    assert refused(lab, "node", "ls", "--filter", "colour=red") == "invalid filter 'colour'"
    assert refused(lab, "node", "ls", "--filter", "role=king") == "Invalid role filter: 'king'"
    pretty = lab.docker("node", "inspect", "--pretty", "node2")
    for pattern in (r"Labels:\n - spare\n - zone=b\n", r"Availability:\s+Active", r" CPUs:\s+\d", r"TLS Info:"):
        assert re.search(pattern, pretty), pattern
    assert "Manager Status" not in pretty
    assert re.search(r"Manager Status:\n Address:\s+192\.168\.77\.1:2377\n Raft Status:\s+Reachable\n Leader:\s+Yes",
                     lab.docker("node", "inspect", "--pretty", "self"))  # fmt: skip
    assert lab.docker("node", "update", "--label-rm", "zone", "--label-rm", "spare", "node2") == "node2\n"
    assert says_unknown(refused(lab, "node", "inspect", "nope"), "node", "nope")


def test_roles_and_removals_that_cannot_be(lab: Lab) -> None:
    """The only manager stays one, and a node that is up, or a manager, is not removed."""
    assert refused(lab, "node", "demote", "node1").endswith("attempting to demote the last manager of the swarm")
    assert re.fullmatch(rf"Node ({ID}|node2) is already a worker\.\n", lab.docker("node", "demote", "node2"))
    assert refused(lab, "node", "rm", "node2").endswith("is not down and can't be removed")
    assert refused(lab, "node", "rm", "--force", "node1").endswith("It must be demoted to worker before removal")
    assert [node["Spec"]["Role"] for node in lab.api("GET", "/nodes")] == ["manager", "worker"]


# --- services and tasks ----------------------------------------------------------------------


def test_services_are_filtered(lab: Lab) -> None:
    def found(text: str) -> list[str]:
        return lines(lab, "service", "ls", "--format", "{{.Name}}", "--filter", text)

    id = lab.docker("service", "inspect", "--format", "{{.ID}}", "app").strip()
    assert found(f"id={id[:10]}") == found("name=ap") == found("label=tier") == found("label=tier=web") == ["app"]
    assert found("mode=global") == ["agent"]
    assert sorted(found("runtime=container")) == ["agent", "app"]
    assert found("name=pp") == found("label=tier=db") == found("runtime=plugin") == []
    assert lines(lab, "service", "ls", "-q", "--filter", "mode=replicated") == [id[:12]]
    assert refused(lab, "service", "ls", "--filter", "mode=odd") == "invalid filter 'mode=odd'"
    assert refused(lab, "service", "ls", "--filter", "colour=red") == "invalid filter 'colour'"


def test_tasks_are_filtered(lab: Lab) -> None:
    def found(*filters: str, of: tuple[str, ...] = ("app",)) -> list[str]:
        words = [word for text in filters for word in ("--filter", text)]
        return sorted(lines(lab, "service", "ps", "--format", "{{.Name}} {{.Node}}", *words, *of))

    both = found()
    assert {line.split()[0] for line in both} == {"app.1", "app.2"}
    assert found("name=app.1", "name=app.2") == found("desired-state=running") == found("label=tier=web") == both
    assert found("node=self") == [line for line in both if line.endswith("node1")]
    assert found("node=node2", "node=node1") == found("_up-to-date=true") == both
    assert found("desired-state=shutdown") == found("id=0000000") == []
    assert len(found(of=("app", "agent"))) == 4
    id = lines(lab, "service", "ps", "-q", "--filter", "name=app.2", "app")[0]
    assert found(f"id={id[:10]}") == [line for line in both if line.startswith("app.2")]
    assert "invalid filter 'colour'" in refused(lab, "service", "ps", "--filter", "colour=red", "app")
    unresolved = lab.docker("service", "ps", "--no-resolve", "--no-trunc", "--format", "{{.Name}} {{.Node}}", "app")
    assert re.fullmatch(rf"({ID}\.\d {ID}\n)+", unresolved)
    partly = lab.docker_process("service", "ps", "app", "nope")
    assert (partly.returncode, partly.stdout.count("Running")) == (1, 4)
    assert says_unknown(partly.stderr, "service", "nope")
    on_node = lines(lab, "node", "ps", "--format", "{{.Name}}", "--filter", "name=app", "node1")
    assert on_node == [line.split()[0] for line in both if line.endswith("node1")]


def test_only_tasks_of_the_current_spec_are_up_to_date(lab: Lab) -> None:
    lab.docker(*CREATE, "--name", "changing", "--env", "COLOUR=amber", *SLEEP)

    def ids(*words: str) -> set[str]:
        return set(lines(lab, "service", "ps", "-q", *words, "changing"))

    def status() -> Any:
        return lab.api("GET", "/services/changing").get("UpdateStatus", {}).get("State")

    wait_until(lambda: "Running" in lab.docker("service", "ps", "changing"), "it does not run")
    before = ids()
    lab.docker("service", "update", "--detach", "--env-add", "COLOUR=blue", "changing")
    wait_until(lambda: status() == "completed", "it was not updated")
    current = ids("--filter", "_up-to-date=true")
    assert len(current) == 1
    assert current == ids("--filter", "desired-state=running")
    assert before == ids() - current == ids("--filter", "_up-to-date=false") - current
    assert lab.docker("service", "rollback", "--detach", "changing") == "changing\n"
    wait_until(lambda: status() == "rollback_completed", "it was not rolled back")
    assert lab.docker("service", "rm", "changing") == "changing\n"
    for command in ("inspect", "ps"):
        assert says_unknown(refused(lab, "service", command, "changing"), "service", "changing")


def test_services_are_shown_for_people(lab: Lab) -> None:
    pretty = lab.docker("service", "inspect", "--pretty", "agent")
    for pattern in (
        r"Name:\s+agent",
        r"Service Mode:\s+Global",
        r"UpdateConfig:\n Parallelism:\s+1\n On failure:\s+pause\n Monitoring Period: 100ms",
        r"Update order:\s+stop-first",
        r"RollbackConfig:",
        r"Image:\s+busybox",
        r"Args:\s+sleep 600",
        r"Limits:\n  ?Memory:\s+64MiB",
        r"Endpoint Mode:\s+vip",
    ):
        assert re.search(pattern, pretty), f"{pattern} is not in\n{pretty}"


@pytest.fixture
def belongings(lab: Lab) -> Iterator[None]:
    """Two networks, secrets and configs for a service to have."""
    for name in ("one", "two"):
        lab.docker("network", "create", "-d", "overlay", f"net-{name}")
        for kind in ("secret", "config"):
            assert lab.docker_process(kind, "create", f"{kind}-{name}", "-", stdin=b"x").returncode == 0
    yield
    for kind in ("secret", "config"):
        lab.docker(kind, "rm", f"{kind}-one", f"{kind}-two")
    lab.docker("network", "rm", "net-one", "net-two")


@pytest.mark.usefixtures("belongings")
def test_every_option_of_a_service_is_kept_and_changed(lab: Lab) -> None:
    lab.docker(*CREATE, "--name", "full", *service_options.CREATE)
    try:
        assert service_options.differences(service_options.CREATED, lab.api("GET", "/services/full")["Spec"]) == []
        lab.docker("service", "update", "--detach", "--no-resolve-image", *service_options.UPDATE, "full")
        spec = lab.api("GET", "/services/full")["Spec"]
        assert service_options.differences(service_options.UPDATED, spec) == []
        assert not [key for key in service_options.GONE if spec["TaskTemplate"]["ContainerSpec"].get(key)]
        lab.docker("service", "update", "--detach", "--endpoint-mode", "dnsrr", "--publish-rm", "81", "full")
        assert lab.api("GET", "/services/full")["Spec"]["EndpointSpec"] == {"Mode": "dnsrr"}
    finally:
        lab.docker("service", "rm", "full")


def test_several_services_are_scaled_at_once(lab: Lab) -> None:
    lab.docker(*CREATE, "--name", "one", *SLEEP)
    lab.docker(*CREATE, "--name", "two", *SLEEP)
    try:
        said = lab.docker("service", "scale", "--detach", "one=2", "two=0")
        assert said == "one scaled to 2\ntwo scaled to 0\n"
        shown = ("service", "ls", "--filter", "name=one", "--filter", "name=two", "--format", "{{.Name}} {{.Replicas}}")
        wait_until(lambda: sorted(lines(lab, *shown)) == ["one 2/2", "two 0/0"], "they were not scaled")
        assert "scale can only be used with replicated" in refused(lab, "service", "scale", "agent=2")
        too_many = refused(lab, "service", "scale", "--detach", "one=100001")
        assert "Number of replicas must be at most 100000, not 100001" in too_many
    finally:
        removed = lab.docker("service", "rm", "one", "two")
    assert removed == "one\ntwo\n"
    assert says_unknown(refused(lab, "service", "rm", "one"), "service", "one")


def test_logs_of_one_task_and_of_a_service(lab: Lab) -> None:
    script = "echo first; echo trouble >&2; echo last; exec sleep 600"
    lab.docker(*CREATE, "--name", "talk", "--replicas", "2", "busybox", "sh", "-c", script)
    try:
        said = ("service", "logs", "talk")
        wait_until(lambda: lab.docker(*said).count("last") == 2, "they did not speak")
        id = lines(lab, "service", "ps", "-q", "--filter", "name=talk.1", "talk")[0]
        one = lab.docker_process("service", "logs", "--raw", id)
        assert (one.stdout, one.stderr) == ("first\nlast\n", "trouble\n")
        tail = lab.docker("service", "logs", "--tail", "1", id)  # Its two streams may come in either order.
        assert re.fullmatch(r"talk\.1\.\w{12}@node\d +\| (last|trouble)\n", tail)
        stamped = lab.docker_process("service", "logs", "--timestamps", "--no-trunc", "--no-task-ids", id).stdout
        assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z talk\.1@node\d +\| first\n", stamped)
        detailed = lab.docker_process("service", "logs", "--details", "--raw", id).stdout
        assert "first" in detailed
        assert lab.docker("service", "logs", "--since", "2099-01-01T00:00:00Z", "talk") == ""
        assert lab.docker("service", "logs", "--since", "10m", "talk").count("first") == 2
        assert says_unknown(refused(lab, "service", "logs", "nope"), "task or service", "nope")
    finally:
        lab.docker("service", "rm", "talk")


# --- stacks ----------------------------------------------------------------------------------

SERVICE = {
    "image": "busybox",
    "command": ["sleep", "600"],
    "stop_grace_period": "0s",
    "deploy": {"update_config": {"monitor": "100ms"}},
}


def write_stack(directory: Path, *names: str) -> str:
    """Write a Compose file (as JSON is YAML) of some services with a secret, a config and a network."""
    (directory / "key").write_text("top")
    (directory / "conf").write_text("listen 80;")
    service = {**SERVICE, "secrets": ["key"], "configs": ["conf"], "networks": ["back"]}
    document = {
        "version": "3.8",
        "services": dict.fromkeys(names, service),
        "secrets": {"key": {"file": "./key"}},
        "configs": {"conf": {"file": "./conf"}},
        "networks": {"back": {}},
    }
    file = directory / "compose.yaml"
    file.write_text(json.dumps(document))
    return str(file)


def test_a_stack_from_its_file_to_its_end(lab: Lab, tmp_path: Path) -> None:
    waits = ("--detach=false",) if knows(lab, "--detach", "stack", "deploy") else ()
    deploy = ("stack", "deploy", "--resolve-image", "never", "-c", write_stack(tmp_path, "web", "extra"))
    created = lab.docker(*deploy, *waits, "st")
    for what in ("network st_back", "secret st_key", "config st_conf", "service st_web", "service st_extra"):
        assert f"Creating {what}\n" in created
    if waits:
        assert len(re.findall("verify: Service .*converged", created)) == 2
    shown = ("stack", "services", "--format", "{{.Name}} {{.Replicas}}", "st")
    wait_until(lambda: sorted(lines(lab, *shown)) == ["st_extra 1/1", "st_web 1/1"], "it does not run")
    assert lines(lab, "stack", "services", "--filter", "name=st_web", "--format", "{{.Mode}}", "st") == ["replicated"]
    assert lines(lab, "stack", "ls", "--format", "{{.Name}} {{.Services}}") == ["st 2"]
    tasks = lines(lab, "stack", "ps", "--filter", "desired-state=running", "--format", "{{.Name}}", "st")
    assert sorted(tasks) == ["st_extra.1", "st_web.1"]
    assert len(lines(lab, "stack", "ps", "-q", "--no-trunc", "st")) == 2
    label = "label=com.docker.stack.namespace=st"
    for kind in ("secret", "config", "network"):
        assert len(lines(lab, kind, "ls", "-q", "--filter", label)) == 1, kind
    assert "in use by the following services: st_" in refused(lab, "secret", "rm", "st_key")

    pruned = lab.docker("stack", "deploy", "--prune", *deploy[2:4], "-c", write_stack(tmp_path, "web"), "st")
    assert "Removing service st_extra\n" in pruned
    assert re.search(rf"Updating service st_web \(id: {ID}\)\n", pruned)
    wait_until(lambda: lines(lab, *shown) == ["st_web 1/1"], "it was not pruned")

    removed = lab.docker("stack", "rm", *(("-d=false",) if knows(lab, "--detach", "stack", "rm") else ()), "st")
    for what in ("service st_web", "secret st_key", "config st_conf", "network st_back"):
        assert f"Removing {what}\n" in removed
    tasks_left = ("GET", f"/tasks?filters={json.dumps({'label': [label[6:]]}, separators=(',', ':'))}")
    if waits:  # It was waited for.
        assert all(task["Status"]["State"] != "running" for task in lab.api(*tasks_left))
    assert lab.docker("stack", "rm", "st").lower() == "nothing found in stack: st\n"
    assert "nothing found in stack: st" in refused(lab, "stack", "ps", "st").lower()
    wait_until(lambda: not lab.api(*tasks_left), "its tasks did not go")
    assert lines(lab, "network", "ls", "-q", "--filter", label) == []


def test_a_stack_file_is_merged_and_shown(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not knows(lab, "config", "stack"):
        pytest.skip("not applicable: this release of the docker CLI has no stack config")
    monkeypatch.setenv("TAG", "7")
    base, more = tmp_path / "a.yaml", tmp_path / "b.yaml"
    base.write_text(json.dumps({"version": "3.8", "services": {"db": {"image": "redis:${TAG}"}}}))
    more.write_text(json.dumps({"version": "3.8", "services": {"db": {"environment": {"A": "1"}}}}))
    shown = lab.docker("stack", "config", "-c", str(base), "-c", str(more))
    assert "image: redis:7" in shown
    assert 'A: "1"' in shown


# --- secrets, configs, networks ---------------------------------------------------------------


@pytest.mark.parametrize("kind", ["secret", "config"])
def test_files_are_listed_filtered_and_shown(lab: Lab, kind: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("canary")
    first = lab.docker(kind, "create", "--label", "team=red", "one", str(tmp_path / "file")).strip()
    assert re.fullmatch(ID, first)
    assert lab.docker_process(kind, "create", "two", "-", stdin=b"from stdin").returncode == 0

    def found(*filters: str) -> list[str]:
        words = [word for text in filters for word in ("--filter", text)]
        return sorted(lines(lab, kind, "ls", "--format", "{{.Name}}", *words))

    assert found() == ["one", "two"]
    assert found("label=team=red") == found("label=team") == found("name=on") == found(f"id={first[:8]}") == ["one"]
    assert found("label=team=blue") == []
    assert refused(lab, kind, "ls", "--filter", "colour=red") == "invalid filter 'colour'"
    pretty = lab.docker(kind, "inspect", "--pretty", "one")
    assert re.search(r"Name:\s+one\nLabels:\n - team=red\n", pretty)
    assert ("canary" in pretty) == (kind == "config")
    assert lab.docker(kind, "inspect", "--format", "{{.Spec.Name}}", first[:10], "two") == "one\ntwo\n"
    assert says_unknown(refused(lab, kind, "inspect", "nope"), kind, "nope")
    assert "already exists" in refused(lab, kind, "create", "one", "-", stdin=b"x")
    assert "invalid" in refused(lab, kind, "create", "not a name", "-", stdin=b"x")
    limit = {"secret": 512_000, "config": 1_024_000}[kind]
    too_large = refused(lab, kind, "create", "large", "-", stdin=b"x" * (limit + 1))
    assert too_large == f"{kind} data must be larger than 0 and less than {limit} bytes"
    partly = lab.docker_process(kind, "rm", "one", "nope", "two")
    assert (partly.returncode, partly.stdout) == (1, "one\ntwo\n")
    assert says_unknown(partly.stderr, kind, "nope")


def test_overlay_networks_are_filtered_and_pruned(lab: Lab) -> None:
    lab.docker("network", "create", "-d", "overlay", "--label", "team=red", "--attachable", "front")
    lab.docker("network", "create", "-d", "overlay", "--internal", "back")

    def found(*filters: str) -> list[str]:
        words = [word for text in filters for word in ("--filter", text)]
        return sorted(lines(lab, "network", "ls", "--format", "{{.Name}}", *words))

    assert found("driver=overlay") == found("scope=swarm") == ["back", "front", "ingress"]
    assert found("label=team=red") == found("name=fron") == ["front"]
    assert found("type=builtin") == ["bridge", "host", "none"]
    assert found("type=custom", "driver=overlay", "name=ack") == ["back"]
    lab.docker("service", "update", "--detach", "--network-add", "back", "app")
    verbose = ("network", "inspect", "--verbose", "--format", '{{len (index .Services "app").Tasks}}', "back")
    wait_until(lambda: lab.docker_process(*verbose).stdout == "2\n", "the service is not on the network")
    assert lab.docker("network", "inspect", "--format", "{{.Internal}} {{.Attachable}}", "back") == "true false\n"
    pruned = lab.docker("network", "prune", "--force")
    assert "front" in pruned
    assert "back" not in pruned
    lab.docker("service", "update", "--detach", "--network-rm", "back", "app")
    wait_until(lambda: lab.docker_process("network", "rm", "back").returncode == 0, "the network stays in use")
    kept = lab.docker_process("network", "rm", "ingress", stdin=b"n\n")
    assert "routing-mesh network" in kept.stdout + kept.stderr
    assert found("name=ingress") == ["ingress"]


# --- inspect and events ------------------------------------------------------------------------


def test_inspect_finds_objects_of_any_kind_by_name(lab: Lab) -> None:
    assert lab.docker("inspect", "--format", "{{.Spec.Name}}", "app") == "app\n"
    assert lab.docker("inspect", "--format", "{{.Description.Hostname}}", "node2") == "node2\n"
    assert lab.docker("inspect", "--format", "{{.Scope}}", "ingress") == "swarm\n"
    id = lines(lab, "service", "ps", "-q", "--filter", "desired-state=running", "app")[0]
    assert lab.docker("inspect", "--type", "task", "--format", "{{.ID}}", id) == f"{id}\n"
    for kind, name in (("service", "app"), ("node", "node1"), ("network", "ingress")):
        assert json.loads(lab.docker("inspect", "--type", kind, name))
    assert says_unknown(refused(lab, "inspect", "nope"), "object", "nope")


def test_events_of_the_swarm_are_filtered(lab: Lab) -> None:
    began = f"{time.time():.6f}"
    lab.docker(*CREATE, "--name", "brief", "--replicas", "0", *SLEEP)
    lab.docker("service", "update", "--detach", "--replicas", "1", "brief")
    lab.docker("network", "create", "-d", "overlay", "passing")
    lab.docker("node", "update", "--availability", "pause", "node2")
    lab.docker("node", "update", "--availability", "active", "node2")
    lab.docker_process("config", "create", "note", "-", stdin=b"x")
    for kind, name in (("service", "brief"), ("network", "passing"), ("config", "note")):
        lab.docker(kind, "rm", name)

    def seen(*filters: str) -> list[str]:
        words = [word for text in filters for word in ("--filter", text)]
        until = f"{time.time():.6f}"
        form = '{{.Type}} {{.Action}} {{index .Actor.Attributes "name"}}'
        return lines(lab, "events", "--since", began, "--until", until, "--format", form, *words)

    wait_until(lambda: "config remove note" in seen(), "the last event is not told")
    assert seen("service=brief", "event=create") == ["service create brief"]
    made = ("event=create", "event=remove")  # It is updated in between, as its numbers are found.
    assert seen("type=network", "network=passing", *made) == ["network create passing", "network remove passing"]
    assert seen("type=node", "node=node2") == ["node update node2", "node update node2"]
    assert seen("type=config", "scope=swarm") == ["config create note", "config remove note"]
    assert seen("scope=local") == seen("service=nobody") == seen("type=secret") == []
    whole = lines(lab, "system", "events", "--since", began, "--until", f"{time.time():.6f}", "--filter",
                  "service=brief", "--format", "{{json .}}")  # fmt: skip
    changes = [json.loads(line)["Actor"]["Attributes"] for line in whole]
    assert {"name": "brief", "replicas.old": "0", "replicas.new": "1"} in changes
    assert seen().index("service create brief") < seen().index("network create passing")
    assert refused(lab, "events", "--until", "0s", "--filter", "colour=red") == "invalid filter 'colour'"
