"""Translate a container's configuration into podman's SpecGenerator.

Pure: values in, JSON-ready values out. Source: podman 4.3 pkg/specgen/specgen.go and the OCI runtime specification.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from skep.edge import oci_values
from skep.edge.oci_values import Json
from skep.model.service import Mount, Ulimit
from skep.ports.runtime import ContainerConfig, ContainerRejected


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
        "mounts": [*_mounts(config.mounts), *(oci_values.file_mount(file) for file in config.files)],
        "volumes": list(_volumes(config.mounts)),
        "resource_limits": oci_values.resource_limits(config.limits),
        **_environment(config.env),
    }
    optional: Json = {
        "entrypoint": list(config.command or ()),
        "command": list(config.args or ()),
        "work_dir": config.working_dir,
        "user": config.user,
        "groups": list(config.groups),
        "cap_add": [oci_values.capability(name) for name in config.capability_add],
        "cap_drop": [oci_values.capability(name) for name in config.capability_drop],
        "sysctl": dict(config.sysctls),
        "oom_score_adj": config.oom_score_adj,
        "stop_signal": oci_values.signal_number(config.stop_signal) if config.stop_signal else 0,
        "cgroup_parent": cgroup_parent,
    }
    return body | {key: value for key, value in optional.items() if value}


def _mounts(mounts: Sequence[Mount]) -> Iterator[Json]:
    for mount in mounts:
        match mount.type:
            case "bind":
                yield oci_values.mount("bind", mount.source, mount.target, oci_values.bind_options(mount))
            case "tmpfs":
                yield oci_values.mount("tmpfs", "tmpfs", mount.target, oci_values.tmpfs_options(mount))
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
