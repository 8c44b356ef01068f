"""Translate a container's configuration into Docker's own.

Pure: values in, JSON-ready values out. Source: Docker Engine API 1.41, `POST /containers/create`.
"""

from collections.abc import Iterator, Sequence

import msgspec

from skep.edge import oci_values
from skep.edge.oci_values import Json
from skep.model.service import Mount
from skep.ports.runtime import ContainerConfig, ContainerRejected

SUBPATH_SINCE = (1, 45)
PAUSE_LABEL = "skep.pause"  # The id of the container it is for.
SANDBOX_LABEL = "skep.sandbox"
SANDBOX_INSIDE = "/sandbox"


def create_body(config: ContainerConfig, donor: str, cgroup_parent: str, api: tuple[int, int]) -> Json:
    """Write the body of `POST /containers/create`.

    Args:
        donor: Name of the container whose network namespace and host name it gets; Docker refuses a host name beside.
        cgroup_parent: Empty leaves it to Docker. api: the engine's version.
    Raises:
        ContainerRejected: Something is asked for that no container can have.
    """
    if config.stop_signal:
        oci_values.signal_number(config.stop_signal)
    return {
        "Image": config.image,
        "Labels": dict(config.labels),
        "Env": list(config.env),
        "Entrypoint": list(config.command or ()) or None,
        "Cmd": list(config.args or ()) or None,
        "WorkingDir": config.working_dir,
        "User": config.user,
        "Tty": config.tty,
        "OpenStdin": config.open_stdin,
        "StopSignal": config.stop_signal,
        # The agent runs health checks itself, for every engine alike.
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": {
            "NetworkMode": f"container:{donor}",
            "CgroupParent": cgroup_parent,
            "LogConfig": {"Type": "json-file", "Config": {}},
            "Mounts": [
                *_mounts(config.mounts, api),
                *(_file(str(f.source), f.target, f.read_only) for f in config.files),
            ],
            "Tmpfs": dict(_tmpfs(config.mounts)),
            "ReadonlyRootfs": config.read_only,
            "Init": config.init,
            "SecurityOpt": ["no-new-privileges"] if config.no_new_privileges else [],
            "CapAdd": [oci_values.capability(name) for name in config.capability_add],
            "CapDrop": [oci_values.capability(name) for name in config.capability_drop],
            "GroupAdd": list(config.groups),
            "Sysctls": dict(config.sysctls),
            "Ulimits": [
                {"Name": limit.name.lower().removeprefix("rlimit_"), "Soft": limit.soft, "Hard": limit.hard}
                for limit in config.ulimits
            ],
            "OomScoreAdj": config.oom_score_adj,
            "NanoCpus": config.limits.nano_cpus,
            "Memory": config.limits.memory_bytes,
            "PidsLimit": config.limits.pids,
        },
    }


def _mounts(mounts: Sequence[Mount], api: tuple[int, int]) -> Iterator[Json]:
    for mount in mounts:
        match mount.type:
            case "bind":
                yield msgspec.to_builtins(mount)
            case "volume":
                if mount.volume_options is not None and mount.volume_options.subpath and api < SUBPATH_SINCE:
                    raise ContainerRejected(
                        "volume-subpath is not supported by this node's engine: Docker Engine has it since version 26"
                    )
                yield msgspec.to_builtins(mount)
            case "tmpfs":
                continue
            case other:
                raise ContainerRejected(f'mount type "{other}" is not supported by this node\'s engine (docker)')


def _tmpfs(mounts: Sequence[Mount]) -> Iterator[tuple[str, str]]:
    """As HostConfig's own table: its mounts know no options before API 1.46."""
    for mount in mounts:
        if mount.type == "tmpfs":
            yield mount.target, ",".join(oci_values.tmpfs_options(mount))


def _file(source: str, target: str, read_only: bool) -> Json:
    return {"Type": "bind", "Source": source, "Target": target, "ReadOnly": read_only}


def pause_body(task_id: str, sandbox: str, hostname: str, image: str, cgroup_parent: str) -> Json:
    """Write the body of the pause container: it enters the sandbox and sleeps there, for the task to join it.

    Docker joins no namespace by path, only another container's, and looks that up as the namespace its first process is
    in at the time. So the process itself goes there; CAP_SYS_ADMIN is what setns(2) asks for.
    """
    return {
        "Image": image,
        "Hostname": hostname,
        "Labels": {PAUSE_LABEL: task_id, SANDBOX_LABEL: sandbox},
        "Entrypoint": ["/busybox", "nsenter", f"--net={SANDBOX_INSIDE}", "/busybox", "sleep", "2147483647"],
        "StopSignal": "SIGKILL",
        "HostConfig": {
            # Where the node itself is: Docker then makes no namespace for it to leave, which takes twice as long.
            "NetworkMode": "host",
            "CgroupParent": cgroup_parent,
            "LogConfig": {"Type": "json-file", "Config": {}},
            "Mounts": [_file(sandbox, SANDBOX_INSIDE, True)],
            "ReadonlyRootfs": True,
            "CapDrop": ["ALL"],
            "CapAdd": ["CAP_SYS_ADMIN"],
            "SecurityOpt": ["no-new-privileges"],
        },
    }
