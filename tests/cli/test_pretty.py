"""`inspect --pretty`, and what the service commands send for it to show."""

from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.cli.conftest import Daemon

from skep.cli.main import main

SERVICE: dict[str, Any] = {
    "ID": "s1",
    "Version": {"Index": 4},
    "Spec": {
        "Name": "web",
        "Labels": {"team": "shop"},
        "Mode": {"Replicated": {"Replicas": 2}},
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": "nginx:1",
                "Env": ["A=1\x1b[2J"],
                "Mounts": [{"Type": "volume", "Source": "data", "Target": "/data"}],
                "Secrets": [{"SecretName": "db.pass", "File": {"Name": "pass"}}],
            },
            "Networks": [{"Target": "n1"}],
            "Placement": {"Constraints": ["node.role==worker"]},
            "Resources": {"Limits": {"MemoryBytes": 1 << 29, "NanoCPUs": 500_000_000}},
        },
        "UpdateConfig": {"Parallelism": 2, "Delay": 10_000_000_000, "Order": "start-first"},
    },
    "Endpoint": {"Ports": [{"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080, "PublishMode": "ingress"}]},
}


def skep(daemon: Daemon, *words: str) -> Result:
    return CliRunner().invoke(main, ["-H", daemon.host, *words])


def test_a_service_to_be_read(daemon: Daemon) -> None:
    daemon.answers = {("GET", "/services/web"): SERVICE, ("GET", "/networks"): [{"Id": "n1", "Name": "back"}]}
    done = skep(daemon, "service", "inspect", "--pretty", "web")
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    for wanted in (
        "Name: web", "team=shop", "Service Mode: Replicated", "Replicas: 2", "Constraints: [node.role==worker]",
        "Parallelism: 2", "Delay: 10s", "Update order: start-first", "Image: nginx:1", "Target: /data", "Source: data",
        "Source: db.pass", "CPU: 0.5", "Memory: 0.5GiB", "Networks: back", "PublishedPort = 8080",
    ):  # fmt: skip
        assert wanted in lines, done.stdout
    assert "\x1b" not in done.stdout


def test_a_node_and_files_to_be_read(daemon: Daemon) -> None:
    daemon.answers = {
        ("GET", "/nodes/beta"): {
            "ID": "n2", "CreatedAt": "2026-01-01T00:00:00Z", "Spec": {"Availability": "drain", "Labels": {"zone": "b"}},
            "Status": {"State": "ready", "Addr": "10.0.0.2"},
            "Description": {"Hostname": "beta", "Resources": {"NanoCPUs": 2_000_000_000, "MemoryBytes": 3 << 30}},
        },
        ("GET", "/configs/site"): {
            "ID": "c1", "CreatedAt": "x", "UpdatedAt": "y", "Spec": {"Name": "site", "Data": "aGkKdGhlcmU="},
        },
    }  # fmt: skip
    node = [" ".join(line.split()) for line in skep(daemon, "node", "inspect", "--pretty", "beta").stdout.splitlines()]
    assert {"Hostname: beta", "State: Ready", "Availability: Drain", "CPUs: 2", "Memory: 3GiB", "zone=b"} <= set(node)
    assert "Manager Status:" not in node
    assert skep(daemon, "config", "inspect", "--pretty", "site").stdout.endswith("Data:\nhi\nthere\n")


def test_pretty_and_a_format_exclude_each_other(daemon: Daemon) -> None:
    daemon.answers = {("GET", "/nodes/beta"): {}}
    assert skep(daemon, "node", "inspect", "--pretty", "-f", "{{.ID}}", "beta").exit_code == 2


@pytest.mark.parametrize(("network", "target"), [("back", "n1"), ("host", "host")])
def test_a_service_is_made_with_ids_of_what_the_swarm_has(daemon: Daemon, network: str, target: str) -> None:
    daemon.answers = {
        ("GET", "/networks/back"): {"Id": "n1"},
        ("GET", "/secrets/db.pass"): {"ID": "x1"},
        ("POST", "/services/create"): {"ID": "s1"},
    }
    done = skep(
        daemon, "service", "create", "-d", "--no-resolve-image", "--network", network, "--secret", "db.pass", "nginx"
    )
    assert done.stdout == "s1\n", done.output
    template = daemon.asked[-1][3]["TaskTemplate"]
    assert template["Networks"] == [{"Target": target}]
    assert template["ContainerSpec"]["Secrets"][0]["SecretID"] == "x1"


def test_a_secret_that_is_not_there_ends_it_before_anything_is_made(daemon: Daemon) -> None:
    done = skep(daemon, "service", "create", "-d", "--secret", "nope", "nginx")
    assert (done.exit_code, done.stderr) == (1, "Error response from daemon: /secrets/nope not found\n")
    assert all(method == "GET" for method, *_ in daemon.asked)
