"""What a deployment would do."""

import base64
from typing import Any

import pytest
from tests.stack.files import project_of

from skep.stack import plan as plans
from skep.stack.convert import Ids, network_body, service_spec, tagged
from skep.stack.labels import IMAGE, NAMESPACE
from skep.stack.plan import Current, Difference
from skep.stack.show import plan_lines

TEXT = """
services:
  web:
    image: web:1
    environment: {A: "1", B: "2"}
    networks: [front]
    secrets: [{source: key, uid: "7"}]
    configs: [conf]
    volumes: ["data:/d", "logs:/l"]
    ports: ["80:80"]
    deploy: {replicas: 2, labels: {team: red}}
  plain: {image: p}
networks: {front: {driver_opts: {a: b}, attachable: true}, unused: , outer: {external: true, name: corp}}
volumes: {data: {labels: {l: v}}, logs: {external: true}}
secrets: {key: {content: k}}
configs: {conf: {content: c, name: conf-v1}}
"""
PORT = {"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 80, "PublishMode": "ingress"}
LABEL = {NAMESPACE: "shop"}


def network(name: str, **more: Any) -> dict[str, Any]:
    return {"Id": f"id-{name}", "Name": name, "Scope": "swarm", "Labels": LABEL, **more}


def file(name: str, **spec: Any) -> dict[str, Any]:
    return {"ID": f"id-{name}", "Version": {"Index": 1}, "Spec": {"Name": name, "Labels": LABEL, **spec}}


NETWORKS = {name: network(name) for name in ("shop_front", "shop_default", "corp")}
SECRETS = {"shop_key": file("shop_key")}
CONFIGS = {"conf-v1": file("conf-v1", Data=base64.b64encode(b"c").decode())}


def deployed(text: str = TEXT) -> Current:
    """The swarm after a deployment, as its API would answer."""
    project = project_of(text)
    ids = Current(networks=NETWORKS, secrets=SECRETS, configs=CONFIGS).ids()
    services = {
        f"shop_{key}": {"ID": key, "Spec": plans.to_json(service_spec("shop", project, service, ids))}
        for key, service in project.services.items()
    }
    return Current(services, NETWORKS, SECRETS, CONFIGS)


def test_everything_is_created_with_prefix_and_labels() -> None:
    found = plans.plan("shop", project_of(TEXT), Current(networks={"corp": network("corp")}))
    assert [(step.verb, step.kind, step.name) for step in found.steps] == [
        ("create", "network", "shop_front"),
        ("create", "network", "shop_default"),
        ("create", "secret", "shop_key"),
        ("create", "config", "conf-v1"),
        ("create", "service", "shop_web"),
        ("create", "service", "shop_plain"),
    ]
    assert all(step.body["Labels"][NAMESPACE] == "shop" for step in found.steps)
    assert list(plan_lines(found))[4:] == [
        "+ service shop_web (web:1, 2 replicas)",
        "+ service shop_plain (p:latest, 1 replica)",
    ]


def test_a_services_spec_is_as_dockers() -> None:
    project = project_of(TEXT)
    spec = service_spec("shop", project, project.services["web"], Ids({"shop_front": "n"}, {"shop_key": "s"}))
    container = plans.to_json(spec)["TaskTemplate"]["ContainerSpec"]
    assert spec.labels == {"team": "red", NAMESPACE: "shop", IMAGE: "web:1"}
    assert container["Labels"] == LABEL
    assert container["Env"] == ["A=1", "B=2"]
    assert container["Secrets"] == [
        {"File": {"Name": "key", "UID": "7", "GID": "0", "Mode": 0o444}, "SecretID": "s", "SecretName": "shop_key"}
    ]
    assert container["Configs"][0]["File"]["Name"] == "/conf"
    assert container["Mounts"] == [
        {"Type": "volume", "Source": "shop_data", "Target": "/d", "VolumeOptions": {"Labels": {"l": "v", **LABEL}}},
        {"Type": "volume", "Source": "logs", "Target": "/l"},
    ]
    assert plans.to_json(spec)["TaskTemplate"]["Networks"] == [{"Target": "n", "Aliases": ["web"]}]


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("web", "web:latest"),
        ("web:1", "web:1"),
        ("host:5000/web", "host:5000/web:latest"),
        ("host:5000/web:1", "host:5000/web:1"),
        ("web@sha256:abc", "web@sha256:abc"),
    ],
)
def test_a_missing_tag_is_written_out(written: str, name: str) -> None:
    assert tagged(written) == name


