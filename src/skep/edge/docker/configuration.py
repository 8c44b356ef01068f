"""The file and arguments a private dockerd is run with.

Pure: a function from settings and machine to text. Everything dockerd would otherwise take from /etc/docker or share
with another Docker Engine of this host is stated here: several nodes may live on one machine, and the network is ours.
Source: dockerd(8) 20.10, daemon.json.
"""

import json
from pathlib import Path

from skep.edge.engine_program import EngineProgram, EngineSettings, cgroup_manager
from skep.edge.machine import Machine

# Below it are sockets of up to 32 characters more (containerd/containerd-debug.sock), of at most 107 in all.
EXEC_ROOT_LIMIT = 70


def socket(settings: EngineSettings) -> Path:
    return settings.run_dir / "docker.sock"


def exec_root(settings: EngineSettings) -> Path:
    """Where containerd and the OCI runtime keep their state."""
    return settings.short_path("docker", EXEC_ROOT_LIMIT)


def runtime_root(settings: EngineSettings) -> Path:
    """The OCI runtime's own state, as containerd's shim passes it."""
    return exec_root(settings) / "runtime-runc" / "moby"


def daemon_json(machine: Machine, settings: EngineSettings) -> str:
    """Write daemon.json."""
    configuration: dict[str, object] = {
        "data-root": str(settings.root / "docker"),
        "exec-root": str(exec_root(settings)),
        "group": "root",
        "log-level": "warn",
        "live-restore": True,  # Containers outlive dockerd.
        # The node's network is the data plane's; dockerd would set the policy of FORWARD to drop, among others.
        "bridge": "none",
        "iptables": False,
        "ip6tables": False,
        "ip-forward": False,
        "ip-masq": False,
        "exec-opts": [f"native.cgroupdriver={cgroup_manager(machine, settings)}"],
    }
    if settings.insecure_registries:
        configuration["insecure-registries"] = list(settings.insecure_registries)
    if machine.init_path:
        configuration["init-path"] = machine.init_path
    if settings.cgroup_parent:
        configuration["cgroup-parent"] = settings.cgroup_parent
    return json.dumps(configuration, indent=2) + "\n"


def docker_program(machine: Machine, settings: EngineSettings) -> EngineProgram:
    """The service as it is run on this machine; it starts and ends a containerd of its own."""
    file = settings.run_dir / "daemon.json"
    short = exec_root(settings).parent
    return EngineProgram(
        name="dockerd",
        # No pid file: after a crash dockerd refuses to start while any process, or a zombie, has that number.
        command=[
            machine.dockerd_path,
            *("--config-file", str(file), "--pidfile=", "--host", f"unix://{socket(settings)}"),
        ],
        run_dir=settings.run_dir,
        socket=socket(settings),
        files={file: daemon_json(machine, settings)},
        folders=(settings.root / "docker",),
        followers=(exec_root(settings) / "containerd" / "containerd.pid",),
        alias=short if short != settings.run_dir else None,
        problem=_problem(machine, settings),
    )


def _problem(machine: Machine, settings: EngineSettings) -> str:
    if not (machine.dockerd_path and "runc" in dict(machine.runtimes)):
        return "Docker Engine is not complete here: install the packages docker.io (or docker-ce) and runc"
    if not machine.busybox_path:
        return "sandboxes need a static busybox beside Docker Engine: install the package busybox-static"
    if settings.image_stores:
        return "Docker Engine reads no image stores but its own: leave out --image-store, or use the podman engine"
    return ""
