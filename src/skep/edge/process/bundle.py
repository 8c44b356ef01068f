"""Write the OCI bundle's config.json for a program of the host.

Edge: looks users up in the host's accounts; everything else is a pure translation. Source: the OCI runtime
specification; defaults are Docker's.
"""

import grp
import pwd
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from skep.edge import oci_values
from skep.edge.oci_values import CAPABILITIES, Json
from skep.model.service import Mount
from skep.ports.runtime import ContainerConfig, ContainerRejected

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
)
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


@dataclass(frozen=True, slots=True)
class Ground:
    """What the driver prepared for a container.

    Attributes:
        host_mounts: The host's file system as binds. volumes: folders of its volumes by target.
        hidden: Folders of the host no container may see, such as our own.
        init_path: A program to run as process 1 before the program; empty for none.
    """

    rootfs: Path
    host_mounts: Sequence[Json]
    volumes: Mapping[str, Path]
    hidden: Sequence[Path]
    cgroup: str
    init_path: str = ""


@dataclass(frozen=True, slots=True)
class _User:
    uid: int
    gid: int
    home: str
    groups: tuple[int, ...]


def write_bundle(config: ContainerConfig, ground: Ground) -> Json:
    """Write config.json.

    Raises:
        ContainerRejected: No command, or an unknown user, group, signal or mount type.
    """
    arguments = [*(config.command or ()), *(config.args or ())]
    if not arguments:
        raise ContainerRejected("no command specified")
    if config.init and not ground.init_path:
        raise ContainerRejected("no init program is installed on this node: install catatonit or leave out --init")
    user = _find_user(config.user, config.groups)
    return {
        "ociVersion": "1.0.2",
        "hostname": config.hostname,
        "root": {"path": str(ground.rootfs), "readonly": True},
        "process": {
            "terminal": config.tty,
            "user": {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.groups)},
            "args": [ground.init_path, "--", *arguments] if config.init else arguments,
            "env": _environment(config, user),
            "cwd": config.working_dir or "/",
            "capabilities": _capabilities(config),
            "noNewPrivileges": config.no_new_privileges,
            "oomScoreAdj": config.oom_score_adj,
            "rlimits": [
                {"type": f"RLIMIT_{limit.name.upper()}", "soft": limit.soft, "hard": limit.hard}
                for limit in config.ulimits
            ],
        },
        "mounts": [*_kernel_mounts(), *ground.host_mounts, *_private_mounts(), *_asked_mounts(config, ground)],
        "linux": {
            "namespaces": [
                {"type": "network", "path": str(config.sandbox)},
                *({"type": kind} for kind in ("pid", "mount", "uts", "ipc")),
            ],
            "cgroupsPath": ground.cgroup,
            "resources": {"devices": [{"allow": False, "access": "rwm"}], **oci_values.resource_limits(config.limits)},
            "sysctl": dict(config.sysctls),
            "maskedPaths": [*MASKED, *(str(path) for path in ground.hidden)],
            "readonlyPaths": list(READ_ONLY),
        },
    }


def _find_user(user: str, groups: Sequence[str]) -> _User:
    name, _, group = user.partition(":")
    try:
        entry = pwd.getpwuid(int(name or 0)) if not name or name.isdigit() else pwd.getpwnam(name)
        uid, gid, home = entry.pw_uid, entry.pw_gid, entry.pw_dir
    except KeyError as error:
        if not name.isdigit():
            raise ContainerRejected(f"unable to find user {name}: no matching entries in passwd file") from error
        uid, gid, home = int(name), 0, "/"
    if group:
        gid = _find_group(group)
    return _User(uid, gid, home, tuple(_find_group(each) for each in groups))


def _find_group(group: str) -> int:
    if group.isdigit():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise ContainerRejected(f"unable to find group {group}: no matching entries in group file") from error


def _environment(config: ContainerConfig, user: _User) -> list[str]:
    values = {"PATH": PATH, "HOSTNAME": config.hostname, "HOME": user.home}
    if config.tty:
        values["TERM"] = "xterm"
    for entry in config.env:
        name, separator, value = entry.partition("=")
        if separator:
            values[name] = value
        else:
            values.pop(name, None)
    return [f"{name}={value}" for name, value in values.items()]


def _capabilities(config: ContainerConfig) -> Json:
    added = {oci_values.capability(name) for name in config.capability_add}
    dropped = {oci_values.capability(name) for name in config.capability_drop}
    if "ALL" in added:
        raise ContainerRejected('the process driver does not add "ALL" capabilities: name those that are needed')
    default = set() if "ALL" in dropped else {oci_values.capability(name) for name in CAPABILITIES}
    names = sorted((default - dropped) | added)
    return dict.fromkeys(("bounding", "effective", "permitted"), names)


def _kernel_mounts() -> Iterator[Json]:
    safe = ["nosuid", "noexec", "nodev"]
    yield oci_values.mount("proc", "proc", "/proc", [])
    yield oci_values.mount("tmpfs", "tmpfs", "/dev", ["nosuid", "strictatime", "mode=755", "size=65536k"])
    terminals = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
    yield oci_values.mount("devpts", "devpts", "/dev/pts", terminals)
    yield oci_values.mount("tmpfs", "shm", "/dev/shm", [*safe, "mode=1777", "size=65536k"])  # noqa: S108  a mount's target
    yield oci_values.mount("mqueue", "mqueue", "/dev/mqueue", safe)
    yield oci_values.mount("sysfs", "sysfs", "/sys", [*safe, "ro"])


def _private_mounts() -> Iterator[Json]:
    yield oci_values.mount("tmpfs", "tmpfs", "/tmp", ["nosuid", "nodev", "mode=1777"])  # noqa: S108  a mount's target
    yield oci_values.mount("tmpfs", "tmpfs", "/run", ["nosuid", "nodev", "mode=755"])


def _asked_mounts(config: ContainerConfig, ground: Ground) -> Iterator[Json]:
    for mount in config.mounts:
        yield _asked_mount(mount, ground)
    for file in config.files:
        yield oci_values.file_mount(file)


def _asked_mount(mount: Mount, ground: Ground) -> Json:
    match mount.type:
        case "bind":
            return oci_values.mount("bind", mount.source, mount.target, oci_values.bind_options(mount))
        case "tmpfs":
            return oci_values.mount("tmpfs", "tmpfs", mount.target, oci_values.tmpfs_options(mount))
        case "volume":
            options = ["rbind", "rprivate", "ro" if mount.read_only else "rw"]
            return oci_values.mount("bind", str(ground.volumes[mount.target]), mount.target, options)
        case other:
            raise ContainerRejected(f'mount type "{other}" is not supported by this node\'s engine (process)')
