"""Options of `service create` and `update` to Docker's JSON."""

import json
from typing import Any

import click
import pytest
from click.testing import CliRunner

from skep.cli import parse, service_lists, service_spec
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
    return {"name": None, "mode": "replicated", "image": None, "args": None, "force": False, **given}


def lookup(kind: str, name: str) -> str:
    return f"id-of-{name}"


def new_spec(**given: Any) -> dict[str, Any]:
    return service_spec.new_spec("nginx:1", (), options(**given), lookup)


def changed(spec: dict[str, Any], **given: Any) -> dict[str, Any]:
    return service_spec.changed_spec(spec, options(**given), lookup)


def test_create_puts_each_option_in_its_place() -> None:
    spec = service_spec.new_spec(
        "nginx",
        ("-g", "daemon off;"),
        options(name="web", replicas=3, limit_memory=64 << 20, publish=("8080:80",), constraint=("node.role==worker",)),
        lookup,
    )
    task = spec["TaskTemplate"]
    assert spec["Mode"] == {"Replicated": {"Replicas": 3}}
    assert task["ContainerSpec"]["Args"] == ["-g", "daemon off;"]
    assert task["Resources"]["Limits"]["MemoryBytes"] == 64 << 20
    assert task["Placement"]["Constraints"] == ["node.role==worker"]
    assert spec["EndpointSpec"]["Ports"][0]["PublishedPort"] == 8080


def test_replicas_of_a_global_service_are_refused() -> None:
    with pytest.raises(parse.BadNotation, match="replicated or replicated-job mode"):
        new_spec(mode="global", replicas=2)


def test_update_changes_only_what_is_named() -> None:
    spec = new_spec(name="web", env=("A=1", "B=2"), publish=("80:80",))
    after = changed(spec, image="nginx:2", env_add=("A=9",), env_rm=("B",), publish_add=("81:81",), publish_rm=("80",))
    assert after["TaskTemplate"]["ContainerSpec"]["Image"] == "nginx:2"
    assert after["TaskTemplate"]["ContainerSpec"]["Env"] == ["A=9"]
    assert [port["TargetPort"] for port in after["EndpointSpec"]["Ports"]] == [81]
    assert after["Mode"] == {"Replicated": {"Replicas": 1}}


FILE = {"Name": "db.pass", "UID": "0", "GID": "0", "Mode": 0o444}
CONTAINER, TASK = ("TaskTemplate", "ContainerSpec"), ("TaskTemplate",)


@pytest.mark.parametrize(
    ("option", "text", "path", "entry"),
    [
        ("secret", "db.pass", (*CONTAINER, "Secrets"),
         {"SecretID": "id-of-db.pass", "SecretName": "db.pass", "File": FILE}),
        ("secret", "source=a,target=/b,uid=5,gid=6,mode=0400", (*CONTAINER, "Secrets"),
         {"SecretID": "id-of-a", "SecretName": "a", "File": {"Name": "/b", "UID": "5", "GID": "6", "Mode": 0o400}}),
        ("config", "db.pass", (*CONTAINER, "Configs"),
         {"ConfigID": "id-of-db.pass", "ConfigName": "db.pass", "File": FILE}),
        ("network", "name=back,alias=db", (*TASK, "Networks"),
         {"Target": "id-of-back", "Aliases": ["db"], "DriverOpts": {}}),
        ("host", "db:10.0.0.5", (*CONTAINER, "Hosts"), "10.0.0.5 db"),
        ("host", "db:fd00::5", (*CONTAINER, "Hosts"), "fd00::5 db"),
        ("dns", "10.0.0.2", (*CONTAINER, "DNSConfig", "Nameservers"), "10.0.0.2"),
        ("dns_option", "ndots:1", (*CONTAINER, "DNSConfig", "Options"), "ndots:1"),
        ("dns_search", "example.org", (*CONTAINER, "DNSConfig", "Search"), "example.org"),
        ("group", "audio", (*CONTAINER, "Groups"), "audio"),
        ("ulimit", "nofile=10:20", (*CONTAINER, "Ulimits"), {"Name": "nofile", "Soft": 10, "Hard": 20}),
        ("generic_resource", "GPU=2", (*TASK, "Resources", "Reservations", "GenericResources"),
         {"DiscreteResourceSpec": {"Kind": "GPU", "Value": 2}}),
        ("placement_pref", "spread=node.labels.zone", (*TASK, "Placement", "Preferences"),
         {"Spread": {"SpreadDescriptor": "node.labels.zone"}}),
        ("mount", "source=d,target=/d", (*CONTAINER, "Mounts"), {"Type": "volume", "Source": "d", "Target": "/d"}),
    ],
)  # fmt: skip
def test_a_list_is_made_added_to_and_taken_from(option: str, text: str, path: tuple[str, ...], entry: Any) -> None:
    made = new_spec(**{option: (text,)})
    assert service_lists.reach(made, path) == [entry]
    added = changed(new_spec(), **{f"{option}_add": (text,)})
    assert service_lists.reach(added, path) == [entry]
    again = changed(added, **{f"{option}_add": (text,)})
    assert service_lists.reach(again, path) == [entry], "the same again replaces it"
    key = {"mount": "/d", "network": "back", "generic_resource": "GPU", "ulimit": "nofile"}.get(option, text)
    name = {"source=a,target=/b,uid=5,gid=6,mode=0400": "a"}.get(text, key)
    gone = changed(again, **{f"{option}_rm": (name,)})
    assert service_lists.reach(gone, path) == []


