"""One service of a Compose file.

Pure. Keys are in one of four sets: read here, said by `deploy:` too, meaningless in a swarm (ignored with a line), or
refused because ignoring them would run something else than what was asked for.
Source: Compose specification, 05-services.md; docker/cli, cli/compose/types/types.go (UnsupportedProperties).
"""

from collections.abc import Mapping as Map
from typing import Final

from skep.model.service import (
    ContainerSpec,
    DNSConfig,
    EndpointSpec,
    FileTarget,
    Healthcheck,
    LogDriver,
    PortConfig,
    Privileges,
    ResolutionMode,
    Ulimit,
)
from skep.stack import reading
from skep.stack.compose import ComposeService, Condition, Dependency, FileUse, NetworkUse
from skep.stack.deploy import OUTSIDE, read_deploy
from skep.stack.environment import Environment
from skep.stack.errors import ComposeError
from skep.stack.merge import as_mapping
from skep.stack.nodes import Mapping, Node, Scalar
from skep.stack.publish import read_service_ports
from skep.stack.reading import Reading
from skep.stack.storage import Storage

READ: Final = {
    "image", "command", "entrypoint", "environment", "env_file", "labels", "deploy", "depends_on", "healthcheck",
    "secrets", "configs", "volumes", "tmpfs", "networks", "ports", "init", "hostname", "working_dir", "user", "tty",
    "stdin_open", "read_only", "stop_signal", "stop_grace_period", "cap_add", "cap_drop", "dns", "dns_search",
    "dns_opt", "extra_hosts", "sysctls", "ulimits", "logging", "group_add", "oom_score_adj", "security_opt",
    "isolation", "privileged", "devices", "profiles", "expose", "container_name", "build",
}  # fmt: skip
IGNORED: Final = {
    "links", "external_links", "network_mode", "cgroup_parent", "cgroup", "ipc", "pid", "userns_mode", "uts",
    "shm_size", "mac_address", "platform", "pull_policy", "runtime", "storage_opt", "cpu_shares", "cpu_quota",
    "cpu_period", "cpu_rt_runtime", "cpu_rt_period", "cpu_count", "cpu_percent", "cpuset", "blkio_config",
    "memswap_limit", "mem_swappiness", "device_cgroup_rules", "domainname", "volumes_from", "develop", "attach",
    "annotations", "credential_spec", "gpus", "label_file", "oom_kill_disable", "post_start", "pre_stop", "provider",
    "models", "use_api_socket",
}  # fmt: skip
HEALTH: Final = {"test", "interval", "timeout", "retries", "start_period", "start_interval", "disable"}


def read_service(seen: Reading, name: str, node: Node, environment: Environment, storage: Storage) -> ComposeService:
    """Read a service.

    Raises:
        ComposeError: Something in it cannot be meant, or cannot be done by a swarm.
    """
    entries = seen.known(node, "a service", READ | IGNORED | OUTSIDE)
    _ignore(seen, name, entries)
    _refuse(name, entries)
    if "image" not in entries or not reading.text(entries["image"]):
        raise ComposeError(node.place, f'the service "{name}" has no image')
    deploy = entries.get("deploy")
    return ComposeService(
        name=name,
        place=node.place,
        container=_container(seen, entries, environment),
        deploy=read_deploy(seen, deploy, {key: entries[key] for key in OUTSIDE & set(entries)}),
        endpoint=EndpointSpec(mode=_endpoint_mode(deploy), ports=_ports(seen, entries)),
        networks=_networks(seen, entries["networks"]) if "networks" in entries else (),
        mounts=storage.mounts(seen, entries.get("volumes"), entries.get("tmpfs")),
        secrets=_files(seen, entries["secrets"], "secret") if "secrets" in entries else (),
        configs=_files(seen, entries["configs"], "config") if "configs" in entries else (),
        depends_on=_depends_on(seen, entries["depends_on"]) if "depends_on" in entries else (),
        log_driver=_logging(seen, entries["logging"]) if "logging" in entries else None,
    )


def _ignore(seen: Reading, name: str, entries: Map[str, Node]) -> None:
    for key, node in entries.items():
        if key in IGNORED:
            seen.note(node, f"ignored: `{key}` of {name} means nothing in a swarm")
    if "build" in entries:
        seen.note(entries["build"], f"ignored: `build` of {name}; images are built and pushed before they are deployed")
    if "container_name" in entries:
        node = entries["container_name"]
        seen.note(node, f"ignored: `container_name` of {name}; a task's container is named SERVICE.SLOT.ID")


