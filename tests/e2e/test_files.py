"""Secrets and configs with the unmodified docker CLI, from creation to the tmpfs of a task, and nowhere else."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e import programs
from tests.e2e.conftest import Lab, make_lab, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.engine, pytest.mark.kernel]

CANARY = "canary-7d1f0a-sings"
BRISK = ("--update-monitor", "1s", "--stop-grace-period", "1s")
CREATE = ("service", "create", "--quiet", "--no-resolve-image", *BRISK)
KEEP = "while :; do sleep 1; done"
GONE_S = 2.0


@pytest.fixture(scope="module", params=["podman", "process"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    root = tmp_path_factory.mktemp("files")
    for made in make_lab(root / "l", engine=request.param, node_count=2):
        if request.param == "podman":
            made.load_image(programs.write_archive(root))
        yield made


def given(lab: Lab, content: str, *words: str) -> str:
    done = lab.docker_process(*words, stdin=content.encode())
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def said(lab: Lab, service: str) -> str:
    return lab.docker("service", "logs", "--raw", service)


def remove(lab: Lab, *services: str) -> None:
    lab.docker("service", "rm", *services)
    wait_until(lambda: not lab.api("GET", "/tasks"), "the tasks did not go")


def shell(script: str) -> list[str]:
    return [programs.NAME, "/bin/sh", "-c", script]


def test_a_session_of_secrets_and_configs(lab: Lab) -> None:
    key = given(lab, "top\n", "secret", "create", "--label", "team=red", "key", "-")
    site = given(lab, "listen 80;\n", "config", "create", "site", "-")
    made = given(
        lab, '{{.Service.Name}} {{env "COLOUR"}} {{secret "key"}}', "config", "create", "--template-driver", "golang",
        "made", "-",
    )  # fmt: skip
    assert [row["Name"] for row in listed(lab, "secret")] == ["key"]
    assert sorted(row["Name"] for row in listed(lab, "config")) == ["made", "site"]
    shown = json.loads(lab.docker("secret", "inspect", "key"))[0]
    assert (shown["ID"], shown["Spec"]) == (key, {"Name": "key", "Labels": {"team": "red"}})
    assert json.loads(lab.docker("config", "inspect", "site"))[0]["ID"] == site
    taken = lab.docker_process("secret", "create", "key", "-", stdin=b"x")
    assert "secret key already exists" in taken.stderr
    look = "stat -c '%u:%g %a' /tmp/k; grep ' /tmp/k ' /proc/mounts"
    script = f"cat /run/secrets/key /tmp/k /site /made; echo; {look}; {KEEP}"
    try:
        lab.docker(
            *CREATE, "--name", "user", "-e", "COLOUR=amber", "--secret", "key",
            "--secret", "source=key,target=/tmp/k,uid=33,gid=34,mode=0400", "--config", "site", "--config", "made",
            *shell(script),
        )  # fmt: skip
        wait_until(lambda: "tmpfs" in said(lab, "user"), "the task did not say what it has")
        lines = said(lab, "user").splitlines()
        assert lines[:6] == ["top", "top", "listen 80;", "user amber top", "", "33:34 400"]
        assert lines[6].split()[:3] == [lines[6].split()[0], "/tmp/k", "tmpfs"]
        assert "ro" in lines[6].split()[3].split(",")
        for kind, name in (("secret", "key"), ("config", "made")):
            refused = lab.docker_process(kind, "rm", name)
            assert f"{kind} '{name}' is in use by the following service: user" in refused.stderr
    finally:
        remove(lab, "user")
    assert lab.docker("secret", "rm", "key") == "key\n"
    assert lab.docker("config", "rm", "site", made).split() == ["site", made]
    assert not lab.api("GET", "/secrets")


def listed(lab: Lab, kind: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lab.docker(kind, "ls", "--format", "{{json .}}").splitlines()]


def holders(lab: Lab, text: str) -> list[str]:
    """Every file of the lab that has a text in it, and every process whose arguments or environment do."""
    found = subprocess.run(
        ["grep", "-rlaF", "--exclude-dir=proc", text, str(lab.layout.root)], capture_output=True, text=True
    ).stdout.split()
    for node in lab.nodes:  # The run directory is a tmpfs of the node's own.
        inside = lab.run(node.name, "grep", "-rlaF", text, str(node.run_dir), check=False)
        found += [f"{node.name}:{path}" for path in inside.split()]
    for process in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            try:
                if text.encode() in (process / name).read_bytes() and f"/{text}" not in str(process):
                    found.append(str(process / name))
            except OSError:
                continue
    return found


def test_a_canary_is_in_the_tmpfs_of_its_task_and_nowhere_else(lab: Lab) -> None:
    given(lab, CANARY, "secret", "create", "bird", "-")
    try:
        lab.docker(*CREATE, "--name", "cage", "--secret", "bird", *shell(f"wc -c /run/secrets/bird; {KEEP}"))
        wait_until(lambda: f"{len(CANARY)} /run" in said(lab, "cage"), "the task did not read it")
        [task] = [t for t in lab.api("GET", "/tasks") if t["Status"]["State"] == "running"]
        node = next(n for n in lab.nodes if lab.api("GET", "/info", node=n.name)["Swarm"]["NodeID"] == task["NodeID"])
        assert holders(lab, CANARY) == [f"{node.name}:{node.run_dir}/files/{task['ID']}/0"]
        container = task["Status"]["ContainerStatus"]["ContainerID"]
        told = [lab.docker("secret", "inspect", "bird"), lab.docker("service", "inspect", "cage"), json.dumps(task)]
        told += [lab.docker("events", "--since", "1h", "--until", "0s"), lab.docker("info"), lab.logs()]
        if lab.layout.engine == "podman":
            told.append(lab.docker("inspect", container, node=node.name))
        assert not [text for text in told if CANARY in text]
    finally:
        remove(lab, "cage")
    wait_until(lambda: not holders(lab, CANARY), "the canary outlived its task", GONE_S)
    lab.docker("secret", "rm", "bird")


@pytest.mark.soak
def test_a_killed_daemon_comes_back_to_the_task_with_its_secret(lab: Lab) -> None:
    given(lab, CANARY, "secret", "create", "bird", "-")
    try:
        again = shell("while :; do wc -c /run/secrets/bird; sleep 1; done")
        lab.docker(*CREATE, "--name", "cage", "--secret", "bird", *again)
        wait_until(lambda: "/run/secrets/bird" in said(lab, "cage"), "the task did not read it")
        [task] = [t for t in lab.api("GET", "/tasks") if t["Status"]["State"] == "running"]
        for node in lab.nodes:
            lab.run(node.name, "kill", "-9", node.daemon_pid_file.read_text().strip())
        wait_until(lambda: lab.docker_process("node", "ls").stdout.count("Ready") == 2, "the nodes did not come back")
        before = said(lab, "cage").count(str(len(CANARY)))
        wait_until(lambda: said(lab, "cage").count(str(len(CANARY))) > before, "the task lost its secret")
        assert [t["ID"] for t in lab.api("GET", "/tasks") if t["Status"]["State"] == "running"] == [task["ID"]]
    finally:
        remove(lab, "cage")
    lab.docker("secret", "rm", "bird")


def skep(lab: Lab, *words: str, stdin: str = "") -> str:
    line = [sys.executable, "-m", "skep.cli", "-H", f"unix://{lab.nodes[0].socket}", *words]
    done = subprocess.run(line, input=stdin, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.soak
def test_a_rotated_secret_rolls_through_its_services(lab: Lab, tmp_path: Path) -> None:
    first = skep(lab, "secret", "create", "--label", "team=red", "key", "-", stdin="one").strip()
    try:
        words = ["--name", "user", "--secret", "key", "--replicas", "2"]
        lab.docker(*CREATE, *words, *shell(f"cat /run/secrets/key; echo; {KEEP}"))
        wait_until(lambda: said(lab, "user").split() == ["one", "one"], "the tasks did not start")
        (tmp_path / "new").write_text("two")
        second = skep(lab, "secret", "rotate", "key", str(tmp_path / "new")).strip()
        wait_until(lambda: said(lab, "user").split().count("two") == 2, "the service did not follow")
        assert {s["Spec"]["Name"]: s["ID"] for s in lab.api("GET", "/secrets")} == {"key": second, "key.v1": first}
        assert "key.v1" in skep(lab, "secret", "ls")
        assert json.loads(skep(lab, "secret", "inspect", "key"))[0]["ID"] == second
    finally:
        remove(lab, "user")
    assert skep(lab, "secret", "rm", "key", "key.v1").split() == ["key", "key.v1"]


def test_volumes_of_a_node(lab: Lab) -> None:
    if lab.layout.engine == "process":
        assert skep(lab, "volume", "ls", "-q").split() == []
        return
    assert skep(lab, "volume", "create", "--label", "team=red", "data") == "data\n"
    assert skep(lab, "volume", "ls", "-q", "--filter", "label=team=red").split() == ["data"]
    assert lab.docker("volume", "ls", "-q").split() == ["data"]
    shown = json.loads(lab.docker("volume", "inspect", "data"))[0]
    assert (shown["Name"], shown["Labels"], shown["Options"]) == ("data", {"team": "red"}, None)
    assert json.loads(skep(lab, "volume", "inspect", "data"))[0] == shown
    refused = lab.docker_process(*CREATE, "--mount", "type=volume,source=/data,target=/data", *shell(KEEP))
    assert "invalid volume mount source, must not be an absolute path: /data" in refused.stderr
    assert skep(lab, "volume", "rm", "data") == "data\n"
    assert lab.docker("volume", "ls", "-q").split() == []
