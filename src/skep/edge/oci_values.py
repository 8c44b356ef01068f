"""Pieces of the OCI runtime specification that every driver writes alike.

Pure: values in, JSON-ready values out; defaults are Docker's. Source: the OCI runtime specification, config.md and
config-linux.md.
"""

import signal
from collections.abc import Sequence
from typing import Any

from skep.model.service import Limits, Mount
from skep.ports.runtime import ContainerRejected, FileMount

# Docker's own set; distributions of podman differ from it and from one another.
CAPABILITIES = (
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
)
CPU_PERIOD_US = 100_000
SECOND = 1_000_000_000
Json = dict[str, Any]


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
    return mount("bind", str(file.source), file.target, ["rbind", "rprivate", mode])


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


def mount(kind: str, source: str, destination: str, options: Sequence[str]) -> Json:
    """Write one mount."""
    return {"type": kind, "source": source, "destination": destination, "options": list(options)}