def _refuse(name: str, entries: Map[str, Node]) -> None:
    if "privileged" in entries and reading.boolean(entries["privileged"]):
        raise ComposeError(
            entries["privileged"].place,
            f"{name} cannot be privileged: services have no such thing in Docker's API; give it what it needs with "
            "`cap_add`",
        )
    if "devices" in entries and reading.items(entries["devices"]):
        raise ComposeError(
            entries["devices"].place,
            f"{name} cannot have devices: services have no such thing in Docker's API; mount the directory it needs, "
            "or run it outside of the swarm",
        )


def _endpoint_mode(deploy: Node | None) -> ResolutionMode:
    found = deploy.entries.get("endpoint_mode") if isinstance(deploy, Mapping) else None
    return ResolutionMode(reading.choice(found, list(ResolutionMode))) if found else ResolutionMode.VIP


def _ports(seen: Reading, entries: Map[str, Node]) -> list[PortConfig] | None:
    return read_service_ports(seen, entries["ports"]) or None if "ports" in entries else None


def _container(seen: Reading, entries: Map[str, Node], environment: Environment) -> ContainerSpec:
    def one(key: str) -> str:
        return reading.text(entries[key]) if key in entries else ""

    def flag(key: str) -> bool:
        return key in entries and reading.boolean(entries[key])

    def many(key: str) -> list[str] | None:
        return reading.texts(entries[key]) or None if key in entries else None

    grace = entries.get("stop_grace_period")
    return ContainerSpec(
        image=one("image"),
        labels=reading.labels(entries["labels"]) if "labels" in entries else None,
        command=reading.words(entries["entrypoint"]) if "entrypoint" in entries else None,
        args=reading.words(entries["command"]) if "command" in entries else None,
        hostname=one("hostname"),
        env=environment.of(seen, entries.get("environment"), entries.get("env_file")),
        dir=one("working_dir"),
        user=one("user"),
        groups=many("group_add"),
        privileges=_privileges(seen, entries["security_opt"]) if "security_opt" in entries else None,
        init=reading.boolean(entries["init"]) if "init" in entries else None,
        stop_signal=one("stop_signal"),
        tty=flag("tty"),
        open_stdin=flag("stdin_open"),
        read_only=flag("read_only"),
        stop_grace_period=reading.duration(grace) if grace else None,
        healthcheck=_health(seen, entries["healthcheck"]) if "healthcheck" in entries else None,
        hosts=_hosts(entries["extra_hosts"]) if "extra_hosts" in entries else None,
        dns_config=_dns(many("dns"), many("dns_search"), many("dns_opt")),
        isolation=one("isolation"),
        sysctls=reading.labels(entries["sysctls"], "sysctls") if "sysctls" in entries else None,
        capability_add=_capabilities(many("cap_add")),
        capability_drop=_capabilities(many("cap_drop")),
        ulimits=_ulimits(seen, entries["ulimits"]) if "ulimits" in entries else None,
        oom_score_adj=reading.integer(entries["oom_score_adj"]) if "oom_score_adj" in entries else 0,
    )


def _capabilities(names: list[str] | None) -> list[str] | None:
    """In the one spelling Docker's client sends: sorted, in capitals, `CAP_` before all but ALL."""
    upper = {name.upper() for name in names or []}
    return sorted(name if name == "ALL" or name.startswith("CAP_") else f"CAP_{name}" for name in upper) or None


def _dns(servers: list[str] | None, search: list[str] | None, options: list[str] | None) -> DNSConfig | None:
    return DNSConfig(nameservers=servers, search=search, options=options) if servers or search or options else None


def _privileges(seen: Reading, node: Node) -> Privileges | None:
    has_none_new = False
    for item in reading.items(node):
        if reading.text(item) in ("no-new-privileges", "no-new-privileges:true", "no-new-privileges=true"):
            has_none_new = True
        else:
            seen.note(item, f"ignored: the security option {reading.text(item)[:60]}")
    return Privileges(no_new_privileges=True) if has_none_new else None


def _health(seen: Reading, node: Node) -> Healthcheck:
    entries = seen.known(node, "`healthcheck`", HEALTH)
    if "disable" in entries and reading.boolean(entries["disable"]):
        return Healthcheck(test=["NONE"])
    given = entries.get("test")
    test = None
    if isinstance(given, Scalar):
        test = ["CMD-SHELL", given.text]
    elif given is not None:
        test = reading.texts(given)
        if test and test[0] not in ("NONE", "CMD", "CMD-SHELL"):
            raise ComposeError(given.place, "a list as health check begins with NONE, CMD or CMD-SHELL")
    lengths = {
        key: reading.duration(entries[key])
        for key in ("interval", "timeout", "start_period", "start_interval")
        if key in entries
    }
    return Healthcheck(test=test, retries=reading.count(entries["retries"]) if "retries" in entries else 0, **lengths)


