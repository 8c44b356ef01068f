"""The first process of a lab node: makes the node's namespaces and keeps its daemon running, as an init system would.

Edge: namespaces, mounts, processes. It is process 1 of the node's own process namespace, so that killing it is a
power cut: the kernel ends everything in the node at once and its mounts and network go with it.
"""

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from skep.lab import cgroups

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
NODE_NAMESPACES = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET
MS_REC, MS_PRIVATE, MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x4000, 0x40000, 0x2, 0x4, 0x8
RESTART_DELAY_S = 0.1
MAX_RESTART_DELAY_S = 5.0
SETTLED_S = 10.0
CONTAINERD_RUN = Path("/run/containerd")
PODMAN_RUN = Path("/run/containers")

libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    done = libc.mount(source.encode(), target.encode(), kind.encode(), flags, options.encode())
    _check(done, f"mounting {kind or source} on {target}")


def process_start(pid: int) -> int:
    """When a process started, in clock ticks since boot: tells it from a later one of the same number."""
    return _start_in(Path(f"/proc/{pid}/stat").read_text())


def _start_in(status: str) -> int:
    return int(status[status.rindex(")") + 2 :].split()[19])


def main(arguments: Sequence[str]) -> int:
    """Become a node: NAME CGROUP RUN_DIR INIT_FILE DAEMON_PID_FILE, then the daemon's command line.

    The parent writes the host's process id of the node to INIT_FILE and returns; the child waits until INIT_FILE
    says `"is_plugged": true`, which the lab writes once the underlay link is in place.
    """
    name, cgroup, run_dir, init_file, daemon_pid_file, *daemon = arguments
    cgroups.join_group(cgroup, os.getpid())
    _check(libc.unshare(NODE_NAMESPACES), "making the node's namespaces")
    hosts_proc = os.open("/proc", os.O_DIRECTORY)  # The child covers /proc with its own, for the two of us.
    child = os.fork()
    if child:
        with open(os.open(f"{child}/stat", os.O_RDONLY, dir_fd=hosts_proc)) as status:
            record = {"pid": child, "start": _start_in(status.read()), "is_plugged": False}
        Path(init_file).write_text(json.dumps(record))
        return 0
    os.close(hosts_proc)
    os.setsid()
    _furnish(name, Path(run_dir))
    _wait_plugged(Path(init_file))
    _supervise(daemon, Path(daemon_pid_file))
    return 0


def _furnish(name: str, run_dir: Path) -> None:
    """Give the node its host name, its own /proc and an empty run directory."""
    _mount("none", "/", "", MS_REC | MS_PRIVATE)
    _mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    _mount("tmpfs", str(run_dir), "tmpfs", MS_NOSUID | MS_NODEV, "mode=0711")
    PODMAN_RUN.mkdir(exist_ok=True)
    for path in (CONTAINERD_RUN, PODMAN_RUN):
        # Paths of the engines' that no setting moves, such as podman's list of the addresses it gave out: what a node
        # leaves there must go with it, and is no other node's.
        if path.is_dir():
            _mount("tmpfs", str(path), "tmpfs", MS_NOSUID | MS_NODEV, "mode=0711")
    _check(libc.sethostname(name.encode(), len(name)), "naming the node")


def _wait_plugged(init_file: Path, deadline_s: float = 30.0) -> None:
    limit = time.monotonic() + deadline_s
    while time.monotonic() < limit:
        try:
            if json.loads(init_file.read_text()).get("is_plugged"):
                return
        except (OSError, ValueError):
            pass  # Not written yet, or half of it.
        time.sleep(0.01)
    raise SystemExit("the node's underlay link never came")


def _supervise(daemon: Sequence[str], pid_file: Path) -> None:
    """Run the daemon for ever: again at once when it ends, slower while it keeps ending; reap every orphan."""
    delay_s = RESTART_DELAY_S
    while True:
        started = time.monotonic()
        pid = _spawn(daemon)
        pid_file.write_text(str(pid))
        _reap_until(pid)
        if time.monotonic() - started > SETTLED_S:
            delay_s = RESTART_DELAY_S
        time.sleep(delay_s)
        delay_s = min(delay_s * 2, MAX_RESTART_DELAY_S)


def _spawn(command: Sequence[str]) -> int:
    pid = os.fork()
    if pid == 0:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            os.execvp(command[0], list(command))  # noqa: S606 -- the lab's own command line, no shell
        finally:
            os._exit(127)
    return pid


def _reap_until(wanted: int) -> None:
    while True:
        try:
            pid, _ = os.wait()
        except ChildProcessError:
            return
        except InterruptedError:
            continue
        if pid == wanted:
            return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