@pytest.mark.parametrize(
    ("option", "path"),
    [
        ("label", ("Labels",)),
        ("container_label", (*CONTAINER, "Labels")),
        ("sysctl", (*CONTAINER, "Sysctls")),
    ],
)
def test_a_map_is_made_added_to_and_taken_from(option: str, path: tuple[str, ...]) -> None:
    made = new_spec(**{option: ("a=1", "b=2")})
    assert service_lists.reach(made, path) == {"a": "1", "b": "2"}
    after = changed(made, **{f"{option}_add": ("a=3", "c="), f"{option}_rm": ("b",)})
    assert service_lists.reach(after, path) == {"a": "3", "c": ""}


def test_capabilities_are_on_one_side_only() -> None:
    made = new_spec(cap_add=("net_admin",), cap_drop=("ALL",))
    container = changed(made, cap_drop=("CAP_NET_ADMIN",))["TaskTemplate"]["ContainerSpec"]
    assert (container["CapabilityAdd"], container["CapabilityDrop"]) == ([], ["ALL", "CAP_NET_ADMIN"])


def test_what_is_not_named_is_not_written() -> None:
    before = new_spec(name="web", secret=("s",), env=("A=1",))
    assert changed(json.loads(json.dumps(before))) == before


@pytest.mark.parametrize(
    ("option", "text", "says"),
    [
        ("secret", "target=/x", "source"),
        ("secret", "source=a,colour=red", 'unknown field "colour"'),
        ("secret", "source=a,mode=9", "octal"),
        ("host", "db", "10.0.0.5"),
        ("ulimit", "nofile", "nofile=1024"),
        ("ulimit", "nofile=9:3", "above"),
        ("generic_resource", "GPU", "GPU=2"),
        ("placement_pref", "pack", "spread="),
        ("mount", "type=tmpfs,target=/a,tmpfs-size=big", "tmpfs-size"),
    ],
)
def test_a_notation_that_cannot_be_read_says_what_could(option: str, text: str, says: str) -> None:
    with pytest.raises(parse.BadNotation, match=says):
        new_spec(**{option: (text,)})


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
    assert new_spec(**given)["Mode"] == expected


@pytest.mark.parametrize("given", [{"mode": "global", "replicas": 2}, {"mode": "replicated", "max_concurrent": 2}])
def test_sizes_that_mean_nothing_in_a_mode_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(parse.BadNotation, match="can only be used with"):
        new_spec(**given)


def test_rollback_settings_have_their_own_place() -> None:
    spec = new_spec(rollback_parallelism=0, rollback_order="start-first")
    assert spec["RollbackConfig"] == {"Parallelism": 0, "Order": "start-first"}
