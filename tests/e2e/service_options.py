"""Every option of `docker service create` and `update` that a swarm keeps, and what the service's spec then says."""

from typing import Any

CREATE = (
    *(
        "--replicas",
        "0",
        "--label",
        "l=1",
        "--container-label",
        "c=1",
        "--env",
        "E=1",
        "--hostname",
        "h-{{.Task.Slot}}",
    ),
    *("--user", "1000:1000", "--group", "audio", "--workdir", "/w", "--tty", "--read-only", "--stop-signal", "SIGQUIT"),
    *("--cap-add", "NET_ADMIN", "--cap-drop", "CHOWN", "--sysctl", "net.ipv4.ip_forward=1", "--ulimit", "nofile=1:2"),
    *("--host", "db:10.9.9.9", "--dns", "10.9.9.1", "--dns-search", "example.org", "--dns-option", "ndots:2"),
    *("--mount", "type=tmpfs,target=/t,tmpfs-size=1m", "--network", "name=net-one,alias=friend"),
    *("--mount", "type=volume,source=v,target=/v,volume-nocopy,volume-label=a=b", "--secret", "secret-one"),
    *("--config", "source=config-one,target=/c,mode=0400", "--publish", "published=8081,target=80,protocol=udp"),
    *("--constraint", "node.role==worker", "--placement-pref", "spread=node.labels.zone"),
    *("--replicas-max-per-node", "2", "--limit-cpu", "0.5", "--limit-pids", "50", "--reserve-memory", "32m"),
    *("--restart-condition", "on-failure", "--restart-max-attempts", "3", "--restart-window", "1m"),
    *("--update-order", "start-first", "--update-failure-action", "rollback", "--update-parallelism", "2"),
    *("--update-max-failure-ratio", "0.25", "--rollback-delay", "2s", "--health-cmd", "true", "--health-retries", "4"),
    *("--health-interval", "9s", "--health-timeout", "2s", "--health-start-period", "8s"),
    *("--log-driver", "json-file", "--log-opt", "max-size=1m", "busybox:1", "sleep", "600"),
)
CREATED: dict[str, Any] = {
    "Labels": {"l": "1"},
    "Mode": {"Replicated": {"Replicas": 0}},
    "TaskTemplate": {
        "ContainerSpec": {
            "Image": "busybox:1",
            "Args": ["sleep", "600"],
            "Labels": {"c": "1"},
            "Env": ["E=1"],
            "Hostname": "h-{{.Task.Slot}}",
            "User": "1000:1000",
            "Groups": ["audio"],
            "Dir": "/w",
            "TTY": True,
            "ReadOnly": True,
            "StopSignal": "SIGQUIT",
            "CapabilityAdd": ["CAP_NET_ADMIN"],
            "CapabilityDrop": ["CAP_CHOWN"],
            "Sysctls": {"net.ipv4.ip_forward": "1"},
            "Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 2}],
            "Hosts": ["10.9.9.9 db"],
            "DNSConfig": {"Nameservers": ["10.9.9.1"], "Search": ["example.org"], "Options": ["ndots:2"]},
            "Mounts": [
                {"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 1 << 20}},
                {
                    "Type": "volume",
                    "Source": "v",
                    "Target": "/v",
                    "VolumeOptions": {"NoCopy": True, "Labels": {"a": "b"}},
                },
            ],
            "Secrets": [{"SecretName": "secret-one", "File": {"Name": "secret-one", "Mode": 0o444}}],
            "Configs": [{"ConfigName": "config-one", "File": {"Name": "/c", "Mode": 0o400}}],
            "Healthcheck": {
                "Test": ["CMD-SHELL", "true"],
                "Interval": 9_000_000_000,
                "Timeout": 2_000_000_000,
                "StartPeriod": 8_000_000_000,
                "Retries": 4,
            },
        },
        "Networks": [{"Aliases": ["friend"]}],
        "Placement": {
            "Constraints": ["node.role==worker"],
            "Preferences": [{"Spread": {"SpreadDescriptor": "node.labels.zone"}}],
            "MaxReplicas": 2,
        },
        "Resources": {
            "Limits": {"NanoCPUs": 500_000_000, "Pids": 50},
            "Reservations": {"MemoryBytes": 32 << 20},
        },
        "RestartPolicy": {"Condition": "on-failure", "MaxAttempts": 3, "Window": 60_000_000_000},
        "LogDriver": {"Name": "json-file", "Options": {"max-size": "1m"}},
    },
    "UpdateConfig": {"Parallelism": 2, "FailureAction": "rollback", "MaxFailureRatio": 0.25, "Order": "start-first"},
    "RollbackConfig": {"Parallelism": 1, "Delay": 2_000_000_000, "FailureAction": "pause"},
    "EndpointSpec": {"Mode": "vip", "Ports": [{"Protocol": "udp", "TargetPort": 80, "PublishedPort": 8081}]},
}

UPDATE = (
    *("--label-rm", "l", "--label-add", "m=2", "--container-label-rm", "c", "--env-rm", "E", "--env-add", "F=2"),
    *("--mount-rm", "/v", "--mount-add", "type=tmpfs,target=/u", "--network-rm", "net-one", "--network-add", "net-two"),
    *("--secret-rm", "secret-one", "--secret-add", "source=secret-two,target=s"),
    *("--config-rm", "config-one", "--config-add", "config-two", "--publish-rm", "80/udp", "--publish-add", "8082:81"),
    *("--constraint-rm", "node.role==worker", "--constraint-add", "node.role==manager"),
    *("--placement-pref-rm", "spread=node.labels.zone", "--host-rm", "db:10.9.9.9", "--host-add", "db:10.9.9.8"),
    *("--dns-rm", "10.9.9.1", "--cap-drop", "NET_ADMIN", "--ulimit-rm", "nofile", "--sysctl-rm", "net.ipv4.ip_forward"),
    *("--no-healthcheck", "--image", "busybox:2", "--args", "sleep 60", "--group-rm", "audio", "--group-add", "video"),
)
UPDATED: dict[str, Any] = {
    "Labels": {"m": "2"},
    "TaskTemplate": {
        "ContainerSpec": {
            "Image": "busybox:2",
            "Args": ["sleep", "60"],
            "Env": ["F=2"],
            "Groups": ["video"],
            "CapabilityDrop": ["CAP_CHOWN"],
            "Hosts": ["10.9.9.8 db"],
            "DNSConfig": {"Search": ["example.org"]},
            "Mounts": [{"Target": "/t"}, {"Type": "tmpfs", "Target": "/u"}],
            "Secrets": [{"SecretName": "secret-two", "File": {"Name": "s"}}],
            "Configs": [{"ConfigName": "config-two", "File": {"Name": "config-two"}}],
            "Healthcheck": {"Test": ["NONE"]},
            "Hostname": "h-{{.Task.Slot}}",
        },
        "Networks": [{}],
        "Placement": {"Constraints": ["node.role==manager"], "MaxReplicas": 2},
    },
    "EndpointSpec": {"Ports": [{"Protocol": "tcp", "TargetPort": 81, "PublishedPort": 8082}]},
}
GONE = ("Labels", "CapabilityAdd", "Sysctls", "Ulimits")
"""What the container's part of the spec no longer says after the update."""


def differences(wanted: Any, found: Any, place: str = "Spec") -> list[str]:
    """Where a document lacks what is wanted of it; objects may say more, lists may not be longer."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        return [text for key in wanted for text in differences(wanted[key], found.get(key), f"{place}.{key}")]
    if isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        pairs = enumerate(zip(wanted, found, strict=True))
        return [text for at, (one, other) in pairs for text in differences(one, other, f"{place}[{at}]")]
    return [] if wanted == found else [f"{place} is {found!r}, not {wanted!r}"]
