"""What this machine offers to container engines, found out rather than assumed.

Edge: reads /proc, /sys and PATH. Each shortcoming becomes a sentence shown to users in the node's facts, and a
setting that works around it.
"""

import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

CAP_SYS_RESOURCE = 24
# Static ones first: the program runs inside the container, with that image's libraries or none.
INIT_PROGRAMS = ("catatonit", "tini-static", "docker-init", "tini", "dumb-init")
INIT_FOLDERS = ("/usr/libexec/podman", "/usr/lib/podman", "/usr/libexec/docker")


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine's offer.

    Attributes:
        cgroups: v1, hybrid or v2.
        runtimes: OCI runtimes installed, by name, to their paths.
        init_path: A program fit to be process 1 of a container, empty if none is installed.
        is_root_overlay: The file system of the engine's root is itself an overlay.
    """

    cgroups: str
    has_systemd: bool
    can_raise_limits: bool
    runtimes: tuple[tuple[str, str], ...]
    conmon_path: str
    podman_path: str
    fuse_overlayfs_path: str
    init_path: str
    is_root_overlay: bool = False
    dockerd_path: str = ""
    busybox_path: str = ""

    @property
    def runtime(self) -> str:
        """The OCI runtime to use: crun cannot serve a hybrid or v1 layout reliably, runc serves all."""
        names = [name for name, _ in self.runtimes]
        preferred = ("crun", "runc") if self.cgroups == "v2" else ("runc", "crun")
        return next((name for name in preferred if name in names), "")

    @property
    def runtime_path(self) -> str:
        return dict(self.runtimes).get(self.runtime, "")

    def problems(self) -> tuple[str, ...]:
        """Sentences about what is missing; empty on a machine that has everything."""
        found: list[str] = []
        if not self.can_raise_limits:
            found.append(
                "this machine lacks CAP_SYS_RESOURCE: containers keep the daemon's own limits, and a ulimit above "
                "those is refused; give the daemon that capability to change it"
            )
        if self.cgroups == "hybrid":
            found.append(
                "cgroups are mounted in the hybrid layout: limits are enforced through cgroup v1; boot with "
                "systemd.unified_cgroup_hierarchy=1 for v2"
            )
        if self.cgroups != "v2" and self.runtime == "crun":
            found.append("cgroup v2 is not mounted and runc is not installed: install runc, crun may fail here")
        if not self.init_path:
            found.append("no init program is installed: services with --init are refused; install catatonit or tini")
        if self.is_root_overlay:
            with_what = "fuse-overlayfs" if self.fuse_overlayfs_path else "plain copies (vfs)"
            found.append(f"the engine's root lies on an overlay file system: images are stored with {with_what}")
        return tuple(found)


def probe(root: Path) -> Machine:
    """Look at this machine. Args: root: the engine's root, or where it will be."""
    return Machine(
        cgroups=_cgroup_layout(Path("/sys/fs/cgroup")),
        has_systemd=Path("/run/systemd/system").is_dir(),
        can_raise_limits=_has_capability(CAP_SYS_RESOURCE),
        runtimes=tuple((name, path) for name in ("runc", "crun") if (path := shutil.which(name))),
        conmon_path=_find("conmon", ("/usr/libexec/podman", "/usr/lib/podman")),
        podman_path=shutil.which("podman") or "",
        fuse_overlayfs_path=shutil.which("fuse-overlayfs") or "",
        init_path=next((path for name in INIT_PROGRAMS if (path := _find(name, INIT_FOLDERS))), ""),
        is_root_overlay=_filesystem_of(root) in ("overlay", "overlayfs"),
        dockerd_path=_find("dockerd", ("/usr/sbin", "/usr/local/sbin")),
        busybox_path=_find("busybox", ("/bin", "/usr/bin")),
    )


def memory_total_bytes() -> int:
    """The machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def cpu_count() -> int:
    """The processors this process may run on."""
    return len(os.sched_getaffinity(0))


def architecture() -> str:
    """As Docker's /info spells it: x86_64, aarch64."""
    return platform.machine()


def _find(program: str, folders: tuple[str, ...]) -> str:
    return shutil.which(program) or shutil.which(program, path=os.pathsep.join(folders)) or ""


def _cgroup_layout(mount_point: Path) -> str:
    if (mount_point / "cgroup.controllers").exists():
        return "v2"
    return "hybrid" if (mount_point / "unified" / "cgroup.procs").exists() else "v1"


def _has_capability(number: int) -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False


def _filesystem_of(path: Path) -> str:
    """The type of the file system that holds `path` or its nearest existing parent."""
    existing = path.resolve()
    while not existing.exists():
        existing = existing.parent
    device = existing.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[2] == wanted:
            return fields[fields.index("-") + 1]
    return ""
