"""Faults of a lab's managers, and what heals them: killed, frozen, cut off.

A killed manager loses its daemon and its member of etcd at one moment; the node starts the daemon again, as an init
system would. A frozen one has both stopped while its kernel and its containers go on. One that is cut off runs, but
nothing comes in or goes out.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from skep.lab import nodes, underlay
from skep.lab.layout import LabLayout, NodeLayout

KINDS = ("kill", "freeze", "cut")


def processes(node: NodeLayout) -> list[int]:
    """The daemon and the etcd of a node, by their host's process ids."""
    found = [nodes.daemon_pid(node), *(pid for pid in _descendants(nodes.init_pid(node)) if _name(pid) == "etcd")]
    return [pid for pid in found if pid]


def strike(lab: LabLayout, node: NodeLayout, kind: str) -> None:
    match kind:
        case "kill":
            _signal(node, signal.SIGKILL)
        case "freeze":
            _signal(node, signal.SIGSTOP)
        case _:
            underlay.set_link(lab, node, is_up=False)


def heal(lab: LabLayout, node: NodeLayout, kind: str) -> None:
    """Idempotent; nothing to do for a killed one."""
    match kind:
        case "freeze":
            _signal(node, signal.SIGCONT)
        case "cut":
            underlay.set_link(lab, node, is_up=True)
        case _:
            pass


def _signal(node: NodeLayout, number: signal.Signals) -> None:
    for pid in processes(node):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _descendants(pid: int) -> Iterator[int]:
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return
    for child in children:
        yield child
        yield from _descendants(child)


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
