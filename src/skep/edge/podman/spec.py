"""Translate a container's configuration into podman's SpecGenerator.

Pure: values in, JSON-ready values out. Source: podman 4.3 pkg/specgen/specgen.go and the OCI runtime specification.
"""

import signal
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from skep.model.service import Limits, Mount, Ulimit
from skep.ports.runtime import ContainerConfig, ContainerRejected, FileMount

CPU_PERIOD_US = 100_000
SECOND = 1_000_000_000
Json = dict[str, Any]


def create_body(config: ContainerConfig, image: str, cgroup_parent: str) -> Json:
    """Write the body of `POST /libpod/containers/create`.

    Args:
        image: Its full name. cgroup_parent: empty leaves it to podman.
    Raises:
        ContainerRejected: Something is asked for that no container can have.
    """
    body: Json = {
        "name": config.name,
        "image": image,
        "hostname": config.hostname,
        "labels": dict(config.labels),
        "netns": {"nsmode": "path", "value": str(config.sandbox)},
        "use_image_hosts": True,
        "use_image_resolve_conf": True,
        "systemd": "false",
        "terminal": config.tty,
        "stdin": config.open_stdin,
        "read_only_filesystem": config.read_only,
        "init": config.init,
        "no_new_privileges": config.no_new_privileges,
        # Podman's health timers need systemd; the agent runs health checks itself.
        "healthconfig": {"test": ["NONE"]},
        "r_limits": [_ulimit(limit) for limit in config.ulimits],
        "mounts": [*_mounts(config.mounts), *(file_mount(file) for file in config.files)],
        "volumes": list(_volumes(config.mounts)),
        "resource_limits": resource_limits(config.limits),
        **_environment(config.env),
    }
    optional: Json = {
        "entrypoint": list(config.command or ()),
        "command": list(config.args or ()),
        "work_dir": config.working_dir,
        "user": config.user,
        "groups": list(config.groups),
        "cap_add": [capability(name) for name in config.capability_add],
        "cap_drop": [capability(name) for name in config.capability_drop],
        "sysctl": dict(config.sysctls),
        "oom_score_adj": config.oom_score_adj,
        "stop_signal": signal_number(config.stop_signal) if config.stop_signal else 0,
        "cgroup_parent": cgroup_parent,
    }
    return body | {key: value for key, value in optional.items() if value}


def signal_number(name: str) -> int:
    """Read `SIGTERM`, `term` or `15`.

    Raises:
        ContainerRejected: In Docker's words.
    """
    text = name.upper()
    if text.isdigit() and 0 < int(text) < signal.NSIG:
        return int(text)
    try:
        return signal.Signals[text if text.startswith("SIG") else f"SIG{text}"]
    except KeyError as error:
        raise ContainerRejected(f"invalid signal: {name}") from error


def capability(name: str) -> str:
    """Spell a capability as the kernel does; ALL stays ALL."""
    text = name.upper()
    return text if text == "ALL" or text.startswith("CAP_") else f"CAP_{text}"


def resource_limits(limits: Limits) -> Json:
    """Write limits as the OCI runtime's LinuxResources."""
    resources: Json = {}
    if limits.memory_bytes:
        resources["memory"] = {"limit": limits.memory_bytes}
    if limits.nano_cpus:
        resources["cpu"] = {"period": CPU_PERIOD_US, "quota": limits.nano_cpus * CPU_PERIOD_US // SECOND}
    if limits.pids > 0:
        resources["pids"] = {"limit": limits.pids}
    return resources


def file_mount(file: FileMount) -> Json:
    """Bind one prepared file."""
    mode = "ro" if file.read_only else "rw"
    return _mount("bind", str(file.source), file.target, ["rbind", "rprivate", mode])


def bind_options(mount: Mount) -> list[str]:
    """Options of a bind mount; private and recursive unless asked otherwise, as Docker's."""
    options = mount.bind_options
    is_shallow = options is not None and options.non_recursive
    propagation = options.propagation if options is not None and options.propagation else "rprivate"
    return ["bind" if is_shallow else "rbind", propagation, "ro" if mount.read_only else "rw"]


def tmpfs_options(mount: Mount) -> list[str]:
    """Options of a tmpfs mount; nosuid, nodev and noexec unless the user's own say otherwise."""
    wanted = mount.tmpfs_options
    options = {"noexec": "noexec", "nosuid": "nosuid", "nodev": "nodev"}
    if mount.read_only:
        options["ro"] = "ro"
    if wanted is not None and wanted.size_bytes:
        options["size"] = f"size={wanted.size_bytes}"
    if wanted is not None:
        options["mode"] = f"mode={wanted.mode & 0o7777 or 0o1777:o}"
    for pair in (wanted.options or []) if wanted is not None else []:
        if len(pair) == 1:
            options.pop(f"no{pair[0]}", None)
        options[pair[0]] = "=".join(pair)
    return list(options.values())


def _mount(kind: str, source: str, destination: str, options: Sequence[str]) -> Json:
    return {"type": kind, "source": source, "destination": destination, "options": list(options)}


def _mounts(mounts: Sequence[Mount]) -> Iterator[Json]:
    for mount in mounts:
        match mount.type:
            case "bind":
                yield _mount("bind", mount.source, mount.target, bind_options(mount))
            case "tmpfs":
                yield _mount("tmpfs", "tmpfs", mount.target, tmpfs_options(mount))
            case "volume":
                continue
            case other:
                raise ContainerRejected(f'mount type "{other}" is not supported by this node\'s engine (podman)')


def _volumes(mounts: Sequence[Mount]) -> Iterator[Json]:
    for mount in mounts:
        if mount.type != "volume":
            continue
        options = ["ro" if mount.read_only else "rw"]
        wanted = mount.volume_options
        if wanted is not None and wanted.subpath:
            raise ContainerRejected("volume-subpath is not supported by this node's engine (podman)")
        if wanted is not None and wanted.no_copy:
            options.append("nocopy")
        yield {"Name": mount.source, "Dest": mount.target, "Options": options}


def _environment(env: Sequence[str]) -> Mapping[str, Any]:
    """`K=V` sets, a bare `K` takes away what the image sets."""
    pairs = [entry.partition("=") for entry in env]
    return {
        "env": {key: value for key, separator, value in pairs if separator},
        "unsetenv": [key for key, separator, _ in pairs if not separator],
    }


def _ulimit(limit: Ulimit) -> Json:
    name = limit.name.lower()
    return {"type": name.removeprefix("rlimit_"), "soft": limit.soft, "hard": limit.hard}