def _hosts(node: Node) -> list[str] | None:
    """Docker's API has `ADDRESS NAME`, Compose `NAME:ADDRESS`, `NAME=ADDRESS` or a mapping."""
    found: list[str] = []
    if isinstance(node, Mapping):
        for name, value in node.entries.items():
            found += [f"{address} {name}" for address in reading.texts(value)]
        return found or None
    for item in reading.items(node):
        written = reading.text(item)
        name, _, address = written.partition("=") if "=" in written else written.partition(":")
        if not name or not address:
            raise ComposeError(item.place, f'"{written[:60]}" is no host; write NAME=ADDRESS')
        found.append(f"{address.strip('[]')} {name}")
    return found or None


def _ulimits(seen: Reading, node: Node) -> list[Ulimit]:
    found: list[Ulimit] = []
    for name, value in reading.mapping(node, "`ulimits`").entries.items():
        if isinstance(value, Scalar):
            soft = hard = reading.integer(value)
        else:
            given = seen.known(value, "a ulimit", {"soft", "hard"})
            if set(given) != {"soft", "hard"}:
                raise ComposeError(value.place, "a ulimit is one number, or has soft and hard")
            soft, hard = reading.integer(given["soft"]), reading.integer(given["hard"])
        found.append(Ulimit(name=name, soft=soft, hard=hard))
    return found


def _logging(seen: Reading, node: Node) -> LogDriver:
    entries = seen.known(node, "`logging`", {"driver", "options"})
    options = reading.labels(entries["options"], "options") if "options" in entries else None
    return LogDriver(name=reading.text(entries["driver"]) if "driver" in entries else "", options=options)


def _networks(seen: Reading, node: Node) -> tuple[NetworkUse, ...]:
    found: list[NetworkUse] = []
    known = {"aliases", "driver_opts", "priority", "ipv4_address", "ipv6_address", "link_local_ips", "mac_address",
             "gw_priority", "interface_name"}  # fmt: skip
    tree = reading.mapping(as_mapping(node, "networks"), "`networks`")
    for name, value in tree.entries.items():
        entries = seen.known(value, "a service's network", known)
        for key in known - {"aliases", "driver_opts", "priority", "gw_priority"}:
            if key in entries:
                seen.note(entries[key], f"ignored: `{key}`; a swarm gives every task its own")
        found.append(
            NetworkUse(
                network=name,
                place=tree.key_place(name),
                aliases=tuple(reading.texts(entries["aliases"])) if "aliases" in entries else (),
                driver_opts=reading.labels(entries["driver_opts"], "driver_opts") if "driver_opts" in entries else {},
            )
        )
    return tuple(found)


def _files(seen: Reading, node: Node, kind: str) -> tuple[FileUse, ...]:
    found: list[FileUse] = []
    for item in reading.items(node):
        if isinstance(item, Scalar):
            target = item.text if kind == "secret" else f"/{item.text}"
            found.append(FileUse(item.text, item.place, FileTarget(name=target)))
            continue
        entries = seen.known(item, f"a service's {kind}", {"source", "target", "uid", "gid", "mode"})
        if "source" not in entries:
            raise ComposeError(item.place, f"a {kind} has a source")
        source = reading.text(entries["source"])
        target = (
            reading.text(entries["target"]) if "target" in entries else source if kind == "secret" else f"/{source}"
        )
        file = FileTarget(
            name=target,
            uid=reading.text(entries["uid"]) if "uid" in entries else "0",
            gid=reading.text(entries["gid"]) if "gid" in entries else "0",
            mode=reading.file_mode(entries["mode"]) if "mode" in entries else 0o444,
        )
        found.append(FileUse(source, item.place, file))
    return tuple(found)


def _depends_on(seen: Reading, node: Node) -> tuple[Dependency, ...]:
    found: list[Dependency] = []
    tree = reading.mapping(as_mapping(node, "depends_on"), "`depends_on`")
    for name, value in tree.entries.items():
        entries = seen.known(value, "a dependency", {"condition", "restart", "required"})
        condition = (
            reading.choice(entries["condition"], list(Condition)) if "condition" in entries else "service_started"
        )
        is_required = reading.boolean(entries["required"]) if "required" in entries else True
        found.append(Dependency(name, tree.key_place(name), Condition(condition), is_required))
    return tuple(found)