def test_a_networks_body_is_as_dockers() -> None:
    body = network_body("shop", project_of(TEXT).networks["front"])
    assert (body["Name"], body["Driver"], body["Attachable"]) == ("shop_front", "overlay", True)
    assert body["Options"] == {"a": "b"}


def test_a_second_deployment_changes_nothing() -> None:
    found = plans.plan("shop", project_of(TEXT), deployed(), is_pruning=True)
    assert found.changes == []
    assert list(plan_lines(found)) == ["Nothing to change in shop"]


def test_what_the_swarm_added_is_no_change_and_is_kept() -> None:
    current = deployed()
    spec = current.services["shop_web"]["Spec"]
    spec["TaskTemplate"]["ForceUpdate"] = 4
    spec["TaskTemplate"]["ContainerSpec"]["Image"] = "web:1@sha256:" + "a" * 64
    spec["TaskTemplate"]["Networks"].reverse()
    spec["UpdateConfig"] = None
    assert plans.plan("shop", project_of(TEXT), current).changes == []
    changed = plans.plan("shop", project_of(TEXT.replace('A: "1"', 'A: "9"')), current).changes[0]
    assert changed.body["TaskTemplate"]["ForceUpdate"] == 4
    assert "@sha256" in changed.body["TaskTemplate"]["ContainerSpec"]["Image"]


@pytest.mark.parametrize(
    ("old", "new", "difference"),
    [
        ('A: "1"', 'A: "9"', Difference("TaskTemplate.ContainerSpec.Env.A", "A=1", "A=9")),
        ("replicas: 2", "replicas: 0", Difference("Mode.Replicated.Replicas", 2, 0)),
        ("team: red", "team: blue", Difference("Labels.team", "red", "blue")),
        ('uid: "7"', 'uid: "8"', Difference("TaskTemplate.ContainerSpec.Secrets.key.File.UID", "7", "8")),
        ('["80:80"]', '["81:80"]', Difference("EndpointSpec.Ports.80:80/tcp", PORT, None)),
        ("{replicas: 2,", "{replicas: 2, resources: {limits: {memory: 1k}},",
         Difference("TaskTemplate.Resources.Limits.MemoryBytes", None, 1024)),
    ],
    ids=["environment", "replicas", "label", "secret", "port", "limit"],
)  # fmt: skip
def test_a_change_is_told_by_its_field(old: str, new: str, difference: Difference) -> None:
    assert old in TEXT
    found = plans.plan("shop", project_of(TEXT.replace(old, new)), deployed()).changes
    assert [step.name for step in found] == ["shop_web"]
    assert difference in found[0].differences


def test_pruning_removes_only_this_stacks_services() -> None:
    current = deployed()
    foreign = {"ID": "f", "Spec": {"Name": "other", "Labels": {NAMESPACE: "another"}}}
    current = Current({**current.services, "other": foreign}, NETWORKS, SECRETS, CONFIGS)
    text = TEXT.replace("  plain: {image: p}\n", "")
    assert plans.plan("shop", project_of(text), current).changes == []
    pruned = plans.plan("shop", project_of(text), current, is_pruning=True).changes
    assert [(step.verb, step.name) for step in pruned] == [("remove", "shop_plain")]


def test_removal_takes_services_first() -> None:
    steps = plans.removal("shop", deployed()).steps
    assert [step.kind for step in steps] == ["service", "service", "secret", "config", *["network"] * 3]


@pytest.mark.parametrize(
    ("current", "reason"),
    [
        (Current(), 'external network "corp" (/p/compose.yaml:13) is not there'),
        (Current(networks={"corp": network("corp", Scope="local")}), "is of one node"),
        (
            Current(networks=NETWORKS, configs={"conf-v1": file("conf-v1", Data="bmV3")}),
            "a config never changes; give it a new `name:`",
        ),
    ],
    ids=["missing", "local", "changed config"],
)
def test_what_stands_in_the_way_is_told_before_anything_is_done(current: Current, reason: str) -> None:
    assert reason in "\n".join(plans.plan("shop", project_of(TEXT), current).problems)
