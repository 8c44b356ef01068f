"""Turn an assigned task into the container to make and the small files it reads.

Edge: looks whether bind sources exist; the rest is a function of its arguments. Names, labels and file contents are
Docker's, because tools find containers by them. Source: moby/daemon/cluster/executor/container/container.go.
"""

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from skep.model.errors import InvalidSpec
from skep.model.service import ContainerSpec, Limits, Mount, PortConfig, Protocol, PublishMode
from skep.model.task import Task
from skep.ports.runtime import ContainerConfig, FileMount

LABEL = "com.docker.swarm"
TASK_ID_LABEL = f"{LABEL}.task.id"
NODE_ID_LABEL = f"{LABEL}.node.id"
READY_LABEL = "skep.ready"
DNS_ADDRESS = "127.0.0.11"
MOUNT_TYPES = ("bind", "volume", "tmpfs")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a container is put into.

    Attributes:
        directory: Of the task's own files. sandbox: its namespace's path. files: its secrets and configs.
    """

    directory: Path
    sandbox: Path
    files: Sequence[FileMount] = ()


def labels(task: Task, spec: ContainerSpec) -> Mapping[str, str]:
    return {
        **(spec.labels or {}),
        f"{LABEL}.task": "",
        TASK_ID_LABEL: task.id,
        f"{LABEL}.task.name": task.name,
        NODE_ID_LABEL: task.node_id,
        f"{LABEL}.service.id": task.service_id,
        f"{LABEL}.service.name": task.service_name,
    }


def check(spec: ContainerSpec) -> None:
    """Refuse what this node cannot give a container, with Docker's words where it has them.

    Raises:
        InvalidSpec: the sentence becomes the rejected task's `err`.
    """
    for mount in spec.mounts or ():
        check_mount(mount)


def check_mount(mount: Mount) -> None:
    def refuse(why: str) -> InvalidSpec:
        return InvalidSpec(f'invalid mount config for type "{mount.type}": {why}')

    if mount.type not in MOUNT_TYPES:
        raise refuse(f"mount type unknown here: use one of {', '.join(MOUNT_TYPES)}")
    if not mount.target.startswith("/"):
        raise refuse(f"invalid mount path: '{mount.target}' mount path must be absolute")
    if mount.type != "bind":
        return
    if not mount.source.startswith("/"):
        raise refuse(f"invalid mount path: '{mount.source}' mount path must be absolute")
    is_made = mount.bind_options is not None and mount.bind_options.create_mountpoint
    if not is_made and not Path(mount.source).exists():
        raise refuse(f"bind source path does not exist: {mount.source}")


def configure(task: Task, spec: ContainerSpec, around: Surroundings) -> ContainerConfig:
    """The container of a task, its templates filled in already."""
    privileges = spec.privileges
    return ContainerConfig(
        name=task.name,
        image=spec.image,
        sandbox=around.sandbox,
        hostname=spec.hostname,
        labels=labels(task, spec),
        command=spec.command,
        args=spec.args,
        env=spec.env or (),
        working_dir=spec.dir,
        user=spec.user,
        groups=spec.groups or (),
        mounts=spec.mounts or (),
        files=[*_files(spec, around.directory), *around.files],
        limits=_limits(task),
        tty=spec.tty,
        open_stdin=spec.open_stdin,
        read_only=spec.read_only,
        init=bool(spec.init),
        no_new_privileges=privileges.no_new_privileges if privileges else False,
        stop_signal=spec.stop_signal,
        capability_add=spec.capability_add or (),
        capability_drop=spec.capability_drop or (),
        sysctls=spec.sysctls or {},
        ulimits=spec.ulimits or (),
        oom_score_adj=spec.oom_score_adj,
    )


def _limits(task: Task) -> Limits:
    resources = task.spec.resources
    return (resources.limits if resources else None) or Limits()


def _files(spec: ContainerSpec, directory: Path) -> Sequence[FileMount]:
    taken = {mount.target for mount in spec.mounts or ()}
    names = ("hosts", "resolv.conf", "hostname")
    return [
        FileMount(source=directory / name, target=f"/etc/{name}", read_only=False)
        for name in names
        if f"/etc/{name}" not in taken
    ]


def hosts_file(spec: ContainerSpec, hostname: str, addresses: Sequence[str]) -> str:
    """What the container reads as /etc/hosts.

    Args:
        addresses: Its own, with or without prefix.
    """
    lines = [
        "127.0.0.1\tlocalhost",
        "::1\tlocalhost ip6-localhost ip6-loopback",
        "fe00::0\tip6-localnet",
        "ff00::0\tip6-mcastprefix",
        "ff02::1\tip6-allnodes",
        "ff02::2\tip6-allrouters",
    ]
    lines += ["\t".join(entry.split()) for entry in spec.hosts or ()]
    lines += [f"{ipaddress.ip_interface(address).ip}\t{hostname}" for address in addresses]
    return "\n".join(lines) + "\n"


def resolv_conf(spec: ContainerSpec) -> str:
    """What the container reads as /etc/resolv.conf: our name server, and the user's search domains and options."""
    dns = spec.dns_config
    lines = [f"nameserver {DNS_ADDRESS}"]
    if dns is not None and dns.search:
        lines.append("search " + " ".join(dns.search))
    given = (dns.options or []) if dns is not None else []
    options = given if any(option.startswith("ndots:") for option in given) else [*given, "ndots:0"]
    lines.append("options " + " ".join(options))
    return "\n".join(lines) + "\n"


def host_ports(task: Task) -> list[PortConfig]:
    """Ports published on this node only."""
    return [port for port in _ports(task) if port.publish_mode is PublishMode.HOST]


def awaited_ports(task: Task) -> frozenset[int]:
    """Target ports that must be listened on before the task may take traffic; empty if it need not be waited for."""
    if task.service_labels.get(READY_LABEL) == "start":
        return frozenset()
    return frozenset(port.target_port for port in _ports(task) if port.protocol is Protocol.TCP)


def _ports(task: Task) -> Sequence[PortConfig]:
    if task.endpoint is None:
        return ()
    return task.endpoint.ports or task.endpoint.spec.ports or ()
