"""Sessions of the unmodified docker CLI on one podman node: images, volumes, containers and their events.

What differs between releases of the CLI is left open, as in `test_docker_commands`.
"""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e import programs
from tests.e2e.conftest import Lab, make_lab, wait_until
from tests.e2e.test_docker_commands import knows, lines, refused, says_unknown

pytestmark = [pytest.mark.e2e, pytest.mark.engine, pytest.mark.kernel]

IMAGE_ID = "(sha256:)?[0-9a-f]{64}"  # Podman leaves the first word out.
RUN = ("run", "--network", "none")
TRAPPED = ("sh", "-c", "trap exit TERM; while :; do sleep 0.1; done")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A swarm of one podman node with a service that runs."""
    root = tmp_path_factory.mktemp("engine")
    for lab in make_lab(root / "l", node_count=1, engine="podman"):
        lab.load_image(programs.write_archive(root))
        lab.docker("service", "create", "--quiet", "--detach", "--no-resolve-image", "--name", "web", "--mount",
                   "type=volume,source=site,target=/site", "--stop-grace-period", "1s", programs.NAME)  # fmt: skip
        wait_running(lab)
        yield lab


def wait_running(lab: Lab) -> None:
    wait_until(lambda: lines(lab, "service", "ls", "--format", "{{.Replicas}}") == ["1/1"], "the service does not run")


def test_images(lab: Lab, tmp_path: Path) -> None:
    assert lines(lab, "images", "--format", "{{.Repository}}:{{.Tag}}") == [f"localhost/{programs.NAME}:latest"]
    [short] = lines(lab, "images", "-q", "--filter", f"reference={programs.NAME}")
    shown = json.loads(lab.docker("image", "inspect", programs.NAME))[0]
    assert shown["Id"].removeprefix("sha256:").startswith(short)
    assert shown["Config"]["Cmd"] == list(programs.COMMAND)
    lab.docker("tag", programs.NAME, "mine:1")
    assert sorted(lines(lab, "image", "ls", "--format", "{{.Tag}}")) == ["1", "latest"]
    assert "Untagged: " in lab.docker("rmi", "mine:1")
    lab.docker("save", "-o", str(tmp_path / "saved.tar"), programs.NAME)
    assert "Loaded image" in lab.docker("load", "-i", str(tmp_path / "saved.tar"))
    assert len(lines(lab, "history", "-q", programs.NAME)) == 1
    assert lines(lab, "images", "-q", "--filter", "dangling=true") == []
    in_use = refused(lab, "rmi", programs.NAME)
    assert "in use" in in_use
    assert lab.docker("image", "prune", "--force") == "Total reclaimed space: 0B\n"


def test_a_pull_that_cannot_be_says_so(lab: Lab) -> None:
    said = lab.docker_process("pull", "registry.invalid/team/app:1")
    assert said.returncode == 1
    assert "registry.invalid" in said.stderr + said.stdout
    assert "Traceback" not in said.stderr
    assert lines(lab, "images", "-q", "--filter", "reference=registry.invalid/team/app") == []


def test_volumes(lab: Lab) -> None:
    assert lab.docker("volume", "create", "--label", "team=red", "--opt", "type=tmpfs", "--opt", "device=tmpfs",
                      "scratch") == "scratch\n"  # fmt: skip
    lab.docker("volume", "create", "data")

    def found(*filters: str) -> list[str]:
        words = [word for text in filters for word in ("--filter", text)]
        return sorted(lines(lab, "volume", "ls", "--format", "{{.Name}}", *words))

    assert found() == ["data", "scratch", "site"]
    assert found("label=team=red") == found("name=scr") == ["scratch"]
    assert found("dangling=true") == ["data", "scratch"]
    assert found("driver=local", "name=site") == ["site"]
    shown = json.loads(lab.docker("volume", "inspect", "scratch"))[0]
    assert (shown["Driver"], shown["Scope"], shown["Labels"]) == ("local", "local", {"team": "red"})
    assert shown["Options"] == {"type": "tmpfs", "device": "tmpfs"}
    assert re.search(r"no such volume|no volume with name", refused(lab, "volume", "inspect", "nope"), re.IGNORECASE)
    assert "site" in refused(lab, "volume", "rm", "site")
    assert "plugin" in refused(lab, "volume", "create", "--driver", "odd", "x")
    if knows(lab, "update", "volume"):
        assert refused(lab, "volume", "update", "data", "--availability", "drain") == "can only update cluster volumes"
    assert lab.docker("volume", "rm", "scratch") == "scratch\n"


def test_pruning_spares_what_has_a_name(lab: Lab) -> None:
    """Clients from API 1.42 on expect that; older ones always had every unused volume removed."""
    lab.docker("volume", "create", "kept")
    lab.docker(*RUN, "--name", "brief", "-v", "/anonymous", programs.NAME, "true")
    lab.docker("rm", "brief")
    [anonymous] = [name for name in lines(lab, "volume", "ls", "-q") if len(name) == 64]
    said = lab.docker("volume", "prune", "--force")
    assert anonymous in said
    if knows(lab, "--all", "volume", "prune"):
        assert "kept" in lines(lab, "volume", "ls", "-q")
        assert "Total reclaimed space" in lab.docker("system", "prune", "--force")
        assert "kept" in lines(lab, "volume", "ls", "-q")
        said = lab.docker("volume", "prune", "--force", "--all")
    assert "kept" in said
    assert lines(lab, "volume", "ls", "-q") == ["site"]


def test_disk_usage(lab: Lab) -> None:
    lab.docker("exec", "web.1", "sh", "-c", "echo content > /site/file")
    form = "{{.Type}} {{.TotalCount}} {{.Active}} {{.Size}}"
    usage = {line.split(" ")[0]: line for line in lines(lab, "system", "df", "--format", form)}
    assert re.fullmatch(r"Images 1 1 2\.\d+MB", usage["Images"])
    assert usage["Containers"].startswith("Containers 1 1 ")
    assert usage["Local"] == "Local Volumes 1 1 8B"
    whole = lab.docker("system", "df", "--verbose")
    assert re.search(rf"^localhost/{programs.NAME} +latest ", whole, re.MULTILINE)
    assert re.search(r"^site +1 +8B$", whole, re.MULTILINE)


def test_a_container_from_its_start_to_its_end(lab: Lab, tmp_path: Path) -> None:
    id = lab.docker(*RUN, "-d", "--name", "plain", "--label", "team=red", programs.NAME, *TRAPPED).strip()
    assert re.fullmatch("[0-9a-f]{64}", id)
    try:
        assert lines(lab, "ps", "-q", "--no-trunc", "--filter", "label=team=red") == [id]
        done = lab.docker_process("exec", "plain", "sh", "-c", "echo out; echo err >&2; exit 4")
        assert (done.returncode, done.stdout, done.stderr) == (4, "out\n", "err\n")
        done = lab.docker_process("exec", "-i", "-e", "A=1", "-w", "/tmp", "plain", "sh", "-c", "echo $A; pwd; cat",
                                  stdin=b"in")  # fmt: skip
        assert done.stdout == "1\n/tmp\nin"
        lab.docker("rename", "plain", "renamed")
        assert lab.docker("restart", "renamed") == "renamed\n"
        assert lab.docker("inspect", "--format", "{{.Name}} {{.State.Status}}", "renamed") == "/renamed running\n"
        lab.docker("exec", "renamed", "touch", "/made")
        assert "A /made" in lab.docker("diff", "renamed")
        assert re.fullmatch(f"{IMAGE_ID}\n", lab.docker("commit", "renamed", "made:1"))
        assert "Untagged" in lab.docker("rmi", "made:1")
        unknown = refused(lab, "update", "--memory", "64m", "renamed")
        assert "container engine has no POST" in unknown
        assert lab.docker("stop", "renamed") == "renamed\n"
        assert lab.docker("wait", "renamed") == "0\n"
        assert lines(lab, "ps", "-a", "--filter", "status=exited", "--format", "{{.Names}}") == ["renamed"]
    finally:
        lab.docker("rm", "-f", id)
    assert "renamed" not in lines(lab, "ps", "-a", "--format", "{{.Names}}")


def test_a_program_that_ignores_its_stop_signal_is_restarted(lab: Lab) -> None:
    lab.docker(*RUN, "-d", "--name", "deaf", programs.NAME, "sleep", "1000")
    try:
        assert lab.docker("restart", "-t", "0", "deaf") == "deaf\n"
        assert lab.docker("inspect", "--format", "{{.State.Running}}", "deaf") == "true\n"
        assert lab.docker("kill", "deaf") == "deaf\n"
        assert lab.docker("wait", "deaf") == "137\n"
    finally:
        lab.docker("rm", "-f", "deaf")


def test_a_container_joins_and_leaves_a_network_of_the_node(lab: Lab) -> None:
    yard = "yard"
    lab.docker("network", "create", "--subnet", "172.30.9.0/24", yard)
    lab.docker("run", "-d", "--name", "guest", programs.NAME, "sleep", "1000")
    form = "{{range $name, $each := .NetworkSettings.Networks}}{{$name}} {{$each.IPAddress}} {{end}}"

    def seen() -> str:
        return lab.docker("inspect", "--format", form, "guest")

    try:
        assert yard not in seen()
        lab.docker("network", "connect", "--alias", "friend", "--ip", "172.30.9.7", yard, "guest")
        assert f"{yard} 172.30.9.7 " in seen()
        shown = json.loads(lab.docker("network", "inspect", yard))[0]
        assert [each["Name"] for each in shown["Containers"].values()] == ["guest"]
        assert "has active endpoints" in refused(lab, "network", "rm", yard)
        lab.docker("network", "disconnect", yard, "guest")
        assert yard not in seen()
        assert "nowhere" in refused(lab, "network", "connect", "nowhere", "guest")
    finally:
        began = time.monotonic()
        lab.docker("rm", "-f", "guest")
        took_s = time.monotonic() - began
        removed = lab.docker("network", "rm", yard)
    assert removed == f"{yard}\n"
    assert took_s < 8, "it was waited for, as if it were to be stopped"


def test_logs_of_a_container(lab: Lab) -> None:
    lab.docker_process(*RUN, "--name", "spoke", programs.NAME, "sh", "-c", "echo one; echo two; exit 3")
    try:
        assert lab.docker("logs", "spoke") == "one\ntwo\n"
        assert lab.docker("logs", "--tail", "1", "spoke") == "two\n"
        assert re.match(r"\d{4}-\d\d-\d\dT\S+ one\n", lab.docker("logs", "--timestamps", "spoke"))
        assert lab.docker("logs", "--follow", "spoke") == "one\ntwo\n"
        assert lab.docker("inspect", "--format", "{{.State.ExitCode}}", "spoke") == "3\n"
    finally:
        lab.docker("rm", "spoke")
    assert "no such container" in refused(lab, "logs", "spoke").lower()


def test_inspect_finds_objects_of_any_kind(lab: Lab) -> None:
    [task] = lines(lab, "service", "ps", "-q", "--filter", "desired-state=running", "web")
    container = lab.docker("inspect", "--type", "container", "--format", "{{.Id}}", "web.1").strip()
    for name, form, expected in (
        ("web", "{{.Spec.Name}}", "web"),
        ("node1", "{{.Description.Hostname}}", "node1"),
        ("ingress", "{{.Scope}}", "swarm"),
        ("site", "{{.Mountpoint}}", str(lab.nodes[0].data_dir / "engine/volumes/site/_data")),
        (programs.NAME, "{{json .Config.Cmd}}", json.dumps(list(programs.COMMAND), separators=(",", ":"))),
        (container, "{{.Name}}", f"/web.1.{task}"),
        (task, "{{.Id}}", container),
    ):
        assert lab.docker("inspect", "--format", form, name) == f"{expected}\n"
    assert lab.docker("inspect", "--type", "task", "--format", "{{.ID}} {{.Slot}}", task) == f"{task} 1\n"
    assert json.loads(lab.docker("inspect", "--type", "image", programs.NAME))[0]["Os"] == "linux"
    assert says_unknown(refused(lab, "inspect", "nope"), "object", "nope")


def test_events_of_containers_and_volumes(lab: Lab) -> None:
    began = f"{time.time():.6f}"
    lab.docker("volume", "create", "passing")
    lab.docker_process(*RUN, "--name", "brief", "--label", "team=red", programs.NAME, "sh", "-c", "exit 3")
    lab.docker("rm", "brief")
    lab.docker("volume", "rm", "passing")

    def seen(form: str, *filters: str) -> list[str]:
        words = [word for text in filters for word in ("--filter", text)]
        return lines(lab, "events", "--since", began, "--until", f"{time.time():.6f}", "--format", form, *words)

    wait_until(lambda: "destroy" in seen("{{.Action}}", "type=volume"), "the last event is not told")
    assert seen("{{.Action}} {{.Actor.ID}}", "volume=passing") == ["create passing", "destroy passing"]
    actions = seen("{{.Action}}", "container=brief")
    assert [action for action in actions if action != "attach"] == ["create", "start", "die", "destroy"]
    ended = ("event=die", "label=team=red", "scope=local")
    assert seen('{{.Type}} {{index .Actor.Attributes "exitCode"}}', *ended) == ["container 3"]
    kinds = seen("{{.Type}}")
    assert kinds[0] == kinds[-1] == "volume"
    assert seen("{{.Type}}", "type=service") == []
