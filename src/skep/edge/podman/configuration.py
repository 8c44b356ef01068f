"""The files and arguments a private podman is run with.

Pure: a function from settings and machine to text. Everything podman would otherwise take from /etc or share with
another podman of this host is stated here, because several nodes may live on one machine: roots, locks, events,
network definitions and the OCI runtime's own state.
"""

from pathlib import Path

from skep.edge.engine_program import EngineProgram, EngineSettings, cgroup_manager
from skep.edge.machine import Machine
from skep.edge.oci_values import CAPABILITIES

# As Docker sets them in every namespace it makes.
SYSCTLS = ("net.ipv4.ping_group_range=0 2147483647", "net.ipv4.ip_unprivileged_port_start=0")
RUN_ROOT_LIMIT = 50
EXEC_LEFTOVER_S = 2  # How long conmon stays after `docker exec` ended; podman's own default is 300.


def socket(settings: EngineSettings) -> Path:
    return settings.run_dir / "podman.sock"


def run_root(settings: EngineSettings) -> Path:
    """Podman's own place for process state, under a short name: it refuses more than 50 characters."""
    return settings.short_path("storage", RUN_ROOT_LIMIT)


def runtime_root(settings: EngineSettings) -> Path:
    """Where the OCI runtime keeps its state."""
    return settings.run_dir / "oci"


def podman_program(machine: Machine, settings: EngineSettings) -> EngineProgram:
    """The service as it is run on this machine."""
    is_complete = machine.podman_path and machine.conmon_path and machine.runtime
    files = {
        settings.run_dir / "containers.conf": containers_conf(machine, settings),
        settings.run_dir / "storage.conf": storage_conf(settings),
    }
    alias = run_root(settings).parent
    return EngineProgram(
        name="podman",
        command=[
            machine.podman_path,
            *podman_arguments(machine, settings),
            *("system", "service", "--time=0", f"unix://{socket(settings)}"),
        ],
        run_dir=settings.run_dir,
        socket=socket(settings),
        environment={
            "CONTAINERS_CONF": str(settings.run_dir / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(settings.run_dir / "storage.conf"),
        },
        files=files,
        folders=(settings.root / "tmp",),
        alias=alias if alias != settings.run_dir else None,
        problem="" if is_complete else "podman is not complete here: install the packages podman, conmon and runc",
    )


def containers_conf(machine: Machine, settings: EngineSettings) -> str:
    """Write containers.conf(5)."""
    init = f"init_path = {_quoted(machine.init_path)}" if machine.init_path else ""
    ulimits = "" if machine.can_raise_limits else "default_ulimits = []"
    return f"""\
[containers]
default_capabilities = [{", ".join(_quoted(name) for name in CAPABILITIES)}]
default_sysctls = [{", ".join(_quoted(setting) for setting in SYSCTLS)}]
{ulimits}
{init}
http_proxy = false
log_driver = "k8s-file"
pids_limit = 0

[engine]
{init}
cgroup_manager = {_quoted(cgroup_manager(machine, settings))}
events_logger = "file"
events_logfile_path = {_quoted(settings.run_dir / "events.log")}
exit_command_delay = {EXEC_LEFTOVER_S}
healthcheck_events = false
image_copy_tmp_dir = {_quoted(settings.root / "tmp")}
lock_type = "file"
runtime = {_quoted(machine.runtime)}

[engine.runtimes]
{machine.runtime} = [{_quoted(machine.runtime_path)}]

[network]
default_network = "bridge"
network_config_dir = {_quoted(settings.root / "networks")}
"""


def storage_conf(settings: EngineSettings) -> str:
    """Write containers-storage.conf(5); the driver's options are arguments, which conmon's clean-up gets too."""
    return f"""\
[storage]
driver = "overlay"
runroot = {_quoted(run_root(settings))}
graphroot = {_quoted(settings.root / "storage")}
"""


def podman_arguments(machine: Machine, settings: EngineSettings) -> list[str]:
    """Global arguments of every podman command on this root."""
    return [
        f"--root={settings.root / 'storage'}",
        f"--runroot={run_root(settings)}",
        f"--tmpdir={settings.run_dir / 'libpod'}",
        f"--network-config-dir={settings.root / 'networks'}",
        f"--volumepath={settings.root / 'volumes'}",
        f"--runtime={machine.runtime_path}",
        f"--runtime-flag=root={runtime_root(settings)}",
        f"--cgroup-manager={cgroup_manager(machine, settings)}",
        "--events-backend=file",
        *_storage_arguments(machine, settings),
    ]


def _storage_arguments(machine: Machine, settings: EngineSettings) -> list[str]:
    if machine.is_root_overlay and not machine.fuse_overlayfs_path:
        return ["--storage-driver=vfs"]
    options = ["overlay.skip_mount_home=true"]
    if machine.is_root_overlay:
        options.append(f"overlay.mount_program={machine.fuse_overlayfs_path}")
    options += [f"overlay.imagestore={store}" for store in settings.image_stores]
    return ["--storage-driver=overlay", *(f"--storage-opt={option}" for option in options)]


def _quoted(value: object) -> str:
    """A TOML basic string."""
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
