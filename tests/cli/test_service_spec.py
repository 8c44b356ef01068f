"""Options of `service create` and `update` to Docker's JSON."""

from typing import Any

import click
import pytest
from click.testing import CliRunner

from skep.cli import parse, service_spec
from skep.cli.main import COMMANDS, main


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("8080:80", [("tcp", 80, 8080, "ingress")], id="short"),
        pytest.param("53:53/udp", [("udp", 53, 53, "ingress")], id="protocol"),
        pytest.param("80", [("tcp", 80, 0, "ingress")], id="published later"),
        pytest.param("8000-8001:80-81", [("tcp", 80, 8000, "ingress"), ("tcp", 81, 8001, "ingress")], id="range"),
        pytest.param("published=8080,target=80,mode=host", [("tcp", 80, 8080, "host")], id="long"),
    ],
)
def test_ports(text: str, expected: list[tuple[str, int, int, str]]) -> None:
    ports = parse.parse_ports(text)
    assert [(p["Protocol"], p["TargetPort"], p["PublishedPort"], p["PublishMode"]) for p in ports] == expected


@pytest.mark.parametrize("text", ["x", "80:", "1-3:80", "0:80", "70000:80", "published=1", "target=80,colour=red"])
def test_bad_ports_are_refused_with_the_text(text: str) -> None:
    with pytest.raises(parse.BadNotation, match="port"):
        parse.parse_ports(text)


def test_mount_fields_land_where_docker_has_them() -> None:
    text = "type=volume,src=data,dst=/d,ro,volume-label=a=b,volume-opt=type=nfs,volume-nocopy"
    assert parse.parse_mount(text) == {
        "Type": "volume",
        "Source": "data",
        "Target": "/d",
        "ReadOnly": True,
        "VolumeOptions": {"Labels": {"a": "b"}, "DriverConfig": {"Options": {"type": "nfs"}}, "NoCopy": True},
    }


def test_mount_without_target_is_refused() -> None:
    with pytest.raises(parse.BadNotation, match="target"):
        parse.parse_mount("type=bind,source=/a")


def options(**given: Any) -> dict[str, Any]:
    lists = ("env", "mount", "network", "constraint", "placement_pref", "publish", "label", "container_label")
    changes = ("env", "constraint", "label", "mount", "network", "publish")
    blank: dict[str, Any] = dict.fromkeys(lists, ())
    blank |= {f"{name}_{verb}": () for name in changes for verb in ("add", "rm")}
    return {**blank, "name": None, "mode": "replicated", "image": None, "args": None, "force": False, **given}


def test_create_puts_each_option_in_its_place() -> None:
    spec = service_spec.new_spec(
        "nginx",
        ("-g", "daemon off;"),
        options(name="web", replicas=3, limit_memory=64 << 20, publish=("8080:80",), constraint=("node.role==worker",)),
    )
    task = spec["TaskTemplate"]
    assert spec["Mode"] == {"Replicated": {"Replicas": 3}}
    assert task["ContainerSpec"]["Args"] == ["-g", "daemon off;"]
    assert task["Resources"]["Limits"]["MemoryBytes"] == 64 << 20
    assert task["Placement"]["Constraints"] == ["node.role==worker"]
    assert spec["EndpointSpec"]["Ports"][0]["PublishedPort"] == 8080


def test_replicas_of_a_global_service_are_refused() -> None:
    with pytest.raises(parse.BadNotation, match="replicated or replicated-job mode"):
        service_spec.new_spec("nginx", (), options(mode="global", replicas=2))


def test_update_changes_only_what_is_named() -> None:
    spec = service_spec.new_spec("nginx:1", (), options(name="web", env=("A=1", "B=2"), publish=("80:80",)))
    changed = service_spec.changed_spec(
        spec, options(image="nginx:2", env_add=("A=9",), env_rm=("B",), publish_add=("81:81",), publish_rm=("80",))
    )
    assert changed["TaskTemplate"]["ContainerSpec"]["Image"] == "nginx:2"
    assert changed["TaskTemplate"]["ContainerSpec"]["Env"] == ["A=9"]
    assert [port["TargetPort"] for port in changed["EndpointSpec"]["Ports"]] == [81]
    assert changed["Mode"] == {"Replicated": {"Replicas": 1}}


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_loads_and_explains_itself(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert isinstance(main, click.Group)
    assert "Usage:" in result.output


def test_daemon_that_is_not_there_is_named_in_one_line(tmp_path: Any) -> None:
    socket = f"unix://{tmp_path}/none.sock"
    result = CliRunner().invoke(main, ["-H", socket, "node", "ls"])
    assert result.exit_code == 1
    assert f"Cannot connect to the daemon at {socket}" in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"mode": "replicated"}, {"Replicated": {"Replicas": 1}}),
        ({"mode": "replicated", "replicas": 4}, {"Replicated": {"Replicas": 4}}),
        ({"mode": "global"}, {"Global": {}}),
        ({"mode": "global-job"}, {"GlobalJob": {}}),
        ({"mode": "replicated-job"}, {"ReplicatedJob": {"TotalCompletions": 1, "MaxConcurrent": 1}}),
        (
            {"mode": "replicated-job", "replicas": 5, "max_concurrent": 2},
            {"ReplicatedJob": {"TotalCompletions": 5, "MaxConcurrent": 2}},
        ),
        (
            {"mode": "replicated-job", "replicas": 5},
            {"ReplicatedJob": {"TotalCompletions": 5, "MaxConcurrent": 5}},
        ),
    ],
    ids=str,
)
def test_modes(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert service_spec.new_spec("nginx", (), options(**given))["Mode"] == expected


@pytest.mark.parametrize("given", [{"mode": "global", "replicas": 2}, {"mode": "replicated", "max_concurrent": 2}])
def test_sizes_that_mean_nothing_in_a_mode_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(parse.BadNotation, match="can only be used with"):
        service_spec.new_spec("nginx", (), options(**given))


def test_rollback_settings_have_their_own_place() -> None:
    spec = service_spec.new_spec("nginx", (), options(rollback_parallelism=0, rollback_order="start-first"))
    assert spec["RollbackConfig"] == {"Parallelism": 0, "Order": "start-first"}
