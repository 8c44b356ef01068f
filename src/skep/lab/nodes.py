"""One node of a lab: boot it, cut it off, freeze it, take its power, look at it.

Edge: processes and namespaces.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from skep.edge.unix_http import EngineClient, EngineRefused, EngineUnreachable
from skep.lab import cgroups, underlay
from skep.lab.init import CONTAINERD_RUN, process_start
from skep.lab.layout import CLIENT, LabLayout, NodeLayout
from skep.lab.underlay import LabFailure
from skep.model.errors import Conflict

BOOT_S = 30.0


def wait_until(condition: Callable[[], bool], what: str, deadline_s: float = BOOT_S) -> None:
    """Wait for a condition.

    Raises:
        LabFailure: It did not come true in time; `what` says which.
    """
    limit = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > limit:
            raise LabFailure(f"{what} within {deadline_s:g} s")
        time.sleep(0.02)


def init_pid(node: NodeLayout) -> int:
    """Process id, on the host, of a node's first process; 0 if the node is not running."""
    try:
        record = json.loads(node.init_file.read_text())
        pid = int(record["pid"])
        return pid if process_start(pid) == record["start"] and _is_alive(pid) else 0
    except (OSError, ValueError, KeyError):
        return 0


def _is_alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat").read_text()
    return status[status.rindex(")") + 2] not in "ZX"


def daemon_pid(node: NodeLayout) -> int:
    """Process id, on the host, of a node's daemon; 0 if there is none."""
    first = init_pid(node)
    try:
        inner = node.daemon_pid_file.read_text().strip()
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
    except OSError:
        return 0
    for child in children:
        try:
            lines = Path(f"/proc/{child}/status").read_text().splitlines()
        except OSError:
            continue
        numbers = next((line.split()[1:] for line in lines if line.startswith("NSpid:")), [])
        if numbers and numbers[-1] == inner:
            return int(child)
    return 0


def boot_node(lab: LabLayout, node: NodeLayout) -> None:
    """Start a node; returns when its daemon answers on its socket.

    Raises:
        Conflict: It runs already.
        LabFailure: The daemon did not come up; its last words are in the text.
    """
    if init_pid(node):
        raise Conflict(f"{node.name} is running already")
    for directory in (node.root, node.data_dir, node.run_dir):
        directory.mkdir(parents=True, exist_ok=True)
    node.data_dir.chmod(0o700)
    node.root.chmod(0o711)
    for stale in (node.init_file, node.daemon_pid_file, node.socket):
        stale.unlink(missing_ok=True)
    cgroups.remove_group(node.cgroup)
    if lab.engine == "docker":
        CONTAINERD_RUN.mkdir(parents=True, exist_ok=True)
    with node.log_file.open("ab") as log:
        places = [node.name, node.cgroup, node.run_dir, node.init_file, node.daemon_pid_file]
        subprocess.run(
            [sys.executable, "-m", "skep.lab.init", *map(str, places), *daemon_command(lab, node)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            check=True,
            cwd="/",
        )
    record = json.loads(node.init_file.read_text())
    underlay.plug_node(lab, node, record["pid"])
    node.init_file.write_text(json.dumps({**record, "is_plugged": True}))
    _wait_daemon(node)


def daemon_command(lab: LabLayout, node: NodeLayout) -> list[str]:
    """The daemon's command line inside a node."""
    options = {
        "--data-dir": node.data_dir,
        "--run-dir": node.run_dir,
        "--socket": node.socket,
        "--engine": lab.engine,
        "--cgroup-parent": node.cgroup,
    }
    words = [str(word) for pair in options.items() for word in pair]
    return [sys.executable, "-m", "skep.daemon", *words, *lab.daemon_options]


def _wait_daemon(node: NodeLayout) -> None:
    client = EngineClient(f"unix://{node.socket}", timeout_s=5)

    def answers() -> bool:
        try:
            return client.call("GET", "/_ping").status == 200
        except (EngineUnreachable, EngineRefused):
            return False

    try:
        wait_until(answers, f"the daemon of {node.name} did not answer")
    except LabFailure as failure:
        words = node.log_file.read_text(errors="replace").splitlines()[-12:]
        raise LabFailure("\n".join([f"{failure}; the end of {node.log_file} is:", *words])) from failure


def kill_node(lab: LabLayout, node: NodeLayout) -> None:
    """Take a node's power: first its link, so that nothing can say goodbye, then every process at once."""
    pid = init_pid(node)
    if underlay.has_namespace(lab.fabric):
        underlay.unplug_node(lab, node)
    for number in {pid, *_stray_inits(node)} - {0}:
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    if cgroups.has_frozen(node.cgroup):
        cgroups.set_frozen(node.cgroup, is_frozen=False)
    wait_until(lambda: not init_pid(node), f"the processes of {node.name} did not end")
    wait_until(lambda: not cgroups.members(node.cgroup), f"the containers of {node.name} did not end")
    node.socket.unlink(missing_ok=True)


def _stray_inits(node: NodeLayout) -> set[int]:
    """First processes of this node, and their makers, of which a killed `lab up` left no record."""
    found: set[int] = set()
    own = [b"skep.lab.init", os.fsencode(node.cgroup), os.fsencode(node.init_file)]
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().split(b"\0")
        except OSError:
            continue  # It ended meanwhile.
        if all(word in words for word in own):
            found.add(int(file.parent.name))
    return found


def freeze_node(node: NodeLayout, *, is_frozen: bool) -> None:
    """Stop or resume every process of a node, containers included; the kernel goes on."""
    require_running(node)
    cgroups.set_frozen(node.cgroup, is_frozen=is_frozen)


def require_running(node: NodeLayout) -> int:
    """The node's first process id on the host.

    Raises:
        Conflict: It is not running.
    """
    pid = init_pid(node)
    if not pid:
        raise Conflict(f"{node.name} is not running; `skep lab start {node.name}` starts it")
    return pid


def exec_command(lab: LabLayout, name: str, command: Sequence[str]) -> list[str]:
    """The command line that runs a command in a node, or in the client's namespace."""
    if name == CLIENT:
        return ["nsenter", f"--net=/run/netns/{lab.client}", "--", *command]
    pid = require_running(lab.node(name))
    spaces = ["--net", "--mount", "--pid", "--uts", "--ipc"]
    return ["nsenter", "-t", str(pid), *spaces, f"--wd={Path.cwd()}", "--", *command]


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What `lab ls` says of a node. Attributes: state: killed, frozen, cut, starting, or the swarm's local state."""

    name: str
    id: str
    address: str
    socket: str
    pid: int
    state: str


def report_node(node: NodeLayout, cut: set[str]) -> NodeReport:
    """Look at a node without waiting for one that is frozen."""
    pid = daemon_pid(node)
    node_id, state = "", "killed"
    if cgroups.has_frozen(node.cgroup):
        state = "frozen"
    elif pid:
        node_id, state = _ask_daemon(node)
        if node.device in cut:
            state = "cut"
    elif init_pid(node):
        state = "starting"
    return NodeReport(node.name, node_id, node.underlay, str(node.socket), pid, state)


def _ask_daemon(node: NodeLayout) -> tuple[str, str]:
    try:
        swarm = EngineClient(f"unix://{node.socket}", timeout_s=5).json("GET", "/info")["Swarm"]
    except (EngineUnreachable, EngineRefused, KeyError):
        return "", "starting"
    return swarm.get("NodeID", ""), swarm.get("LocalNodeState", "inactive")
